package fcm_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/fcm"
	"github.com/halleypush/halley/services/senders/internal/vendortest"
)

const (
	success   = `{"name":"projects/demo/messages/0:1"}`
	tokenPath = "/token"
)

var testKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// setting returns the credential of a project whose access tokens are from a server.
func setting(t *testing.T, s *vendortest.Server) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(testKey())
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{"service_account": map[string]string{
		"type": "service_account", "project_id": "demo", "private_key_id": "id-1", "client_email": "halley@demo.example.com", "token_uri": s.URL + tokenPath,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func answering(t *testing.T, status int, body string) (*vendortest.Server, *fcm.Vendor, sender.Credential) {
	t.Helper()
	s := vendortest.NewServer(t, vendortest.OAuth(tokenPath, func(*vendortest.Request) (int, string) { return status, body }))
	c := vendortest.Config[fcm.Config](t)
	c.URL = s.URL
	v, err := fcm.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s, v, vendortest.Credential(t, v, setting(t, s))
}

func TestRequestsAreWhatFCMDocuments(t *testing.T) {
	t.Parallel()
	s, v, c := answering(t, 200, success)
	v.At(time.Unix(1732330000, 0))
	v.Send(t.Context(), c, vendortest.Message(nil)) // fetches the access token
	messages := vendortest.Messages()
	delete(messages, "batch") // FCM takes one at a time
	messages["override"] = vendortest.Message(func(m *sender.Message) {
		m.Override = map[string]any{
			"token": "stolen", "topic": "news", "data": map[string]any{"extra": "1"},
			"android": map[string]any{"bandwidth_constrained_ok": true, "notification": map[string]any{"color": "#112233"}},
		}
	})
	vendortest.Golden(t, s, v, c, messages)
}

func TestAccessTokensAreAskedForWithASignedAssertion(t *testing.T) {
	t.Parallel()
	s, v, c := answering(t, 200, success)
	v.Send(t.Context(), c, vendortest.Message(nil))
	form := s.Requests()[0].Form()
	assertion, err := jwt.Parse(form.Get("assertion"), func(*jwt.Token) (any, error) { return &testKey().PublicKey, nil },
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithAudience(s.URL+tokenPath), jwt.WithIssuer("halley@demo.example.com"), jwt.WithExpirationRequired())
	if err != nil || form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || assertion.Header["kid"] != "id-1" {
		t.Errorf("asked with %v: %v", form, err)
	}
	if scope := assertion.Claims.(jwt.MapClaims)["scope"]; scope != "https://www.googleapis.com/auth/firebase.messaging" {
		t.Errorf("for %v", scope)
	}
}

func TestAnEndedAccessTokenIsFetchedOnce(t *testing.T) {
	t.Parallel()
	s, v, c := answering(t, 200, success)
	const refused = `{"error":{"code":401,"status":"UNAUTHENTICATED","message":"invalid"}}`
	s.Script(vendortest.OAuth(tokenPath, func(r *vendortest.Request) (int, string) {
		if r.Header.Get("Authorization") == "Bearer t-1" {
			return 401, refused
		}
		return 200, success
	}))
	vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), sender.Accepted)
	s.Script(vendortest.OAuth(tokenPath, func(*vendortest.Request) (int, string) { return 401, refused }))
	s.Requests()
	vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), sender.CredentialBad)
	if n := len(s.Requests()); n != 3 { // one more token, and the message twice
		t.Errorf("%d requests", n)
	}
}

// failure is an answer of FCM: with the detail that names the error, or without.
func failure(status int, code, field string, detailed bool) string {
	details := ""
	if detailed {
		details = fmt.Sprintf(`{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":%q}`, code)
	}
	if field != "" {
		details += fmt.Sprintf(`,{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":%q,"description":"bad"}]}`, field)
	}
	return fmt.Sprintf(`{"error":{"code":%d,"status":%q,"message":"about token-1","details":[%s]}}`, status, code, strings.TrimPrefix(details, ","))
}

func TestEveryCodeHasItsOutcome(t *testing.T) {
	t.Parallel()
	s, v, c := answering(t, 200, success)
	answer := func(status int, body string, want sender.Outcome) sender.Result {
		t.Helper()
		s.Script(vendortest.OAuth(tokenPath, func(*vendortest.Request) (int, string) { return status, body }))
		results := v.Send(t.Context(), c, vendortest.Message(nil))
		vendortest.Outcomes(t, results, want)
		return results[0]
	}
	for _, code := range fcm.Codes() {
		if status, ok := vendortest.Status(code.Code); ok {
			answer(status, "<html>", code.Outcome)
			continue
		}
		field := ""
		name, about := strings.CutPrefix(code.Code, "token ")
		if about {
			field = "message.token"
		}
		answer(400, failure(400, name, field, true), code.Outcome)
		answer(400, failure(400, name, field, false), code.Outcome)
	}
	answer(400, failure(400, "INVALID_ARGUMENT", "message.android.ttl", true), sender.Rejected)
	answer(400, failure(400, "NEWS", "", true), sender.Rejected)
	if r := answer(429, failure(429, "QUOTA_EXCEEDED", "", true), sender.Retry); r.After != time.Minute {
		t.Errorf("back after %v", r.After)
	}
	s.Script(vendortest.OAuth(tokenPath, func(*vendortest.Request) (int, string) {
		return 400, failure(400, "INVALID_ARGUMENT", "message.token", true)
	}))
	m := vendortest.Message(func(m *sender.Message) { m.Override = map[string]any{"data": map[string]any{"k": 1.0}} })
	vendortest.Outcomes(t, v.Send(t.Context(), c, m), sender.Rejected)
}

// The library would try again by itself; the runtime does that.
func TestOneAttemptIsOneRequest(t *testing.T) {
	t.Parallel()
	s, v, c := answering(t, 503, failure(503, "UNAVAILABLE", "", true))
	vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), sender.Retry)
	if n := len(s.Requests()); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	s, _, _ := answering(t, 200, success)
	other := httptest.NewServer(http.RedirectHandler(s.URL, http.StatusTemporaryRedirect))
	t.Cleanup(other.Close)
	c := vendortest.Config[fcm.Config](t)
	c.URL = other.URL
	v, err := fcm.New(c)
	if err != nil {
		t.Fatal(err)
	}
	vendortest.Outcomes(t, v.Send(t.Context(), vendortest.Credential(t, v, setting(t, s)), vendortest.Message(nil)), sender.Retry)
	if n := len(s.Requests()); n != 1 { // for the access token
		t.Errorf("%d requests", n)
	}
}

func TestWhatFCMWouldRefuseIsNotSent(t *testing.T) {
	t.Parallel()
	s, v, c := answering(t, 200, success)
	for _, m := range []*sender.Message{
		vendortest.Message(func(m *sender.Message) { m.Payload = strings.Repeat("x", 4096) }),
		vendortest.Message(func(m *sender.Message) { m.Notification.Body = strings.Repeat("我", 1400) }),
	} {
		vendortest.Outcomes(t, v.Send(t.Context(), c, m), sender.Rejected)
	}
	if len(s.Requests()) > 0 {
		t.Error("FCM was asked")
	}
}

func TestWrongCredentialsNameTheirField(t *testing.T) {
	t.Parallel()
	s, v, _ := answering(t, 200, success)
	right := setting(t, s)
	vendortest.WrongFields(t, v, map[string]string{
		`{}`:                      "service_account",
		`{"service_account":"x"}`: "service_account",
		`{"service_account":{}}`:  "service_account.project_id",
		`{"key":"hunter2"}`:       "key",
		strings.Replace(right, "halley@demo.example.com", "", 1):        "service_account.client_email",
		strings.Replace(right, "BEGIN PRIVATE KEY", "BEGIN hunter2", 1): "service_account.private_key",
		strings.Replace(right, s.URL+tokenPath, "", 1):                  "service_account.token_uri",
	})
}

func TestACredentialIsTried(t *testing.T) {
	t.Parallel()
	s, v, c := answering(t, 400, failure(400, "INVALID_ARGUMENT", "message.token", true))
	if note, err := v.Check(t.Context(), c); err != nil || note != "" {
		t.Errorf("%q, %v", note, err)
	}
	var asked struct {
		ValidateOnly bool `json:"validate_only"`
	}
	requests := s.Requests()
	if err := json.Unmarshal(requests[len(requests)-1].Body, &asked); err != nil || !asked.ValidateOnly {
		t.Errorf("a message was sent: %v", err)
	}
	s.Script(vendortest.OAuth(tokenPath, func(*vendortest.Request) (int, string) { return 403, failure(403, "PERMISSION_DENIED", "", false) }))
	if _, err := v.Check(t.Context(), c); err == nil {
		t.Error("an account that may not send works")
	}
	s.Script(func(*vendortest.Request) (int, string) { return 400, `{"error":"invalid_grant"}` })
	if _, err := v.Check(t.Context(), vendortest.Credential(t, v, setting(t, s))); err == nil {
		t.Error("an account that Google does not know works")
	}
	s.Script(func(*vendortest.Request) (int, string) { return 503, `` })
	if note, err := v.Check(t.Context(), vendortest.Credential(t, v, setting(t, s))); err != nil || note == "" {
		t.Errorf("while FCM is away: %q, %v", note, err)
	}
}

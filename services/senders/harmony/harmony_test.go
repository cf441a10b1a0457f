package harmony_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/harmony"
	"github.com/halleypush/halley/services/senders/internal/vendortest"
)

const success = `{"code":"80000000","msg":"Success","requestId":"r-1"}`

// key is made once: a good one takes a while.
var key = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func pemOf(t *testing.T, k *rsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// setting is a credential with a good key.
func setting(t *testing.T) string {
	t.Helper()
	k, err := key()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{
		"service_account": map[string]any{
			"project_id": "p-1", "key_id": "k-1", "sub_account": "a-1", "private_key": pemOf(t, k), "auth_uri": "https://unused",
		},
		"category": "WORK", "categories": map[string]string{"orders": "EXPRESS"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func answering(t *testing.T, status int, body string) (*vendortest.Server, *harmony.Vendor) {
	t.Helper()
	s := vendortest.NewServer(t, func(*vendortest.Request) (int, string) { return status, body })
	c := vendortest.Config[harmony.Config](t)
	c.URL = s.URL
	v, err := harmony.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func TestRequestsAreWhatHuaweiDocuments(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	messages := vendortest.Messages()
	messages["override"] = vendortest.Message(func(m *sender.Message) {
		m.Override = map[string]any{
			"push_type": 10.0, "payload": map[string]any{"notification": nil, "extraData": "call"},
			"target": map[string]any{"token": []any{"stolen"}}, "pushOptions": map[string]any{"ttl": 30},
		}
	})
	vendortest.Golden(t, s, v, vendortest.Credential(t, v, setting(t)), messages)
}

func TestTokensAreSignedAsHuaweiDocuments(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting(t))
	for range 2 {
		vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), sender.Accepted)
	}
	requests := s.Requests()
	text := strings.TrimPrefix(requests[0].Header.Get("Authorization"), "Bearer ")
	if requests[1].Header.Get("Authorization") != "Bearer "+text {
		t.Error("a token is not used again")
	}
	token, err := jwt.Parse(text, func(*jwt.Token) (any, error) {
		k, err := key()
		return &k.PublicKey, err
	}, jwt.WithValidMethods([]string{"PS256"}), jwt.WithIssuedAt(), jwt.WithExpirationRequired(), jwt.WithIssuer("a-1"),
		jwt.WithAudience("https://oauth-login.cloud.huawei.com/oauth2/v3/token"))
	if err != nil || token.Header["kid"] != "k-1" || token.Header["typ"] != "JWT" {
		t.Fatalf("%v: %v", token, err)
	}
	claims := token.Claims.(jwt.MapClaims)
	if life := claims["exp"].(float64) - claims["iat"].(float64); life != time.Hour.Seconds() {
		t.Errorf("it holds %v s", life)
	}
}

func TestEveryCodeHasItsOutcome(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting(t))
	for _, code := range harmony.Codes() {
		status, body := 200, fmt.Sprintf(`{"code":%q,"msg":"of token-1","requestId":"r"}`, code.Code)
		if code.Code == "80100000" {
			body = `{"code":"80100000","msg":"{\"success\":1,\"failure\":1,\"illegalTokens\":{\"noRight\":[\"x\"]}}"}`
		}
		if of, ok := vendortest.Status(code.Code); ok {
			status, body = of, "<html>"
		}
		if reason, ok := strings.CutPrefix(code.Code, "target "); ok {
			body = fmt.Sprintf(`{"code":"80300007","msg":"{\"success\":0,\"failure\":1,\"illegalTokens\":{\"%s\":[\"token-1\"]}}"}`, reason)
		}
		s.Script(func(*vendortest.Request) (int, string) { return status, body })
		vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), code.Outcome)
	}
	for body, want := range map[string]sender.Outcome{
		`{"code":80000000}`:                    sender.Accepted,
		`{"code":"4711","msg":"of token-1"}`:   sender.Retry,
		`{"code":"80100000","msg":"nonsense"}`: sender.Retry,
		`{"code":"80300007","msg":"{\"illegalTokens\":{\"somethingNew\":[\"token-1\"]}}"}`: sender.Rejected,
		``: sender.Retry,
	} {
		s.Script(func(*vendortest.Request) (int, string) { return 200, body })
		vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), want)
	}
}

func TestSomeTokensOfABatchAreRefused(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, `{"code":"80100000","requestId":"r","msg":"{\"success\":1,\"failure\":2,\"illegalTokens\":{\"tokenFormatError\":[\"token-2\"],\"noRight\":[\"token-3\"]}}"}`)
	c := vendortest.Credential(t, v, setting(t))
	vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil, "token-1", "token-2", "token-3")),
		sender.Accepted, sender.TokenGone, sender.Rejected)
}

func TestTestMessagesGoToTenPhonesAtATime(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	tokens := make([]string, 25)
	for i := range tokens {
		tokens[i] = fmt.Sprintf("token-%d", i)
	}
	c := vendortest.Credential(t, v, setting(t))
	results := v.Send(t.Context(), c, vendortest.Message(func(m *sender.Message) { m.Sandbox = true }, tokens...))
	if requests := s.Requests(); len(results) != 25 || len(requests) != 3 {
		t.Errorf("%d results of %d requests", len(results), len(requests))
	}
}

func TestAnExpiredTokenIsSignedOnce(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting(t))
	var mu sync.Mutex
	first := ""
	s.Script(func(r *vendortest.Request) (int, string) {
		mu.Lock()
		defer mu.Unlock()
		if first == "" {
			first = r.Header.Get("Authorization")
		}
		if r.Header.Get("Authorization") == first {
			return 200, `{"code":"80200005","msg":"JWT expired"}`
		}
		return 200, success
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), sender.Accepted) })
	}
	wg.Wait()
	tokens := map[string]bool{}
	for _, r := range s.Requests() {
		tokens[r.Header.Get("Authorization")] = true
	}
	if len(tokens) != 2 {
		t.Errorf("%d tokens were signed, not 2", len(tokens))
	}
	s.Script(func(*vendortest.Request) (int, string) { return 401, "" })
	vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), sender.CredentialBad)
	if n := len(s.Requests()); n != 2 {
		t.Errorf("%d requests, not 2", n)
	}
}

func TestWhatHuaweiWouldRefuseIsNotSent(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting(t))
	for _, m := range []*sender.Message{
		vendortest.Message(func(m *sender.Message) { m.Payload = strings.Repeat("x", 4096) }),
		vendortest.Message(func(m *sender.Message) { m.Override = map[string]any{"target": "x"} }),
		vendortest.Message(func(m *sender.Message) { m.Override = map[string]any{"push_type": "x"} }),
	} {
		vendortest.Outcomes(t, v.Send(t.Context(), c, m), sender.Rejected)
	}
	if len(s.Requests()) > 0 {
		t.Error("Huawei was asked")
	}
}

func TestWrongCredentialsNameTheirField(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, success)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(pemOf(t, small))
	if err != nil {
		t.Fatal(err)
	}
	account := `{"service_account":{"project_id":"p","key_id":"k","sub_account":"a","private_key":%s}}`
	vendortest.WrongFields(t, v, map[string]string{
		`{}`:                              "service_account",
		`{"service_account":"hunter2"}`:   "service_account",
		`{"service_account":{}}`:          "service_account.project_id",
		`{"project_id":"p"}`:              "project_id",
		fmt.Sprintf(account, `"hunter2"`): "service_account.private_key",
		fmt.Sprintf(account, text):        "service_account.private_key",
		setting(t)[:len(setting(t))-1] + `,"receipt_key":"hunter2"}`: "receipt_user",
	})
}

func TestACheckReachesNoPhone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		answer string
		good   bool
		note   bool
	}{
		{200, `{"code":"80300007","msg":"{\"illegalTokens\":{\"tokenFormatError\":[\"halley-check\"]}}"}`, true, false},
		{200, `{"code":"80200001"}`, false, false},
		{404, ``, false, false},
		{503, ``, true, true},
	} {
		_, v := answering(t, c.status, c.answer)
		note, err := v.Check(t.Context(), vendortest.Credential(t, v, setting(t)))
		if (err == nil) != c.good || (note != "") != c.note {
			t.Errorf("%s: %q, %v", c.answer, note, err)
		}
	}
}

func TestReceiptsNeedTheSignatureThatIsSetUp(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, success)
	vendortest.SignedReceipts(t, v, setting(t))
}

func TestWrongConfigurationsAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []harmony.Config{
		{TokenLife: 25 * time.Hour, TestBatch: 10},
		{TokenLife: time.Second, TestBatch: 10},
		{TokenLife: time.Hour},
		{TokenLife: time.Hour, TestBatch: 10, CA: "/does/not/exist"},
	} {
		if _, err := harmony.New(&c); err == nil {
			t.Errorf("taken: %+v", c)
		}
	}
}

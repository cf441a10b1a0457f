package fcm_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/halleypush/halley/services/vendorsim/internal/fcm"
	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
)

// rig is FCM with the app demo, whose service account a test holds.
type rig struct {
	*frametest.Rig
	t   *testing.T
	App struct {
		Account struct {
			ProjectID    string `json:"project_id"`
			PrivateKeyID string `json:"private_key_id"`
			PrivateKey   string `json:"private_key"`
			ClientEmail  string `json:"client_email"`
			TokenURI     string `json:"token_uri"`
		} `json:"service_account"`
	}
}

func start(t *testing.T, more string) *rig {
	t.Helper()
	r := &rig{t: t, Rig: frametest.Start(t, func(f *frame.Frame) frame.Vendor { return fcm.New(f) })}
	r.Register(`{"app":"demo"`+more+`}`, &r.App)
	return r
}

// sign makes an assertion as the sheet says: RS256; iss, scope, aud, iat and exp.
func (r *rig) sign(change func(*jwt.Token)) string {
	r.t.Helper()
	now := r.Clock.Now().Unix()
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
		"iss": r.App.Account.ClientEmail, "scope": "https://www.googleapis.com/auth/firebase.messaging",
		"aud": r.App.Account.TokenURI, "iat": now, "exp": now + 3600,
	})
	token.Header["kid"] = r.App.Account.PrivateKeyID
	if change != nil {
		change(token)
	}
	key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(r.App.Account.PrivateKey))
	frametest.Must(r.t, err)
	text, err := token.SignedString(key)
	frametest.Must(r.t, err)
	return text
}

func (r *rig) exchange(assertion string) frametest.Answer {
	r.t.Helper()
	return r.Form(r.App.Account.TokenURI, nil, url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion},
	})
}

// login gets an access token.
func (r *rig) login() [][2]string {
	r.t.Helper()
	a := r.exchange(r.sign(nil))
	var answer struct {
		Token   string `json:"access_token"`
		Expires int    `json:"expires_in"`
		Type    string `json:"token_type"`
	}
	frametest.Must(r.t, json.Unmarshal([]byte(a.Body), &answer))
	if a.Status != 200 || answer.Type != "Bearer" || answer.Expires < 1 || answer.Expires > 3599 {
		r.t.Fatalf("answered %d %s", a.Status, a.Body)
	}
	return [][2]string{{"Authorization", "Bearer " + answer.Token}, {"Content-Type", "application/json"}}
}

func (r *rig) path() string { return "/v1/projects/" + r.App.Account.ProjectID + "/messages:send" }

func (r *rig) send(headers [][2]string, body string) frametest.Answer {
	r.t.Helper()
	return r.Do("POST", r.path(), headers, body)
}

// failure is the body of an error.
type failure struct {
	Error struct {
		Code    int
		Message string
		Status  string
		Details []struct {
			Type       string `json:"@type"`
			ErrorCode  string `json:"errorCode"`
			Violations []struct{ Field, Description string }
		}
	}
}

func failed(t *testing.T, a frametest.Answer) (f failure) {
	t.Helper()
	body := strings.ReplaceAll(a.Body, "fieldViolations", "violations")
	frametest.Must(t, json.Unmarshal([]byte(body), &f))
	if f.Error.Code != a.Status {
		t.Errorf("code %d in an answer with %d", f.Error.Code, a.Status)
	}
	return f
}

// code returns errorCode of the detail FcmError, or the status.
func (f failure) code() string {
	for _, d := range f.Error.Details {
		if d.Type == "type.googleapis.com/google.firebase.fcm.v1.FcmError" {
			return d.ErrorCode
		}
	}
	return f.Error.Status
}

// field returns the field that is wrong.
func (f failure) field() string {
	for _, d := range f.Error.Details {
		if d.Type == "type.googleapis.com/google.rpc.BadRequest" {
			return d.Violations[0].Field
		}
	}
	return ""
}

const message = `{"message":{"token":"token-a","notification":{"title":"Hi","body":"there"},
	"data":{"push_id":"01935f3e-0000-7000-8000-000000000001","a":"b"},
	"android":{"collapse_key":"c","priority":"HIGH","ttl":"3600s","notification":{"tag":"t","color":"#00ff00","notification_count":3}},
	"apns":{"headers":{"apns-priority":"10"},"payload":{"aps":{}}},
	"webpush":{"headers":{"TTL":"60"},"fcm_options":{"link":"https://example.com"}},
	"fcm_options":{"analytics_label":"x"}}}`

func TestAMessageIsAccepted(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	a := r.send(r.login(), message)
	name := regexp.MustCompile(`^projects/demo-project/messages/.+$`)
	if a.Status != 200 || !name.MatchString(a.Field(t, "name")) {
		t.Fatalf("answered %d %s", a.Status, a.Body)
	}
	got := r.Last()
	if got.App != "demo" || got.Tokens[0] != "token-a" || got.PushID != "01935f3e-0000-7000-8000-000000000001" || got.Body != message {
		t.Errorf("recorded %+v", got)
	}
	r.Frame.Record.Reset()
	a = r.send(r.login(), strings.Replace(message, `{"message"`, `{"validate_only":true,"message"`, 1))
	if a.Field(t, "name") != "projects/demo-project/messages/fake_message_id" || len(r.Accepted()) != 0 {
		t.Errorf("validate_only: answered %d %s, accepted %d", a.Status, a.Body, len(r.Accepted()))
	}
}

func TestAssertions(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	set := func(claim string, value any) func(*jwt.Token) {
		return func(t *jwt.Token) { t.Claims.(jwt.MapClaims)[claim] = value }
	}
	now := r.Clock.Now().Unix()
	for name, c := range map[string]struct {
		change func(*jwt.Token)
		code   string
	}{
		"good":             {nil, ""},
		"cloud-platform":   {set("scope", "email https://www.googleapis.com/auth/cloud-platform"), ""},
		"Google's address": {set("aud", "https://oauth2.googleapis.com/token"), ""},
		"another scope":    {set("scope", "email"), "invalid_scope"},
		"another audience": {set("aud", "https://example.com"), "invalid_grant"},
		"another account":  {set("iss", "x@example.com"), "invalid_grant"},
		"another key":      {func(t *jwt.Token) { t.Header["kid"] = "x" }, "invalid_grant"},
		"over an hour":     {set("exp", now+3601), "invalid_grant"},
		"expired":          {func(t *jwt.Token) { set("iat", now-3700)(t); set("exp", now-100)(t) }, "invalid_grant"},
		"without iat":      {set("iat", nil), "invalid_grant"},
		"signed with PS256": {
			func(t *jwt.Token) { t.Method = jwt.SigningMethodPS256; t.Header["alg"] = "PS256" }, "invalid_grant",
		},
	} {
		a := r.exchange(r.sign(c.change))
		if c.code == "" && a.Status != 200 || c.code != "" && (a.Status != 400 || a.Field(t, "error") != c.code) {
			t.Errorf("%s: answered %d %s, want %s", name, a.Status, a.Body, c.code)
		}
	}
	if a := r.Form("/token", nil, url.Values{"grant_type": {"password"}}); a.Field(t, "error") != "unsupported_grant_type" {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
}

func TestAccessTokens(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	refused := func(name string, headers [][2]string) {
		t.Helper()
		a := r.send(headers, message)
		if a.Status != 401 || failed(t, a).code() != "UNAUTHENTICATED" {
			t.Errorf("%s: answered %d %s", name, a.Status, a.Body)
		}
	}
	headers := r.login()
	refused("none", headers[1:])
	refused("unknown", [][2]string{{"Authorization", "Bearer x"}})
	r.Clock.Move(time.Hour)
	refused("an hour old", headers)
	headers = r.login()
	r.Frame.Sessions.Expire("demo")
	refused("expired by call", headers)
	headers = r.login()
	r.Patch(`{"credentials":{"revoked":["demo"]}}`)
	refused("revoked", headers)
	if a := r.exchange(r.sign(nil)); a.Field(t, "error") != "invalid_grant" {
		t.Errorf("a revoked key: answered %d %s", a.Status, a.Body)
	}
}

func TestTheAccountNeedsTheRoleAndTheProject(t *testing.T) {
	t.Parallel()
	r := start(t, `,"no_role":true`)
	if a := r.send(r.login(), message); a.Status != 403 || failed(t, a).code() != "PERMISSION_DENIED" {
		t.Errorf("no role: answered %d %s", a.Status, a.Body)
	}
	r = start(t, "")
	if a := r.Do("POST", "/v1/projects/other/messages:send", r.login(), message); failed(t, a).code() != "PERMISSION_DENIED" {
		t.Errorf("another project: answered %d %s", a.Status, a.Body)
	}
	for _, path := range []string{"/fcm/send", "/batch", "/v1/projects/a/b/messages:send"} {
		if a := r.Do("POST", path, r.login(), message); a.Status != 404 {
			t.Errorf("%s is answered with %d", path, a.Status)
		}
	}
}

func TestMessagesAreCheckedAsDocumented(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	headers := r.login()
	wrap := func(rest string) string { return `{"message":{"token":"a"` + rest + `}}` }
	const good = "good"
	for name, c := range map[string]struct{ body, field string }{
		"not json":             {`{`, "message"},
		"no message":           {`{}`, "message"},
		"no target":            {`{"message":{"data":{}}}`, "message"},
		"two targets":          {wrap(`,"topic":"news"`), "message"},
		"fid":                  {`{"message":{"fid":"f"}}`, good},
		"topic":                {`{"message":{"topic":"news-1.a~b%"}}`, good},
		"topic with slash":     {`{"message":{"topic":"/topics/news"}}`, "message.topic"},
		"condition":            {`{"message":{"condition":"('a' in topics && 'b' in topics) || !('c' in topics)"}}`, good},
		"six topics":           {`{"message":{"condition":"` + strings.Repeat("'a' in topics || ", 5) + `'b' in topics"}}`, "message.condition"},
		"no condition":         {`{"message":{"condition":"maybe"}}`, "message.condition"},
		"unknown field":        {wrap(`,"colapse_key":"x"`), "message"},
		"unknown android":      {wrap(`,"android":{"tll":"1s"}`), "message.android"},
		"data with number":     {wrap(`,"data":{"a":1}`), "message.data[0].value"},
		"data with object":     {wrap(`,"data":{"a":"b","c":{}}`), "message.data[1].value"},
		"data with null":       {wrap(`,"data":{"a":null}`), "message.data[0].value"},
		"reserved from":        {wrap(`,"data":{"from":"x"}`), "message.data"},
		"reserved google":      {wrap(`,"data":{"google.x":"x"}`), "message.data"},
		"reserved gcm":         {wrap(`,"android":{"data":{"gcm":"x"}}`), "message.android.data"},
		"ttl without unit":     {wrap(`,"android":{"ttl":"60"}`), "message.android.ttl"},
		"ttl as number":        {wrap(`,"android":{"ttl":60}`), "message.android.ttl"},
		"ttl of 28 days":       {wrap(`,"android":{"ttl":"2419200s"}`), good},
		"ttl over 28 days":     {wrap(`,"android":{"ttl":"2419201s"}`), "message.android.ttl"},
		"negative ttl":         {wrap(`,"android":{"ttl":"-1s"}`), "message.android.ttl"},
		"ttl 0":                {wrap(`,"android":{"ttl":"0s"}`), good},
		"priority of the SDK":  {wrap(`,"android":{"priority":"high"}`), good},
		"priority":             {wrap(`,"android":{"priority":"urgent"}`), "message.android.priority"},
		"color":                {wrap(`,"android":{"notification":{"color":"red"}}`), "message.android.notification.color"},
		"negative count":       {wrap(`,"android":{"notification":{"notification_count":-1}}`), "message.android.notification.notification_count"},
		"title is no text":     {wrap(`,"notification":{"title":1}`), "message.notification.title"},
		"apns header":          {wrap(`,"apns":{"headers":{"apns-priority":10}}`), "message.apns.headers"},
		"apns payload":         {wrap(`,"apns":{"payload":"x"}`), "message.apns.payload"},
		"big apns payload":     {wrap(`,"apns":{"payload":{"a":"` + strings.Repeat("x", 4090) + `"}}`), "message.apns.payload"},
		"link over http":       {wrap(`,"webpush":{"fcm_options":{"link":"http://a"}}`), "message.webpush.fcm_options.link"},
		"4096 bytes":           {wrap(`,"data":{"k":"` + strings.Repeat("x", 4095) + `"}`), good},
		"4097 bytes":           {wrap(`,"data":{"k":"` + strings.Repeat("x", 4096) + `"}`), "message"},
		"2049 bytes for topic": {`{"message":{"topic":"n","data":{"k":"` + strings.Repeat("x", 2048) + `"}}}`, "message"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := r.send(headers, c.body)
			if c.field == good {
				if a.Status != 200 {
					t.Errorf("answered %d %s", a.Status, a.Body)
				}
				return
			}
			if f := failed(t, a); a.Status != 400 || f.code() != "INVALID_ARGUMENT" || f.field() != c.field {
				t.Errorf("answered %d %s, want a fault of %s", a.Status, a.Body, c.field)
			}
		})
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	r.Register(`{"app":"second"}`, new(struct{}))
	own, foreign := r.Tokens("demo", 1)[0], r.Tokens("second", 1)[0]
	headers := r.login()
	to := func(token string) string { return fmt.Sprintf(`{"message":{"token":%q,"data":{"a":"b"}}}`, token) }
	if a := r.send(headers, to(own)); a.Status != 200 {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
	if a := r.send(headers, to(foreign)); a.Status != 403 || failed(t, a).code() != "SENDER_ID_MISMATCH" {
		t.Errorf("of another project: answered %d %s", a.Status, a.Body)
	}
	for _, token := range []string{"no token", "sim:code=INVALID_ARGUMENT"} {
		a := r.send(headers, to(token))
		f := failed(t, a)
		if a.Status != 400 || f.code() != "INVALID_ARGUMENT" || f.field() != "" || !strings.Contains(f.Error.Message, "registration token") {
			t.Errorf("answered %d %s to %s", a.Status, a.Body, token)
		}
	}
	r.Patch(`{"invalid_share":1}`)
	if a := r.send(headers, to(own)); a.Status != 404 || failed(t, a).code() != "UNREGISTERED" || failed(t, a).Error.Status != "NOT_FOUND" {
		t.Errorf("dead by share: answered %d %s", a.Status, a.Body)
	}
}

func TestEveryCodeCanBeHad(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	frametest.CheckCodes(t, fcm.Codes())
	headers := r.login()
	for _, c := range fcm.Codes() {
		if c.Place != frame.InAnswer || c.Status == http.StatusOK {
			continue
		}
		byTitle := strings.Replace(message, `"Hi"`, `"sim:code=`+c.Code+`"`, 1)
		byToken := strings.Replace(message, `"token-a"`, `"sim:code=`+c.Code+`"`, 1)
		for _, body := range []string{byTitle, byToken} {
			a := r.send(headers, body)
			if a.Status != c.Status || failed(t, a).code() != c.Code {
				t.Errorf("answered %d %s, want %d %s", a.Status, a.Body, c.Status, c.Code)
			}
		}
	}
}

func TestLimitsAndOutagesSayWhenToRetry(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	headers := r.login()
	r.Patch(`{"limit":{"per_second":1,"retry_after":"7s"}}`)
	r.send(headers, message)
	a := r.send(headers, message)
	if f := failed(t, a); a.Status != 429 || f.code() != "QUOTA_EXCEEDED" || f.Error.Status != "RESOURCE_EXHAUSTED" || a.Header.Get("Retry-After") != "7" {
		t.Errorf("over the rate: answered %d %s", a.Status, a.Body)
	}
	r.Patch(`{"outage":{"mode":"503","path":"/v1/"}}`)
	a = r.send(headers, message)
	if f := failed(t, a); a.Status != 503 || f.code() != "UNAVAILABLE" || a.Header.Get("Retry-After") != "7" {
		t.Errorf("down: answered %d %s", a.Status, a.Body)
	}
	r.login() // the token endpoint is not down
}

func TestADirectiveCanBeUsedUp(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	headers := r.login()
	body := strings.Replace(message, `"token-a"`, `"sim:code=UNAVAILABLE,times=2"`, 1)
	for _, want := range []int{503, 503, 200, 200} {
		if a := r.send(headers, body); a.Status != want {
			t.Errorf("answered %d, want %d", a.Status, want)
		}
	}
}

package harmony_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
	"github.com/halleypush/halley/services/vendorsim/internal/harmony"
)

// rig is the push service with the app demo, whose credentials a test holds.
type rig struct {
	*frametest.Rig
	t   *testing.T
	App struct {
		Package string `json:"package"`
		Account struct {
			ProjectID  string `json:"project_id"`
			KeyID      string `json:"key_id"`
			PrivateKey string `json:"private_key"`
			SubAccount string `json:"sub_account"`
		} `json:"service_account"`
	}
}

// accountKey is made once, because that takes long.
var accountKey = sync.OnceValue(func() string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
})

// start registers demo with further fields of its document, such as `,"disabled":true`.
func start(t *testing.T, more string) *rig {
	t.Helper()
	r := &rig{t: t, Rig: frametest.Start(t, func(f *frame.Frame) frame.Vendor { return harmony.New(f) })}
	key, err := json.Marshal(accountKey())
	frametest.Must(t, err)
	r.Register(fmt.Sprintf(`{"app":"demo","service_account":{"private_key":%s}%s}`, key, more), &r.App)
	return r
}

// sign makes a JWT as the sheet says: PS256, kid, typ; iss, aud, iat and exp.
func (r *rig) sign(change func(*jwt.Token)) string {
	r.t.Helper()
	now := r.Clock.Now().Unix()
	token := jwt.NewWithClaims(jwt.SigningMethodPS256, jwt.MapClaims{
		"iss": r.App.Account.SubAccount, "aud": "https://oauth-login.cloud.huawei.com/oauth2/v3/token", "iat": now, "exp": now + 3600,
	})
	token.Header["kid"] = r.App.Account.KeyID
	if change != nil {
		change(token)
	}
	key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(r.App.Account.PrivateKey))
	frametest.Must(r.t, err)
	text, err := token.SignedString(key)
	frametest.Must(r.t, err)
	return text
}

// headers are those of a good send.
func (r *rig) headers(pushType string) [][2]string {
	r.t.Helper()
	return [][2]string{
		{"Content-Type", "application/json"}, {"push-type", pushType}, {"Authorization", "Bearer " + r.sign(nil)},
	}
}

func (r *rig) path() string { return "/v3/" + r.App.Account.ProjectID + "/messages:send" }

// send sends a body and returns the answer with its code.
func (r *rig) send(headers [][2]string, body string) (frametest.Answer, string) {
	r.t.Helper()
	a := r.Do("POST", r.path(), headers, body)
	return a, a.Field(r.t, "code")
}

// body returns a request with a payload, further push options, and tokens.
func body(payload, options string, tokens ...string) string {
	list, _ := json.Marshal(tokens)
	return fmt.Sprintf(`{"payload":%s,"target":{"token":%s},"pushOptions":{"ttl":86400,"biTag":"tag-1"%s}}`, payload, list, options)
}

const alert = `{"notification":{"category":"IM","title":"Hi","body":"there","badge":{"addNum":1},
	"clickAction":{"actionType":0,"data":{"push_id":"01935f3e-0000-7000-8000-000000000001"}}}}`

func TestAnAlertIsAccepted(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	a, code := r.send(r.headers("0"), body(alert, "", "token-a", "token-b"))
	if a.Status != 200 || code != "80000000" || a.Field(t, "msg") != "Success" || a.Field(t, "requestId") == "" {
		t.Fatalf("answered %d %s", a.Status, a.Body)
	}
	got := r.Last()
	if !slices.Equal(got.Tokens, []string{"token-a", "token-b"}) || got.DedupID != "tag-1" || got.App != "demo" ||
		got.PushID != "01935f3e-0000-7000-8000-000000000001" || got.Headers["Push-Type"] != "0" {
		t.Errorf("recorded %+v", got)
	}
	withID := strings.Replace(body(alert, "", "token-a"), `"category"`, `"appMessageId":"m-1","category"`, 1)
	if r.send(r.headers("0"), withID); r.Last().DedupID != "m-1" {
		t.Errorf("recorded %+v", r.Last())
	}
}

func TestJWTs(t *testing.T) {
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
		"good":              {nil, "80000000"},
		"valid for a day":   {set("exp", now+86400), "80000000"},
		"valid for longer":  {set("exp", now+86401), "80300036"},
		"expired":           {func(t *jwt.Token) { set("iat", now-3700)(t); set("exp", now-100)(t) }, "80200005"},
		"from the future":   {func(t *jwt.Token) { set("iat", now+600)(t); set("exp", now+1200)(t) }, "80200001"},
		"without exp":       {set("exp", nil), "80200001"},
		"another issuer":    {set("iss", "someone"), "80200001"},
		"another audience":  {set("aud", "https://example.com"), "80200001"},
		"an unknown key":    {func(t *jwt.Token) { t.Header["kid"] = "x" }, "80200001"},
		"no typ":            {func(t *jwt.Token) { delete(t.Header, "typ") }, "80200001"},
		"signed with RS256": {func(t *jwt.Token) { t.Method = jwt.SigningMethodRS256; t.Header["alg"] = "RS256" }, "80200001"},
		"signed with PS384": {func(t *jwt.Token) { t.Method = jwt.SigningMethodPS384; t.Header["alg"] = "PS384" }, "80200001"},
	} {
		headers := r.headers("0")
		headers[2][1] = "Bearer " + r.sign(c.change)
		a, code := r.send(headers, body(alert, "", "token-a"))
		if code != c.code || (a.Status == http.StatusUnauthorized) != (c.code != "80000000") {
			t.Errorf("%s: answered %d %s, want %s", name, a.Status, a.Body, c.code)
		}
	}
	headers := r.headers("0")
	if a := r.Do("POST", "/v3/other/messages:send", headers, body(alert, "", "token-a")); a.Field(t, "code") != "80200001" {
		t.Errorf("another project: answered %d %s", a.Status, a.Body)
	}
	if a, code := r.send(headers[:2], body(alert, "", "token-a")); code != "80200001" {
		t.Errorf("no JWT: answered %d %s", a.Status, a.Body)
	}
	r.Clock.Move(time.Hour + time.Second)
	if a, code := r.send(headers, body(alert, "", "token-a")); code != "80200005" {
		t.Errorf("an hour later: answered %d %s", a.Status, a.Body)
	}
	headers = r.headers("0")
	r.send(headers, body(alert, "", "token-a"))
	r.Frame.Sessions.Expire("demo")
	if a, code := r.send(headers, body(alert, "", "token-a")); code != "80200005" {
		t.Errorf("expired by call: answered %d %s", a.Status, a.Body)
	}
	r.Patch(`{"credentials":{"revoked":["demo"]}}`)
	if a, code := r.send(r.headers("0"), body(alert, "", "token-a")); code != "80200001" {
		t.Errorf("revoked: answered %d %s", a.Status, a.Body)
	}
}

func TestMessagesAreCheckedAsDocumented(t *testing.T) {
	t.Parallel()
	r := start(t, `,"receipts":{"rc1":{"url":"http://127.0.0.1:1"}}`)
	headers := make(map[string][][2]string)
	for _, pushType := range []string{"0", "1", "2", "6", "7", "10", "3", "x", ""} {
		headers[pushType] = r.headers(pushType)
	}
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprint("token-", i)
	}
	change := func(old, to string) string {
		if !strings.Contains(alert, old) {
			t.Fatalf("no %s in the alert", old)
		}
		return body(strings.Replace(alert, old, to, 1), "", "token-a")
	}
	good := body(alert, "", "token-a")
	extra := `{"extraData":"x"}`
	voice := `{"notification":{"category":"PLAY_VOICE","title":"Paid","body":"1"},"extraData":"x"}`
	for name, c := range map[string]struct{ pushType, body, code string }{
		"no push type":             {"", good, "80100001"},
		"push type 3":              {"3", good, "80100001"},
		"push type in words":       {"x", good, "80100001"},
		"not json":                 {"0", `{`, "80100003"},
		"no payload":               {"0", `{"target":{"token":["t"]}}`, "80100003"},
		"no target":                {"0", `{"payload":` + alert + `}`, "80300010"},
		"no tokens":                {"0", `{"payload":` + alert + `,"target":{"token":[]}}`, "80300010"},
		"1000 tokens":              {"0", body(alert, "", many[:1000]...), "80000000"},
		"1001 tokens":              {"0", body(alert, "", many...), "80300010"},
		"card for one":             {"1", body(`{"formId":1}`, "", "a"), "80000000"},
		"card for two":             {"1", body(`{"formId":1}`, "", "a", "b"), "80300010"},
		"test for ten":             {"0", body(alert, `,"testMessage":true`, many[:10]...), "80000000"},
		"test for eleven":          {"0", body(alert, `,"testMessage":true`, many[:11]...), "80300030"},
		"ttl of 15 days":           {"0", strings.Replace(good, "86400", "1296000", 1), "80000000"},
		"ttl over 15 days":         {"0", strings.Replace(good, "86400", "1296001", 1), "80100001"},
		"ttl 0":                    {"0", strings.Replace(good, "86400", "0", 1), "80100004"},
		"ttl as text":              {"0", strings.Replace(good, "86400", `"86400s"`, 1), "80100003"},
		"collapse key 100":         {"0", body(alert, `,"collapseKey":100`, "a"), "80000000"},
		"collapse key 101":         {"0", body(alert, `,"collapseKey":101`, "a"), "80100001"},
		"collapse key elsewhere":   {"6", body(extra, `,"collapseKey":1`, "a"), "80100001"},
		"biTag of 64":              {"0", strings.Replace(good, "tag-1", strings.Repeat("t", 64), 1), "80000000"},
		"biTag of 65":              {"0", strings.Replace(good, "tag-1", strings.Repeat("t", 65), 1), "80100001"},
		"known receipt":            {"0", body(alert, `,"receiptId":"rc1"`, "a"), "80000000"},
		"unknown receipt":          {"0", body(alert, `,"receiptId":"rc2"`, "a"), "80100001"},
		"no category":              {"0", change(`"category":"IM",`, ``), "80100001"},
		"category":                 {"0", change(`"IM"`, `"NOISE"`), "80100001"},
		"voice is not an alert":    {"0", change(`"IM"`, `"PLAY_VOICE"`), "80100001"},
		"no title":                 {"0", change(`"title":"Hi",`, ``), "80100001"},
		"only a badge":             {"0", change(`"title":"Hi","body":"there",`, ``), "80000000"},
		"badge of 100":             {"0", change(`"addNum":1`, `"addNum":100`), "80100001"},
		"style 1":                  {"0", change(`"title"`, `"style":1,"title"`), "80100001"},
		"style 3":                  {"0", change(`"title"`, `"style":3,"title"`), "80000000"},
		"page without action":      {"0", change(`"actionType":0`, `"actionType":1`), "80100001"},
		"page with uri":            {"0", change(`"actionType":0`, `"actionType":1,"uri":"app://x"`), "80000000"},
		"action type 3":            {"0", change(`"actionType":0`, `"actionType":3`), "80100001"},
		"background":               {"6", body(extra, "", "a"), "80000000"},
		"background without data":  {"6", body(alert, "", "a"), "80100001"},
		"call":                     {"10", body(extra, "", "a"), "80000000"},
		"voice":                    {"2", body(voice, "", "a"), "80000000"},
		"voice without extra data": {"2", body(strings.Replace(voice, `,"extraData":"x"`, ``, 1), "", "a"), "80100001"},
		"live view":                {"7", body(`{}`, "", "a"), "80000000"},
		"too long":                 {"6", body(`{"extraData":"`+strings.Repeat("x", 4096)+`"}`, "", "a"), "80300008"},
		"tokens do not count":      {"0", body(alert, "", strings.Repeat("t", 4096)), "80000000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if a, code := r.send(headers[c.pushType], c.body); code != c.code {
				t.Errorf("answered %d %s, want %s", a.Status, a.Body, c.code)
			}
		})
	}
	if a := r.Do("POST", "/v1/"+r.App.Account.ProjectID+"/messages:send", headers["0"], good); a.Status != http.StatusNotFound {
		t.Errorf("v1 is answered with %d", a.Status)
	}
}

// refusal is the text in msg of a partial success.
type refusal struct {
	Success, Failure int
	Illegal          map[string][]string `json:"illegalTokens"`
}

func refused(t *testing.T, a frametest.Answer) (list refusal) {
	t.Helper()
	var answer struct{ Msg string }
	frametest.Must(t, json.Unmarshal([]byte(a.Body), &answer))
	frametest.Must(t, json.Unmarshal([]byte(answer.Msg), &list))
	return list
}

func TestRefusedTokensAreListedByReason(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	r.Register(`{"app":"second","key_bits":2048}`, new(struct{}))
	own, foreign := r.Tokens("demo", 1)[0], r.Tokens("second", 1)[0]
	headers := r.headers("0")
	a, code := r.send(headers, body(alert, "", own, foreign, "a b", "sim:code=tokenPlatformNotSupport"))
	list := refused(t, a)
	if code != "80100000" || list.Success != 1 || list.Failure != 3 || !slices.Equal(list.Illegal["noRight"], []string{foreign}) ||
		!slices.Equal(list.Illegal["tokenFormatError"], []string{"a b"}) || len(list.Illegal["tokenPlatformNotSupport"]) != 1 {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
	if got := r.Last().Tokens; !slices.Equal(got, []string{own}) {
		t.Errorf("recorded %v", got)
	}
	a, code = r.send(headers, body(alert, "", foreign))
	if code != "80300007" || !slices.Equal(refused(t, a).Illegal["noRight"], []string{foreign}) {
		t.Errorf("all refused: answered %d %s", a.Status, a.Body)
	}
	r.Patch(`{"invalid_share":1}`)
	if a, code := r.send(headers, body(alert, "", own)); code != "80300007" {
		t.Errorf("dead by share: answered %d %s", a.Status, a.Body)
	}
}

func TestRights(t *testing.T) {
	t.Parallel()
	r := start(t, `,"no_rights":[10]`)
	a, code := r.send(r.headers("10"), body(`{"extraData":"x"}`, "", "a"))
	if code != "80300007" || len(refused(t, a).Illegal["noPushTypeRight"]) != 1 {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
	r = start(t, `,"disabled":true`)
	if a, code := r.send(r.headers("0"), body(alert, "", "a")); code != "80300002" {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
}

func TestEveryCodeCanBeHad(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, fmt.Sprintf(`,"receipt":{"url":%q}`, receiver.URL))
	frametest.CheckCodes(t, harmony.Codes())
	headers := r.headers("0")
	for _, c := range harmony.Codes() {
		switch c.Place {
		case frame.InAnswer:
			if c.Code == "80000000" || c.Code == "80100000" || c.Code == "80300007" {
				continue // had by TestRefusedTokensAreListedByReason
			}
			byTitle := body(strings.Replace(alert, `"Hi"`, `"sim:code=`+c.Code+`"`, 1), "", "token-a")
			for _, body := range []string{byTitle, body(alert, "", "token-a", "sim:code="+c.Code)} {
				a := r.Do("POST", r.path(), headers, body)
				if a.Status != c.Status || len(c.Code) > 3 && a.Field(t, "code") != c.Code {
					t.Errorf("answered %d %s, want %d %s", a.Status, a.Body, c.Status, c.Code)
				}
			}
		case frame.InToken:
			a, _ := r.send(headers, body(alert, "", "token-a", "sim:code="+c.Code))
			if len(refused(t, a).Illegal[c.Code]) != 1 {
				t.Errorf("answered %d %s, want %s", a.Status, a.Body, c.Code)
			}
			r.receipts(receiver, 1)
		case frame.InReceipt:
			r.send(headers, body(alert, "", "sim:receipt="+c.Code))
			if got := r.receipts(receiver, 1)[0]; got.Delivery == nil || fmt.Sprint(got.Delivery.Result) != c.Code {
				t.Errorf("receipt %+v, want %s", got, c.Code)
			}
		}
	}
}

// receipt is one status of V2.
type receipt struct {
	Token, RequestID, AppPackageName, BiTag string
	PushType                                int
	Delivery                                *outcome `json:"deliveryStatus"`
	Form                                    *outcome `json:"formStatus"`
}

type outcome struct {
	FormID    int `json:"formId"`
	Result    int
	Timestamp int64
}

// receipts waits for n receipts.
func (r *rig) receipts(receiver *frametest.Receiver, n int) (list []receipt) {
	r.t.Helper()
	for len(list) < n {
		var call struct{ Statuses []receipt }
		frametest.Must(r.t, json.Unmarshal([]byte(receiver.Next(r.t).Body), &call))
		list = append(list, call.Statuses...)
	}
	return list
}

func TestReceiptsSayWhatTheyAreFor(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, fmt.Sprintf(`,"receipt":{"url":%q}`, receiver.URL))
	a, _ := r.send(r.headers("0"), body(alert, "", "token-a"))
	got := r.receipts(receiver, 1)[0]
	if got.Token != "token-a" || got.PushType != 0 || got.AppPackageName != r.App.Package || got.BiTag != "tag-1" ||
		got.RequestID != a.Field(t, "requestId") || got.Form != nil || got.Delivery.Timestamp != r.Clock.Now().UnixMilli() {
		t.Errorf("receipt %+v", got)
	}
	for _, want := range []int{0, 0, 256} { // a card takes two updates a day
		r.send(r.headers("1"), body(`{"formId":7}`, "", "token-a"))
		got = r.receipts(receiver, 1)[0]
		if got.PushType != 1 || got.Delivery != nil || got.Form.FormID != 7 || got.Form.Result != want {
			t.Errorf("receipt %+v, want %d", got, want)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	headers := r.headers("0")
	r.Patch(`{"limit":{"per_second":1,"retry_after":"1500ms"}}`)
	r.send(headers, body(alert, "", "a"))
	if a := r.Do("POST", r.path(), headers, body(alert, "", "a")); a.Status != 503 || a.Header.Get("Retry-After") != "2" {
		t.Errorf("over the rate: answered %d %s, Retry-After %q", a.Status, a.Body, a.Header.Get("Retry-After"))
	}
	r.Patch(`{"limit":{"per_second":0}}`)
	test := body(alert, `,"testMessage":true`, "a")
	for range 1000 {
		r.Do("POST", r.path(), headers, test)
	}
	if a, code := r.send(headers, test); code != "80300029" {
		t.Errorf("test message 1001: answered %d %s", a.Status, a.Body)
	}
	if a, code := r.send(headers, body(alert, "", "a")); code != "80000000" {
		t.Errorf("beside test messages: answered %d %s", a.Status, a.Body)
	}
}

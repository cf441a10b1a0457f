package honor_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
	"github.com/halleypush/halley/services/vendorsim/internal/honor"
)

// rig is Honor with the app demo, whose credentials a test holds.
type rig struct {
	*frametest.Rig
	t   *testing.T
	App struct {
		ID           string `json:"app_id"`
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
	}
}

// start registers demo with further fields of its document, such as `,"disabled":true`.
func start(t *testing.T, more string) *rig {
	t.Helper()
	r := &rig{t: t, Rig: frametest.Start(t, func(f *frame.Frame) frame.Vendor { return honor.New(f) })}
	r.Register(`{"app":"demo"`+more+`}`, &r.App)
	return r
}

func (r *rig) form(change ...string) url.Values {
	fields := url.Values{"grant_type": {"client_credentials"}, "client_id": {r.App.ClientID}, "client_secret": {r.App.ClientSecret}}
	for i := 0; i+1 < len(change); i += 2 {
		fields.Set(change[i], change[i+1])
	}
	return fields
}

// login gets an access token as the sheet says, and returns the headers of a send.
func (r *rig) login() [][2]string {
	r.t.Helper()
	a := r.Form("/auth/token", nil, r.form())
	if a.Status != 200 || a.Field(r.t, "token_type") != "Bearer" || a.Field(r.t, "expires_in") == "" {
		r.t.Fatalf("answered %d %s", a.Status, a.Body)
	}
	return [][2]string{
		{"Authorization", "Bearer " + a.Field(r.t, "access_token")},
		{"timestamp", strconv.FormatInt(r.Clock.Now().UnixMilli(), 10)},
		{"Content-Type", "application/json; charset=UTF-8"},
	}
}

func (r *rig) send(headers [][2]string, body string) frametest.Answer {
	r.t.Helper()
	return r.Do("POST", "/api/v1/"+r.App.ID+"/sendMessage", headers, body)
}

// lists is the data of an answer.
type lists struct {
	Sent      bool     `json:"sendResult"`
	RequestID string   `json:"requestId"`
	Failed    []string `json:"failTokens"`
	Expired   []string `json:"expireTokens"`
}

func data(t *testing.T, a frametest.Answer) lists {
	t.Helper()
	var l lists
	frametest.Must(t, json.Unmarshal([]byte(a.Field(t, "data")), &l))
	return l
}

// notice is a documented notification to tokens.
func notice(tokens ...string) string {
	list, _ := json.Marshal(tokens)
	return fmt.Sprintf(`{"notification":{"title":"Hi","body":"there"},"data":"{\"push_id\":\"p1\"}",
		"android":{"ttl":"86400s","biTag":"tag-1","targetUserType":0,"notification":{"importance":"NORMAL","style":0,
		"clickAction":{"type":3},"badge":{"addNum":1,"badgeClass":"com.example.Main"}}},"token":%s}`, list)
}

func TestANotificationIsAccepted(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	a := r.send(r.login(), notice("token-a", "token-b"))
	answer := data(t, a)
	if a.Status != 200 || a.Field(t, "code") != "200" || !answer.Sent || answer.RequestID == "" || a.Field(t, "message") == "" {
		t.Fatalf("answered %d %s", a.Status, a.Body)
	}
	got := r.Last()
	if !slices.Equal(got.Tokens, []string{"token-a", "token-b"}) || got.App != "demo" || got.PushID != "p1" || got.VendorID != answer.RequestID {
		t.Errorf("recorded %+v", got)
	}
}

func TestTheOAuthServer(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	for name, c := range map[string]struct {
		fields url.Values
		code   string
	}{
		"secret": {r.form("client_secret", "wrong"), "invalid_client"},
		"client": {r.form("client_id", "1"), "unauthorized_client"},
		"grant":  {r.form("grant_type", "password"), "invalid_grant"},
	} {
		a := r.Form("/auth/token", nil, c.fields)
		if a.Status < 400 || a.Status > 401 || a.Field(t, "error") != c.code || a.Field(t, "error_description") == "" {
			t.Errorf("%s: answered %d %s, want %s", name, a.Status, a.Body, c.code)
		}
	}
	if a := r.Form("/auth/realms/developer/protocol/openid-connect/token", nil, r.form()); a.Field(t, "access_token") == "" {
		t.Errorf("the older path answered %d %s", a.Status, a.Body)
	}
}

func TestAccessTokens(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	headers := r.login()
	refused := func(name string, headers [][2]string, code string) {
		t.Helper()
		if a := r.send(headers, notice("token-a")); a.Status != http.StatusUnauthorized || a.Field(t, "code") != code {
			t.Errorf("%s: answered %d %s", name, a.Status, a.Body)
		}
	}
	refused("none", headers[1:], "80200001")
	refused("unknown", [][2]string{{"Authorization", "Bearer x"}, headers[1], headers[2]}, "80200001")
	r.Clock.Move(time.Hour + time.Second)
	refused("after an hour", headers, "80200003")
	r.Patch(`{"credentials":{"life":"2s"}}`)
	headers = r.login()
	r.Clock.Move(3 * time.Second)
	refused("after the life of the switch", headers, "80200003")
	headers = r.login()
	r.Patch(`{"credentials":{"revoked":["demo"]}}`)
	refused("revoked", headers, "80200001")
	if a := r.Form("/auth/token", nil, r.form()); a.Field(t, "error") != "invalid_client" {
		t.Errorf("a revoked secret is answered with %s", a.Body)
	}
	r.Patch(`{"credentials":{"revoked":[]}}`)
	first := r.App
	r.Register(`{"app":"second"}`, &r.App)
	second := r.login()
	r.App = first
	refused("of another app", second, "80200001")
}

func TestTheTimestampIsRequired(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	headers := r.login()
	for _, stamp := range []string{"", "yesterday", "1732330000"} { // the last is in seconds
		if a := r.send([][2]string{headers[0], {"timestamp", stamp}, headers[2]}, notice("token-a")); a.Field(t, "code") != "80100001" {
			t.Errorf("%q: answered %d %s", stamp, a.Status, a.Body)
		}
	}
	r.App.ID = "1"
	if a := r.send(headers, notice("token-a")); a.Status != http.StatusNotFound {
		t.Errorf("a wrong app id is answered with %d", a.Status)
	}
}

func TestMessagesAreCheckedAsDocumented(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	headers := r.login()
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprint("token-", i)
	}
	change := func(old, to string) string {
		body := notice("token-a")
		if !strings.Contains(body, old) {
			t.Fatalf("no %s in the notification", old)
		}
		return strings.Replace(body, old, to, 1)
	}
	for name, c := range map[string]struct{ body, code string }{
		"not json":               {`{`, "80100003"},
		"no tokens":              {`{"data":"x"}`, "80300010"},
		"1000 tokens":            {notice(many[:1000]...), "200"},
		"1001 tokens":            {notice(many...), "80300010"},
		"nothing to say":         {`{"token":["t"]}`, "80100001"},
		"pass-through":           {`{"data":"x","token":["t"]}`, "200"},
		"pass-through of phones": {`{"android":{"data":"x"},"token":["t"]}`, "200"},
		"data is no text":        {`{"data":{"a":1},"token":["t"]}`, "80100003"},
		"ttl of 15 days":         {change("86400s", "1296000s"), "200"},
		"ttl over 15 days":       {change("86400s", "1296001s"), "80100004"},
		"ttl without unit":       {change("86400s", "86400"), "80100004"},
		"target user type":       {change(`"targetUserType":0`, `"targetUserType":2`), "80100001"},
		"no click action":        {change(`"clickAction":{"type":3},`, ``), "80100001"},
		"page without intent":    {change(`{"type":3}`, `{"type":1}`), "80100001"},
		"page with action":       {change(`{"type":3}`, `{"type":1,"action":"a"}`), "200"},
		"web over http":          {change(`{"type":3}`, `{"type":2,"url":"http://a"}`), "80100001"},
		"web over https":         {change(`{"type":3}`, `{"type":2,"url":"https://a"}`), "200"},
		"click type":             {change(`{"type":3}`, `{"type":4}`), "80100001"},
		"importance":             {change("NORMAL", "HIGH"), "80100001"},
		"marketing":              {change("NORMAL", "LOW"), "200"},
		"style":                  {change(`"style":0`, `"style":2`), "80100001"},
		"three buttons":          {change(`"style":0`, `"buttons":[{},{},{}]`), "200"},
		"four buttons":           {change(`"style":0`, `"buttons":[{},{},{},{}]`), "80100001"},
		"badge of 99":            {change(`"addNum":1`, `"setNum":99`), "200"},
		"badge of 100":           {change(`"addNum":1`, `"setNum":100`), "80100001"},
		"no title":               {change(`"title":"Hi",`, ``), "80100001"},
		"too long":               {`{"data":"` + strings.Repeat("x", 4096) + `","token":["t"]}`, "80300008"},
		"tokens do not count":    {`{"data":"x","token":["` + strings.Repeat("t", 4096) + `"]}`, "200"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if a := r.send(headers, c.body); a.Field(t, "code") != c.code {
				t.Errorf("answered %d %s, want %s", a.Status, a.Body, c.code)
			}
		})
	}
	if a := r.send(headers[:2], notice("t")); a.Field(t, "code") != "80100003" {
		t.Errorf("without Content-Type: answered %d %s", a.Status, a.Body)
	}
}

func TestBadTokensAreListed(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	r.Register(`{"app":"second"}`, new(struct{}))
	own, foreign := r.Tokens("demo", 1)[0], r.Tokens("second", 1)[0]
	headers := r.login()
	a := r.send(headers, notice(own, foreign, "sim:code=failTokens", "sim:code=expireTokens"))
	got := data(t, a)
	if a.Field(t, "code") != "200" || !got.Sent || !slices.Equal(got.Failed, []string{"sim:code=failTokens"}) ||
		!slices.Equal(got.Expired, []string{foreign, "sim:code=expireTokens"}) {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
	if got := r.Last().Tokens; !slices.Equal(got, []string{own}) {
		t.Errorf("recorded %v", got)
	}
	r.Patch(`{"invalid_share":1}`)
	a = r.send(headers, notice(own))
	if got := data(t, a); a.Field(t, "code") != "80300007" || got.Sent || !slices.Equal(got.Expired, []string{own}) {
		t.Errorf("all dead: answered %d %s", a.Status, a.Body)
	}
	if n := len(r.Accepted()); n != 1 {
		t.Errorf("accepted %d requests", n)
	}
}

func TestEveryCodeCanBeHad(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, fmt.Sprintf(`,"receipt":{"url":%q}`, receiver.URL))
	frametest.CheckCodes(t, honor.Codes())
	headers := r.login()
	for _, c := range honor.Codes() {
		switch c.Place {
		case frame.InAnswer:
			if c.Group == frame.Success {
				continue
			}
			for _, body := range []string{strings.Replace(notice("t"), `"Hi"`, `"sim:code=`+c.Code+`"`, 1), notice("t", "sim:code="+c.Code)} {
				a := r.send(headers, body)
				if a.Status != c.Status || len(c.Code) > 3 && a.Field(t, "code") != c.Code {
					t.Errorf("answered %d %s, want %d %s", a.Status, a.Body, c.Status, c.Code)
				}
			}
		case frame.InReceipt:
			r.send(headers, notice("sim:receipt="+c.Code))
			if body := receiver.Next(t).Body; !strings.Contains(body, `"status":`+c.Code+`,`) {
				t.Errorf("receipt %s, want status %s", body, c.Code)
			}
		}
	}
}

func TestReceiptsInEachShape(t *testing.T) {
	t.Parallel()
	for shape, prefix := range map[string]string{"": `{"statuses":[`, "data": `{"data":[`, "list": `[`} {
		receiver := frametest.NewReceiver(t)
		r := start(t, fmt.Sprintf(`,"receipt":{"url":%q,"shape":%q}`, receiver.URL, shape))
		id := data(t, r.send(r.login(), notice("token-a", "sim:code=expireTokens"))).RequestID
		call := receiver.Next(t)
		list := strings.TrimSuffix(strings.TrimPrefix(call.Body, strings.TrimSuffix(prefix, "[")), "}")
		if shape == "list" {
			list = call.Body
		}
		var got []struct {
			Token, AppID, RequestID string
			Tag                     string `json:"biTag"`
			Status                  int
			Timestamp               int64
		}
		if err := json.Unmarshal([]byte(list), &got); err != nil || !strings.HasPrefix(call.Body, prefix) {
			t.Fatalf("%s: receipt %s: %v", shape, call.Body, err)
		}
		if len(got) != 1 || got[0].Token != "token-a" || got[0].AppID != r.App.ID || got[0].RequestID != id || got[0].Tag != "tag-1" ||
			got[0].Timestamp != r.Clock.Now().UnixMilli() {
			t.Errorf("%s: receipt %s", shape, call.Body)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	headers := r.login()
	test := strings.Replace(notice("t"), `"targetUserType":0`, `"targetUserType":1`, 1)
	for range 1000 {
		if a := r.send(headers, test); a.Status != 200 {
			t.Fatalf("answered %d %s", a.Status, a.Body)
		}
	}
	if a := r.send(headers, test); a.Status != http.StatusTooManyRequests {
		t.Errorf("test message 1001 is answered with %d", a.Status)
	}
	r.Patch(`{"limit":{"per_second":2,"retry_after":"2s"}}`)
	r.send(headers, notice("a", "b"))
	if a := r.send(headers, notice("a")); a.Status != http.StatusTooManyRequests || a.Header.Get("Retry-After") != "2" {
		t.Errorf("answered %d %s over the rate", a.Status, a.Body)
	}
	r.Clock.Move(24 * time.Hour)
	headers = r.login()
	if a := r.send(headers, test); a.Status != 200 {
		t.Errorf("answered %d on the next day", a.Status)
	}
	r.Patch(`{"outage":{"mode":"503"}}`)
	if a := r.send(headers, notice("a")); a.Status != http.StatusServiceUnavailable {
		t.Errorf("answered %d in an outage", a.Status)
	}
}

func TestADisabledAppMayNotSend(t *testing.T) {
	t.Parallel()
	r := start(t, `,"disabled":true`)
	if a := r.send(r.login(), notice("token-a")); a.Field(t, "code") != "80300002" {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
}

func TestAnswersInTheOtherDialect(t *testing.T) {
	t.Parallel()
	r := start(t, `,"answers":"huawei"`)
	a := r.send(r.login(), notice("token-a"))
	if !strings.Contains(a.Body, `"code":"80000000"`) || a.Field(t, "msg") == "" {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
	if _, err := r.Vendor.Register(json.RawMessage(`{"app":"x","receipt":{"shape":"tree"}}`)); err == nil {
		t.Error("an unknown shape is accepted")
	}
}

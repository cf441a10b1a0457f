package huawei_test

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
	"github.com/halleypush/halley/services/vendorsim/internal/huawei"
)

// rig is Huawei with the app demo, whose credentials a test holds.
type rig struct {
	*frametest.Rig
	t   *testing.T
	App struct {
		ClientID     string `json:"client_id"`
		ClientSecret string `json:"client_secret"`
		ProjectID    string `json:"project_id"`
	}
}

// start registers demo with further fields of its document, such as `,"disabled":true`.
func start(t *testing.T, more string) *rig {
	t.Helper()
	r := &rig{t: t, Rig: frametest.Start(t, func(f *frame.Frame) frame.Vendor { return huawei.New(f) })}
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

// login gets an access token as the sheet says.
func (r *rig) login() [][2]string {
	r.t.Helper()
	a := r.Form("/oauth2/v3/token", nil, r.form())
	var answer struct {
		Token   string `json:"access_token"`
		Expires int    `json:"expires_in"`
		Type    string `json:"token_type"`
	}
	frametest.Must(r.t, json.Unmarshal([]byte(a.Body), &answer))
	if a.Status != 200 || answer.Type != "Bearer" || answer.Expires < 1 {
		r.t.Fatalf("answered %d %s", a.Status, a.Body)
	}
	return [][2]string{{"Authorization", "Bearer " + answer.Token}, {"Content-Type", "application/json; charset=UTF-8"}}
}

func (r *rig) path() string { return "/v1/" + r.App.ClientID + "/messages:send" }

// send sends a body and returns the answer with its code.
func (r *rig) send(headers [][2]string, body string) (frametest.Answer, string) {
	r.t.Helper()
	a := r.Do("POST", r.path(), headers, body)
	return a, a.Field(r.t, "code")
}

// notice is a documented notification to tokens, with further fields of android.
func notice(android string, tokens ...string) string {
	list, _ := json.Marshal(tokens)
	return fmt.Sprintf(`{"validate_only":false,"message":{"notification":{"title":"Hi","body":"there"},
		"data":"{\"push_id\":\"01935f3e-0000-7000-8000-000000000001\"}",
		"android":{"collapse_key":-1,"ttl":"86400s","bi_tag":"tag-1","category":"IM"%s,
		"notification":{"importance":"NORMAL","click_action":{"type":3},"badge":{"add_num":1,"class":"com.example.Main"}}},
		"token":%s}}`, android, list)
}

func TestANotificationIsAccepted(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	a, code := r.send(r.login(), notice("", "token-a", "token-b"))
	if a.Status != 200 || code != "80000000" || a.Field(t, "msg") != "Success" || a.Field(t, "requestId") == "" {
		t.Fatalf("answered %d %s", a.Status, a.Body)
	}
	got := r.Last()
	if !slices.Equal(got.Tokens, []string{"token-a", "token-b"}) || got.DedupID != "tag-1" || got.App != "demo" ||
		got.PushID != "01935f3e-0000-7000-8000-000000000001" || got.VendorID != a.Field(t, "requestId") {
		t.Errorf("recorded %+v", got)
	}
	r.App.ClientID, r.App.ProjectID = r.App.ProjectID, r.App.ClientID // v2 has the project's id in its path
	if a := r.Do("POST", "/v2/"+r.App.ClientID+"/messages:send", r.loginOf(r.App.ProjectID), notice("", "token-a")); a.Field(t, "code") != "80000000" {
		t.Errorf("v2 answered %d %s", a.Status, a.Body)
	}
}

// loginOf is login with another client id.
func (r *rig) loginOf(id string) [][2]string {
	r.t.Helper()
	r.App.ClientID, id = id, r.App.ClientID
	defer func() { r.App.ClientID = id }()
	return r.login()
}

func TestTheOAuthServer(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	for _, c := range []struct {
		name, code string
		fields     url.Values
	}{
		{"secret", "invalid_client", r.form("client_secret", "wrong")},
		{"client", "invalid_client", r.form("client_id", "1")},
		{"grant", "unsupported_grant_type", r.form("grant_type", "password")},
		{"no secret", "invalid_request", r.form("client_secret", "")},
	} {
		a := r.Form("/oauth2/v3/token", nil, c.fields)
		if a.Status != http.StatusBadRequest || a.Field(t, "error") != c.code || a.Field(t, "error_description") == "" {
			t.Errorf("%s: answered %d %s, want %s", c.name, a.Status, a.Body, c.code)
		}
	}
	if a := r.Form("/oauth2/v2/token", nil, r.form()); a.Status != 200 || !strings.Contains(a.Body, `\/`) {
		t.Errorf("v2 answered %d %s, without an escaped slash", a.Status, a.Body)
	}
}

func TestTheOAuthServerLimitsItsCalls(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	for range 1000 {
		r.login()
	}
	if a := r.Form("/oauth2/v3/token", nil, r.form()); a.Status != http.StatusServiceUnavailable {
		t.Errorf("call 1001 was answered with %d %s", a.Status, a.Body)
	}
	r.Clock.Move(5 * time.Minute)
	r.login()
}

func TestAccessTokens(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	r.Register(`{"app":"second","client_id":"2"}`, new(struct{}))
	body := notice("", "token-a")
	headers := r.login()
	for name, c := range map[string]struct {
		path, header, code string
	}{
		"none":         {r.path(), "", "80200001"},
		"unknown":      {r.path(), "Bearer x", "80200001"},
		"of other app": {"/v1/2/messages:send", headers[0][1], "80200001"},
	} {
		a := r.Do("POST", c.path, [][2]string{{"Authorization", c.header}, headers[1]}, body)
		if a.Status != http.StatusUnauthorized || a.Field(t, "code") != c.code {
			t.Errorf("%s: answered %d %s", name, a.Status, a.Body)
		}
	}
	r.Clock.Move(time.Hour + time.Second)
	if a, code := r.send(headers, body); code != "80200003" {
		t.Errorf("answered %d %s after an hour", a.Status, a.Body)
	}
	r.Patch(`{"credentials":{"life":"2s"}}`)
	headers = r.login()
	r.Clock.Move(3 * time.Second)
	if a, code := r.send(headers, body); code != "80200003" {
		t.Errorf("answered %d %s after the life of the switch", a.Status, a.Body)
	}
	headers = r.login()
	r.Frame.Sessions.Expire("demo")
	if a, code := r.send(headers, body); code != "80200003" {
		t.Errorf("answered %d %s to an expired token", a.Status, a.Body)
	}
	r.Patch(`{"credentials":{"revoked":["demo"]}}`)
	if a := r.Form("/oauth2/v3/token", nil, r.form()); a.Field(t, "error") != "invalid_client" {
		t.Errorf("answered %d %s to a revoked secret", a.Status, a.Body)
	}
}

func TestMessagesAreCheckedAsDocumented(t *testing.T) {
	t.Parallel()
	r := start(t, `,"no_high_right":true,"receipts":{"rc1":{"url":"http://127.0.0.1:1"}}`)
	headers := r.login()
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprint("token-", i)
	}
	change := func(old, to string) string {
		body := notice("", "token-a")
		if !strings.Contains(body, old) {
			t.Fatalf("no %s in the notification", old)
		}
		return strings.Replace(body, old, to, 1)
	}
	data := func(android string) string {
		return `{"message":{"data":"x","android":{` + android + `},"token":["token-a"]}}`
	}
	for name, c := range map[string]struct{ body, code string }{
		"not json":                 {`{`, "80100003"},
		"no message":               {`{}`, "80100003"},
		"data is no text":          {`{"message":{"data":{"a":1},"token":["t"]}}`, "80100003"},
		"no target":                {`{"message":{"data":"x"}}`, "80300010"},
		"token at the wrong place": {`{"token":["t"],"message":{"data":"x"}}`, "80300010"},
		"empty token list":         {`{"message":{"data":"x","token":[]}}`, "80300010"},
		"1000 tokens":              {notice("", many[:1000]...), "80000000"},
		"1001 tokens":              {notice("", many...), "80300010"},
		"token and topic":          {`{"message":{"data":"x","token":["t"],"topic":"news"}}`, "80100001"},
		"topic":                    {`{"message":{"data":"x","topic":"news"}}`, "80000000"},
		"condition":                {`{"message":{"data":"x","condition":"'a' in topics"}}`, "80000000"},
		"nothing to say":           {`{"message":{"token":["t"]}}`, "80100001"},
		"pass-through":             {data(`"ttl":"0s"`), "80100004"},
		"ttl of 15 days":           {data(`"ttl":"1296000s"`), "80000000"},
		"ttl over 15 days":         {data(`"ttl":"1296001s"`), "80100001"},
		"ttl without unit":         {data(`"ttl":"60"`), "80100001"},
		"collapse key 100":         {data(`"collapse_key":100`), "80000000"},
		"collapse key 101":         {data(`"collapse_key":101`), "80100013"},
		"collapse key -2":          {data(`"collapse_key":-2`), "80100013"},
		"category":                 {data(`"category":"NOISE"`), "80100001"},
		"voice as pass-through":    {data(`"category":"PLAY_VOICE"`), "80000000"},
		"voice as notification":    {change(`"IM"`, `"PLAY_VOICE"`), "80100001"},
		"urgency":                  {data(`"urgency":"NORMAL"`), "80000000"},
		"high without right":       {data(`"urgency":"HIGH"`), "80300011"},
		"urgency of notification":  {change(`"IM"`, `"IM","urgency":"NORMAL"`), "80100001"},
		"no click action":          {change(`,"click_action":{"type":3}`, ``), "80100001"},
		"page without intent":      {change(`{"type":3}`, `{"type":1}`), "80100001"},
		"page with action":         {change(`{"type":3}`, `{"type":1,"action":"com.example.OPEN"}`), "80000000"},
		"web over http":            {change(`{"type":3}`, `{"type":2,"url":"http://example.com"}`), "80100001"},
		"web over https":           {change(`{"type":3}`, `{"type":2,"url":"https://example.com"}`), "80000000"},
		"no title":                 {change(`"title":"Hi",`, ``), "80100001"},
		"image over http":          {change(`"title":"Hi"`, `"title":"Hi","image":"http://a/b"`), "80100001"},
		"importance":               {change(`"NORMAL"`, `"LOUD"`), "80100001"},
		"high importance":          {change(`"NORMAL"`, `"HIGH"`), "80300011"},
		"badge of 100":             {change(`"add_num":1`, `"add_num":100`), "80100001"},
		"badge set to 0":           {change(`"add_num":1`, `"set_num":0`), "80000000"},
		"style":                    {change(`"importance"`, `"style":2,"importance"`), "80100001"},
		"six lines":                {change(`"importance"`, `"inbox_content":["1","2","3","4","5","6"],"importance"`), "80100001"},
		"four buttons":             {change(`"importance"`, `"buttons":[{},{},{},{}],"importance"`), "80100001"},
		"profile id":               {change(`"importance"`, `"profile_id":"`+strings.Repeat("p", 65)+`","importance"`), "80100001"},
		"known receipt":            {data(`"receipt_id":"rc1"`), "80000000"},
		"unknown receipt":          {data(`"receipt_id":"rc2"`), "80300013"},
		"too long":                 {`{"message":{"data":"` + strings.Repeat("x", 4096) + `","token":["t"]}}`, "80300008"},
		"tokens do not count":      {`{"message":{"data":"x","token":["` + strings.Repeat("t", 4096) + `"]}}`, "80000000"},
		"test message":             {data(`"target_user_type":1`), "80000000"},
		"target user type":         {data(`"target_user_type":2`), "80100001"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if a, code := r.send(headers, c.body); code != c.code {
				t.Errorf("answered %d %s, want %s", a.Status, a.Body, c.code)
			}
		})
	}
	if a := r.Do("POST", r.path(), [][2]string{headers[0]}, data("")); a.Field(t, "code") != "80100003" {
		t.Errorf("without Content-Type: answered %d %s", a.Status, a.Body)
	}
	if a := r.Do("POST", "/v1/messages:send", headers, data("")); a.Status != http.StatusNotFound {
		t.Errorf("a wrong path is answered with %d", a.Status)
	}
}

func TestValidateOnlySendsNothing(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	body := strings.Replace(notice("", "token-a"), `"validate_only":false`, `"validate_only":true`, 1)
	if a, code := r.send(r.login(), body); code != "80000000" || len(r.Accepted()) != 0 {
		t.Errorf("answered %d %s, accepted %d", a.Status, a.Body, len(r.Accepted()))
	}
}

func TestIllegalTokensAreListed(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	r.Register(`{"app":"second"}`, new(struct{}))
	own, foreign := r.Tokens("demo", 1)[0], r.Tokens("second", 1)[0]
	headers := r.login()
	a, code := r.send(headers, notice("", own, foreign, "sim:code=illegal_tokens"))
	var list struct {
		Success, Failure int
		Illegal          []string `json:"illegal_tokens"`
	}
	var answer struct{ Msg string }
	frametest.Must(t, json.Unmarshal([]byte(a.Body), &answer))
	frametest.Must(t, json.Unmarshal([]byte(answer.Msg), &list))
	if code != "80100000" || list.Success != 1 || list.Failure != 2 || !slices.Equal(list.Illegal, []string{foreign, "sim:code=illegal_tokens"}) {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
	if got := r.Last().Tokens; !slices.Equal(got, []string{own}) {
		t.Errorf("recorded %v", got)
	}
	if a, code := r.send(headers, notice("", foreign)); code != "80300007" {
		t.Errorf("all illegal: answered %d %s", a.Status, a.Body)
	}
	r.Patch(`{"invalid_share":1}`)
	if a, code := r.send(headers, notice("", own)); code != "80300007" {
		t.Errorf("dead by share: answered %d %s", a.Status, a.Body)
	}
}

func TestEveryCodeCanBeHad(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, fmt.Sprintf(`,"receipt":{"url":%q}`, receiver.URL))
	frametest.CheckCodes(t, huawei.Codes())
	headers := r.login()
	for _, c := range huawei.Codes() {
		switch c.Place {
		case frame.InAnswer:
			if c.Code == "80000000" || c.Code == "80100000" || c.Code == "80300007" {
				continue // had by TestIllegalTokensAreListed
			}
			byTitle := strings.Replace(notice("", "token-a"), `"Hi"`, `"sim:code=`+c.Code+`"`, 1)
			for _, body := range []string{byTitle, notice("", "token-a", "sim:code="+c.Code)} {
				a := r.Do("POST", r.path(), headers, body)
				if a.Status != c.Status || len(c.Code) > 3 && a.Field(t, "code") != c.Code {
					t.Errorf("answered %d %s, want %d %s", a.Status, a.Body, c.Status, c.Code)
				}
			}
		case frame.InReceipt:
			r.send(headers, notice("", "sim:receipt="+c.Code))
			if body := receiver.Next(t).Body; !strings.Contains(body, `"status":`+c.Code+`,`) {
				t.Errorf("receipt %s, want status %s", body, c.Code)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, fmt.Sprintf(`,"marketing_daily":1,"receipt":{"url":%q}`, receiver.URL))
	headers := r.login()
	r.Patch(`{"limit":{"per_second":2}}`)
	if a := r.Do("POST", r.path(), headers, notice("", "a", "b")); a.Status != 200 {
		t.Fatalf("answered %d %s", a.Status, a.Body)
	}
	if a := r.Do("POST", r.path(), headers, notice("", "a")); a.Status != http.StatusServiceUnavailable {
		t.Errorf("answered %d %s over the rate", a.Status, a.Body)
	}
	receiver.Next(t)
	r.Patch(`{"limit":{"per_second":0}}`)
	marketing := strings.Replace(notice("", "m"), `"IM"`, `"MARKETING"`, 1)
	for _, want := range []int{0, 256} {
		r.send(headers, marketing)
		if body := receiver.Next(t).Body; !strings.Contains(body, `"status":`+strconv.Itoa(want)+`,`) {
			t.Errorf("receipt %s, want status %d", body, want)
		}
	}
	r.Clock.Move(24 * time.Hour)
	headers = r.login()
	r.send(headers, marketing)
	if body := receiver.Next(t).Body; !strings.Contains(body, `"status":0,`) {
		t.Errorf("receipt %s on the next day", body)
	}
}

func TestADisabledAppMayNotSend(t *testing.T) {
	t.Parallel()
	r := start(t, `,"disabled":true`)
	if a, code := r.send(r.login(), notice("", "token-a")); code != "80300002" {
		t.Errorf("answered %d %s", a.Status, a.Body)
	}
}

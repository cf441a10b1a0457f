package oppo_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
	"github.com/halleypush/halley/services/vendorsim/internal/oppo"
)

const unicast = "/server/v1/message/notification/unicast"

// rig is OPPO with the app demo, whose credentials a test holds.
type rig struct {
	*frametest.Rig
	t   *testing.T
	App struct {
		ID           string `json:"app_id"`
		AppKey       string `json:"app_key"`
		MasterSecret string `json:"master_secret"`
	}
}

// start registers demo with further fields of its document.
func start(t *testing.T, more string) *rig {
	t.Helper()
	r := &rig{t: t, Rig: frametest.Start(t, func(f *frame.Frame) frame.Vendor { return oppo.New(f) })}
	r.Register(`{"app":"demo"`+more+`}`, &r.App)
	return r
}

// signed is the form of the call for a token; change are names and values that replace others after signing.
func (r *rig) signed(at time.Time, change ...string) url.Values {
	stamp := strconv.FormatInt(at.UnixMilli(), 10)
	sum := sha256.Sum256([]byte(r.App.AppKey + stamp + r.App.MasterSecret))
	form := url.Values{"app_key": {r.App.AppKey}, "timestamp": {stamp}, "sign": {hex.EncodeToString(sum[:])}}
	for i := 0; i+1 < len(change); i += 2 {
		form.Set(change[i], change[i+1])
	}
	return form
}

// login gets an auth_token as the sheet says.
func (r *rig) login() string {
	r.t.Helper()
	a := r.Form("/server/v1/auth", nil, r.signed(r.Clock.Now()))
	var data struct {
		Token   string `json:"auth_token"`
		Created int64  `json:"create_time"`
	}
	frametest.Must(r.t, json.Unmarshal([]byte(a.Field(r.t, "data")), &data))
	if a.Field(r.t, "code") != "0" || data.Token == "" || data.Created != r.Clock.Now().UnixMilli() {
		r.t.Fatalf("answered %s", a.Body)
	}
	return data.Token
}

// fields are those of a documented notification; change are names and values, "-" removes a field.
func fields(change ...string) map[string]string {
	n := map[string]string{
		"title": "Hi", "content": "there", "style": "1", "click_action_type": "0", "off_line": "true", "off_line_ttl": "86400",
		"action_parameters": `{"push_id":"p1"}`, "app_message_id": "m1", "category": "IM", "notify_level": "2",
	}
	for i := 0; i+1 < len(change); i += 2 {
		n[change[i]] = change[i+1]
		if change[i+1] == "-" {
			delete(n, change[i])
		}
	}
	return n
}

// message is a message to a registration id.
func message(token string, change ...string) string {
	text, _ := json.Marshal(map[string]any{
		"target_type": 2, "target_value": token, "verify_registration_id": true, "notification": fields(change...),
	})
	return string(text)
}

func (r *rig) send(token, message string) frametest.Answer {
	r.t.Helper()
	return r.Form(unicast, nil, url.Values{"auth_token": {token}, "message": {message}})
}

// batch sends messages and returns the outcomes.
func (r *rig) batch(token string, messages ...string) (frametest.Answer, []outcome) {
	r.t.Helper()
	a := r.Form(unicast+"_batch", nil, url.Values{"auth_token": {token}, "messages": {"[" + strings.Join(messages, ",") + "]"}})
	var list []outcome
	if a.Field(r.t, "code") == "0" {
		frametest.Must(r.t, json.Unmarshal([]byte(a.Field(r.t, "data")), &list))
	}
	return a, list
}

type outcome struct {
	MessageID      string `json:"messageId"`
	RegistrationID string `json:"registrationId"`
	Code           int    `json:"errorCode"`
	Message        string `json:"errorMessage"`
}

func TestAMessageIsAccepted(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	token := r.login()
	a := r.send(token, message("CN_a"))
	var data outcome
	frametest.Must(t, json.Unmarshal([]byte(a.Field(t, "data")), &data))
	got := r.Last()
	if a.Status != 200 || a.Field(t, "code") != "0" || data.MessageID == "" || got.VendorID != data.MessageID || got.Tokens[0] != "CN_a" ||
		got.PushID != "p1" || got.DedupID != "m1" || got.App != "demo" || len(got.Notes) != 0 {
		t.Fatalf("answered %s, recorded %+v", a.Body, got)
	}
	// The token may stand in a header as well.
	if a := r.Form(unicast, [][2]string{{"auth_token", token}}, url.Values{"message": {message("CN_a")}}); a.Field(t, "code") != "0" {
		t.Errorf("with a header: answered %s", a.Body)
	}
	if got := r.Last(); len(got.Notes) != 1 || strings.Contains(fmt.Sprint(got.Headers, got.Body), token) {
		t.Errorf("the repeat is recorded as %+v", got)
	}
}

func TestTheSignatureIsChecked(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	now := r.Clock.Now()
	upper := r.signed(now)
	for name, c := range map[string]struct {
		form url.Values
		code string
	}{
		"good":             {r.signed(now), "0"},
		"9 minutes off":    {r.signed(now.Add(-9 * time.Minute)), "0"},
		"11 minutes late":  {r.signed(now.Add(-11 * time.Minute)), "19"},
		"11 minutes ahead": {r.signed(now.Add(11 * time.Minute)), "19"},
		"no key":           {r.signed(now, "app_key", ""), "15"},
		"unknown key":      {r.signed(now, "app_key", "x"), "14"},
		"no sign":          {r.signed(now, "sign", ""), "17"},
		"upper case":       {r.signed(now, "sign", strings.ToUpper(upper.Get("sign"))), "16"},
		"no timestamp":     {r.signed(now, "timestamp", ""), "18"},
		"other timestamp":  {r.signed(now, "timestamp", strconv.FormatInt(now.UnixMilli()+1, 10)), "16"},
	} {
		if a := r.Form("/server/v1/auth", nil, c.form); a.Status != 200 || a.Field(t, "code") != c.code {
			t.Errorf("%s: answered %s, want %s", name, a.Body, c.code)
		}
	}
	r.App.MasterSecret = "wrong"
	if a := r.Form("/server/v1/auth", nil, r.signed(now)); a.Field(t, "code") != "16" {
		t.Errorf("a wrong secret is answered with %s", a.Body)
	}
}

func TestTokensEnd(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	token := r.login()
	expect := func(name, token, code string) {
		t.Helper()
		if a := r.send(token, message("CN_a")); a.Field(t, "code") != code {
			t.Errorf("%s: answered %s, want %s", name, a.Body, code)
		}
	}
	expect("none", "", "29")
	expect("unknown", "x", "11")
	r.Clock.Move(24*time.Hour - time.Second)
	expect("within a day", token, "0")
	r.Clock.Move(2 * time.Second)
	expect("after a day", token, "11")
	r.Patch(`{"credentials":{"life":"2s"}}`)
	token = r.login()
	r.Clock.Move(3 * time.Second)
	expect("after the life of the switch", token, "11")
	token = r.login()
	r.Patch(`{"credentials":{"revoked":["demo"]}}`)
	expect("revoked", token, "11")
	if a := r.Form("/server/v1/auth", nil, r.signed(r.Clock.Now())); a.Field(t, "code") != "16" {
		t.Errorf("a revoked secret is answered with %s", a.Body)
	}
}

func TestMessagesAreCheckedAsDocumented(t *testing.T) {
	t.Parallel()
	r := start(t, `,"no_banner":true,"channels":{"chat":"private"}`)
	token := r.login()
	long := func(n int) string { return strings.Repeat("字", n) }
	for name, c := range map[string]struct {
		code   string
		change []string
	}{
		"no title":               {"40", []string{"title", "-"}},
		"title of 50":            {"0", []string{"title", long(50)}},
		"title of 51":            {"41", []string{"title", long(51)}},
		"sub title of 10":        {"0", []string{"sub_title", long(10)}},
		"sub title of 11":        {"41", []string{"sub_title", long(11)}},
		"no content":             {"40", []string{"content", "-"}},
		"content of 200":         {"0", []string{"content", long(200)}},
		"content of 201":         {"41", []string{"content", long(201)}},
		"long text of 128":       {"0", []string{"style", "2", "content", long(128)}},
		"long text of 129":       {"41", []string{"style", "2", "content", long(129)}},
		"big picture":            {"41", []string{"style", "3"}},
		"style":                  {"41", []string{"style", "4"}},
		"page":                   {"0", []string{"click_action_type", "1", "click_action_activity", "a.B"}},
		"page without action":    {"40", []string{"click_action_type", "4"}},
		"long action":            {"41", []string{"click_action_type", "1", "click_action_activity", strings.Repeat("a", 501)}},
		"web":                    {"0", []string{"click_action_type", "2", "click_action_url", "https://example.com"}},
		"intent without address": {"40", []string{"click_action_type", "5"}},
		"long address":           {"41", []string{"click_action_type", "5", "click_action_url", strings.Repeat("a", 2001)}},
		"click type 3":           {"41", []string{"click_action_type", "3"}},
		"parameters of 4000":     {"0", []string{"action_parameters", `{"a":"` + strings.Repeat("x", 3992) + `"}`}},
		"parameters of 4001":     {"41", []string{"action_parameters", `{"a":"` + strings.Repeat("x", 3993) + `"}`}},
		"parameters":             {"41", []string{"action_parameters", "a=1"}},
		"10 days":                {"0", []string{"off_line_ttl", "864000"}},
		"over 10 days":           {"41", []string{"off_line_ttl", "864001"}},
		"shown for 48 hours":     {"0", []string{"show_ttl", "172800"}},
		"shown for longer":       {"41", []string{"show_ttl", "172801"}},
		"network":                {"41", []string{"network_type", "2"}},
		"callback of 200":        {"0", []string{"call_back_url", "http://a/" + strings.Repeat("x", 191)}},
		"callback of 201":        {"41", []string{"call_back_url", "http://a/" + strings.Repeat("x", 192)}},
		"parameter of 100":       {"0", []string{"call_back_parameter", strings.Repeat("x", 100)}},
		"parameter of 101":       {"41", []string{"call_back_parameter", strings.Repeat("x", 101)}},
		"category":               {"67", []string{"category", "OTHER"}},
		"level without category": {"67", []string{"category", "-"}},
		"neither":                {"0", []string{"category", "-", "notify_level", "-"}},
		"loud marketing":         {"67", []string{"category", "MARKETING"}},
		"marketing":              {"0", []string{"category", "MARKETING", "notify_level", "1"}},
		"level 3":                {"67", []string{"notify_level", "3"}},
		"level not approved":     {"67", []string{"notify_level", "16"}},
		"channel":                {"0", []string{"channel_id", "chat"}},
		"unknown channel":        {"41", []string{"channel_id", "other"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if a := r.send(token, message("CN_a", c.change...)); a.Field(t, "code") != c.code {
				t.Errorf("answered %s, want %s", a.Body, c.code)
			}
		})
	}
	for text, code := range map[string]string{
		"": "40", "{": "41", `{"target_type":2,"target_value":"a"}`: "40", `{"target_value":"a","notification":{}}`: "40",
		strings.Replace(message("a"), `"target_type":2`, `"target_type":4`, 1): "41",
		strings.Replace(message("a"), `"target_type":2`, `"target_type":5`, 1): "0",
	} {
		if a := r.send(token, text); a.Field(t, "code") != code {
			t.Errorf("%s: answered %s, want %s", text, a.Body, code)
		}
	}
	if a := r.Do("POST", unicast, nil, "auth_token="+token); a.Field(t, "code") != "25" {
		t.Errorf("without Content-Type: answered %s", a.Body)
	}
	if a := r.Do("GET", unicast, nil, ""); a.Field(t, "code") != "12" {
		t.Errorf("GET is answered with %s", a.Body)
	}
	if a := r.Do("POST", "/server/v1/message", nil, ""); a.Status != 404 {
		t.Errorf("a wrong path is answered with %d", a.Status)
	}
}

func TestABatchAnswersEachMessageInOrder(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	r.Register(`{"app":"second"}`, new(struct{}))
	own, foreign := r.Tokens("demo", 1)[0], r.Tokens("second", 1)[0]
	token := r.login()
	a, list := r.batch(token, message(own), message(foreign), message("CN_b", "title", "-"), message("sim:code=10001"), message("CN_c"))
	want := []outcome{{RegistrationID: own}, {RegistrationID: foreign, Code: 10000}, {RegistrationID: "CN_b", Code: 40}, {RegistrationID: "sim:code=10001", Code: 10001}, {RegistrationID: "CN_c"}}
	if len(list) != len(want) {
		t.Fatalf("answered %s", a.Body)
	}
	for i, got := range list {
		if got.RegistrationID != want[i].RegistrationID || got.Code != want[i].Code || (got.Code == 0) != (got.MessageID != "") || (got.Code == 0) != (got.Message == "") {
			t.Errorf("%d: answered %+v, want %+v", i, got, want[i])
		}
	}
	if n := len(r.Accepted()); n != 2 {
		t.Errorf("accepted %d messages", n)
	}
	for n, code := range map[int]string{1000: "0", 1001: "41"} {
		many := make([]string, n)
		for i := range many {
			many[i] = message(fmt.Sprint("CN_", i))
		}
		if a, _ := r.batch(token, many...); a.Field(t, "code") != code {
			t.Errorf("%d messages are answered with code %s", n, a.Field(t, "code"))
		}
	}
	if a, _ := r.batch(token, message("CN_a"), message("sim:code=33")); a.Field(t, "code") != "33" {
		t.Errorf("a quota in a batch is answered with %s", a.Body)
	}
	r.Patch(`{"invalid_share":1}`)
	if a := r.send(token, message(own)); a.Field(t, "code") != "10000" {
		t.Errorf("a dead token is answered with %s", a.Body)
	}
}

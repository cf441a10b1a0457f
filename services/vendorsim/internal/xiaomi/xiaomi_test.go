package xiaomi_test

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
	"github.com/halleypush/halley/services/vendorsim/internal/xiaomi"
)

const pkg = "com.example.demo"

// rig is Xiaomi with the app demo, whose credentials a test holds.
type rig struct {
	*frametest.Rig
	t   *testing.T
	App struct {
		AppSecret string   `json:"app_secret"`
		Packages  []string `json:"packages"`
	}
}

// start registers demo with further fields of its document.
func start(t *testing.T, more string) *rig {
	t.Helper()
	r := &rig{t: t, Rig: frametest.Start(t, func(f *frame.Frame) frame.Vendor { return xiaomi.New(f) })}
	r.Register(`{"app":"demo","packages":["`+pkg+`","com.example.second"]`+more+`}`, &r.App)
	return r
}

func (r *rig) key() [][2]string { return [][2]string{{"Authorization", "key=" + r.App.AppSecret}} }

// notice is a documented notification; change are names and values of further fields. "-" removes a field.
func notice(change ...string) url.Values {
	form := url.Values{
		"registration_id": {"token-a,token-b"}, "restricted_package_name": {pkg}, "pass_through": {"0"}, "title": {"Hi"},
		"description": {"there"}, "payload": {url.QueryEscape(`{"push_id":"p1"}`)}, "notify_type": {"-1"}, "time_to_live": {"86400000"},
		"notify_id": {"7"}, "extra.channel_id": {"news"}, "extra.notify_effect": {"1"}, "extra.jobkey": {"job-1"},
	}
	for i := 0; i+1 < len(change); i += 2 {
		form.Set(change[i], change[i+1])
		if change[i+1] == "-" {
			form.Del(change[i])
		}
	}
	return form
}

func (r *rig) send(form url.Values) frametest.Answer {
	r.t.Helper()
	return r.Form("/v3/message/regid", r.key(), form)
}

// outcome is the data of an answer.
type outcome struct {
	ID       string `json:"id"`
	Bad      string `json:"bad_regids"`
	DayQuota string `json:"day_quota"`
	Exceeded bool   `json:"channel_exceed_quota"`
}

func data(t *testing.T, a frametest.Answer) outcome {
	t.Helper()
	var o outcome
	frametest.Must(t, json.Unmarshal([]byte(a.Field(t, "data")), &o))
	return o
}

func TestANotificationIsAccepted(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	for _, version := range []string{"v2", "v3", "v4"} {
		a := r.Form("/"+version+"/message/regid", r.key(), notice())
		if a.Status != 200 || a.Field(t, "result") != "ok" || a.Field(t, "code") != "0" || a.Field(t, "trace_id") == "" {
			t.Fatalf("answered %d %s", a.Status, a.Body)
		}
		got := r.Last()
		if !slices.Equal(got.Tokens, []string{"token-a", "token-b"}) || got.App != "demo" || got.PushID != "p1" || got.DedupID != "job-1" ||
			got.VendorID != data(t, a).ID || got.VendorID == "" {
			t.Errorf("recorded %+v", got)
		}
		if got.Headers["Authorization"] != "" {
			t.Error("the key is recorded")
		}
	}
}

func TestTheKeyIsChecked(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	for _, header := range []string{"", "key=wrong", r.App.AppSecret, "Bearer " + r.App.AppSecret} {
		a := r.Form("/v3/message/regid", [][2]string{{"Authorization", header}}, notice())
		if a.Status != 200 || a.Field(t, "result") != "error" || a.Field(t, "code") != "21301" || a.Field(t, "reason") == "" {
			t.Errorf("%q: answered %d %s", header, a.Status, a.Body)
		}
	}
	r.Patch(`{"credentials":{"revoked":["demo"]}}`)
	if a := r.send(notice()); a.Field(t, "code") != "21301" {
		t.Errorf("revoked: answered %s", a.Body)
	}
}

func TestMessagesAreCheckedAsDocumented(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprint("token-", i)
	}
	ahead := func(d time.Duration) string { return strconv.FormatInt(r.Clock.Now().Add(d).UnixMilli(), 10) }
	own := func(n int) []string {
		var pairs []string
		for i := range n {
			pairs = append(pairs, fmt.Sprint("extra.own", i), "v")
		}
		return pairs
	}
	for name, c := range map[string]struct {
		code   string
		change []string
	}{
		"no target":             {"10016", []string{"registration_id", "-"}},
		"empty target":          {"100", []string{"registration_id", ""}},
		"1000 targets":          {"0", []string{"registration_id", strings.Join(many[:1000], ",")}},
		"1001 targets":          {"10017", []string{"registration_id", strings.Join(many, ",")}},
		"no package":            {"10016", []string{"restricted_package_name", "-"}},
		"two packages":          {"0", []string{"restricted_package_name", pkg + ",com.example.second"}},
		"another's package":     {"66108", []string{"restricted_package_name", "com.other"}},
		"no title":              {"10016", []string{"title", "-"}},
		"empty title":           {"100", []string{"title", ""}},
		"title of 49":           {"0", []string{"title", strings.Repeat("题", 49)}},
		"title of 50":           {"10018", []string{"title", strings.Repeat("题", 50)}},
		"no description":        {"10016", []string{"description", "-"}},
		"description of 127":    {"0", []string{"description", strings.Repeat("文", 127)}},
		"description of 128":    {"10018", []string{"description", strings.Repeat("文", 128)}},
		"payload of 4 KB":       {"0", []string{"payload", strings.Repeat("x", 4096)}},
		"payload over 4 KB":     {"10018", []string{"payload", strings.Repeat("x", 4097)}},
		"data":                  {"0", []string{"pass_through", "1", "title", "-", "description", "-"}},
		"data without payload":  {"10016", []string{"pass_through", "1", "payload", "-"}},
		"pass through":          {"10017", []string{"pass_through", "2"}},
		"notify type":           {"10017", []string{"notify_type", "8"}},
		"sound and light":       {"0", []string{"notify_type", "5"}},
		"ttl of two weeks":      {"0", []string{"time_to_live", "1209600000"}},
		"ttl over two weeks":    {"10017", []string{"time_to_live", "1209600001"}},
		"ttl with a unit":       {"10017", []string{"time_to_live", "60s"}},
		"in 7 days":             {"0", []string{"time_to_send", ahead(7 * 24 * time.Hour)}},
		"in more than 7 days":   {"10017", []string{"time_to_send", ahead(7*24*time.Hour + time.Second)}},
		"highest notify id":     {"0", []string{"notify_id", "2147483647"}},
		"too high notify id":    {"22103", []string{"notify_id", "2147483648"}},
		"negative notify id":    {"22103", []string{"notify_id", "-1"}},
		"no channel":            {"0", []string{"extra.channel_id", "-"}},
		"page without intent":   {"10016", []string{"extra.notify_effect", "2"}},
		"page":                  {"0", []string{"extra.notify_effect", "2", "extra.intent_uri", "intent:#Intent;end"}},
		"web without address":   {"10016", []string{"extra.notify_effect", "3"}},
		"notify effect":         {"10017", []string{"extra.notify_effect", "4"}},
		"job key of 20":         {"0", []string{"extra.jobkey", strings.Repeat("k", 20)}},
		"job key of 21":         {"10018", []string{"extra.jobkey", strings.Repeat("k", 21)}},
		"job key with _":        {"10017", []string{"extra.jobkey", "_job"}},
		"job key with a dot":    {"10017", []string{"extra.jobkey", "a.b"}},
		"foreground":            {"10017", []string{"extra.notify_foreground", "2"}},
		"callback":              {"0", []string{"extra.callback", "https://example.com/x"}},
		"bad callback":          {"10025", []string{"extra.callback", "example"}},
		"param of 256":          {"0", []string{"extra.callback.param", strings.Repeat("p", 256)}},
		"param of 257":          {"10018", []string{"extra.callback.param", strings.Repeat("p", 257)}},
		"all types":             {"0", []string{"extra.callback.type", "243"}},
		"unknown type":          {"10017", []string{"extra.callback.type", "4"}},
		"10 own pairs":          {"0", own(10)},
		"11 own pairs":          {"10018", own(11)},
		"long own pair":         {"10018", []string{"extra.own", strings.Repeat("v", 1024)}},
		"filters are not owned": {"0", append(own(10), "extra.model_not_in", "x", "extra.connpt", "wifi")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if a := r.send(notice(c.change...)); a.Field(t, "code") != c.code {
				t.Errorf("answered %s, want %s", a.Body, c.code)
			}
		})
	}
	if a := r.Form("/v2/message/regid", r.key(), notice("restricted_package_name", pkg+",com.example.second")); a.Field(t, "code") != "10017" {
		t.Errorf("two packages in v2: answered %s", a.Body)
	}
	if a := r.Do("POST", "/v3/message/regid", r.key(), notice().Encode()); a.Field(t, "code") != "10017" {
		t.Errorf("without Content-Type: answered %s", a.Body)
	}
	if a := r.Form("/v4/message/alias", r.key(), notice()); a.Status != http.StatusNotFound {
		t.Errorf("a wrong path is answered with %d", a.Status)
	}
}

func TestOtherTargets(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	for _, c := range []struct{ path, field, value, token, code string }{
		{"/v2/message/alias", "alias", "ann", "alias:ann", "0"},
		{"/v3/message/user_account", "user_account", "ann", "account:ann", "0"},
		{"/v3/message/topic", "topic", "news,more", "topic:news,more", "0"},
		{"/v3/message/multi_topic", "topics", "a;$;b", "topics:a;$;b", "0"},
		{"/v3/message/multi_topic", "topics", "a;$;b;$;c;$;d;$;e;$;f", "", "10017"},
		{"/v3/message/all", "x", "y", "all", "0"},
		{"/v3/message/alias", "x", "y", "", "10016"},
	} {
		a := r.Form(c.path, r.key(), notice("registration_id", "-", c.field, c.value))
		if a.Field(t, "code") != c.code {
			t.Errorf("%s: answered %s", c.path, a.Body)
		}
		if got := r.Last().Tokens; c.token != "" && !slices.Equal(got, []string{c.token}) {
			t.Errorf("%s: recorded %v", c.path, got)
		}
	}
	receiver := frametest.NewReceiver(t)
	r.Form("/v3/message/alias", r.key(), notice("alias", "ann", "extra.callback", receiver.URL))
	for _, s := range statuses(t, receiver.Next(t)) {
		if s.Targets != "ann" {
			t.Errorf("the receipt of an alias is for %s", s.Targets)
		}
	}
	r.Patch(`{"invalid_share":0.5}`)
	names := "a0"
	for i := range 20 {
		names += fmt.Sprint(",a", i+1)
	}
	if a := r.Form("/v3/message/alias", r.key(), notice("alias", names)); data(t, a).Bad == "" || strings.Contains(a.Body, ":a") {
		t.Errorf("answered %s", a.Body)
	}
}

func TestAMessageForEachTarget(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, "")
	message := func(push string) string {
		return fmt.Sprintf(`{"restricted_package_name":%q,"title":"Hi","description":"there","pass_through":0,"notify_id":7,
			"payload":"{\"push_id\":\"%s\"}","extra":{"channel_id":"news","callback":%q,"callback.param":%q}}`, pkg, push, receiver.URL, push)
	}
	messages := fmt.Sprintf(`[{"target":"a","message":%s},{"target":"sim:code=bad_regids","message":%s},{"target":"b","message":%s}]`,
		message("p1"), message("p2"), message("p3"))
	a := r.Form("/v2/multi_messages/regids", r.key(), url.Values{"messages": {messages}})
	if a.Field(t, "code") != "0" || data(t, a).Bad != "sim:code=bad_regids" {
		t.Fatalf("answered %s", a.Body)
	}
	list := r.Accepted()
	if len(list) != 2 || list[0].PushID != "p1" || list[1].PushID != "p3" || list[1].Tokens[0] != "b" {
		t.Errorf("recorded %+v", list)
	}
	params := make(map[string]string)
	for len(params) < 2 {
		for _, s := range statuses(t, receiver.Next(t)) {
			params[s.Param] = s.Targets
		}
	}
	if params["p1"] != "a" || params["p3"] != "b" {
		t.Errorf("receipts %v", params)
	}
	for _, bad := range []string{`[]`, `{`, `[{"target":"a","message":{}}]`, `[{"target":"","message":` + message("p") + `}]`} {
		if a := r.Form("/v2/multi_messages/regids", r.key(), url.Values{"messages": {bad}}); a.Field(t, "result") != "error" {
			t.Errorf("%s: answered %s", bad, a.Body)
		}
	}
}

func TestBadRegids(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	r.Register(`{"app":"second"}`, new(struct{}))
	own, foreign := r.Tokens("demo", 1)[0], r.Tokens("second", 1)[0]
	a := r.send(notice("registration_id", strings.Join([]string{own, foreign, "sim:code=bad_regids"}, ",")))
	if a.Field(t, "code") != "0" || data(t, a).Bad != foreign+",sim:code=bad_regids" {
		t.Errorf("answered %s", a.Body)
	}
	if got := r.Last().Tokens; !slices.Equal(got, []string{own}) {
		t.Errorf("recorded %v", got)
	}
	r.Patch(`{"invalid_share":1}`)
	if a := r.send(notice("registration_id", own)); a.Field(t, "code") != "20301" || a.Field(t, "result") != "error" {
		t.Errorf("all bad: answered %s", a.Body)
	}
	if n := len(r.Accepted()); n != 1 {
		t.Errorf("accepted %d requests", n)
	}
}

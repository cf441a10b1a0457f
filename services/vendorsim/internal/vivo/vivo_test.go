package vivo_test

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
	"github.com/halleypush/halley/services/vendorsim/internal/vivo"
)

// rig is vivo with the app demo, whose credentials a test holds.
type rig struct {
	*frametest.Rig
	t   *testing.T
	App struct {
		ID        int    `json:"app_id"`
		AppKey    string `json:"app_key"`
		AppSecret string `json:"app_secret"`
	}
}

// start registers demo with further fields of its document.
func start(t *testing.T, more string) *rig {
	t.Helper()
	r := &rig{t: t, Rig: frametest.Start(t, func(f *frame.Frame) frame.Vendor { return vivo.New(f) })}
	r.Register(`{"app":"demo"`+more+`}`, &r.App)
	return r
}

type fields map[string]any

// with returns the fields with changes: names and values; nil removes a field.
func (f fields) with(change ...any) fields {
	changed := maps.Clone(f)
	for i := 0; i+1 < len(change); i += 2 {
		changed[change[i].(string)] = change[i+1]
		if change[i+1] == nil {
			delete(changed, change[i].(string))
		}
	}
	return changed
}

// call sends a JSON document.
func (r *rig) call(path, token string, f fields) frametest.Answer {
	r.t.Helper()
	body, err := json.Marshal(f)
	frametest.Must(r.t, err)
	return r.Do("POST", path, [][2]string{{"authToken", token}, {"Content-Type", "application/json"}}, string(body))
}

// signed is the body of the call for a token.
func (r *rig) signed(at time.Time) fields {
	stamp := strconv.FormatInt(at.UnixMilli(), 10)
	sum := md5.Sum([]byte(strconv.Itoa(r.App.ID) + r.App.AppKey + stamp + r.App.AppSecret))
	return fields{"appId": r.App.ID, "appKey": r.App.AppKey, "timestamp": at.UnixMilli(), "sign": hex.EncodeToString(sum[:])}
}

// login gets an authToken as the sheet says.
func (r *rig) login() string {
	r.t.Helper()
	a := r.call("/message/auth", "", r.signed(r.Clock.Now()))
	if a.Status != 200 || a.Field(r.t, "result") != "0" || a.Field(r.t, "authToken") == "" {
		r.t.Fatalf("answered %d %s", a.Status, a.Body)
	}
	return a.Field(r.t, "authToken")
}

// message is a documented message to regId.
func (r *rig) message(regID string) fields {
	return fields{
		"appId": r.App.ID, "regId": regID, "notifyType": 4, "title": "Hi", "content": "there", "timeToLive": 86400, "skipType": 1,
		"networkType": -1, "classification": 1, "category": "IM", "requestId": "r1", "pushMode": 0, "notifyId": 7,
		"clientCustomMap": map[string]string{"push_id": "p1"},
	}
}

func TestAMessageIsAccepted(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	token := r.login()
	a := r.call("/message/send", token, r.message("a"))
	got := r.Last()
	if a.Status != 200 || a.Field(t, "result") != "0" || a.Field(t, "taskId") != got.VendorID || got.VendorID == "" || got.Tokens[0] != "a" ||
		got.PushID != "p1" || got.DedupID != "r1" || got.App != "demo" || len(got.Notes) != 0 {
		t.Fatalf("answered %s, recorded %+v", a.Body, got)
	}
	r.call("/message/send", token, r.message("a"))
	if got := r.Last(); len(got.Notes) != 1 || strings.Contains(fmt.Sprint(got.Headers), token) {
		t.Errorf("the repeat is recorded as %+v", got)
	}
	r.call("/message/send", token, r.message("").with("alias", "ann"))
	if got := r.Last().Tokens[0]; got != "alias:ann" {
		t.Errorf("recorded %s", got)
	}
}

func TestTheSignatureIsChecked(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	now := r.Clock.Now()
	good := r.signed(now)
	for i, c := range []struct {
		name, code string
		body       fields
	}{
		{"good", "0", good},
		{"texts with spaces", "0", good.with("appId", fmt.Sprintf(" %d", r.App.ID), "appKey", r.App.AppKey+" ")},
		{"9 minutes late", "0", r.signed(now.Add(-9 * time.Minute))},
		{"11 minutes late", "10207", r.signed(now.Add(-11 * time.Minute))},
		{"11 minutes ahead", "10207", r.signed(now.Add(11 * time.Minute))},
		{"no app", "10200", good.with("appId", nil)},
		{"no key", "10201", good.with("appKey", "")},
		{"other key", "10202", good.with("appKey", "x")},
		{"no timestamp", "10203", good.with("timestamp", nil)},
		{"no sign", "10204", good.with("sign", "")},
		{"other app", "10205", good.with("appId", 1)},
		{"upper case", "10206", good.with("sign", strings.ToUpper(good["sign"].(string)))},
		{"other timestamp", "10206", good.with("timestamp", now.UnixMilli()+1)},
		{"nothing", "10200", nil},
	} {
		if a := r.call("/message/auth", "", c.body); a.Status != 200 || a.Field(t, "result") != c.code {
			t.Errorf("%d %s: answered %s, want %s", i, c.name, a.Body, c.code)
		}
	}
	r.Patch(`{"credentials":{"revoked":["demo"]}}`)
	if a := r.call("/message/auth", "", good); a.Field(t, "result") != "10206" {
		t.Errorf("a revoked secret is answered with %s", a.Body)
	}
}

func TestTenCallsForTokensASecond(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	for range 10 {
		r.login()
	}
	if a := r.call("/message/auth", "", r.signed(r.Clock.Now())); a.Field(t, "result") != "10072" {
		t.Errorf("call 11 is answered with %s", a.Body)
	}
	r.Clock.Move(time.Second)
	r.login()
}

func TestTokensEnd(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	first, second := r.login(), r.login()
	expect := func(name, token, code string) {
		t.Helper()
		if a := r.call("/message/send", token, r.message("a")); a.Field(t, "result") != code {
			t.Errorf("%s: answered %s, want %s", name, a.Body, code)
		}
	}
	expect("none", "", "10000")
	expect("unknown", "x", "10000")
	r.Clock.Move(24*time.Hour - time.Second)
	expect("the first within a day", first, "0")
	expect("the second within a day", second, "0")
	r.Clock.Move(2 * time.Second)
	expect("after a day", second, "10000")
	r.Patch(`{"credentials":{"life":"2s"}}`)
	first = r.login()
	r.Clock.Move(3 * time.Second)
	expect("after the life of the switch", first, "10000")
	first = r.login()
	r.Patch(`{"credentials":{"revoked":["demo"]}}`)
	expect("revoked", first, "10000")
}

func TestMessagesAreCheckedAsDocumented(t *testing.T) {
	t.Parallel()
	r := start(t, `,"text_rules":true`)
	token := r.login()
	long := func(n int) string { return strings.Repeat("字", n) }
	pairs := make(map[string]string)
	for i := range 11 {
		pairs[fmt.Sprint(i)] = "v"
	}
	for name, c := range map[string]struct {
		code   string
		change []any
	}{
		"good":                 {"0", nil},
		"other app":            {"10094", []any{"appId", 1}},
		"no app":               {"10094", []any{"appId", nil}},
		"no target":            {"10054", []any{"regId", nil}},
		"no title":             {"10054", []any{"title", ""}},
		"title of 40":          {"0", []any{"title", long(40)}},
		"title of 41":          {"10054", []any{"title", long(41)}},
		"content of 100":       {"0", []any{"content", long(100)}},
		"content of 101":       {"10054", []any{"content", long(101)}},
		"ttl of 60":            {"0", []any{"timeToLive", 60}},
		"ttl of 59":            {"10054", []any{"timeToLive", 59}},
		"ttl over a day":       {"10054", []any{"timeToLive", 86401}},
		"no ttl":               {"0", []any{"timeToLive", nil}},
		"notify type":          {"10054", []any{"notifyType", 5}},
		"skip type":            {"10054", []any{"skipType", 5}},
		"page":                 {"0", []any{"skipType", 4, "skipContent", "intent:#Intent;end"}},
		"page without address": {"10054", []any{"skipType", 4}},
		"long address":         {"10054", []any{"skipType", 2, "skipContent", strings.Repeat("a", 1025)}},
		"ten pairs":            {"0", []any{"clientCustomMap", map[string]string{"0": strings.Repeat("v", 1023)}}},
		"long pair":            {"10054", []any{"clientCustomMap", map[string]string{"0": strings.Repeat("v", 1024)}}},
		"eleven pairs":         {"10054", []any{"clientCustomMap", pairs}},
		"a number as value":    {"10054", []any{"clientCustomMap", map[string]int{"a": 1}}},
		"network":              {"10054", []any{"networkType", 0}},
		"classification":       {"10054", []any{"classification", 2}},
		"unknown category":     {"10096", []any{"category", "OTHER"}},
		"lower case":           {"10096", []any{"category", "im"}},
		"category of another":  {"10097", []any{"category", "NEWS"}},
		"operation":            {"0", []any{"category", "NEWS", "classification", 0}},
		"no category":          {"0", []any{"category", nil}},
		"no request id":        {"10054", []any{"requestId", ""}},
		"request id of 64":     {"0", []any{"requestId", strings.Repeat("r", 64)}},
		"request id of 65":     {"10054", []any{"requestId", strings.Repeat("r", 65)}},
		"push mode":            {"10054", []any{"pushMode", 2}},
		"notify id":            {"10054", []any{"notifyId", 0}},
		"profile":              {"10054", []any{"profileId", strings.Repeat("p", 65)}},
		"alias of 71":          {"10054", []any{"alias", strings.Repeat("a", 71)}},
		"callback of 128":      {"0", []any{"extra", fields{"callback": "http://127.0.0.1:1/" + strings.Repeat("c", 109)}}},
		"callback of 129":      {"10054", []any{"extra", fields{"callback": "http://127.0.0.1:1/" + strings.Repeat("c", 110)}}},
		"param of 65":          {"10054", []any{"extra", fields{"callback.param": strings.Repeat("p", 65)}}},
		"unknown receipt id":   {"10054", []any{"extra", fields{"callback.id": "1"}}},
		"Latin title":          {"10085", []any{"title", "Hello"}},
		"brackets":             {"10085", []any{"title", "【新】消息"}},
		"a test":               {"10085", []any{"content", "测试消息"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := r.message("a").with("title", "你好", "content", "新消息")
			if a := r.call("/message/send", token, m.with(c.change...)); a.Field(t, "result") != c.code {
				t.Errorf("answered %s, want %s", a.Body, c.code)
			}
		})
	}
	if a := r.Do("POST", "/message/send", [][2]string{{"authToken", token}}, "{}"); a.Field(t, "result") != "10054" {
		t.Errorf("without Content-Type: answered %s", a.Body)
	}
	if a := r.Do("GET", "/message/send", nil, ""); a.Status != 404 {
		t.Errorf("GET is answered with %d", a.Status)
	}
}

func TestOlderTextsAllowSevenDays(t *testing.T) {
	t.Parallel()
	r := start(t, `,"long_ttl":true`)
	token := r.login()
	for ttl, code := range map[int]string{604800: "0", 604801: "10054"} {
		if a := r.call("/message/send", token, r.message("a").with("timeToLive", ttl)); a.Field(t, "result") != code {
			t.Errorf("%d s: answered %s", ttl, a.Body)
		}
	}
}

func TestHoursOfTheOperationClass(t *testing.T) {
	t.Parallel()
	r := start(t, `,"hours":true`)
	beijing := time.FixedZone("UTC+8", 8*60*60)
	now := r.Clock.Now().In(beijing)
	r.Clock.Move(time.Date(now.Year(), now.Month(), now.Day()+1, 6, 59, 0, 0, beijing).Sub(now))
	token := r.login()
	operation := r.message("a").with("category", "NEWS", "classification", 0)
	for _, c := range []struct {
		code    string
		message fields
		then    time.Duration
	}{
		{"0", r.message("a"), 0},
		{"10071", operation, time.Minute},
		{"0", operation, 15*time.Hour + 59*time.Minute},
		{"0", operation, time.Minute},
		{"10071", operation, 0},
	} {
		if a := r.call("/message/send", token, c.message); a.Field(t, "result") != c.code {
			t.Errorf("at %v: answered %s, want %s", r.Clock.Now().In(beijing), a.Body, c.code)
		}
		r.Clock.Move(c.then)
	}
}

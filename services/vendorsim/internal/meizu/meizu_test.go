package meizu_test

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
	"github.com/halleypush/halley/services/vendorsim/internal/meizu"
)

const (
	root   = "/garcia/api/server/push/"
	byID   = root + "varnished/pushByPushId"
	byTask = root + "task/varnished/pushByPushId"
)

// rig is Meizu with the app demo, whose credentials a test holds.
type rig struct {
	*frametest.Rig
	t   *testing.T
	App struct {
		ID          string `json:"app_id"`
		AppSecret   string `json:"app_secret"`
		AccessToken string `json:"access_token"`
	}
}

// start registers demo with further fields of its document.
func start(t *testing.T, more string) *rig {
	t.Helper()
	r := &rig{t: t, Rig: frametest.Start(t, func(f *frame.Frame) frame.Vendor { return meizu.New(f) })}
	r.Register(`{"app":"demo"`+more+`}`, &r.App)
	return r
}

// signed adds appId and sign to a form of names and values.
func (r *rig) signed(fields ...string) url.Values {
	form := url.Values{"appId": {r.App.ID}}
	for i := 0; i+1 < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	text := ""
	for _, name := range slices.Sorted(maps.Keys(form)) {
		text += name + "=" + form.Get(name)
	}
	sum := md5.Sum([]byte(text + r.App.AppSecret))
	form.Set("sign", hex.EncodeToString(sum[:]))
	return form
}

const notice = `{"noticeBarInfo":{"noticeMsgType":1,"noticeBarType":2,"title":"Hi","content":"there"},
	"noticeExpandInfo":{"noticeExpandType":0},"clickTypeInfo":{"clickType":0,"parameters":{"push_id":"p1"}},
	"pushTimeInfo":{"offLine":1,"validTime":24},"advanceInfo":{"notifyKey":"k1"}}`

// change replaces a text of the notification.
func change(t *testing.T, old, to string) string {
	t.Helper()
	if !strings.Contains(notice, old) {
		t.Fatalf("no %s in the notification", old)
	}
	return strings.Replace(notice, old, to, 1)
}

func (r *rig) send(message string, ids ...string) frametest.Answer {
	r.t.Helper()
	return r.Form(byID, nil, r.signed("messageJson", message, "pushIds", strings.Join(ids, ",")))
}

// listed is the value of an answer: ids by code.
func listed(t *testing.T, a frametest.Answer) map[string][]string {
	t.Helper()
	list := make(map[string][]string)
	frametest.Must(t, json.Unmarshal([]byte(a.Field(t, "value")), &list))
	return list
}

// isText says whether the code of an answer is written as a text.
func isText(a frametest.Answer) bool { return strings.Contains(a.Body, `"code":"`) }

func TestANotificationIsAccepted(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	a := r.send(notice, "a", "b")
	got := r.Last()
	if a.Status != 200 || a.Field(t, "code") != "200" || !isText(a) || a.Field(t, "value") != "" || a.Field(t, "msgId") != got.VendorID ||
		got.VendorID == "" || !slices.Equal(got.Tokens, []string{"a", "b"}) || got.PushID != "p1" || got.App != "demo" {
		t.Fatalf("answered %s, recorded %+v", a.Body, got)
	}
	a = r.Form(root+"varnished/pushByAlias", nil, r.signed("messageJson", notice, "alias", "ann,bob"))
	if got := r.Last().Tokens; a.Field(t, "code") != "200" || !slices.Equal(got, []string{"alias:ann", "alias:bob"}) {
		t.Errorf("answered %s, recorded %v", a.Body, got)
	}
}

func TestTheSignatureIsChecked(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	with := func(name, value string) url.Values {
		form := r.signed("messageJson", notice, "pushIds", "a")
		form.Set(name, value)
		return form
	}
	for name, c := range map[string]struct {
		form url.Values
		code string
	}{
		"good":            {r.signed("messageJson", notice, "pushIds", "a"), "200"},
		"another app":     {with("appId", "x"), "110000"},
		"no app":          {with("appId", ""), "110000"},
		"no sign":         {with("sign", ""), "1006"},
		"upper case":      {with("sign", strings.ToUpper(r.signed("messageJson", notice, "pushIds", "a").Get("sign"))), "1006"},
		"changed targets": {with("pushIds", "b"), "1006"},
		"a field more":    {with("extra", "1"), "1006"},
	} {
		if a := r.Form(byID, nil, c.form); a.Status != 200 || a.Field(t, "code") != c.code || !isText(a) {
			t.Errorf("%s: answered %d %s, want %s", name, a.Status, a.Body, c.code)
		}
	}
	r.Patch(`{"credentials":{"revoked":["demo"]}}`)
	if a := r.send(notice, "a"); a.Field(t, "code") != "1006" {
		t.Errorf("a revoked secret is answered with %s", a.Body)
	}
}

func TestMessagesAreCheckedAsDocumented(t *testing.T) {
	t.Parallel()
	r := start(t, `,"callbacks":["http://127.0.0.1:1/known"]`)
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprint("id", i)
	}
	long := func(n int) string { return strings.Repeat("字", n) }
	extra := func(text string) string { return change(t, `"advanceInfo"`, `"extra":{`+text+`},"advanceInfo"`) }
	for name, c := range map[string]struct {
		code, message string
		ids           []string
	}{
		"no message":          {"110004", "", nil},
		"not json":            {"1005", "{", nil},
		"no targets":          {"110004", notice, []string{""}},
		"100 targets":         {"200", notice, many[:100]},
		"101 targets":         {"1005", notice, many},
		"no title":            {"110004", change(t, `"Hi"`, `""`), nil},
		"title of 32":         {"200", change(t, `"Hi"`, `"`+long(32)+`"`), nil},
		"title of 33":         {"1005", change(t, `"Hi"`, `"`+long(33)+`"`), nil},
		"no content":          {"110004", change(t, `"there"`, `""`), nil},
		"content of 100":      {"200", change(t, `"there"`, `"`+long(100)+`"`), nil},
		"content of 101":      {"1005", change(t, `"there"`, `"`+long(101)+`"`), nil},
		"message type":        {"1005", change(t, `"noticeMsgType":1`, `"noticeMsgType":2`), nil},
		"bar type":            {"1005", change(t, `"noticeBarType":2`, `"noticeBarType":1`), nil},
		"long text":           {"200", change(t, `"noticeExpandType":0`, `"noticeExpandType":1,"noticeExpandContent":"x"`), nil},
		"no long text":        {"1005", change(t, `"noticeExpandType":0`, `"noticeExpandType":1`), nil},
		"picture":             {"1005", change(t, `"noticeExpandType":0`, `"noticeExpandType":2,"noticeExpandImgUrl":"https://a"`), nil},
		"page":                {"200", change(t, `"clickType":0`, `"clickType":1,"activity":"a.B"`), nil},
		"page without name":   {"1005", change(t, `"clickType":0`, `"clickType":1`), nil},
		"web":                 {"200", change(t, `"clickType":0`, `"clickType":2,"url":"https://a"`), nil},
		"web without address": {"1005", change(t, `"clickType":0`, `"clickType":2`), nil},
		"custom":              {"200", change(t, `"clickType":0`, `"clickType":3,"customAttribute":"x"`), nil},
		"click type":          {"1005", change(t, `"clickType":0`, `"clickType":4`), nil},
		"parameters":          {"1005", change(t, `{"push_id":"p1"}`, `"push_id=p1"`), nil},
		"72 hours":            {"200", change(t, `"validTime":24`, `"validTime":72`), nil},
		"73 hours":            {"1005", change(t, `"validTime":24`, `"validTime":73`), nil},
		"no hours":            {"1005", change(t, `"validTime":24`, `"validTime":0`), nil},
		"off line":            {"1005", change(t, `"offLine":1`, `"offLine":2`), nil},
		"key of 8":            {"200", change(t, `"k1"`, `"a-b_c123"`), nil},
		"key of 9":            {"1005", change(t, `"k1"`, `"a-b_c1234"`), nil},
		"key with a dot":      {"1005", change(t, `"k1"`, `"a.b"`), nil},
		"VIP":                 {"1005", change(t, `"advanceInfo"`, `"vipInfo":{"a":1},"advanceInfo"`), nil},
		"known callback":      {"200", extra(`"callback":"http://127.0.0.1:1/known","callback.type":"3"`), nil},
		"unknown callback":    {"1005", extra(`"callback":"http://127.0.0.1:1/other"`), nil},
		"param of 64":         {"200", extra(`"callback.param":"` + strings.Repeat("p", 64) + `"`), nil},
		"param of 65":         {"1005", extra(`"callback.param":"` + strings.Repeat("p", 65) + `"`), nil},
		"callback type":       {"1005", extra(`"callback.type":4`), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ids := c.ids
			if ids == nil {
				ids = []string{"a"}
			}
			if a := r.send(c.message, ids...); a.Field(t, "code") != c.code {
				t.Errorf("answered %s, want %s", a.Body, c.code)
			}
		})
	}
	if a := r.Do("POST", byID, nil, r.signed().Encode()); a.Field(t, "code") != "1005" {
		t.Errorf("without Content-Type: answered %s", a.Body)
	}
	if a := r.Form(root+"unvarnished/pushByPushId", nil, r.signed("messageJson", notice, "pushIds", "a")); a.Field(t, "code") != "110053" {
		t.Errorf("pass-through is answered with %s", a.Body)
	}
	if a := r.Form(root+"other", nil, r.signed()); a.Status != 404 {
		t.Errorf("a wrong path is answered with %d", a.Status)
	}
}

func TestVIPAppsMaySendPictures(t *testing.T) {
	t.Parallel()
	r := start(t, `,"vip":true`)
	if a := r.send(change(t, `"noticeExpandType":0`, `"noticeExpandType":2,"noticeExpandImgUrl":"https://a"`), "a"); a.Field(t, "code") != "200" {
		t.Errorf("answered %s", a.Body)
	}
}

func TestTasks(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	a := r.Form(root+"pushTask/getTaskId", nil, r.signed("pushType", "0", "messageJson", notice))
	var value struct {
		ID string `json:"taskId"`
	}
	frametest.Must(t, json.Unmarshal([]byte(a.Field(t, "value")), &value))
	for task, code := range map[string]string{value.ID: "200", "x": "110032"} {
		if a := r.Form(byTask, nil, r.signed("taskId", task, "pushIds", "a,b")); a.Field(t, "code") != code {
			t.Errorf("answered %s, want %s", a.Body, code)
		}
	}
	if got := r.Last(); !slices.Equal(got.Tokens, []string{"a", "b"}) || got.PushID != "p1" {
		t.Errorf("recorded %+v", got)
	}
	a = r.Form(root+"task/varnished/pushByAlias", nil, r.signed("taskId", value.ID, "alias", "ann"))
	if a.Field(t, "code") != "200" || r.Last().Tokens[0] != "alias:ann" {
		t.Errorf("answered %s", a.Body)
	}
	if a := r.Form(root+"pushTask/getTaskId", nil, r.signed("pushType", "1", "messageJson", notice)); a.Field(t, "code") != "1005" {
		t.Errorf("pass-through is stored: %s", a.Body)
	}
}

func TestBadTargetsAreListedByCode(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	r.Register(`{"app":"second"}`, new(struct{}))
	own, foreign := r.Tokens("demo", 1)[0], r.Tokens("second", 1)[0]
	a := r.send(notice, own, foreign, "sim:code=110002", "sim:code=110010")
	want := map[string][]string{"110003": {foreign}, "110002": {"sim:code=110002"}, "110010": {"sim:code=110010"}}
	if got := listed(t, a); a.Field(t, "code") != "200" || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("answered %s", a.Body)
	}
	if got := r.Last().Tokens; !slices.Equal(got, []string{own}) {
		t.Errorf("recorded %v", got)
	}
	// A single target that is bad stands at the top; one that is muted does not.
	if a := r.send(notice, foreign); a.Field(t, "code") != "110003" || a.Field(t, "value") != "" {
		t.Errorf("answered %s", a.Body)
	}
	if a := r.send(notice, "sim:code=110010"); a.Field(t, "code") != "200" || len(listed(t, a)["110010"]) != 1 {
		t.Errorf("answered %s", a.Body)
	}
	r.Patch(`{"invalid_share":1}`)
	if a := r.send(notice, own); a.Field(t, "code") != "110002" {
		t.Errorf("a dead target is answered with %s", a.Body)
	}
	a = r.Form(root+"varnished/pushByAlias", nil, r.signed("messageJson", notice, "alias", "ann,bob"))
	if got := listed(t, a)["110002"]; !slices.Equal(got, []string{"ann", "bob"}) {
		t.Errorf("answered %s", a.Body)
	}
	if n := len(r.Accepted()); n != 1 {
		t.Errorf("accepted %d requests", n)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	r := start(t, `,"public_daily":1`)
	public := change(t, `"noticeMsgType":1`, `"noticeMsgType":0`)
	if a := r.send(public, "a"); a.Field(t, "value") != "" {
		t.Errorf("answered %s", a.Body)
	}
	if a := r.send(public, "a", "b"); fmt.Sprint(listed(t, a)) != "map[110011:[a]]" {
		t.Errorf("answered %s", a.Body)
	}
	if a := r.send(notice, "a"); a.Field(t, "value") != "" {
		t.Errorf("a private message is answered with %s", a.Body)
	}
	r.Clock.Move(24 * time.Hour)
	if a := r.send(public, "a"); a.Field(t, "value") != "" {
		t.Errorf("answered %s on the next day", a.Body)
	}
	r.Patch(`{"limit":{"per_second":2}}`)
	for _, code := range []string{"200", "110010"} {
		if a := r.send(notice, "a", "b"); a.Field(t, "code") != code {
			t.Errorf("answered %s, want %s", a.Body, code)
		}
	}
	r.Patch(`{"limit":{"per_second":0,"daily":4}}`)
	for _, code := range []string{"200", "110019"} {
		if a := r.send(notice, "a", "b"); a.Field(t, "code") != code {
			t.Errorf("answered %s, want %s", a.Body, code)
		}
	}
	r.Patch(`{"outage":{"mode":"503"}}`)
	if a := r.send(notice, "a"); a.Status != 200 || a.Field(t, "code") != "1003" {
		t.Errorf("answered %d %s in an outage", a.Status, a.Body)
	}
}

func TestEveryCodeCanBeHad(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, fmt.Sprintf(`,"callbacks":[%q]`, receiver.URL))
	frametest.CheckCodes(t, meizu.Codes())
	callback := change(t, `"advanceInfo"`, fmt.Sprintf(`"extra":{"callback":%q},"advanceInfo"`, receiver.URL))
	for _, c := range meizu.Codes() {
		switch {
		case c.Place == frame.InAnswer && c.Group != frame.Success:
			a := r.send(change(t, `"Hi"`, `"sim:code=`+c.Code+`"`), "a")
			if a.Status != c.Status || c.Status == 200 && a.Field(t, "code") != c.Code {
				t.Errorf("answered %d %s, want %s", a.Status, a.Body, c.Code)
			}
			if c.Code == "300" && a.Field(t, "redirect") != r.URL+byID {
				t.Errorf("redirected to %s", a.Field(t, "redirect"))
			}
			if _, token := frame.Find(meizu.Codes(), frame.InToken, c.Code); token {
				continue // a target that asks for it is listed
			}
			if a := r.send(notice, "a", "sim:code="+c.Code); c.Status == 200 && a.Field(t, "code") != c.Code {
				t.Errorf("answered %s, want %s", a.Body, c.Code)
			}
		case c.Place == frame.InToken:
			if a := r.send(notice, "a", "sim:code="+c.Code); fmt.Sprint(listed(t, a)) != fmt.Sprintf("map[%s:[sim:code=%s]]", c.Code, c.Code) {
				t.Errorf("answered %s, want %s", a.Body, c.Code)
			}
		case c.Place == frame.InReceipt:
			a := r.send(callback, "sim:receipt="+c.Code)
			if got := statuses(t, r, receiver.Next(t)); got[a.Field(t, "msgId")+"-"+c.Code].Type != c.Code[0]-'0' {
				t.Errorf("receipt %+v, want %s", got, c.Code)
			}
		}
	}
}

// status is what a receipt says about a message.
type status struct {
	Param   string
	Type    byte
	Targets []string
}

// statuses returns a call's receipts, each by its message and type, and checks the access token.
func statuses(t *testing.T, r *rig, call frametest.Receipt) map[string]status {
	t.Helper()
	form, err := url.ParseQuery(call.Body)
	frametest.Must(t, err)
	if form.Get("access_token") != r.App.AccessToken || r.App.AccessToken == "" {
		t.Errorf("the access token is %q", form.Get("access_token"))
	}
	list := make(map[string]status)
	frametest.Must(t, json.Unmarshal([]byte(form.Get("cb")), &list))
	return list
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, fmt.Sprintf(`,"callbacks":[%q]`, receiver.URL))
	wants := func(types string) string {
		return change(t, `"advanceInfo"`, fmt.Sprintf(`"extra":{"callback":%q,"callback.param":"p","callback.type":%s},"advanceInfo"`, receiver.URL, types))
	}
	a := r.send(wants("1"), "a", "sim:code=110002", "b")
	var seen []string
	for len(seen) < 2 {
		s := statuses(t, r, receiver.Next(t))[a.Field(t, "msgId")+"-1"]
		if s.Param != "p" || s.Type != 1 || len(s.Targets) == 0 {
			t.Fatalf("receipt %+v", s)
		}
		seen = append(seen, s.Targets...)
	}
	if slices.Sort(seen); !slices.Equal(seen, []string{"a", "b"}) {
		t.Errorf("receipts of %v", seen)
	}
	r.send(wants("2"), "a") // nobody clicks by himself
	if n := r.Frame.Stats().Receipts.Queued; n != 2 {
		t.Errorf("%d receipts were queued", n)
	}
}

package vivo_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
	"github.com/halleypush/halley/services/vendorsim/internal/vivo"
)

type user struct {
	Status int
	UserID string
}

// stored stores a message for lists and returns its task.
func (r *rig) stored(token string, change ...any) string {
	r.t.Helper()
	a := r.call("/message/saveListPayload", token, r.message("").with("regId", nil).with(change...))
	if a.Field(r.t, "result") != "0" || a.Field(r.t, "taskId") == "" {
		r.t.Fatalf("answered %s", a.Body)
	}
	return a.Field(r.t, "taskId")
}

func (r *rig) list(task string, regIDs ...string) fields {
	return fields{"appId": r.App.ID, "taskId": task, "regIds": regIDs, "requestId": "r2", "pushMode": 0}
}

func TestAListIsSentByItsTask(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	r.Register(`{"app":"second"}`, new(struct{}))
	own, foreign := r.Tokens("demo", 1)[0], r.Tokens("second", 1)[0]
	token := r.login()
	task := r.stored(token)
	a := r.call("/message/pushToList", token, r.list(task, own, foreign, "sim:code=2", "b"))
	var users []user
	frametest.Must(t, json.Unmarshal([]byte(a.Field(t, "invalidUsers")), &users))
	if a.Field(t, "result") != "0" || !slices.Equal(users, []user{{1, foreign}, {2, "sim:code=2"}}) {
		t.Errorf("answered %s", a.Body)
	}
	got := r.Last()
	if !slices.Equal(got.Tokens, []string{own, "b"}) || got.VendorID != task || got.DedupID != "r2" || got.PushID != "p1" {
		t.Errorf("recorded %+v", got)
	}
	many := make([]string, 1001)
	for i := range many {
		many[i] = fmt.Sprint("reg", i)
	}
	good := r.list(task, "a", "b")
	for name, c := range map[string]struct {
		code string
		body fields
	}{
		"good":            {"0", good},
		"aliases":         {"0", good.with("regIds", nil, "aliases", []string{"ann", "bob"})},
		"one":             {"10054", r.list(task, "a")},
		"1000":            {"0", r.list(task, many[:1000]...)},
		"1001":            {"10054", r.list(task, many...)},
		"unknown task":    {"10054", good.with("taskId", "x")},
		"no request id":   {"10054", good.with("requestId", "")},
		"another's app":   {"10094", good.with("appId", 1)},
		"a rate":          {"10072", r.list(task, "a", "sim:code=10072")},
		"a title's quota": {"10073", r.list(r.stored(token, "title", "sim:code=10073"), "a", "b")},
	} {
		if a := r.call("/message/pushToList", token, c.body); a.Field(t, "result") != c.code {
			t.Errorf("%s: answered %s, want %s", name, a.Body, c.code)
		}
	}
	for change, value := range map[string]string{"profileId": "p", "title": ""} {
		if a := r.call("/message/saveListPayload", token, r.message("").with(change, value)); a.Field(t, "result") != "10054" {
			t.Errorf("%s %q is stored: %s", change, value, a.Body)
		}
	}
}

func TestInvalidUsers(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	token := r.login()
	expect := func(regID string, status int) {
		t.Helper()
		a := r.call("/message/send", token, r.message(regID))
		var u user
		frametest.Must(t, json.Unmarshal([]byte(a.Field(t, "invalidUser")), &u))
		if a.Field(t, "result") != "10302" || u != (user{status, regID}) {
			t.Errorf("answered %s, want status %d", a.Body, status)
		}
	}
	expect("sim:code=1", 1)
	expect("sim:code=2", 2)
	expect("sim:code=4", 4)
	r.Patch(`{"invalid_share":1}`)
	expect("a", 2)
	if n := len(r.Accepted()); n != 0 {
		t.Errorf("accepted %d messages", n)
	}
}

func TestTestMessagesReachTestDevicesAlone(t *testing.T) {
	t.Parallel()
	r := start(t, `,"test_devices":["tester"]`)
	token := r.login()
	test := func(regID string) fields {
		return r.message(regID).with("pushMode", 1, "classification", 0, "category", "NEWS")
	}
	if a := r.call("/message/send", token, test("a")); a.Field(t, "result") != "10302" || !strings.Contains(a.Body, `"status":4`) {
		t.Errorf("answered %s", a.Body)
	}
	for range 100 {
		if a := r.call("/message/send", token, test("tester")); a.Field(t, "result") != "0" {
			t.Fatalf("answered %s", a.Body)
		}
	}
	if a := r.call("/message/send", token, test("tester")); a.Field(t, "result") != "10070" {
		t.Errorf("test message 101 is answered with %s", a.Body)
	}
	if _, err := r.Vendor.Register(json.RawMessage(`{"app":"x","test_devices":[` + strings.Repeat(`"a",`, 20) + `"a"]}`)); err == nil {
		t.Error("21 test devices are accepted")
	}
}

func TestEveryCodeCanBeHad(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, fmt.Sprintf(`,"receipts":{"1":%q}`, receiver.URL))
	frametest.CheckCodes(t, vivo.Codes())
	token := r.login()
	for _, c := range vivo.Codes() {
		switch {
		case c.Place == frame.InAnswer && c.Group != frame.Success:
			for _, m := range []fields{r.message("a").with("title", "sim:code="+c.Code), r.message("sim:code=" + c.Code)} {
				if a := r.call("/message/send", token, m); a.Status != c.Status || c.Status == 200 && a.Field(t, "result") != c.Code {
					t.Errorf("answered %d %s, want %d %s", a.Status, a.Body, c.Status, c.Code)
				}
			}
		case c.Place == frame.InReceipt:
			r.call("/message/send", token, r.message("sim:receipt="+c.Code).with("extra", fields{"callback.id": "1"}))
			if body := receiver.Next(t).Body; !strings.Contains(body, `"ackType":`+c.Code+`,`) {
				t.Errorf("receipt %s, want %s", body, c.Code)
			}
		}
	}
	if a := r.call("/message/saveListPayload", token, r.message("").with("title", "sim:code=10252")); a.Field(t, "result") != "10252" {
		t.Errorf("the quota of list payloads: answered %s", a.Body)
	}
}

// status is what a receipt says about a task.
type status struct {
	Param, Targets string
	AckType        *int
	AckTime        int64
}

func statuses(t *testing.T, call frametest.Receipt) map[string]status {
	t.Helper()
	list := make(map[string]status)
	frametest.Must(t, json.Unmarshal([]byte(call.Body), &list))
	return list
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, fmt.Sprintf(`,"receipts":{"1":%q},"test_devices":["a"]`, receiver.URL))
	token := r.login()
	old := fields{"callback": receiver.URL, "callback.param": "p"}
	a := r.call("/message/send", token, r.message("a").with("extra", old))
	if s, ok := statuses(t, receiver.Next(t))[a.Field(t, "taskId")]; !ok || s != (status{Param: "p", Targets: "a"}) {
		t.Errorf("receipt %+v", s)
	}
	// The old scheme has receipts of formal single sends alone.
	r.call("/message/send", token, r.message("a").with("extra", old, "pushMode", 1))
	r.call("/message/pushToList", token, r.list(r.stored(token, "extra", old), "a", "b"))
	if n := r.Frame.Stats().Receipts.Queued; n != 1 {
		t.Errorf("%d receipts are queued", n)
	}
	task := r.stored(token, "extra", fields{"callback.id": "1", "callback.param": "p2"})
	r.call("/message/pushToList", token, r.list(task, "a", "sim:code=1", "b"))
	seen := make(map[string]bool)
	for len(seen) < 2 {
		s := statuses(t, receiver.Next(t))[task]
		if s.Param != "p2" || s.AckType == nil || *s.AckType != 0 || s.AckTime != r.Clock.Now().UnixMilli() {
			t.Fatalf("receipt %+v", s)
		}
		for target := range strings.SplitSeq(s.Targets, ",") {
			seen[target] = true
		}
	}
	if !seen["a"] || !seen["b"] {
		t.Errorf("receipts of %v", seen)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	token := r.login()
	task := r.stored(token)
	r.Patch(`{"limit":{"per_second":2}}`)
	for _, code := range []string{"0", "10072"} {
		if a := r.call("/message/pushToList", token, r.list(task, "a", "b")); a.Field(t, "result") != code {
			t.Errorf("answered %s, want %s", a.Body, code)
		}
	}
	r.Patch(`{"limit":{"per_second":0,"daily":3}}`)
	for _, c := range []struct {
		class int
		code  string
	}{{1, "0"}, {1, "10073"}, {0, "10070"}} {
		m := r.message("a").with("classification", c.class, "category", nil)
		if a := r.call("/message/send", token, m); a.Field(t, "result") != c.code {
			t.Errorf("class %d: answered %s, want %s", c.class, a.Body, c.code)
		}
	}
	r.Patch(`{"limit":{"daily":0},"outage":{"mode":"503"}}`)
	if a := r.call("/message/send", token, r.message("a")); a.Status != 500 {
		t.Errorf("answered %d in an outage", a.Status)
	}
}

func TestEveryoneOnceADay(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	token := r.login()
	for _, code := range []string{"0", "10254"} {
		if a := r.call("/message/all", token, r.message("")); a.Field(t, "result") != code {
			t.Errorf("answered %s, want %s", a.Body, code)
		}
	}
	r.Clock.Move(24 * time.Hour)
	if a := r.call("/message/all", r.login(), r.message("")); a.Field(t, "result") != "0" {
		t.Errorf("answered %s on the next day", a.Body)
	}
}

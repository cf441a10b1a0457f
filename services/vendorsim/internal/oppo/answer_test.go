package oppo_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
	"github.com/halleypush/halley/services/vendorsim/internal/oppo"
)

const (
	save      = "/server/v1/message/notification/save_message_content"
	broadcast = "/server/v1/message/notification/broadcast"
)

// saved stores a notification and returns its id.
func (r *rig) saved(token string, change ...string) string {
	r.t.Helper()
	form := url.Values{"auth_token": {token}}
	for name, value := range fields(change...) {
		form.Set(name, value)
	}
	a := r.Form(save, nil, form)
	var data struct {
		ID string `json:"message_id"`
	}
	frametest.Must(r.t, json.Unmarshal([]byte(a.Field(r.t, "data")), &data))
	return data.ID
}

func TestABroadcastToAList(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	token := r.login()
	id := r.saved(token, "style", "3")
	send := func(change ...string) frametest.Answer {
		t.Helper()
		form := url.Values{"auth_token": {token}, "message_id": {id}, "target_type": {"2"}, "target_value": {"CN_a;sim:code=10000;CN_b"}}
		for i := 0; i+1 < len(change); i += 2 {
			form.Set(change[i], change[i+1])
		}
		return r.Form(broadcast, nil, form)
	}
	a := send()
	var data struct {
		MessageID string   `json:"message_id"`
		TaskID    string   `json:"task_id"`
		Bad       []string `json:"10000"`
	}
	frametest.Must(t, json.Unmarshal([]byte(a.Field(t, "data")), &data))
	got := r.Last()
	if data.MessageID != id || data.TaskID == "" || !slices.Equal(data.Bad, []string{"sim:code=10000"}) ||
		!slices.Equal(got.Tokens, []string{"CN_a", "CN_b"}) || got.PushID != "p1" || strings.Contains(got.Body, token) {
		t.Errorf("answered %s, recorded %+v", a.Body, got)
	}
	many := strings.Repeat("CN_a;", 1000)
	for name, c := range map[string]struct {
		code   string
		change []string
	}{
		"unknown message": {"31", []string{"message_id", "x"}},
		"no message":      {"40", []string{"message_id", ""}},
		"no target":       {"40", []string{"target_value", ""}},
		"target type":     {"41", []string{"target_type", "9"}},
		"everyone":        {"0", []string{"target_type", "1", "target_value", ""}},
		"1000 targets":    {"0", []string{"target_value", strings.TrimSuffix(many, ";")}},
		"1001 targets":    {"41", []string{"target_value", many + "CN_b"}},
		"a quota":         {"33", []string{"target_value", "CN_a;sim:code=33"}},
	} {
		if a := send(c.change...); a.Field(t, "code") != c.code {
			t.Errorf("%s: answered %s, want %s", name, a.Body, c.code)
		}
	}
	if a := r.Form(save, nil, url.Values{"auth_token": {token}, "title": {"Hi"}}); a.Field(t, "code") != "40" {
		t.Errorf("a bad notification is stored: %s", a.Body)
	}
}

func TestEveryCodeCanBeHad(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, "")
	frametest.CheckCodes(t, oppo.Codes())
	token := r.login()
	for _, c := range oppo.Codes() {
		switch {
		case c.Place == frame.InAnswer && c.Group != frame.Success:
			for _, text := range []string{message("CN_a", "title", "sim:code="+c.Code), message("sim:code=" + c.Code)} {
				if a := r.send(token, text); a.Status != c.Status || c.Status == 200 && a.Field(t, "code") != c.Code {
					t.Errorf("answered %d %s, want %d %s", a.Status, a.Body, c.Status, c.Code)
				}
			}
		case c.Place == frame.InToken:
			if a, list := r.batch(token, message("sim:code="+c.Code)); len(list) != 1 || fmt.Sprint(list[0].Code) != c.Code {
				t.Errorf("answered %s, want %s", a.Body, c.Code)
			}
		case c.Place == frame.InReceipt:
			r.send(token, message("sim:receipt="+c.Code, "call_back_url", receiver.URL))
			if body := receiver.Next(t).Body; !strings.Contains(body, `"eventType":"`+c.Code+`"`) {
				t.Errorf("receipt %s, want %s", body, c.Code)
			}
		}
	}
}

// receipt is an element of a call with receipts.
type receipt struct {
	MessageID, AppID, TaskID, RegistrationIDs, EventTime, Param, EventType string
}

func receipts(t *testing.T, call frametest.Receipt) []receipt {
	t.Helper()
	var list []receipt
	frametest.Must(t, json.Unmarshal([]byte(call.Body), &list))
	if len(list) == 0 || !strings.HasPrefix(call.Header.Get("Content-Type"), "application/json") {
		t.Fatalf("sent %v %s", call.Header, call.Body)
	}
	return list
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, "")
	token := r.login()
	r.send(token, message("CN_a", "call_back_url", receiver.URL, "call_back_parameter", "param"))
	id := r.Last().VendorID
	want := receipt{
		MessageID: id, AppID: r.App.ID, TaskID: id, RegistrationIDs: "CN_a",
		EventTime: fmt.Sprint(r.Clock.Now().UnixMilli()), Param: "param", EventType: "push_arrive",
	}
	if got := receipts(t, receiver.Next(t)); got[0] != want {
		t.Errorf("receipt %+v, want %+v", got[0], want)
	}
	// A broadcast names its task, and the devices of one event together.
	r.Patch(`{"receipts":{"delay":"20ms"}}`)
	draft := r.saved(token, "call_back_url", receiver.URL)
	a := r.Form(broadcast, nil, url.Values{"auth_token": {token}, "message_id": {draft}, "target_type": {"2"}, "target_value": {"CN_a;CN_b"}})
	seen := make(map[string]bool)
	for len(seen) < 2 {
		for _, one := range receipts(t, receiver.Next(t)) {
			if one.MessageID != draft || one.TaskID == draft || !strings.Contains(a.Body, one.TaskID) {
				t.Errorf("receipt %+v", one)
			}
			for token := range strings.SplitSeq(one.RegistrationIDs, ",") {
				seen[token] = true
			}
		}
	}
	// An alias gets none.
	alias := strings.Replace(message("ann", "call_back_url", receiver.URL), `"target_type":2`, `"target_type":5`, 1)
	if a := r.send(token, alias); a.Field(t, "code") != "0" || r.Frame.Stats().Receipts.Queued != 3 {
		t.Errorf("answered %s, queued %d receipts", a.Body, r.Frame.Stats().Receipts.Queued)
	}
}

func TestThePublicMessagesOfADevice(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, `,"public_daily":1`)
	token := r.login()
	for i, c := range []struct{ category, event string }{
		{"MARKETING", "push_arrive"}, {"MARKETING", "user_daily_limit"}, {"IM", "push_arrive"}, {"NEWS", "push_arrive"},
	} {
		if i == 3 {
			r.Clock.Move(24 * time.Hour)
			token = r.login()
		}
		r.send(token, message("CN_a", "category", c.category, "notify_level", "1", "call_back_url", receiver.URL))
		if got := receipts(t, receiver.Next(t)); got[0].EventType != c.event {
			t.Errorf("message %d has receipt %s, want %s", i, got[0].EventType, c.event)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	token := r.login()
	r.Patch(`{"limit":{"per_second":2}}`)
	for _, code := range []string{"0", "55"} {
		if a, _ := r.batch(token, message("CN_a"), message("CN_b")); a.Field(t, "code") != code {
			t.Errorf("answered %s, want %s", a.Body, code)
		}
	}
	r.Patch(`{"limit":{"per_second":0,"daily":4}}`)
	for _, code := range []string{"0", "33"} {
		if a, _ := r.batch(token, message("CN_a"), message("CN_b")); a.Field(t, "code") != code {
			t.Errorf("answered %s, want %s", a.Body, code)
		}
	}
	r.Patch(`{"outage":{"mode":"503","path":"/server/v1/message"}}`)
	if a := r.send(token, message("CN_a")); a.Status != 503 {
		t.Errorf("answered %d in an outage", a.Status)
	}
	r.login() // the outage has another path
}

func TestAppsThatMayNotSend(t *testing.T) {
	t.Parallel()
	r := start(t, `,"disabled":true`)
	if a := r.Form("/server/v1/auth", nil, r.signed(r.Clock.Now())); a.Field(t, "code") != "28" {
		t.Errorf("a disabled app is answered with %s", a.Body)
	}
	r = start(t, `,"no_right":true`)
	if a := r.send(r.login(), message("CN_a")); a.Field(t, "code") != "30" {
		t.Errorf("an app without right is answered with %s", a.Body)
	}
}

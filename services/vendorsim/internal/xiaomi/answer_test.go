package xiaomi_test

import (
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
	"github.com/halleypush/halley/services/vendorsim/internal/xiaomi"
)

// status is what a receipt says about a message.
type status struct {
	Param, Targets, JobKey, BarStatus string
	Type                              int
	Timestamp                         int64
}

// statuses returns a call's receipts by message id.
func statuses(t *testing.T, call frametest.Receipt) map[string]status {
	t.Helper()
	form, err := url.ParseQuery(call.Body)
	frametest.Must(t, err)
	list := make(map[string]status)
	frametest.Must(t, json.Unmarshal([]byte(form.Get("data")), &list))
	return list
}

func TestEveryCodeCanBeHad(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, "")
	frametest.CheckCodes(t, xiaomi.Codes())
	for _, c := range xiaomi.Codes() {
		switch {
		case c.Place == frame.InReceipt:
			r.send(notice("registration_id", "sim:receipt="+c.Code, "extra.callback", receiver.URL, "extra.callback.type", "243"))
			for _, s := range statuses(t, receiver.Next(t)) {
				if strconv.Itoa(s.Type) != c.Code {
					t.Errorf("receipt of type %d, want %s", s.Type, c.Code)
				}
			}
		case c.Place != frame.InAnswer || c.Group == frame.Success:
		case c.Code == "channel_exceed_quota":
			if a := r.send(notice("title", "sim:code="+c.Code)); a.Field(t, "code") != "0" || !data(t, a).Exceeded {
				t.Errorf("answered %s", a.Body)
			}
		default:
			for _, form := range []url.Values{notice("title", "sim:code="+c.Code), notice("registration_id", "a,sim:code="+c.Code)} {
				if a := r.send(form); a.Status != c.Status || c.Status == 200 && a.Field(t, "code") != c.Code {
					t.Errorf("answered %d %s, want %d %s", a.Status, a.Body, c.Status, c.Code)
				}
			}
		}
	}
	if n := len(r.Accepted()); n != 6 {
		t.Errorf("%d requests were accepted, beside those for the six receipts", n-6)
	}
}

func TestADirectiveInAListIsDividedByBars(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	for _, want := range []string{"10009", "0"} {
		if a := r.send(notice("registration_id", "a,sim:code=10009|times=1")); a.Field(t, "code") != want {
			t.Errorf("answered %s, want %s", a.Body, want)
		}
	}
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, "")
	a := r.send(notice("registration_id", "a,b,sim:code=bad_regids", "extra.callback", receiver.URL, "extra.callback.param", "p"))
	seen := make(map[string]bool)
	for len(seen) < 2 { // in one call or in two
		call := receiver.Next(t)
		s := statuses(t, call)[data(t, a).ID]
		if s.Param != "p" || s.Type != 1 || s.JobKey != "job-1" || s.BarStatus == "" || s.Timestamp != r.Clock.Now().UnixMilli() {
			t.Fatalf("receipt %s", call.Body)
		}
		if kind := call.Header.Get("Content-Type"); !strings.HasPrefix(kind, "application/x-www-form-urlencoded") {
			t.Errorf("sent as %s", kind)
		}
		for target := range strings.SplitSeq(s.Targets, ",") {
			seen[target] = true
		}
	}
	if !seen["a"] || !seen["b"] {
		t.Errorf("receipts of %v", seen)
	}
	// Type 16 comes only to those who ask for it, and the default is 1 and 2.
	r.send(notice("registration_id", "sim:receipt=16", "extra.callback", receiver.URL))
	r.send(notice("registration_id", "sim:receipt=16 x", "extra.callback", receiver.URL, "extra.callback.type", "17"))
	for _, s := range statuses(t, receiver.Next(t)) {
		if s.Type != 16 || s.Targets != "sim:receipt=16 x" {
			t.Errorf("receipt %+v", s)
		}
	}
	if n := r.Frame.Stats().Receipts.Queued; n != 3 {
		t.Errorf("%d receipts were queued", n)
	}
}

func TestThePublicDailyTotalOfADevice(t *testing.T) {
	t.Parallel()
	receiver := frametest.NewReceiver(t)
	r := start(t, `,"public_daily":1,"channels":{"news":"public","chat":"private"}`)
	send := func(channel string) int {
		t.Helper()
		a := r.send(notice("registration_id", "a", "extra.channel_id", channel, "extra.callback", receiver.URL, "extra.callback.type", "131"))
		return statuses(t, receiver.Next(t))[data(t, a).ID].Type
	}
	for i, want := range []int{1, 128} {
		if got := send("news"); got != want {
			t.Errorf("message %d has receipt %d, want %d", i, got, want)
		}
	}
	if got := send("chat"); got != 1 {
		t.Errorf("a private message has receipt %d", got)
	}
	r.Clock.Move(24 * time.Hour)
	if got := send("news"); got != 1 {
		t.Errorf("the next day's has receipt %d", got)
	}
	for channel, want := range map[string]string{"-": "10016", "other": "10017"} {
		if a := r.send(notice("extra.channel_id", channel)); a.Field(t, "code") != want {
			t.Errorf("channel %s: answered %s", channel, a.Body)
		}
	}
	if _, err := r.Vendor.Register(json.RawMessage(`{"app":"x","channels":{"a":"loud"}}`)); err == nil {
		t.Error("a channel of an unknown class is accepted")
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	r.Patch(`{"limit":{"per_second":2}}`)
	for _, want := range []string{"0", "200002"} {
		if a := r.send(notice()); a.Field(t, "code") != want {
			t.Errorf("answered %s, want %s", a.Body, want)
		}
	}
	r.Patch(`{"limit":{"per_second":0,"daily":4}}`)
	for _, want := range []string{"0", "200001"} {
		a := r.send(notice())
		if a.Field(t, "code") != want || want == "0" && data(t, a).DayQuota != "4" {
			t.Errorf("answered %s, want %s", a.Body, want)
		}
	}
	r.Clock.Move(24 * time.Hour)
	if a := r.send(notice()); a.Field(t, "code") != "0" {
		t.Errorf("answered %s on the next day", a.Body)
	}
	r.Patch(`{"outage":{"mode":"503"}}`)
	if a := r.send(notice()); a.Status != 503 {
		t.Errorf("answered %d in an outage", a.Status)
	}
}

package frame_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
)

// newFrame returns a frame with a clock that a test moves.
func newFrame(t *testing.T) (*frame.Frame, *frametest.Clock) {
	t.Helper()
	clock := frametest.NewClock()
	return frame.New(frame.Options{
		Channel: "test", Log: slog.New(slog.DiscardHandler), Now: clock.Now, Receipts: http.DefaultClient,
		Record: frame.RecorderConfig{Bytes: 1 << 20, Pairs: 100},
	}), clock
}

func patch(t *testing.T, f *frame.Frame, document string) {
	t.Helper()
	_, err := f.Patch([]byte(document))
	frametest.Must(t, err)
}

func TestSwitchesAreMergedAndChecked(t *testing.T) {
	t.Parallel()
	f, _ := newFrame(t)
	patch(t, f, `{"latency":{"base":"1s"},"answers":[{"token":"a","code":"1"},{"token":"b","code":"2","times":3}]}`)
	patch(t, f, `{"latency":{"jitter":"2s"},"invalid_share":0.5}`)
	patch(t, f, `{"answers":[{"title":"c"}]}`)
	document, err := json.Marshal(f.Switches())
	frametest.Must(t, err)
	for _, part := range []string{
		`"base":"1s"`, `"jitter":"2s"`, `"invalid_share":0.5`,
		`"answers":[{"app":"","token":"","title":"c","code":"","receipt":"","delay":"0s","share":0,"times":0}]`,
	} {
		if !strings.Contains(string(document), part) {
			t.Errorf("no %s in %s", part, document)
		}
	}
	for _, bad := range []string{
		`{"outages":{}}`, `{"outage":{"mode":"flood"}}`, `{"invalid_share":2}`, `{"goaway":{"mode":"drop"}}`,
		`{"latency":{"base":1}}`, `{"answers":[{"share":-1}]}`, `{"limit":{"daily":-1}}`, `[]`,
	} {
		if _, err := f.Patch([]byte(bad)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	if after, err := json.Marshal(f.Switches()); err != nil || string(after) != string(document) {
		t.Errorf("a refused change left %s", after)
	}
	frametest.Must(t, f.Set(frame.Switches{}))
	if len(f.Switches().Answers) != 0 {
		t.Error("the rules are still there")
	}
}

func TestRulesFitInOrder(t *testing.T) {
	t.Parallel()
	f, _ := newFrame(t)
	patch(t, f, `{"answers":[
		{"token":"dead-","code":"gone"},{"app":"other","code":"all"},
		{"title":"a","code":"title","times":2,"receipt":"5","delay":"1s"},{"title":"ab","code":"second"}]}`)
	for i, c := range []struct {
		got  frame.Verdict
		want string
	}{
		{f.ForToken("demo", "dead-1"), "gone"},
		{f.ForToken("demo", "alive"), ""},
		{f.ForToken("other", "alive"), ""}, // a rule without token is about requests
		{f.ForRequest("other", ""), "all"},
		{f.ForRequest("demo", "abc"), "title"},
		{f.ForRequest("demo", "abc"), "title"},
		{f.ForRequest("demo", "abc"), "second"}, // the rule before is used up
		{f.ForRequest("demo", "x"), ""},
	} {
		if c.got.Code != c.want {
			t.Errorf("%d: got %+v, want %q", i, c.got, c.want)
		}
	}
	patch(t, f, `{}`) // counting begins anew with each change
	if v := f.ForRequest("demo", "abc"); v.Code != "title" || v.Receipt != "5" || v.Delay != time.Second {
		t.Errorf("got %+v", v)
	}
}

func TestDirectives(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]frame.Verdict{
		"sim:code=80300007":        {Code: "80300007"},
		"sim:code=1;more":          {Code: "1"},
		"sim:code=1 more":          {Code: "1"},
		"sim:receipt=5,delay=20ms": {Receipt: "5", Delay: 20 * time.Millisecond},
		"sim:code=X,at=1000":       {Code: "X", At: time.UnixMilli(1000)},
		"sim:":                     {},
	} {
		if v, _, ok := frame.Directive(text); !ok || v != want {
			t.Errorf("%s: got %+v, %v", text, v, ok)
		}
	}
	if _, _, ok := frame.Directive("simple"); ok {
		t.Error("a text is taken for a directive")
	}
	f, _ := newFrame(t)
	for i, want := range []string{"1", "1", ""} {
		if v := f.ForToken("demo", "sim:code=1,times=2"); v.Code != want {
			t.Errorf("time %d: got %+v, want %q", i, v, want)
		}
	}
	if v := f.ForToken("other", "sim:code=1,times=2"); v.Code != "1" {
		t.Error("another app's directive is used up, too")
	}
}

func TestTheInvalidShareIsAlwaysOfTheSameTokens(t *testing.T) {
	t.Parallel()
	f, _ := newFrame(t)
	patch(t, f, `{"invalid_share":0.25}`)
	dead := 0
	for i := range 4000 {
		token := fmt.Sprintf("token-%d", i)
		invalid := f.ForToken("demo", token).Invalid
		if invalid {
			dead++
		}
		if f.ForToken("demo", token).Invalid != invalid {
			t.Fatalf("%s changes", token)
		}
	}
	if dead < 850 || dead > 1150 {
		t.Errorf("%d of 4000 are dead, want about 1000", dead)
	}
}

func TestLimitsAreEachAppsOwn(t *testing.T) {
	t.Parallel()
	f, clock := newFrame(t)
	patch(t, f, `{"limit":{"per_second":10,"daily":25}}`)
	admit := func(app string, n int, want frame.Admission) {
		t.Helper()
		if got := f.Admit(app, n); got != want {
			t.Errorf("%d of %s: %v, want %v", n, app, got, want)
		}
	}
	admit("demo", 10, frame.Admitted)
	admit("demo", 1, frame.OverRate)
	admit("other", 10, frame.Admitted)
	clock.Move(500 * time.Millisecond)
	admit("demo", 5, frame.Admitted)
	clock.Move(time.Second)
	admit("demo", 11, frame.OverQuota)
	admit("demo", 10, frame.Admitted)
	clock.Move(time.Second)
	admit("demo", 1, frame.OverQuota)
	clock.Move(24 * time.Hour)
	admit("demo", 25, frame.Admitted) // larger than the burst: it takes all, and the rest is owed
	clock.Move(time.Second)
	admit("demo", 1, frame.OverQuota)
}

func TestADayEndsInBeijing(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 15, 59, 59, 0, time.UTC)
	d := frame.NewDaily(func() time.Time { return now })
	if !d.Take("a", 1) || d.Take("a", 1) || !d.Take("b", 1) {
		t.Error("a key has not one a day")
	}
	now = now.Add(time.Second) // midnight there
	if !d.Take("a", 1) {
		t.Error("the day has not ended")
	}
}

func TestSessions(t *testing.T) {
	t.Parallel()
	clock := frametest.NewClock()
	s := frame.NewSessions(clock.Now)
	s.Open("a", frame.Session{App: "demo", Until: clock.Now().Add(time.Minute), Value: 1})
	s.Open("b", frame.Session{App: "other"})
	state := func(token string) frame.State {
		_, state := s.Find(token)
		return state
	}
	if state("a") != frame.Good || state("b") != frame.Good || state("c") != frame.Unknown {
		t.Error("wrong at first")
	}
	clock.Move(2 * time.Minute)
	if state("a") != frame.Expired || state("b") != frame.Good {
		t.Error("wrong after a minute")
	}
	if n := s.Expire("other"); n != 1 || state("b") != frame.Expired {
		t.Errorf("%d expired", n)
	}
	for i := range 50_000 {
		clock.Move(time.Millisecond)
		s.Open(fmt.Sprint(i), frame.Session{App: "demo"})
	}
	if state("49999") != frame.Good || state("0") != frame.Unknown || state("a") != frame.Unknown {
		t.Error("the newest are not those that are kept")
	}
}

// vendor answers everything with 200.
type vendor struct{}

func (vendor) ServeHTTP(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }
func (vendor) Codes() []frame.Code                              { return nil }
func (vendor) Unavailable(w http.ResponseWriter)                { w.WriteHeader(http.StatusServiceUnavailable) }
func (vendor) Register(json.RawMessage) (any, error)            { return struct{}{}, nil }
func (vendor) Tokens(string, int) ([]any, error)                { return nil, nil }

func TestFaultsAreForThePathsThatTheyName(t *testing.T) {
	t.Parallel()
	r := frametest.Start(t, func(*frame.Frame) frame.Vendor { return vendor{} })
	r.Patch(`{"outage":{"mode":"503","path":"/send"}}`)
	for path, want := range map[string]int{"/send/1": 503, "/token": 200} {
		if a := r.Do("GET", path, nil, ""); a.Status != want {
			t.Errorf("%s is answered with %d, want %d", path, a.Status, want)
		}
	}
	r.Patch(`{"outage":{"mode":"close"}}`)
	if _, err := r.Try("GET", "/send", nil, ""); err == nil {
		t.Error("a closed vendor answers")
	}
	r.Patch(`{"outage":{"mode":""},"latency":{"base":"1h","path":"/send"}}`)
	if a := r.Do("GET", "/token", nil, ""); a.Status != 200 {
		t.Errorf("answered %d", a.Status)
	}
	r.Client.Timeout = 50 * time.Millisecond
	_, err := r.Try("GET", "/send", nil, "")
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		t.Errorf("a slow vendor: %v", err)
	}
}

func TestAnOutageCanBeOfSomeRequests(t *testing.T) {
	t.Parallel()
	r := frametest.Start(t, func(*frame.Frame) frame.Vendor { return vendor{} })
	r.Patch(`{"outage":{"mode":"503","share":0.5}}`)
	answers := make(map[int]int)
	for range 200 {
		answers[r.Do("GET", "/", nil, "").Status]++
	}
	if answers[200] < 50 || answers[503] < 50 {
		t.Errorf("answered %v", answers)
	}
}

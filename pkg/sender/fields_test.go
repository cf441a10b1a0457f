package sender_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

func TestFieldsAreNamedInErrors(t *testing.T) {
	t.Parallel()
	for credential, want := range map[string]string{
		`{"id":"a","n":1}`:           "",
		`{"id":7,"n":1}`:             "",
		`{"id":"a","n":"x"}`:         "n: must be a number",
		`{"id":"a","categories":[]}`: "categories: must be an object",
		`{"id":"a","category":1}`:    "category: must be a text",
		`{"id":"a","typo":1}`:        "typo: there is no such field",
		`{}`:                         "id: is missing",
		`{"id":"a "}`:                "id: has space before or behind it",
		`{"hunter2`:                  "credential: not a JSON object",
		`"hunter2"`:                  "credential: not a JSON object",
	} {
		var f struct {
			sender.Classes
			ID sender.Text `json:"id"`
			N  int         `json:"n"`
		}
		err := sender.ParseFields([]byte(credential), &f)
		if err == nil {
			err = sender.Required("id", string(f.ID))
		}
		var field *sender.FieldError
		switch {
		case want == "" && err != nil, want != "" && (err == nil || err.Error() != want || !errors.As(err, &field)):
			t.Errorf("%s: %v, not %q", credential, err, want)
		}
	}
}

func TestOverridesStayAsTheyAre(t *testing.T) {
	t.Parallel()
	override := map[string]any{"a": map[string]any{"x": 1.0, "gone": nil}, "new": map[string]any{"y": 2.0}}
	fields, err := sender.Fields(map[string]any{"a": map[string]any{"gone": 1, "stays": 12345678901234567}}, override)
	if err != nil {
		t.Fatal(err)
	}
	sender.Merge(fields, map[string]any{"new": map[string]any{"token": "t"}})
	want := map[string]any{
		"a":   map[string]any{"x": 1.0, "stays": json.Number("12345678901234567")},
		"new": map[string]any{"y": 2.0, "token": "t"},
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{"a": map[string]any{"x": 1.0, "gone": nil}, "new": map[string]any{"y": 2.0}}, override); diff != "" {
		t.Error(diff)
	}
}

func TestWhatTheAppGets(t *testing.T) {
	t.Parallel()
	m := &sender.Message{PushID: "p", User: "u", Data: map[string]string{"k": "v"}}
	if got, want := m.AppData(), `{"data":{"k":"v"},"push_id":"p","user":"u"}`; got != want {
		t.Errorf("%s, not %s", got, want)
	}
	if diff := cmp.Diff(map[string]string{"push_id": "p", "user": "u", "data": `{"k":"v"}`}, m.AppFields()); diff != "" {
		t.Error(diff)
	}
	if id := sender.NotifyID("order-7"); id < 1 || id != sender.NotifyID("order-7") || id == sender.NotifyID("order-8") {
		t.Errorf("the id is %d", id)
	}
	classes := sender.Classes{Category: "IM", Categories: map[string]string{"news": "MARKETING"}}
	if classes.Of(&pushv1.Notification{ChannelId: "news"}) != "MARKETING" || classes.Of(&pushv1.Notification{ChannelId: "chat"}) != "IM" {
		t.Error("the classes are mixed up")
	}
}

func TestAnswersAreJudgedByCodeThenByStatus(t *testing.T) {
	t.Parallel()
	codes := sender.Codes{{"7", sender.QuotaSpent, "spent"}, {"HTTP 404", sender.CredentialBad, "another app"}}
	for _, c := range []struct {
		status int
		code   string
		want   sender.Outcome
		shown  string
	}{
		{200, "7", sender.QuotaSpent, "7 spent"},
		{400, "7", sender.QuotaSpent, "7 spent"},
		{404, "8", sender.CredentialBad, "HTTP 404 another app"},
		{401, "8", sender.CredentialBad, "HTTP 401"},
		{403, "", sender.CredentialBad, "HTTP 403"},
		{400, "", sender.Rejected, "HTTP 400"},
		{302, "", sender.Retry, "HTTP 302"},
		{429, "", sender.Retry, "HTTP 429"},
		{502, "", sender.Retry, "HTTP 502"},
		{200, "8", sender.Rejected, "8 words"},
	} {
		a := &sender.Answer{Status: c.status, Header: http.Header{"Retry-After": {"7"}}}
		got := codes.Judge(a, c.code, "words", sender.Rejected)
		if got.Outcome != c.want || got.Code != c.shown || (got.After == 7*time.Second) != (c.want == sender.Retry) {
			t.Errorf("%d %q is %+v", c.status, c.code, got)
		}
	}
	if got := codes.Result("9", strings.Repeat("界", 500), sender.Rejected); len(got.Code) > 200 {
		t.Errorf("%d bytes of a vendor's words", len(got.Code))
	}
}

func TestReceiptsAreUnderstoodByTheirState(t *testing.T) {
	t.Parallel()
	known := []sender.ReceiptCode{{Code: "1", What: sender.ReceiptArrived, Meaning: "delivered"}, {Code: "16", What: sender.ReceiptTokenGone, Meaning: "gone"}}
	for state, want := range map[string]string{"1": "1 delivered", "16": "16 gone", "6": "6", "": ""} {
		kinds := map[string]sender.ReceiptKind{"1": sender.ReceiptArrived, "16": sender.ReceiptTokenGone}
		if what, code := sender.KindOf(known, state); what != kinds[state] || code != want {
			t.Errorf("%q is %v, %q", state, what, code)
		}
	}
}

func TestErrorsDoNotNameTheURL(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.RedirectHandler("http://elsewhere.invalid/", http.StatusFound))
	client, err := sender.NewClient(1, "")
	if err != nil {
		t.Fatal(err)
	}
	a, err := sender.Post(t.Context(), client, server.URL+"/hunter2", sender.JSON, nil, "X-Name", "value")
	if err != nil || a.Status != http.StatusFound {
		t.Errorf("a redirect: %v, %v", a, err)
	}
	server.Close()
	if _, err := sender.Post(t.Context(), client, server.URL+"/hunter2", sender.JSON, nil); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("without a server: %v", err)
	}
	if _, err := sender.NewClient(1, "/does/not/exist"); err == nil {
		t.Error("a client without its certificates")
	}
	failed := &sender.Failure{Result: sender.Result{Outcome: sender.CredentialBad, Code: "1101"}}
	if r := sender.ResultOf(errors.Join(errors.New("fetch"), failed)); r != failed.Result {
		t.Errorf("%+v", r)
	}
	if r := sender.ResultOf(context.DeadlineExceeded); r.Outcome != sender.Retry {
		t.Errorf("%+v", r)
	}
}

func TestOnlyARefusedCredentialFailsItsCheck(t *testing.T) {
	t.Parallel()
	for outcome, want := range map[sender.Outcome]struct{ note, bad bool }{
		sender.Accepted: {}, sender.TokenGone: {}, sender.Rejected: {}, sender.Retry: {note: true}, sender.QuotaSpent: {note: true},
		sender.CredentialBad: {bad: true},
	} {
		if note, err := sender.Checked(sender.Result{Outcome: outcome}); (note != "") != want.note || (err != nil) != want.bad {
			t.Errorf("%d: %q, %v", outcome, note, err)
		}
	}
	if r := sender.ResultOf(nil); r.Outcome != sender.Accepted {
		t.Errorf("no error is %+v", r)
	}
}

func TestARefusedTokenIsFetchedOnceByAll(t *testing.T) {
	t.Parallel()
	var fetched atomic.Int32
	source := &sender.TokenSource{Fetch: func(context.Context) (string, time.Duration, error) {
		return string('a' + rune(fetched.Add(1)-1)), time.Hour, nil
	}}
	const callers = 50
	var met sync.WaitGroup // all have the old token before one says that it is refused
	met.Add(callers)
	var done sync.WaitGroup
	for range callers {
		done.Go(func() {
			err := source.Try(t.Context(), func(token string) bool {
				if token == "a" {
					met.Done()
					met.Wait()
				}
				return token == "a"
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if fetched.Load() != 2 {
		t.Errorf("fetched %d times, not twice", fetched.Load())
	}
	tries := 0
	if err := source.Try(t.Context(), func(string) bool { tries++; return true }); err != nil || tries != 2 {
		t.Errorf("tried %d times: %v", tries, err)
	}
}

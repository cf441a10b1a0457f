package vivo

import (
	"crypto/md5" //nolint:gosec // vivo's own choice
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/internal/vendortest"
)

const (
	setting = `{"app_id":"10001","app_key":"k","app_secret":"hunter2","category":"NEWS","categories":{"orders":"ORDER"}}`
	success = `{"result":0,"desc":"ok","taskId":"m-1"}`
)

// authorized puts vivo's auth call, which gives t-1, t-2 and so on, before a script.
func authorized(script func(*vendortest.Request) (int, string)) func(*vendortest.Request) (int, string) {
	given := 0
	return func(r *vendortest.Request) (int, string) {
		if r.Path != authPath {
			return script(r)
		}
		given++
		return 200, fmt.Sprintf(`{"result":0,"desc":"ok","authToken":"t-%d"}`, given)
	}
}

func answering(t *testing.T, status int, body string) (*vendortest.Server, *Vendor) {
	t.Helper()
	s := vendortest.NewServer(t, authorized(func(*vendortest.Request) (int, string) { return status, body }))
	c := vendortest.Config[Config](t)
	c.URL = s.URL
	v, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func TestRequestsAreWhatVivoDocuments(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	v.Send(t.Context(), c, vendortest.Message(nil)) // fetches the authToken
	v.now = func() time.Time { return time.UnixMilli(1764000000000) }
	messages := vendortest.Messages()
	messages["override"] = vendortest.Message(func(m *sender.Message) {
		m.Override = map[string]any{"networkType": 1.0, "foregroundShow": true, "requestId": nil}
	})
	vendortest.Golden(t, s, v, c, messages)
}

func TestAnIDForReceiptsTakesTheAddressesPlace(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, strings.TrimSuffix(setting, "}")+`,"receipt_id":"77"}`)
	v.Send(t.Context(), c, vendortest.Message(func(m *sender.Message) { m.ReceiptURL = "https://push.example.com/receipts" }))
	if body := string(s.Requests()[1].Body); !strings.Contains(body, `"callback.id":"77"`) || strings.Contains(body, "push.example.com") {
		t.Errorf("sent %s", body)
	}
}

func TestTheAuthTokenIsAskedForWithASignature(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	zeros := strings.Replace(setting, "10001", "0010001", 1) // no number of JSON
	v.Send(t.Context(), vendortest.Credential(t, v, zeros), vendortest.Message(nil))
	r := s.Requests()
	var asked struct {
		AppID     int64  `json:"appId"`
		Timestamp int64  `json:"timestamp"`
		Sign      string `json:"sign"`
	}
	if err := json.Unmarshal(r[0].Body, &asked); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%x", md5.Sum(fmt.Appendf(nil, "10001k%dhunter2", asked.Timestamp))) //nolint:gosec // as above
	if asked.AppID != 10001 || asked.Sign != want {
		t.Errorf("asked %s", r[0].Body)
	}
	if got := r[1].Header.Get("Authtoken"); got != "t-1" {
		t.Errorf("sent with %q", got)
	}
}

func TestAnEndedAuthTokenIsFetchedOnce(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	for _, tokens := range [][]string{{"token-1"}, {"token-1", "token-2"}} {
		refused := true
		s.Script(authorized(func(*vendortest.Request) (int, string) {
			if refused {
				refused = false
				return 200, `{"result":10000,"desc":"authentication failed"}`
			}
			return 200, success
		}))
		for _, r := range v.Send(t.Context(), c, vendortest.Message(nil, tokens...)) {
			if r.Outcome != sender.Accepted {
				t.Errorf("%v: %+v", tokens, r)
			}
		}
	}
	s.Script(authorized(func(*vendortest.Request) (int, string) { return 200, `{"result":10000}` }))
	vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), sender.CredentialBad)
}

func TestEveryCodeHasItsOutcome(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	answer := func(status int, body string, want sender.Outcome) {
		t.Helper()
		s.Script(authorized(func(*vendortest.Request) (int, string) { return status, body }))
		vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), want)
	}
	for _, code := range Codes() {
		if target, ok := strings.CutPrefix(code.Code, "target "); ok {
			answer(200, fmt.Sprintf(`{"result":10302,"invalidUser":{"status":%s,"userid":"token-1"}}`, target), code.Outcome)
			answer(200, fmt.Sprintf(`{"result":0,"invalidUsers":[{"status":"%s","userid":"token-1"}]}`, target), code.Outcome)
		} else if status, ok := vendortest.Status(code.Code); ok {
			answer(status, "<html>", code.Outcome)
		} else {
			answer(200, fmt.Sprintf(`{"result":%s,"desc":"of token-1"}`, code.Code), code.Outcome)
			answer(200, fmt.Sprintf(`{"result":"%s","desc":"of token-1","taskId":null}`, code.Code), code.Outcome)
		}
	}
	answer(200, `{"result":4711,"desc":"of token-1"}`, sender.Rejected)
	answer(200, ``, sender.Retry)
	answer(401, ``, sender.CredentialBad)
}

func TestSomeTokensOfAListAreVoid(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	s.Script(authorized(func(r *vendortest.Request) (int, string) {
		if r.Path == savePath {
			return 200, `{"result":0,"taskId":"task-9"}`
		}
		return 200, `{"result":0,"taskId":"m-9","invalidUsers":[{"status":2,"userid":"token-2"},{"status":4,"userid":"token-3"}]}`
	}))
	results := v.Send(t.Context(), c, vendortest.Message(nil, "token-1", "token-2", "token-3"))
	vendortest.Outcomes(t, results, sender.Accepted, sender.TokenGone, sender.Rejected)
	requests := s.Requests()
	if last := requests[len(requests)-1]; !strings.Contains(string(last.Body), `"taskId":"task-9"`) {
		t.Errorf("the list is of %s", last.Body)
	}
	for path, want := range map[string]sender.Outcome{savePath: sender.QuotaSpent, listPath: sender.Retry} {
		s.Script(authorized(func(r *vendortest.Request) (int, string) {
			switch {
			case r.Path != path:
				return 200, success
			case path == savePath:
				return 200, `{"result":10252}`
			default:
				return 503, ``
			}
		}))
		vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil, "token-1", "token-2")), want, want)
	}
	s.Script(authorized(func(*vendortest.Request) (int, string) { return 200, `{"result":10302}` }))
	vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil, "token-1", "token-2")), sender.Rejected, sender.Rejected)
}

func TestAListThatIsTriedAgainIsStoredAgainAndSentOnce(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	at := time.UnixMilli(1764000000000)
	v.now = func() time.Time { at = at.Add(time.Millisecond); return at }
	c := vendortest.Credential(t, v, setting)
	for range 2 {
		vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil, "token-1", "token-2")), sender.Accepted, sender.Accepted)
	}
	ids := map[string]map[string]bool{savePath: {}, listPath: {}}
	for _, r := range s.Requests() {
		var asked struct {
			ID string `json:"requestId"`
		}
		if err := json.Unmarshal(r.Body, &asked); err != nil {
			t.Fatal(err)
		}
		if r.Path != authPath {
			ids[r.Path][asked.ID] = true
		}
		if len(asked.ID) > 64 || ids[savePath][asked.ID] && ids[listPath][asked.ID] {
			t.Errorf("%s has the id %q", r.Path, asked.ID)
		}
	}
	if len(ids[savePath]) != 2 || len(ids[listPath]) != 1 {
		t.Errorf("the ids are %v", ids)
	}
	s.Script(authorized(func(*vendortest.Request) (int, string) { return 200, `{"result":0,"desc":"ok"}` }))
	results := v.Send(t.Context(), c, vendortest.Message(nil, "token-1", "token-2"))
	vendortest.Outcomes(t, results, sender.Retry, sender.Retry) // a message that is stored nowhere
}

// The hours are vivo's: UTC+8.
func TestWhatComesAtNightWaitsForTheMorning(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, `{"result":10071,"desc":"not now"}`)
	c := vendortest.Credential(t, v, setting)
	for now, want := range map[string]time.Duration{
		"2026-11-23T23:00:00+08:00": 8 * time.Hour, "2026-11-24T06:59:00+08:00": time.Minute, "2026-11-23T15:30:00Z": 7*time.Hour + 30*time.Minute,
	} {
		at, err := time.Parse(time.RFC3339, now)
		if err != nil {
			t.Fatal(err)
		}
		v.now = func() time.Time { return at }
		if r := v.Send(t.Context(), c, vendortest.Message(nil)); r[0].After != want || r[0].Outcome != sender.Retry {
			t.Errorf("at %s it waits for %v", now, r[0].After)
		}
	}
}

func TestWhatVivoWouldRefuseIsNotSent(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	for _, m := range []*sender.Message{
		vendortest.Message(func(m *sender.Message) { m.Payload = strings.Repeat("x", 1024) }),
		vendortest.Message(func(m *sender.Message) { m.Notification = nil }),
	} {
		vendortest.Outcomes(t, v.Send(t.Context(), c, m), sender.Rejected)
	}
	if len(s.Requests()) > 0 {
		t.Error("vivo was asked")
	}
}

func TestWrongCredentialsNameTheirField(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, success)
	vendortest.WrongFields(t, v, map[string]string{
		`{}`:                           "app_id",
		`{"app_id":"1"}`:               "app_key",
		`{"app_id":"1","app_key":"k"}`: "app_secret",
		`{"secret":"hunter2"}`:         "secret",
		`{"app_id":"one","app_key":"k","app_secret":"hunter2"}`:               "app_id",
		`{"app_id":"1","app_key":"k","app_secret":"hunter2","categories":[]}`: "categories",
	})
}

func TestACredentialIsTried(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	if note, err := v.Check(t.Context(), vendortest.Credential(t, v, setting)); err != nil || note != "" {
		t.Errorf("%q, %v", note, err)
	}
	s.Script(func(*vendortest.Request) (int, string) { return 200, `{"result":10206,"desc":"sign"}` })
	if _, err := v.Check(t.Context(), vendortest.Credential(t, v, setting)); err == nil {
		t.Error("a wrong secret works")
	}
	s.Script(func(*vendortest.Request) (int, string) { return 503, `` })
	if note, err := v.Check(t.Context(), vendortest.Credential(t, v, setting)); err != nil || note == "" {
		t.Errorf("while vivo is away: %q, %v", note, err)
	}
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, success)
	for body, want := range map[string]sender.ReceiptKind{
		`{"m-1":{"param":"t","targets":"a,b"}}`:               sender.ReceiptArrived,
		`{"m-1":{"param":"t","targets":"a, b","ackType":0}}`:  sender.ReceiptArrived,
		`{"m-1":{"param":"t","targets":"a,b","ackType":"3"}}`: sender.ReceiptUnknown,
	} {
		receipts, _, err := v.Receipts(nil, vendortest.Callback(t, "application/json", nil), []byte(body))
		if err != nil || len(receipts) != 2 || receipts[0].What != want || receipts[0].Tag != "t" || receipts[1].Token != "b" {
			t.Errorf("%s: %+v, %v", body, receipts, err)
		}
	}
	for _, garbage := range []string{"", "garbage", "[]", `{"m":7}`} {
		if receipts, _, err := v.Receipts(nil, vendortest.Callback(t, "application/json", nil), []byte(garbage)); err == nil {
			t.Errorf("%q is %v", garbage, receipts)
		}
	}
}

func FuzzReceipts(f *testing.F) {
	v, err := New(&Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"m-1":{"param":"t","targets":"a,b"}}`))
	f.Add([]byte(`garbage`))
	f.Fuzz(func(t *testing.T, body []byte) {
		receipts, answer, err := v.Receipts(nil, vendortest.Callback(t, "application/json", nil), body)
		if (err == nil) != (answer != nil) || err != nil && receipts != nil {
			t.Errorf("%v, %s, %v", receipts, answer, err)
		}
	})
}

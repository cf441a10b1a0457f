package meizu_test

import (
	"crypto/md5" //nolint:gosec // Meizu's own choice
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/internal/vendortest"
	"github.com/halleypush/halley/services/senders/meizu"
)

const (
	setting = `{"app_id":"100999","app_secret":"hunter2","category":"public","categories":{"orders":"private"}}`
	success = `{"code":"200","message":"","value":{},"redirect":"","msgId":"m-1"}`
	form    = "application/x-www-form-urlencoded"
)

func answering(t *testing.T, status int, body string) (*vendortest.Server, *meizu.Vendor) {
	t.Helper()
	s := vendortest.NewServer(t, func(*vendortest.Request) (int, string) { return status, body })
	c := vendortest.Config[meizu.Config](t)
	c.URL, c.Overseas = s.URL, s.URL+"/overseas"
	v, err := meizu.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func TestRequestsAreWhatMeizuDocuments(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	messages := vendortest.Messages()
	messages["override"] = vendortest.Message(func(m *sender.Message) {
		m.Override = map[string]any{"pushTimeInfo": map[string]any{"offLine": 0.0}, "advanceInfo": map[string]any{"suspend": 1.0}}
	})
	vendortest.Golden(t, s, v, vendortest.Credential(t, v, setting), messages)
}

// The signature is taken of the values before they are encoded for the form.
func TestRequestsAreSigned(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	v.Send(t.Context(), vendortest.Credential(t, v, setting), vendortest.Message(nil, "b&=", "c"))
	f := s.Requests()[0].Form()
	text := "appId=100999messageJson=" + f.Get("messageJson") + "pushIds=b&=,chunter2"
	if want := fmt.Sprintf("%x", md5.Sum([]byte(text))); f.Get("sign") != want {
		t.Errorf("signed %s, not %s", f.Get("sign"), want)
	}
}

func TestAnAppsRegionHasItsHost(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, `{"app_id":"1","app_secret":"s","region":"overseas"}`)
	vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), sender.Accepted)
	if got := s.Requests()[0].Path; !strings.HasPrefix(got, "/overseas/garcia/") {
		t.Errorf("it is at %s", got)
	}
}

func TestEveryCodeHasItsOutcome(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	answer := func(status int, body string, want sender.Outcome) []sender.Result {
		s.Script(func(*vendortest.Request) (int, string) { return status, body })
		results := v.Send(t.Context(), c, vendortest.Message(nil))
		vendortest.Outcomes(t, results, want)
		return results
	}
	for _, code := range meizu.Codes() {
		if target, ok := strings.CutPrefix(code.Code, "target "); ok {
			answer(200, fmt.Sprintf(`{"code":"200","value":{"%s":["x","token-1"]},"msgId":"1"}`, target), code.Outcome)
		} else if status, ok := vendortest.Status(code.Code); ok {
			answer(status, "<html>", code.Outcome)
		} else {
			answer(200, fmt.Sprintf(`{"code":"%s","message":"of token-1","value":""}`, code.Code), code.Outcome)
			answer(200, fmt.Sprintf(`{"code":%s,"message":"of token-1","value":""}`, code.Code), code.Outcome)
		}
	}
	answer(200, `{"code":"4711","message":"of token-1"}`, sender.Retry)
	answer(200, `{"code":"200","value":{"4711":["token-1"]}}`, sender.Retry)
	answer(200, `{"code":"200","value":{"110002":"token-1"}}`, sender.Accepted)
	answer(200, ``, sender.Retry)
	if r := answer(200, `{"code":"110010"}`, sender.Retry); r[0].After != time.Second {
		t.Errorf("back after %v", r[0].After)
	}
	s.Script(func(*vendortest.Request) (int, string) { return 200, `{"code":"110003"}` })
	vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil, "token-1", "token-2")), sender.Rejected, sender.Rejected)
}

func TestSomeTokensOfABatchFail(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, `{"code":"200","value":{"110002":["token-2"],"519":["token-3"]},"msgId":"m"}`)
	results := v.Send(t.Context(), vendortest.Credential(t, v, setting), vendortest.Message(nil, "token-1", "token-2", "token-3"))
	vendortest.Outcomes(t, results, sender.Accepted, sender.TokenGone, sender.Retry)
}

// Meizu has no de-dup id: a push that is sent again replaces itself, and no other.
func TestARepeatReplacesItself(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	key := func(push, collapse string) string {
		v.Send(t.Context(), c, vendortest.Message(func(m *sender.Message) { m.PushID, m.CollapseKey = push, collapse }))
		var message struct {
			AdvanceInfo struct {
				NotifyKey string `json:"notifyKey"`
			} `json:"advanceInfo"`
		}
		if err := json.Unmarshal([]byte(s.Requests()[0].Form().Get("messageJson")), &message); err != nil {
			t.Fatal(err)
		}
		return message.AdvanceInfo.NotifyKey
	}
	first := key("a", "")
	if !regexp.MustCompile(`^[0-9a-zA-Z_-]{8}$`).MatchString(first) {
		t.Errorf("the key is %q", first)
	}
	if key("a", "") != first || key("b", "") == first {
		t.Error("a push and its repeat do not share a key of their own")
	}
	if key("a", "score") != key("b", "score") || key("a", "score") == first {
		t.Error("pushes of one collapse key do not share a key")
	}
}

func TestDataIsNotSent(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	m := vendortest.Message(func(m *sender.Message) { m.Notification = nil })
	vendortest.Outcomes(t, v.Send(t.Context(), vendortest.Credential(t, v, setting), m), sender.Rejected)
	if len(s.Requests()) > 0 {
		t.Error("Meizu was asked")
	}
}

func TestWrongCredentialsNameTheirField(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, success)
	vendortest.WrongFields(t, v, map[string]string{
		`{}`:                       "app_id",
		`{"app_id":"1"}`:           "app_secret",
		`{"app_secret":"hunter2"}`: "app_id",
		`{"app_id":"1","app_secret":" hunter2 "}`:                                "app_secret",
		`{"app_id":"1","secret":"hunter2"}`:                                      "secret",
		`{"app_id":"1","app_secret":"hunter2","region":"mars"}`:                  "region",
		`{"app_id":"1","app_secret":"hunter2","category":"7"}`:                   "category",
		`{"app_id":"1","app_secret":"hunter2","categories":{"orders":"secret"}}`: "categories.orders",
	})
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, success)
	open := vendortest.Credential(t, v, setting)
	guarded := vendortest.Credential(t, v, `{"app_id":"1","app_secret":"s","receipt_token":"right"}`)
	for _, known := range append(meizu.ReceiptCodes(), sender.ReceiptCode{Code: "4711"}) {
		for _, kind := range []string{known.Code, `"` + known.Code + `"`} {
			data := fmt.Sprintf(`{"m-1-1":{"param":"t","type":%s,"targets":["a","b"]}}`, kind)
			body := []byte(url.Values{"cb": {data}, "access_token": {"right"}}.Encode())
			for _, c := range []sender.Credential{open, guarded} {
				receipts, answer, err := v.Receipts(c, vendortest.Callback(t, form, nil), body)
				if err != nil || answer == nil || len(receipts) != 2 || receipts[0].What != known.What || receipts[0].Tag != "t" || receipts[0].Token == receipts[1].Token {
					t.Errorf("%s: %+v, %v", data, receipts, err)
				}
			}
			forged := []byte(url.Values{"cb": {data}, "access_token": {"wrong"}}.Encode())
			if _, _, err := v.Receipts(guarded, vendortest.Callback(t, form, nil), forged); !errors.Is(err, sender.ErrForged) {
				t.Errorf("with a wrong access token: %v", err)
			}
		}
	}
	for _, garbage := range []string{"", "garbage", "cb=%zz", "cb=[1]", "cb=" + url.QueryEscape(`{"m":1}`)} {
		if receipts, _, err := v.Receipts(open, vendortest.Callback(t, form, nil), []byte(garbage)); err == nil {
			t.Errorf("%q is %v", garbage, receipts)
		}
	}
}

func FuzzReceipts(f *testing.F) {
	v, err := meizu.New(&meizu.Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("cb=" + url.QueryEscape(`{"m-1":{"param":"t","type":1,"targets":["a","b"]}}`)))
	f.Add([]byte(`garbage`))
	f.Fuzz(func(t *testing.T, body []byte) {
		receipts, answer, err := v.Receipts(nil, vendortest.Callback(t, form, nil), body)
		if (err == nil) != (answer != nil) || err != nil && receipts != nil {
			t.Errorf("%v, %s, %v", receipts, answer, err)
		}
	})
}

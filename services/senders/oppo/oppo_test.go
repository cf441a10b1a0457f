package oppo_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/internal/vendortest"
	"github.com/halleypush/halley/services/senders/oppo"
)

const (
	setting = `{"app_key":"k","master_secret":"hunter2","category":"NEWS","categories":{"orders":"ORDER"},"channels":{"orders":"c-1"},"notify_level":2}`
	success = `{"code":0,"message":"Success","data":[{"messageId":"m-1","registrationId":"token-1"}]}`
	auth    = "/server/v1/auth"
)

// authorized puts OPPO's auth call, which gives t-1, t-2 and so on, before a script.
func authorized(script func(*vendortest.Request) (int, string)) func(*vendortest.Request) (int, string) {
	given := 0
	return func(r *vendortest.Request) (int, string) {
		if !strings.HasSuffix(r.Path, auth) {
			return script(r)
		}
		given++
		return 200, fmt.Sprintf(`{"code":0,"message":"","data":{"auth_token":"t-%d","create_time":1}}`, given)
	}
}

func answering(t *testing.T, status int, body string) (*vendortest.Server, *oppo.Vendor) {
	t.Helper()
	s := vendortest.NewServer(t, authorized(func(*vendortest.Request) (int, string) { return status, body }))
	c := vendortest.Config[oppo.Config](t)
	c.URL, c.Overseas = s.URL, s.URL+"/overseas"
	v, err := oppo.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func TestRequestsAreWhatOPPODocuments(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	v.Send(t.Context(), c, vendortest.Message(nil)) // fetches the auth_token
	messages := vendortest.Messages()
	messages["long"] = vendortest.Message(func(m *sender.Message) { m.Notification.Body = strings.Repeat("长", 51) })
	messages["override"] = vendortest.Message(func(m *sender.Message) {
		m.Override = map[string]any{"network_type": 1.0, "app_message_id": nil}
	})
	vendortest.Golden(t, s, v, c, messages)
}

func TestTheAuthTokenIsAskedForWithASignature(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	before := time.Now()
	v.Send(t.Context(), vendortest.Credential(t, v, setting), vendortest.Message(nil))
	r := s.Requests()
	f := r[0].Form()
	want := fmt.Sprintf("%x", sha256.Sum256([]byte("k"+f.Get("timestamp")+"hunter2")))
	if f.Get("app_key") != "k" || f.Get("sign") != want || f.Get("timestamp") < fmt.Sprint(before.UnixMilli()) {
		t.Errorf("asked %v", f)
	}
	if got := r[1].Form().Get("auth_token"); got != "t-1" {
		t.Errorf("sent with %q", got)
	}
}

func TestAnEndedAuthTokenIsFetchedOnce(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	for _, code := range []string{"11", "29"} {
		refused := true
		s.Script(authorized(func(*vendortest.Request) (int, string) {
			if refused {
				refused = false
				return 200, `{"code":` + code + `,"message":"void"}`
			}
			return 200, success
		}))
		vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), sender.Accepted)
	}
	s.Script(authorized(func(*vendortest.Request) (int, string) { return 200, `{"code":11}` }))
	vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), sender.CredentialBad)
}

func TestATargetKeepsItsDeDupID(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	ids := map[string]string{}
	for _, tokens := range [][]string{{"token-1", "token-2", "token-3"}, {"token-2"}} {
		s.Requests()
		v.Send(t.Context(), c, vendortest.Message(func(m *sender.Message) { m.ID = fmt.Sprint("of ", len(tokens)) }, tokens...))
		requests := s.Requests()
		var sent []struct {
			Token        string `json:"target_value"`
			Notification struct {
				ID string `json:"app_message_id"`
			} `json:"notification"`
		}
		if err := json.Unmarshal([]byte(requests[len(requests)-1].Form().Get("messages")), &sent); err != nil {
			t.Fatal(err)
		}
		for _, message := range sent {
			id := message.Notification.ID
			if old, ok := ids[message.Token]; ok && old != id {
				t.Errorf("%s had the id %s, and has %s", message.Token, old, id)
			}
			ids[message.Token] = id
		}
	}
	if len(ids) != 3 || ids["token-1"] == ids["token-2"] || ids["token-1"] == "" {
		t.Errorf("the ids are %v", ids)
	}
}

func TestRegistrationIDsSayTheirRegion(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, `{"code":0,"data":[]}`)
	c := vendortest.Credential(t, v, setting)
	tokens := []string{"token-1", "CN_token-2", "OPPO_CN_token-3", "IN_token-4", "OPPO_IN_token-5"}
	results := v.Send(t.Context(), c, vendortest.Message(nil, tokens...))
	vendortest.Outcomes(t, results, sender.Accepted, sender.Accepted, sender.Accepted, sender.Accepted, sender.Accepted)
	for _, r := range s.Requests() {
		overseas := strings.HasPrefix(r.Path, "/overseas")
		for i, token := range tokens {
			if messages := r.Form().Get("messages"); messages != "" && strings.Contains(messages, `"`+token+`"`) != (overseas == (i > 2)) {
				t.Errorf("%s: %s", r.Path, messages)
			}
		}
	}
}

func TestEveryCodeHasItsOutcome(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	answer := func(status int, body string, want sender.Outcome) {
		s.Script(authorized(func(*vendortest.Request) (int, string) { return status, body }))
		vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), want)
	}
	for _, code := range oppo.Codes() {
		if target, ok := strings.CutPrefix(code.Code, "target "); ok {
			answer(200, fmt.Sprintf(`{"code":0,"data":[{"registrationId":"token-1","errorCode":%s,"errorMessage":"token-1"}]}`, target), code.Outcome)
		} else if status, ok := vendortest.Status(code.Code); ok {
			answer(status, "<html>", code.Outcome)
		} else {
			answer(200, fmt.Sprintf(`{"code":%s,"message":"of token-1"}`, code.Code), code.Outcome)
			answer(200, fmt.Sprintf(`{"code":"%s","message":"of token-1","data":null}`, code.Code), code.Outcome)
			if code.Code != "0" && code.Code != "10000" {
				answer(200, fmt.Sprintf(`{"code":0,"data":[{"errorCode":"%s"}]}`, code.Code), code.Outcome)
			}
		}
	}
	answer(200, `{"code":4711,"message":"of token-1"}`, sender.Rejected)
	answer(200, ``, sender.Retry)
	answer(401, ``, sender.CredentialBad)
	s.Script(authorized(func(*vendortest.Request) (int, string) { return 200, `{"code":10000}` }))
	vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil, "token-1", "token-2")), sender.Rejected, sender.Rejected)
}

func TestSomeTokensOfABatchFail(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, `{"code":0,"data":[{"messageId":"m-1","registrationId":"token-1"},
		{"registrationId":"token-2","errorCode":10000,"errorMessage":"Invalid RegistrationId"},{"registrationId":"token-3","errorCode":-2}]}`)
	results := v.Send(t.Context(), vendortest.Credential(t, v, setting), vendortest.Message(nil, "token-3", "token-1", "token-2"))
	vendortest.Outcomes(t, results, sender.Retry, sender.Accepted, sender.TokenGone)
	if results[1].VendorID != "m-1" {
		t.Errorf("the id is %q", results[1].VendorID)
	}
}

func TestWhatOPPOWouldRefuseIsNotSent(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	for _, m := range []*sender.Message{
		vendortest.Message(func(m *sender.Message) { m.Payload = strings.Repeat("x", 4000) }),
		vendortest.Message(func(m *sender.Message) { m.Notification = nil }),
	} {
		vendortest.Outcomes(t, v.Send(t.Context(), c, m), sender.Rejected)
	}
	if len(s.Requests()) > 0 {
		t.Error("OPPO was asked")
	}
}

func TestWrongCredentialsNameTheirField(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, success)
	vendortest.WrongFields(t, v, map[string]string{
		`{}`:                          "app_key",
		`{"app_key":"k"}`:             "master_secret",
		`{"master_secret":"hunter2"}`: "app_key",
		`{"app_secret":"hunter2"}`:    "app_secret",
		`{"app_key":"k","master_secret":" hunter2"}`:                 "master_secret",
		`{"app_key":"k","master_secret":"hunter2","notify_level":3}`: "notify_level",
		`{"app_key":"k","master_secret":"hunter2","channels":["a"]}`: "channels",
	})
}

func TestACredentialIsTried(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	if note, err := v.Check(t.Context(), vendortest.Credential(t, v, setting)); err != nil || note != "" {
		t.Errorf("%q, %v", note, err)
	}
	s.Script(func(*vendortest.Request) (int, string) { return 200, `{"code":17,"message":"Invalid signature"}` })
	if _, err := v.Check(t.Context(), vendortest.Credential(t, v, setting)); err == nil {
		t.Error("a wrong secret works")
	}
	s.Script(func(*vendortest.Request) (int, string) { return 503, `` })
	if note, err := v.Check(t.Context(), vendortest.Credential(t, v, setting)); err != nil || note == "" {
		t.Errorf("while OPPO is away: %q, %v", note, err)
	}
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, success)
	for _, known := range append(oppo.ReceiptCodes(), sender.ReceiptCode{Code: "news"}) {
		body := fmt.Sprintf(`[{"messageId":"m","appId":"1","taskId":"m","registrationIds":"a, b","eventTime":"1","param":"t","eventType":%q}]`, known.Code)
		receipts, _, err := v.Receipts(nil, vendortest.Callback(t, "application/json", nil), []byte(body))
		if err != nil || len(receipts) != 2 || receipts[0].What != known.What || receipts[0].Tag != "t" || receipts[1].Token != "b" {
			t.Errorf("%s: %+v, %v", body, receipts, err)
		}
	}
	for _, garbage := range []string{"", "garbage", "{}", `[7]`} {
		if receipts, _, err := v.Receipts(nil, vendortest.Callback(t, "application/json", nil), []byte(garbage)); err == nil {
			t.Errorf("%q is %v", garbage, receipts)
		}
	}
}

func FuzzReceipts(f *testing.F) {
	v, err := oppo.New(&oppo.Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`[{"registrationIds":"a,b","param":"t","eventType":"push_arrive"}]`))
	f.Add([]byte(`garbage`))
	f.Fuzz(func(t *testing.T, body []byte) {
		receipts, answer, err := v.Receipts(nil, vendortest.Callback(t, "application/json", nil), body)
		if (err == nil) != (answer != nil) || err != nil && receipts != nil {
			t.Errorf("%v, %s, %v", receipts, answer, err)
		}
	})
}

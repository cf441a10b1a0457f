package xiaomi_test

import (
	"fmt"
	"math"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/internal/vendortest"
	"github.com/halleypush/halley/services/senders/xiaomi"
)

const (
	setting = `{"app_secret":"hunter2","package":"com.example.default","category":"100","categories":{"orders":"101"}}`
	success = `{"result":"ok","code":0,"description":"ok","info":"received","trace_id":"x","data":{"id":"r-1"}}`
	form    = "application/x-www-form-urlencoded"
)

func answering(t *testing.T, status int, body string) (*vendortest.Server, *xiaomi.Vendor, *xiaomi.Config) {
	t.Helper()
	s := vendortest.NewServer(t, func(*vendortest.Request) (int, string) { return status, body })
	c := vendortest.Config[xiaomi.Config](t)
	c.URL, c.Global, c.Europe, c.India, c.Russia = s.URL, s.URL+"/global", s.URL+"/europe", s.URL+"/india", s.URL+"/russia"
	v, err := xiaomi.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s, v, c
}

func TestRequestsAreWhatXiaomiDocuments(t *testing.T) {
	t.Parallel()
	s, v, _ := answering(t, 200, success)
	messages := vendortest.Messages()
	messages["override"] = vendortest.Message(func(m *sender.Message) {
		m.AppPackage = ""
		m.Override = map[string]any{
			"registration_id": "stolen", "notify_type": 2.0, "title": nil,
			"extra": map[string]any{"notify_foreground": "0", "flow_control": 4000.0, "jobkey": nil},
		}
	})
	messages["sound-uri"] = vendortest.Message(func(m *sender.Message) {
		m.Notification.Sound, m.Notification.ChannelId = "android.resource://com.example.app/raw/bell", "102"
	})
	vendortest.Golden(t, s, v, vendortest.Credential(t, v, setting), messages)
}

func TestDeDupIDsAreInXiaomisForm(t *testing.T) {
	t.Parallel()
	s, v, _ := answering(t, 200, success)
	seen := map[string]bool{}
	for _, id := range []string{"a", "b", "a"} {
		v.Send(t.Context(), vendortest.Credential(t, v, setting), vendortest.Message(func(m *sender.Message) { m.ID = id }))
		key := s.Requests()[0].Form().Get("extra.jobkey")
		if !regexp.MustCompile(`^[0-9a-zA-Z-][0-9a-zA-Z_-]{0,19}$`).MatchString(key) {
			t.Errorf("the id is %q", key)
		}
		seen[key] = true
	}
	if len(seen) != 2 {
		t.Errorf("the ids are %v", seen)
	}
}

func TestThePayloadCanBeEscapedTwice(t *testing.T) {
	t.Parallel()
	s, v, c := answering(t, 200, success)
	c.EscapePayload = true
	m := vendortest.Message(nil)
	v.Send(t.Context(), vendortest.Credential(t, v, setting), m)
	if got := s.Requests()[0].Form().Get("payload"); got != url.QueryEscape(m.AppData()) {
		t.Errorf("the payload is %s", got)
	}
}

func TestAnAppsRegionHasItsHost(t *testing.T) {
	t.Parallel()
	s, v, _ := answering(t, 200, success)
	for region, path := range map[string]string{"china": "", "global": "/global", "europe": "/europe", "india": "/india", "russia": "/russia"} {
		c := vendortest.Credential(t, v, `{"app_secret":"s","package":"p","region":"`+region+`"}`)
		vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), sender.Accepted)
		if got := s.Requests()[0].Path; got != path+"/v3/message/regid" {
			t.Errorf("%s is at %s", region, got)
		}
	}
}

func TestEveryCodeHasItsOutcome(t *testing.T) {
	t.Parallel()
	s, v, _ := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	answer := func(status int, body string, want sender.Outcome) {
		s.Script(func(*vendortest.Request) (int, string) { return status, body })
		vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil)), want)
	}
	for _, code := range xiaomi.Codes() {
		if list, ok := strings.CutPrefix(code.Code, "target "); ok {
			answer(200, fmt.Sprintf(`{"code":0,"data":{"id":"1","%s":"x,token-1"}}`, list), code.Outcome)
		} else if status, ok := vendortest.Status(code.Code); ok {
			answer(status, "<html>", code.Outcome)
		} else {
			answer(200, fmt.Sprintf(`{"result":"error","code":%s,"reason":"of token-1"}`, code.Code), code.Outcome)
			answer(200, fmt.Sprintf(`{"result":"error","code":"%s","reason":"of token-1","data":""}`, code.Code), code.Outcome)
		}
	}
	answer(200, `{"code":4711,"reason":"of token-1"}`, sender.Retry)
	answer(200, `{"code":0,"data":{"channel_exceed_quota":false}}`, sender.Accepted)
	answer(200, ``, sender.Retry)
	answer(401, ``, sender.CredentialBad)
	s.Script(func(*vendortest.Request) (int, string) { return 200, `{"code":10029}` })
	vendortest.Outcomes(t, v.Send(t.Context(), c, vendortest.Message(nil, "token-1", "token-2")), sender.Rejected, sender.Rejected)
}

func TestSomeTokensOfABatchAreVoid(t *testing.T) {
	t.Parallel()
	_, v, _ := answering(t, 200, `{"result":"ok","code":0,"data":{"id":"r","bad_regids":"token-2,token-4"}}`)
	results := v.Send(t.Context(), vendortest.Credential(t, v, setting), vendortest.Message(nil, "token-1", "token-2", "token-3"))
	vendortest.Outcomes(t, results, sender.Accepted, sender.TokenGone, sender.Accepted)
}

func TestWhatXiaomiWouldRefuseIsNotSent(t *testing.T) {
	t.Parallel()
	s, v, _ := answering(t, 200, success)
	m := vendortest.Message(func(m *sender.Message) { m.Payload = strings.Repeat("x", 4096) })
	vendortest.Outcomes(t, v.Send(t.Context(), vendortest.Credential(t, v, setting), m), sender.Rejected)
	if len(s.Requests()) > 0 {
		t.Error("Xiaomi was asked")
	}
}

func TestAnOverrideThatIsNoJSONIsRejected(t *testing.T) {
	t.Parallel()
	s, v, _ := answering(t, 200, success)
	m := vendortest.Message(func(m *sender.Message) { m.Override = map[string]any{"time_to_send": math.NaN()} })
	vendortest.Outcomes(t, v.Send(t.Context(), vendortest.Credential(t, v, setting), m), sender.Rejected)
	if len(s.Requests()) > 0 {
		t.Error("Xiaomi was asked")
	}
}

func TestWrongCredentialsNameTheirField(t *testing.T) {
	t.Parallel()
	_, v, _ := answering(t, 200, success)
	vendortest.WrongFields(t, v, map[string]string{
		`{}`:                         "app_secret",
		`{"app_secret":"hunter2"}`:   "package",
		`{"app_secret":" hunter2 "}`: "app_secret",
		`{"secret":"hunter2"}`:       "secret",
		`{"app_secret":"hunter2","package":"p","region":"mars"}`: "region",
		`{"app_secret":"hunter2","package":"p","categories":[]}`: "categories",
	})
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	_, v, _ := answering(t, 200, success)
	for _, known := range append(xiaomi.ReceiptCodes(), sender.ReceiptCode{Code: "4711"}) {
		for _, kind := range []string{known.Code, `"` + known.Code + `"`} {
			data := fmt.Sprintf(`{"m-1":{"param":"t","type":%s,"targets":"a,a,b","jobkey":"k","barStatus":"Enable","timestamp":1}}`, kind)
			body := url.Values{"data": {data}}.Encode()
			receipts, _, err := v.Receipts(nil, vendortest.Callback(t, form, nil), []byte(body))
			if err != nil || len(receipts) != 2 || receipts[0].What != known.What || receipts[0].Tag != "t" || receipts[0].Token == receipts[1].Token {
				t.Errorf("%s: %+v, %v", data, receipts, err)
			}
		}
	}
	for _, garbage := range []string{"", "garbage", "data=%zz", "data=[1]", "data=" + url.QueryEscape(`{"m":1}`)} {
		if receipts, _, err := v.Receipts(nil, vendortest.Callback(t, form, nil), []byte(garbage)); err == nil {
			t.Errorf("%q is %v", garbage, receipts)
		}
	}
}

func FuzzReceipts(f *testing.F) {
	v, err := xiaomi.New(&xiaomi.Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("data=" + url.QueryEscape(`{"m-1":{"param":"t","type":1,"targets":"a,b"}}`)))
	f.Add([]byte(`data={}`))
	f.Add([]byte(`garbage`))
	f.Fuzz(func(t *testing.T, body []byte) {
		receipts, answer, err := v.Receipts(nil, vendortest.Callback(t, form, nil), body)
		if (err == nil) != (answer != nil) || err != nil && receipts != nil {
			t.Errorf("%v, %s, %v", receipts, answer, err)
		}
	})
}

package honor_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/honor"
	"github.com/halleypush/halley/services/senders/internal/vendortest"
)

const (
	setting   = `{"app_id":"1001","client_id":"c-1","client_secret":"hunter2","categories":{"orders":"LOW"},"badge_class":"com.example.app.Main"}`
	success   = `{"code":200,"message":"ok","data":{"sendResult":true,"requestId":"r-1","failTokens":[],"expireTokens":[]}}`
	tokenPath = "/auth/token"
)

func answering(t *testing.T, status int, body string) (*vendortest.Server, *honor.Vendor) {
	t.Helper()
	s := vendortest.NewServer(t, vendortest.OAuth(tokenPath, func(*vendortest.Request) (int, string) { return status, body }))
	c := vendortest.Config[honor.Config](t)
	c.URL, c.TokenURL = s.URL, s.URL+tokenPath
	v, err := honor.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func TestRequestsAreWhatHonorDocuments(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	v.Send(t.Context(), c, vendortest.Message(nil)) // the access token is there, then
	messages := vendortest.Messages()
	messages["override"] = vendortest.Message(func(m *sender.Message) {
		m.Override = map[string]any{"token": []any{"stolen"}, "android": map[string]any{"notification": map[string]any{"style": 1, "bigTitle": "t", "bigBody": "b"}}}
	})
	vendortest.Golden(t, s, v, c, messages)
}

func TestEveryCodeHasItsOutcome(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	answer := func(status int, body string, want sender.Outcome) {
		s.Script(vendortest.OAuth(tokenPath, func(*vendortest.Request) (int, string) { return status, body }))
		vendortest.Outcomes(t, v.Send(t.Context(), vendortest.Credential(t, v, setting), vendortest.Message(nil)), want)
	}
	for _, code := range honor.Codes() {
		if list, ok := strings.CutPrefix(code.Code, "target "); ok {
			answer(200, fmt.Sprintf(`{"code":200,"data":{"%s":["token-1"]}}`, list), code.Outcome)
		} else if status, ok := vendortest.Status(code.Code); ok {
			answer(status, "<html>", code.Outcome)
		} else {
			answer(200, fmt.Sprintf(`{"code":%s,"msg":"of token-1","data":{"failTokens":["x"]}}`, code.Code), code.Outcome)
			answer(200, fmt.Sprintf(`{"code":%q,"message":"of token-1","data":{"failTokens":["x"]}}`, code.Code), code.Outcome)
		}
	}
	for body, want := range map[string]sender.Outcome{
		`{"code":"0","data":{"sendResult":true}}`:                 sender.Accepted,
		`{"code":"4711","message":"of token-1"}`:                  sender.Rejected,
		`{"code":"4711","data":{"expireTokens":["token-1"]}}`:     sender.TokenGone,
		`{"code":"80300007","data":{"expireTokens":["token-1"]}}`: sender.TokenGone,
		`{"code":"81000001","data":{"failTokens":["token-1"]}}`:   sender.Retry,
		`{"code":"80100001","data":{"failTokens":["token-1"]}}`:   sender.Rejected,
		`{"code":80100000}`: sender.Retry,
		``:                  sender.Rejected,
	} {
		answer(200, body, want)
	}
}

func TestSomeTokensOfABatchAreVoid(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"200", "80100000"} {
		_, v := answering(t, 200, `{"code":`+code+`,"data":{"requestId":"r","failTokens":["token-3"],"expireTokens":["token-2"]}}`)
		vendortest.Outcomes(t, v.Send(t.Context(), vendortest.Credential(t, v, setting), vendortest.Message(nil, "token-1", "token-2", "token-3")),
			sender.Accepted, sender.TokenGone, sender.Retry)
	}
}

func TestAnExpiredAccessTokenIsFetchedOnce(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	vendortest.RefreshedOnce(t, s, v, vendortest.Credential(t, v, setting), tokenPath, `{"code":80200003,"message":"expired"}`, success)
}

func TestWhatHonorWouldRefuseIsNotSent(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	m := vendortest.Message(func(m *sender.Message) { m.Payload = strings.Repeat("x", 4096) })
	vendortest.Outcomes(t, v.Send(t.Context(), vendortest.Credential(t, v, setting), m), sender.Rejected)
	if len(s.Requests()) > 0 {
		t.Error("Honor was asked")
	}
}

func TestWrongCredentialsNameTheirField(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, success)
	vendortest.WrongFields(t, v, map[string]string{
		`{}`:                             "app_id",
		`{"app_id":"1"}`:                 "client_id",
		`{"app_id":"1","client_id":"2"}`: "client_secret",
		`{"app_secret":"hunter2"}`:       "app_secret",
		`{"app_id":"1","client_id":"2","client_secret":"hunter2","category":"IM"}`:           "category",
		`{"app_id":"1","client_id":"2","client_secret":"hunter2","categories":{"a":"HIGH"}}`: "categories",
	})
}

func TestACheckFetchesAnAccessToken(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	if note, err := v.Check(t.Context(), vendortest.Credential(t, v, setting)); err != nil || note == "" {
		t.Errorf("%q, %v", note, err)
	}
	s.Script(func(*vendortest.Request) (int, string) { return 401, `{"error":"invalid_client"}` })
	if _, err := v.Check(t.Context(), vendortest.Credential(t, v, setting)); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a refused client: %v", err)
	}
	s.Script(func(*vendortest.Request) (int, string) { return 503, "" })
	if note, err := v.Check(t.Context(), vendortest.Credential(t, v, setting)); err != nil || !strings.Contains(note, "503") {
		t.Errorf("without Honor: %q, %v", note, err)
	}
}

func TestReceiptsInEveryFormThatIsLikely(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	for _, known := range append(honor.ReceiptCodes(), sender.ReceiptCode{Code: "4711"}) {
		for _, form := range []string{`[%s,%[1]s]`, `{"statuses":[%s,%[1]s]}`, `{"data":[%s,%[1]s]}`} {
			body := fmt.Sprintf(form, `{"token":"a","status":`+known.Code+`,"biTag":"t","appId":"1"}`)
			receipts, _, err := v.Receipts(c, vendortest.Callback(t, "application/json", nil), []byte(body))
			if err != nil || len(receipts) != 2 || receipts[1].What != known.What || receipts[1].Tag != "t" || receipts[1].Token != "a" {
				t.Errorf("%s: %+v, %v", body, receipts, err)
			}
		}
	}
}

func FuzzReceipts(f *testing.F) {
	v, err := honor.New(&honor.Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"statuses":[{"token":"a","status":0,"biTag":"t"}]}`))
	f.Add([]byte(`[{"status":[]}]`))
	f.Add([]byte(`garbage`))
	f.Fuzz(func(t *testing.T, body []byte) {
		receipts, answer, err := v.Receipts(nil, vendortest.Callback(t, "application/json", nil), body)
		if (err == nil) != (answer != nil) || err != nil && receipts != nil {
			t.Errorf("%v, %s, %v", receipts, answer, err)
		}
	})
}

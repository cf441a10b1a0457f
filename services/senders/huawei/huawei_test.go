package huawei_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/huawei"
	"github.com/halleypush/halley/services/senders/internal/vendortest"
)

const (
	setting = `{"app_id":"1001","app_secret":"hunter2","category":"WORK","categories":{"orders":"EXPRESS"},"badge_class":"com.example.app.Main"}`
	success = `{"code":"80000000","msg":"Success","requestId":"r-1"}`
)

// answering gives access tokens t-1, t-2, … and the same answer to everything else.
func answering(t *testing.T, status int, body string) (*vendortest.Server, *huawei.Vendor) {
	t.Helper()
	s := vendortest.NewServer(t, vendortest.OAuth("/oauth2/v3/token", func(*vendortest.Request) (int, string) { return status, body }))
	c := vendortest.Config[huawei.Config](t)
	c.URL, c.TokenURL = s.URL, s.URL+"/oauth2/v3/token"
	v, err := huawei.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func TestRequestsAreWhatHuaweiDocuments(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	v.Send(t.Context(), c, vendortest.Message(nil)) // the access token is there, then
	vendortest.Golden(t, s, v, c, vendortest.Messages())
	vendortest.Golden(t, s, v, c, map[string]*sender.Message{
		"override": vendortest.Message(func(m *sender.Message) {
			m.Override = map[string]any{"message": map[string]any{"token": []any{"stolen"}, "android": map[string]any{
				"ttl": "60s", "bi_tag": nil, "notification": map[string]any{"style": 1, "big_title": "long", "big_body": "longer"},
			}}}
		}),
	})
	urgent := vendortest.Credential(t, v, `{"app_id":"1001","app_secret":"s","project_id":"p/1","urgent":true}`)
	v.Send(t.Context(), urgent, vendortest.Message(nil))
	messages := vendortest.Messages()
	vendortest.Golden(t, s, v, urgent, map[string]*sender.Message{
		"urgent": messages["everything"], "urgent-data": messages["data"],
	})
}

func TestEveryCodeHasItsOutcome(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	for _, code := range huawei.Codes() {
		status, body := 200, fmt.Sprintf(`{"code":%q,"msg":"of token-1","requestId":"r"}`, code.Code)
		if code.Code == "80100000" {
			body = `{"code":"80100000","msg":"{\"success\":1,\"failure\":1,\"illegal_tokens\":[\"x\"]}"}`
		}
		if of, ok := vendortest.Status(code.Code); ok {
			status, body = of, "<html>"
		}
		s.Script(vendortest.OAuth("/oauth2/v3/token", func(*vendortest.Request) (int, string) { return status, body }))
		vendortest.Outcomes(t, v.Send(t.Context(), vendortest.Credential(t, v, setting), vendortest.Message(nil)), code.Outcome)
	}
	for body, want := range map[string]sender.Outcome{
		`{"code":80000000}`:                    sender.Accepted,
		`{"code":"4711","msg":"of token-1"}`:   sender.Retry,
		`{"code":"80100000","msg":"nonsense"}`: sender.Retry,
		``:                                     sender.Retry,
	} {
		s.Script(vendortest.OAuth("/oauth2/v3/token", func(*vendortest.Request) (int, string) { return 200, body }))
		vendortest.Outcomes(t, v.Send(t.Context(), vendortest.Credential(t, v, setting), vendortest.Message(nil)), want)
	}
}

func TestSomeTokensOfABatchAreVoid(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, `{"code":"80100000","requestId":"r","msg":"{\"success\":2,\"failure\":1,\"illegal_tokens\":[\"token-2\"]}"}`)
	vendortest.Outcomes(t, v.Send(t.Context(), vendortest.Credential(t, v, setting), vendortest.Message(nil, "token-1", "token-2", "token-3")),
		sender.Accepted, sender.TokenGone, sender.Accepted)
}

func TestAnExpiredAccessTokenIsFetchedOnce(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	vendortest.RefreshedOnce(t, s, v, c, "/oauth2/v3/token", `{"code":"80200003","msg":"expired"}`, success)
}

func TestARefusedClientIsABadCredential(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	s.Script(func(*vendortest.Request) (int, string) { return 400, `{"error":1101,"error_description":"hunter2"}` })
	vendortest.Outcomes(t, v.Send(t.Context(), vendortest.Credential(t, v, setting), vendortest.Message(nil)), sender.CredentialBad)
}

func TestWhatHuaweiWouldRefuseIsNotSent(t *testing.T) {
	t.Parallel()
	s, v := answering(t, 200, success)
	c := vendortest.Credential(t, v, setting)
	for _, m := range []*sender.Message{
		vendortest.Message(func(m *sender.Message) { m.Payload = strings.Repeat("x", 4096) }),
		vendortest.Message(func(m *sender.Message) { m.Override = map[string]any{"message": "x"} }),
	} {
		vendortest.Outcomes(t, v.Send(t.Context(), c, m), sender.Rejected)
	}
	if len(s.Requests()) > 0 {
		t.Error("Huawei was asked")
	}
}

func TestWrongCredentialsNameTheirField(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, success)
	vendortest.WrongFields(t, v, map[string]string{
		`{}`:                                "app_id",
		`{"app_id":"1"}`:                    "app_secret",
		`{"app_id":"1","secret":"hunter2"}`: "secret",
		`{"app_id":"1","app_secret":"hunter2","receipt_user":"u"}`: "receipt_key",
		`{"app_id":"1","app_secret":"hunter2","receipt_key":"k"}`:  "receipt_user",
		`{"app_id":"1","app_secret":"hunter2","urgent":"yes"}`:     "urgent",
	})
}

func TestACheckReachesNoPhone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		answer string
		good   bool
		note   bool
	}{
		{200, `{"code":"80300007","msg":"illegal"}`, true, false},
		{200, success, true, false},
		{200, `{"code":"80300002"}`, false, false},
		{404, ``, false, false},
		{503, ``, true, true},
	} {
		s, v := answering(t, c.status, c.answer)
		note, err := v.Check(t.Context(), vendortest.Credential(t, v, setting))
		if (err == nil) != c.good || (note != "") != c.note {
			t.Errorf("%s: %q, %v", c.answer, note, err)
		}
		for _, r := range s.Requests() {
			if strings.Contains(r.Path, "send") && !strings.Contains(string(r.Body), `"validate_only":true`) {
				t.Errorf("sent %s", r.Body)
			}
		}
	}
}

func TestReceiptsNeedTheSignatureThatIsSetUp(t *testing.T) {
	t.Parallel()
	_, v := answering(t, 200, success)
	vendortest.SignedReceipts(t, v, setting)
}

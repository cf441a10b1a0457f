package vendortest

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// Message returns a plain notification for tokens, changed as a test wants it.
func Message(change func(*sender.Message), tokens ...string) *sender.Message {
	if len(tokens) == 0 {
		tokens = []string{"token-1"}
	}
	m := &sender.Message{
		PushID: "01935f3e-0000-7000-8000-000000000001", ID: "01935f3e-0000-5000-8000-000000000002",
		Tag: "01935f3e000070008000000000000001-d7", TTL: time.Hour, AppPackage: "com.example.app",
		Notification: &pushv1.Notification{Title: "Hi", Body: "there"},
	}
	for _, token := range tokens {
		m.Targets = append(m.Targets, sender.Target{Token: token})
	}
	if change != nil {
		change(m)
	}
	return m
}

// Messages returns messages that together hold everything a push can.
func Messages() map[string]*sender.Message {
	click := func(kind pushv1.Click_Type, value string) *sender.Message {
		return Message(func(m *sender.Message) { m.Notification.Click = &pushv1.Click{Type: kind, Value: value} })
	}
	return map[string]*sender.Message{
		"plain":  Message(nil),
		"batch":  Message(nil, "token-1", "token-2", "token-3"),
		"url":    click(pushv1.Click_URL, "https://example.com/orders?id=7&x=<y>"),
		"page":   click(pushv1.Click_PAGE, "com.example.app.OrderActivity"),
		"intent": click(pushv1.Click_INTENT, "intent://orders/7#Intent;scheme=example;end"),
		"everything": Message(func(m *sender.Message) {
			m.Notification = &pushv1.Notification{
				Title: "Hi", Subtitle: "sub", Body: "there", Image: "https://example.com/p.png", Sound: "ping", Group: "orders",
				ChannelId: "orders", Badge: &pushv1.Badge{Change: &pushv1.Badge_Set{Set: 100}},
				Click: &pushv1.Click{Type: pushv1.Click_APP},
			}
			m.Data, m.User, m.CollapseKey, m.High = map[string]string{"k": "v"}, "u_1", "order-7", true
			m.TTL, m.ReceiptURL = 90*time.Minute, "https://push.example.com/receipts/x/app/0123456789abcdef0123456789abcdef"
		}),
		"low": Message(func(m *sender.Message) {
			m.Low, m.TTL = true, time.Second
			m.Notification.Badge, m.Notification.Sound = &pushv1.Badge{Change: &pushv1.Badge_Add{Add: 1}}, "default"
			m.ReceiptURL = "https://push.example.com/" + strings.Repeat("x", 300)
		}),
		"data": Message(func(m *sender.Message) {
			m.Notification, m.Data, m.High = nil, map[string]string{"k": "v"}, true
		}),
		"payload": Message(func(m *sender.Message) { m.Payload = "an app's own <text>" }),
		"test":    Message(func(m *sender.Message) { m.Sandbox = true }),
	}
}

// WrongFields checks that each credential is refused with its field named, and without the secret "hunter2".
func WrongFields(t *testing.T, v sender.Vendor, byCredential map[string]string) {
	t.Helper()
	for credential, want := range byCredential {
		_, err := v.Parse([]byte(credential))
		var field *sender.FieldError
		if !errors.As(err, &field) || field.Field != want {
			t.Errorf("%s: %v, not about %s", credential, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error shows the secret", credential)
		}
	}
}

// Outcomes checks what became of targets, in their order.
func Outcomes(t *testing.T, got []sender.Result, want ...sender.Outcome) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d results, not %d: %+v", len(got), len(want), got)
	}
	for i, r := range got {
		if r.Outcome != want[i] {
			t.Errorf("target %d is %s (%s), not %s", i, Name(r.Outcome), r.Code, Name(want[i]))
		}
		if strings.Contains(r.Code, "token-") || strings.Contains(r.Code, "hunter2") {
			t.Errorf("the code shows a token or a secret: %s", r.Code)
		}
	}
}

// Callback returns a request of the vendor with receipts.
func Callback(t testing.TB, media string, body []byte) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/receipts/x/app/secret", strings.NewReader(string(body)))
	r.Header.Set("Content-Type", media)
	return r
}

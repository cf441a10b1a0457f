package apns_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/sender"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/senders/apns"
)

// apple answers as a test says, over HTTP/2.
type apple struct {
	*httptest.Server
	mu      sync.Mutex
	status  int
	body    string
	request *http.Request
	payload []byte
}

func newApple(t *testing.T) (*apple, *apns.Vendor) {
	t.Helper()
	a := &apple{status: 200}
	a.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.request = r
		a.payload, _ = io.ReadAll(r.Body)
		w.Header().Set("apns-id", r.Header.Get("apns-id"))
		w.WriteHeader(a.status)
		_, _ = io.WriteString(w, a.body)
	}))
	a.EnableHTTP2 = true
	a.StartTLS()
	t.Cleanup(a.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := apns.New(&apns.Config{
		Production: a.URL, Sandbox: a.URL + "/sandbox", Manage: a.URL + "/manage", ManageSandbox: a.URL + "/manage/sandbox", CA: ca,
	})
	if err != nil {
		t.Fatal(err)
	}
	return a, v
}

func p8(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func credential(t *testing.T, v *apns.Vendor) sender.Credential {
	t.Helper()
	text, err := json.Marshal(map[string]string{"bundle_id": "com.example.app", "key": p8(t), "key_id": "ABCDE12345", "team_id": "TEAM123456"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := v.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func message(change func(*sender.Message)) *sender.Message {
	m := &sender.Message{
		PushID: "01935f3e-0000-7000-8000-000000000001", ID: "01935f3e-0000-5000-8000-000000000002", TTL: time.Hour,
		Notification: &pushv1.Notification{Title: "Hi", Body: "there"},
		Targets:      []sender.Target{{Token: strings.Repeat("ab", 32)}},
	}
	if change != nil {
		change(m)
	}
	return m
}

func TestRequestsAreWhatAppleDocuments(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  func(*sender.Message)
		headers map[string]string
		body    string
	}{
		"alert": {
			nil,
			map[string]string{"apns-topic": "com.example.app", "apns-push-type": "alert", "apns-priority": "10"},
			`{"aps":{"alert":{"body":"there","title":"Hi"}},"push_id":"01935f3e-0000-7000-8000-000000000001"}`,
		},
		"everything": {
			func(m *sender.Message) {
				m.Notification = &pushv1.Notification{
					Title: "Hi", Subtitle: "sub", Body: "there", Image: "https://a/b.png", Sound: "ping.caf", Group: "g",
					Badge: &pushv1.Badge{Change: &pushv1.Badge_Set{Set: 3}},
					Click: &pushv1.Click{Type: pushv1.Click_URL, Value: "https://a/"},
				}
				m.Data, m.User, m.CollapseKey = map[string]string{"k": "v"}, "u_1", "order-7"
				m.Override = map[string]any{"aps": map[string]any{"interruption-level": "time-sensitive", "sound": nil}}
			},
			map[string]string{"apns-collapse-id": "order-7"},
			`{"aps":{"alert":{"body":"there","subtitle":"sub","title":"Hi"},"badge":3,"interruption-level":"time-sensitive","mutable-content":1,"thread-id":"g"},` +
				`"click":{"type":"url","value":"https://a/"},"data":{"k":"v"},"image":"https://a/b.png","push_id":"01935f3e-0000-7000-8000-000000000001","user":"u_1"}`,
		},
		"data": {
			func(m *sender.Message) { m.Notification, m.Data, m.High = nil, map[string]string{"k": "v"}, true },
			map[string]string{"apns-push-type": "background", "apns-priority": "5"},
			`{"aps":{"content-available":1},"data":{"k":"v"},"push_id":"01935f3e-0000-7000-8000-000000000001"}`,
		},
		"Live Activity": {
			func(m *sender.Message) {
				m.Notification = nil
				m.Override = map[string]any{
					"headers": map[string]any{"push_type": "liveactivity", "priority": 10, "token": strings.Repeat("cd", 32)},
					"aps":     map[string]any{"content-available": nil, "event": "update", "timestamp": 1, "content-state": map[string]any{"n": 1}},
				}
			},
			map[string]string{"apns-topic": "com.example.app.push-type.liveactivity", "apns-push-type": "liveactivity", "apns-priority": "10"},
			`{"aps":{"content-state":{"n":1},"event":"update","timestamp":1},"push_id":"01935f3e-0000-7000-8000-000000000001"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, v := newApple(t)
			m := message(c.change)
			results := v.Send(t.Context(), credential(t, v), m)
			if len(results) != 1 || results[0].Outcome != sender.Accepted || results[0].VendorID != m.ID {
				t.Fatalf("%+v", results)
			}
			if got := string(a.payload); got != c.body {
				t.Errorf("the payload is\n%s, not\n%s", got, c.body)
			}
			for header, want := range c.headers {
				if got := a.request.Header.Get(header); got != want {
					t.Errorf("%s is %q, not %q", header, got, want)
				}
			}
			if !strings.HasPrefix(a.request.Header.Get("authorization"), "bearer ey") || a.request.ProtoMajor != 2 {
				t.Errorf("asked with %v over HTTP/%d", a.request.Header["Authorization"], a.request.ProtoMajor)
			}
		})
	}
}

func TestEveryAnswerHasItsOutcome(t *testing.T) {
	t.Parallel()
	a, v := newApple(t)
	c := credential(t, v)
	for _, code := range append(apns.Codes(),
		apns.Code{Status: 403, Reason: "SomethingNew", Outcome: sender.CredentialBad}, apns.Code{Status: 418, Outcome: sender.Rejected}) {
		a.mu.Lock()
		a.status, a.body = code.Status, fmt.Sprintf(`{"reason":%q,"timestamp":1732330000000}`, code.Reason)
		a.mu.Unlock()
		r := v.Send(t.Context(), c, message(nil))[0]
		if r.Outcome != code.Outcome {
			t.Errorf("%d %s is %v, not %v", code.Status, code.Reason, r.Outcome, code.Outcome)
		}
		if code.Status == 410 && r.GoneAt.UnixMilli() != 1732330000000 {
			t.Errorf("gone since %v", r.GoneAt)
		}
	}
	a.Close()
	if r := v.Send(t.Context(), c, message(nil))[0]; r.Outcome != sender.Retry || strings.Contains(r.Code, "abab") {
		t.Errorf("without a server: %+v", r)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if r := v.Send(ended, c, message(nil))[0]; r.Outcome != sender.Retry {
		t.Errorf("without time: %+v", r)
	}
}

func TestWhatAppleWouldRefuseIsNotSent(t *testing.T) {
	t.Parallel()
	a, v := newApple(t)
	c := credential(t, v)
	for name, change := range map[string]func(*sender.Message){
		"too large": func(m *sender.Message) { m.Payload = strings.Repeat("x", 4096) },
		"push type": func(m *sender.Message) {
			m.Override = map[string]any{"headers": map[string]any{"push_type": "nonsense"}}
		},
		"wrong header": func(m *sender.Message) { m.Override = map[string]any{"headers": []any{1}} },
	} {
		if r := v.Send(t.Context(), c, message(change))[0]; r.Outcome != sender.Rejected || r.Code == "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if a.request != nil {
		t.Error("Apple was asked")
	}
}

func TestWrongCredentialsNameTheirField(t *testing.T) {
	t.Parallel()
	_, v := newApple(t)
	key := p8(t)
	for name, c := range map[string]struct {
		fields map[string]string
		want   string
	}{
		"nothing":     {nil, "bundle_id"},
		"no key":      {map[string]string{"bundle_id": "a"}, "key"},
		"both":        {map[string]string{"bundle_id": "a", "key": key, "certificate": "x"}, "key"},
		"bad key":     {map[string]string{"bundle_id": "a", "key": "x"}, "key"},
		"key id":      {map[string]string{"bundle_id": "a", "key": key, "key_id": "short"}, "key_id"},
		"team id":     {map[string]string{"bundle_id": "a", "key": key, "key_id": "ABCDE12345"}, "team_id"},
		"certificate": {map[string]string{"bundle_id": "a", "certificate": "AAAA"}, "certificate"},
		"typo":        {map[string]string{"bundel_id": "a"}, "credential"},
	} {
		text, err := json.Marshal(c.fields)
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.Parse(text)
		var field *sender.FieldError
		if !errors.As(err, &field) || field.Field != c.want {
			t.Errorf("%s: %v, not about %s", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: the error shows the key", name)
		}
	}
}

func TestACheckAsksApple(t *testing.T) {
	t.Parallel()
	a, v := newApple(t)
	c := credential(t, v)
	for _, answer := range []struct {
		status int
		reason string
		good   bool
		note   bool
	}{
		{400, "BadDeviceToken", true, false},
		{403, "InvalidProviderToken", false, false},
		{503, "ServiceUnavailable", true, true},
		{400, "TopicDisallowed", false, false},
	} {
		a.mu.Lock()
		a.status, a.body = answer.status, fmt.Sprintf(`{"reason":%q}`, answer.reason)
		a.mu.Unlock()
		note, err := v.Check(t.Context(), c)
		if (err == nil) != answer.good || (note != "") != answer.note {
			t.Errorf("%s: %q, %v", answer.reason, note, err)
		}
	}
}

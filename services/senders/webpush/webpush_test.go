package webpush

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/internal/vendortest"
)

var b64 = base64.RawURLEncoding

// setting has the private key of RFC 8292's and 8291's examples for tests.
const setting = `{"private_key":"yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw","subject":"mailto:push@example.com"}`

func unbase(t *testing.T, text string) []byte {
	t.Helper()
	raw, err := b64.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// RFC 8291, appendix A.
func TestEncryptionIsThatOfTheStandardsExample(t *testing.T) {
	t.Parallel()
	own, err := ecdh.P256().NewPrivateKey(unbase(t, "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"))
	if err != nil {
		t.Fatal(err)
	}
	browser, err := ecdh.P256().NewPublicKey(unbase(t, "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := encrypt([]byte("When I grow up, I want to be a watermelon"), browser, unbase(t, "BTBZMqHH6r4Tts7J_aSIgg"), own, unbase(t, "DGv6ra1nlYgDCS1FRnbzlw"))
	const want = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_" +
		"yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
	if got := b64.EncodeToString(body); err != nil || got != want {
		t.Errorf("%s, %v", got, err)
	}
}

// browser is a subscription whose messages it can read.
type browser struct {
	key  *ecdh.PrivateKey
	auth []byte
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{key, make([]byte, 16)}
	_, _ = rand.Read(b.auth) // never fails
	return b
}

func (b *browser) subscription(endpoint string) string {
	text, err := json.Marshal(map[string]any{"endpoint": endpoint, "expirationTime": nil, "keys": map[string]string{
		"p256dh": b64.EncodeToString(b.key.PublicKey().Bytes()), "auth": b64.EncodeToString(b.auth),
	}})
	if err != nil {
		panic(err) // texts can be written
	}
	return string(text)
}

// read decrypts a body.
func (b *browser) read(t *testing.T, body []byte) string {
	t.Helper()
	salt, point, sealed := body[:16], body[21:86], body[86:]
	server, err := ecdh.P256().NewPublicKey(point)
	if err != nil {
		t.Fatal(err)
	}
	shared, err := b.key.ECDH(server)
	if err != nil {
		t.Fatal(err)
	}
	derive := func(secret, salt []byte, info string, size int) []byte {
		key, err := hkdf.Key(sha256.New, secret, salt, info, size)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	keying := derive(shared, b.auth, "WebPush: info\x00"+string(b.key.PublicKey().Bytes())+string(point), 32)
	block, err := aes.NewCipher(derive(keying, salt, "Content-Encoding: aes128gcm\x00", 16))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := gcm.Open(nil, derive(keying, salt, "Content-Encoding: nonce\x00", 12), sealed, nil)
	if err != nil || plain[len(plain)-1] != 2 {
		t.Fatalf("%q, %v", plain, err)
	}
	return string(plain[:len(plain)-1])
}

// service is a browser's service that answers by a script.
type service struct {
	*httptest.Server
	v *Vendor

	mu     sync.Mutex
	status int
	answer string
	asked  []*http.Request
	bodies [][]byte
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{status: http.StatusCreated}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // a client that goes away asks nothing
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked, s.bodies = append(s.asked, r), append(s.bodies, body)
		w.Header().Set("Location", "/m/7")
		w.WriteHeader(s.status)
		_, _ = io.WriteString(w, s.answer)
	}))
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c := vendortest.Config[Config](t)
	c.Hosts, c.Private, c.CA = []string{"127.0.0.1"}, true, ca
	v, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.v = v
	return s
}

func (s *service) answers(status int, answer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.answer, s.asked, s.bodies = status, answer, nil, nil
}

func TestMessagesAreEncryptedForTheBrowser(t *testing.T) {
	t.Parallel()
	s, b := newService(t), newBrowser(t)
	c := vendortest.Credential(t, s.v, setting)
	m := vendortest.Message(func(m *sender.Message) { m.CollapseKey, m.High = "order-7", true }, b.subscription(s.URL+"/push/1"))
	for range 2 {
		if r := s.v.Send(t.Context(), c, m); r[0].Outcome != sender.Accepted || r[0].VendorID != "7" {
			t.Fatalf("%+v", r)
		}
	}
	got := b.read(t, s.bodies[0])
	var ends struct {
		At int64 `json:"expires_at"`
	}
	if err := json.Unmarshal([]byte(got), &ends); err != nil {
		t.Fatal(err)
	}
	now := time.UnixMilli(ends.At).Add(-m.TTL)
	if want, err := payload(m, now); err != nil || got != string(want) {
		t.Errorf("the browser reads %s, %v", got, err)
	}
	if time.Since(now).Abs() > time.Minute { // this attempt's time counts, not that of the push
		t.Errorf("it ends at %v", now.Add(m.TTL))
	}
	if bytes.Equal(s.bodies[0][:86], s.bodies[1][:86]) {
		t.Error("salt and key are used twice")
	}
	r := s.asked[0]
	for name, want := range map[string]string{
		"TTL": "3600", "Urgency": "high", "Content-Encoding": "aes128gcm", "Content-Type": "application/octet-stream", "Topic": topic("order-7"),
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	token, key, ok := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "vapid t="), ", k=")
	claims, err := jwt.Parse(token, func(*jwt.Token) (any, error) { return &c.(*credential).key.PublicKey, nil },
		jwt.WithValidMethods([]string{"ES256"}), jwt.WithAudience(s.URL), jwt.WithExpirationRequired())
	if err != nil || !ok || len(unbase(t, key)) != 65 || claims.Claims.(jwt.MapClaims)["sub"] != "mailto:push@example.com" {
		t.Errorf("%v, %q, %v", claims, key, err)
	}
	if s.asked[1].Header.Get("Authorization") != r.Header.Get("Authorization") {
		t.Error("a token is signed for each message")
	}
}

func TestMessagesAreThoseOfTheProtocol(t *testing.T) {
	t.Parallel()
	messages := vendortest.Messages()
	messages["override"] = vendortest.Message(func(m *sender.Message) { m.Override = map[string]any{"icon": "/i.png", "title": nil} })
	for name, m := range messages {
		m.SentAt = time.UnixMilli(1732330000000)
		text, err := payload(m, m.SentAt.Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := json.Indent(&got, text, "", "  "); err != nil {
			t.Fatal(err)
		}
		got.WriteByte('\n')
		path := filepath.Join("testdata", name+".json")
		if os.Getenv("HALLEY_GOLDEN") == "write" {
			if err := os.MkdirAll("testdata", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, got.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Errorf("%s (- golden, + sent):\n%s", name, diff)
		}
	}
}

func TestEveryCodeHasItsOutcome(t *testing.T) {
	t.Parallel()
	s, b := newService(t), newBrowser(t)
	c := vendortest.Credential(t, s.v, setting)
	m := vendortest.Message(nil, b.subscription(s.URL+"/push/1"))
	for _, code := range Codes() {
		text := "of token-1"
		name, about := strings.CutPrefix(code.Code, "mismatch ")
		if about {
			text = `{"reason":"VapidPkHashMismatch"}`
		}
		status, ok := vendortest.Status(name)
		if !ok {
			t.Fatalf("%s is no status", code.Code)
		}
		s.answers(status, text)
		if r := s.v.Send(t.Context(), c, m)[0]; r.Outcome != code.Outcome {
			t.Errorf("%s is %s (%s), not %s", code.Code, vendortest.Name(r.Outcome), r.Code, vendortest.Name(code.Outcome))
		}
		want := 1
		if code.Outcome == sender.CredentialBad { // once more, with a fresh token
			want = 2
		}
		if len(s.asked) != want {
			t.Errorf("%s: %d requests", code.Code, len(s.asked))
		} else if want == 2 && s.asked[0].Header.Get("Authorization") == s.asked[1].Header.Get("Authorization") {
			t.Errorf("%s: the same token again", code.Code)
		}
	}
}

func TestSubscriptionsLeadToServicesOnly(t *testing.T) {
	t.Parallel()
	s, b := newService(t), newBrowser(t)
	c := vendortest.Credential(t, s.v, setting)
	right := b.subscription(s.URL + "/push/1")
	for name, token := range map[string]string{
		"no subscription": "token-1", "no endpoint": "{}",
		"http":           b.subscription("http://127.0.0.1/push"),
		"another host":   b.subscription("https://127.0.0.1.example.com/push"),
		"a user":         b.subscription("https://u@127.0.0.1/push"),
		"no key":         strings.Replace(right, b64.EncodeToString(b.key.PublicKey().Bytes()), "AAAA", 1),
		"a short secret": strings.Replace(right, b64.EncodeToString(b.auth), "AAAA", 1),
	} {
		if r := s.v.Send(t.Context(), c, vendortest.Message(nil, token))[0]; r.Outcome != sender.Rejected {
			t.Errorf("%s is %+v", name, r)
		}
	}
	if len(s.asked) > 0 {
		t.Error("somebody was asked")
	}
	config := *s.v.config
	config.Private = false
	v, err := New(&config)
	if err != nil {
		t.Fatal(err)
	}
	r := v.Send(t.Context(), vendortest.Credential(t, v, setting), vendortest.Message(nil, right))[0]
	if r.Outcome != sender.Retry || !strings.Contains(r.Code, "private address") {
		t.Errorf("a private address is %+v", r)
	}
	for _, host := range []string{"fcm.googleapis.com", "updates.push.services.mozilla.com", "wns2-sn3p.notify.windows.com", "web.push.apple.com"} {
		v := &Vendor{config: vendortest.Config[Config](t)}
		if !v.allows(host) {
			t.Errorf("%s is not allowed", host)
		}
	}
}

func TestWhatServicesWouldRefuseIsNotSent(t *testing.T) {
	t.Parallel()
	s, b := newService(t), newBrowser(t)
	m := vendortest.Message(func(m *sender.Message) { m.Payload = strings.Repeat("x", 4000) }, b.subscription(s.URL))
	if r := s.v.Send(t.Context(), vendortest.Credential(t, s.v, setting), m)[0]; r.Outcome != sender.Rejected || len(s.asked) > 0 {
		t.Errorf("%+v, %d requests", r, len(s.asked))
	}
}

func TestTheLargestMessageFits(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	body, err := encrypt(bytes.Repeat([]byte{'x'}, maxPlaintext), b.key.PublicKey(), b.auth, newBrowser(t).key, make([]byte, saltSize))
	if err != nil || len(body) != recordSize {
		t.Errorf("%d bytes, %v", len(body), err)
	}
}

func TestTheConfigurationIsReadFromAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("service_token: t\nmax_ttl: 24h\nhosts: [push.example.com]\ntoken_life: 1h\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var c Config
	if err := config.Load(path, &c); err != nil || c.MaxTTL != 24*time.Hour || c.Token != time.Hour || len(c.Hosts) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestWrongCredentialsNameTheirField(t *testing.T) {
	t.Parallel()
	s := newService(t)
	vendortest.WrongFields(t, s.v, map[string]string{
		`{}`:                        "private_key",
		`{"private_key":"hunter2"}`: "subject",
		`{"private_key":"hunter2","subject":"mailto:a@b"}`: "private_key",
		strings.Replace(setting, "mailto:", "tel:", 1):     "subject",
		`{"key":"hunter2"}`: "key",
	})
}

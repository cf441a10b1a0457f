package webpush_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/frametest"
	"github.com/halleypush/halley/services/vendorsim/internal/webpush"
)

// rig is a push service with the app demo and one subscription.
type rig struct {
	*frametest.Rig
	t   *testing.T
	App struct {
		Public  string `json:"vapid_public_key"`
		Private string `json:"vapid_private_key"`
	}
	sub webpush.Subscription
}

func start(t *testing.T, more string, options ...frametest.Option) *rig {
	t.Helper()
	r := &rig{t: t, Rig: frametest.Start(t, func(f *frame.Frame) frame.Vendor { return webpush.New(f) }, options...)}
	r.Register(`{"app":"demo"`+more+`}`, &r.App)
	list, err := r.Vendor.Tokens("demo", 1)
	frametest.Must(t, err)
	r.sub = list[0].(webpush.Subscription)
	return r
}

func unbase(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(text)
	frametest.Must(t, err)
	return b
}

// vapid makes the header Authorization as the sheet says: ES256; typ; aud, exp and sub.
func (r *rig) vapid(change func(*jwt.Token)) string {
	r.t.Helper()
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), unbase(r.t, r.App.Private))
	frametest.Must(r.t, err)
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"aud": r.URL, "exp": r.Clock.Now().Add(12 * time.Hour).Unix(), "sub": "mailto:ops@example.com",
	})
	if change != nil {
		change(token)
	}
	text, err := token.SignedString(key)
	frametest.Must(r.t, err)
	return "vapid t=" + text + ", k=" + r.App.Public
}

// encrypt follows the sheet's steps for aes128gcm.
func (r *rig) encrypt(plain string) string {
	r.t.Helper()
	t := r.t
	browser, err := ecdh.P256().NewPublicKey(unbase(t, r.sub.Keys.P256DH))
	frametest.Must(t, err)
	sender, err := ecdh.P256().GenerateKey(rand.Reader)
	frametest.Must(t, err)
	secret, err := sender.ECDH(browser)
	frametest.Must(t, err)
	salt := make([]byte, 16)
	_, err = rand.Read(salt)
	frametest.Must(t, err)
	public := sender.PublicKey().Bytes()
	derive := func(secret, salt []byte, info string, n int) []byte {
		key, err := hkdf.Key(sha256.New, secret, salt, info, n)
		frametest.Must(t, err)
		return key
	}
	ikm := derive(secret, unbase(t, r.sub.Keys.Auth), "WebPush: info\x00"+string(browser.Bytes())+string(public), 32)
	block, err := aes.NewCipher(derive(ikm, salt, "Content-Encoding: aes128gcm\x00", 16))
	frametest.Must(t, err)
	gcm, err := cipher.NewGCM(block)
	frametest.Must(t, err)
	body := binary.BigEndian.AppendUint32(salt, 4096)
	body = append(append(body, 65), public...)
	nonce := derive(ikm, salt, "Content-Encoding: nonce\x00", 12)
	return string(gcm.Seal(body, nonce, []byte(plain+"\x02"), nil))
}

// headers are those of a good message.
func (r *rig) headers() [][2]string {
	r.t.Helper()
	return [][2]string{
		{"Authorization", r.vapid(nil)},
		{"TTL", "60"},
		{"Urgency", "high"},
		{"Topic", "news_1-2"},
		{"Content-Encoding", "aes128gcm"},
		{"Content-Type", "application/octet-stream"},
	}
}

func (r *rig) send(headers [][2]string, body string) frametest.Answer {
	r.t.Helper()
	return r.Do("POST", r.sub.Endpoint, headers, body)
}

// with replaces a header; an empty value removes it.
func with(headers [][2]string, name, value string) [][2]string {
	var changed [][2]string
	for _, h := range headers {
		if h[0] != name {
			changed = append(changed, h)
		}
	}
	if value != "" {
		changed = append(changed, [2]string{name, value})
	}
	return changed
}

const message = `{"title":"Hi","push_id":"01935f3e-0000-7000-8000-000000000001"}`

func TestAMessageIsDecryptedAndAccepted(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]frametest.Option{
		"plain": nil, "TLS": {frametest.OverTLS("h2", "http/1.1")},
	} {
		r := start(t, "", options...)
		a := r.send(r.headers(), r.encrypt(message))
		if a.Status != http.StatusCreated || !strings.HasPrefix(a.Header.Get("Location"), r.URL) || a.Header.Get("TTL") != "60" {
			t.Fatalf("%s: answered %+v", name, a)
		}
		got := r.Last()
		if got.Body != message || got.Tokens[0] != r.sub.Endpoint || got.PushID != "01935f3e-0000-7000-8000-000000000001" ||
			got.App != "demo" || got.Headers["Topic"] != "news_1-2" {
			t.Errorf("%s: recorded %+v", name, got)
		}
	}
}

func TestSubscriptionsAreAsBrowsersMakeThem(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	document, err := json.Marshal(r.sub)
	frametest.Must(t, err)
	if !strings.Contains(string(document), `"expirationTime":null`) || len(unbase(t, r.sub.Keys.P256DH)) != 65 || len(unbase(t, r.sub.Keys.Auth)) != 16 {
		t.Errorf("subscription is %s", document)
	}
	list, err := r.Vendor.Tokens("demo", 2)
	frametest.Must(t, err)
	if list[0].(webpush.Subscription).Keys == list[1].(webpush.Subscription).Keys {
		t.Error("two subscriptions have the same keys")
	}
}

func TestRequestsAreCheckedAsDocumented(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	good, text := r.headers(), r.encrypt(message)
	for name, c := range map[string]struct {
		header, value, body string
		status              int
		errno               string
	}{
		"no ttl":           {"TTL", "", text, 400, "111"},
		"negative ttl":     {"TTL", "-1", text, 400, "111"},
		"ttl 0":            {"TTL", "0", text, 201, ""},
		"urgency":          {"Urgency", "urgent", text, 400, "111"},
		"no urgency":       {"Urgency", "", text, 201, ""},
		"topic of 32":      {"Topic", strings.Repeat("t", 32), text, 201, ""},
		"topic of 33":      {"Topic", strings.Repeat("t", 33), text, 400, "111"},
		"topic with space": {"Topic", "a b", text, 400, "111"},
		"encoding":         {"Content-Encoding", "aesgcm", text, 400, "110"},
		"no encoding":      {"Content-Encoding", "", text, 400, "110"},
		"content type":     {"Content-Type", "application/json", text, 400, "111"},
		"not encrypted":    {"Urgency", "", strings.Repeat(message, 5), 400, "110"},
		"empty":            {"Content-Encoding", "", "", 201, ""},
		"3993 bytes":       {"Urgency", "", r.encrypt(strings.Repeat("x", 3993)), 201, ""},
		"3994 bytes":       {"Urgency", "", r.encrypt(strings.Repeat("x", 3994)), 413, "104"},
		"receipt wanted":   {"Prefer", "respond-async", text, 201, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := r.send(with(good, c.header, c.value), c.body)
			if a.Status != c.status || c.errno != "" && a.Field(t, "errno") != c.errno {
				t.Errorf("answered %d %s, want %d %s", a.Status, a.Body, c.status, c.errno)
			}
		})
	}
	if a := r.Do("POST", "/wpush/v2/unknown-id", good, text); a.Status != 404 || a.Field(t, "errno") != "102" {
		t.Errorf("an unknown endpoint: answered %d %s", a.Status, a.Body)
	}
}

func TestVAPID(t *testing.T) {
	t.Parallel()
	set := func(claim string, value any) func(*jwt.Token) {
		return func(t *jwt.Token) { t.Claims.(jwt.MapClaims)[claim] = value }
	}
	now := time.Now()
	for name, c := range map[string]struct {
		change func(*jwt.Token)
		status int
		reason string // of Apple
	}{
		"good":             {nil, 201, ""},
		"contact by https": {set("sub", "https://example.com"), 201, ""},
		"no contact":       {set("sub", nil), 401, "BadJwtToken"},
		"another origin":   {set("aud", "https://example.com"), 401, "BadJwtToken"},
		"no exp":           {set("exp", nil), 401, "BadJwtToken"},
		"over a day":       {set("exp", now.Add(25*time.Hour).Unix()), 401, "BadJwtToken"},
		"expired":          {set("exp", now.Add(-time.Minute).Unix()), 401, "ExpiredJwtToken"},
		"no typ":           {func(t *jwt.Token) { delete(t.Header, "typ") }, 401, "BadJwtToken"},
	} {
		for service, status := range map[string]int{"mozilla": c.status, "google": c.status, "apple": 403} {
			r := start(t, `,"service":"`+service+`"`)
			a := r.send(with(r.headers(), "Authorization", r.vapid(c.change)), r.encrypt(message))
			if c.status == 201 {
				status = 201
			}
			if a.Status != status || c.status != 201 && service == "apple" && a.Field(t, "reason") != c.reason {
				t.Errorf("%s, %s: answered %d %s, want %d", service, name, a.Status, a.Body, status)
			}
		}
	}
}

func TestTheKeyMustBeTheSubscriptions(t *testing.T) {
	t.Parallel()
	r, other := start(t, ""), start(t, "")
	body := r.encrypt(message)
	r.App, other.App = other.App, r.App
	if a := r.send(r.headers(), body); a.Status != http.StatusForbidden {
		t.Errorf("another key: answered %d %s", a.Status, a.Body)
	}
	if a := r.send(r.headers()[1:], body); a.Status != http.StatusUnauthorized {
		t.Errorf("no key: answered %d %s", a.Status, a.Body)
	}
	apple := start(t, `,"service":"apple"`)
	body = apple.encrypt(message)
	apple.App = other.App
	if a := apple.send(apple.headers(), body); a.Status != 403 || a.Field(t, "reason") != "VapidPkHashMismatch" {
		t.Errorf("another key: Apple answered %d %s", a.Status, a.Body)
	}
	free := start(t, `,"without_key":true`)
	if a := free.send(with(r.headers(), "Authorization", ""), free.encrypt(message)); a.Status != 201 {
		t.Errorf("a subscription without key: answered %d %s", a.Status, a.Body)
	}
	r = start(t, "")
	headers := r.headers()
	r.send(headers, r.encrypt(message))
	r.Frame.Sessions.Expire("demo")
	if a := r.send(headers, r.encrypt(message)); a.Status != 401 {
		t.Errorf("expired by call: answered %d %s", a.Status, a.Body)
	}
	r.Patch(`{"credentials":{"revoked":["demo"]}}`)
	if a := r.send(r.headers(), r.encrypt(message)); a.Status != 403 {
		t.Errorf("revoked: answered %d %s", a.Status, a.Body)
	}
}

func TestTheServiceShortensTheTTL(t *testing.T) {
	t.Parallel()
	for service, want := range map[string]string{"mozilla": "2592000", "google": "2419200"} {
		r := start(t, `,"service":"`+service+`"`)
		if a := r.send(with(r.headers(), "TTL", "9999999"), r.encrypt(message)); a.Status != 201 || a.Header.Get("TTL") != want {
			t.Errorf("%s: answered %d with TTL %s, want %s", service, a.Status, a.Header.Get("TTL"), want)
		}
	}
}

func TestEveryCodeCanBeHad(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	frametest.CheckCodes(t, webpush.Codes())
	headers := r.headers()
	endpoint := r.sub.Endpoint
	for _, c := range webpush.Codes() {
		byTitle := r.Do("POST", endpoint, headers, r.encrypt(`{"notification":{"title":"sim:code=`+c.Code+`"}}`))
		byEndpoint := r.Do("POST", endpoint+"?"+url.QueryEscape("sim:code="+c.Code), headers, r.encrypt(message))
		for _, a := range []frametest.Answer{byTitle, byEndpoint} {
			if a.Status != c.Status {
				t.Errorf("answered %d %s, want %s", a.Status, a.Body, c.Code)
			}
			_, errno, _ := strings.Cut(c.Code, "/")
			if len(errno) == 3 && a.Field(t, "errno") != errno {
				t.Errorf("answered %d %s, want errno %s", a.Status, a.Body, errno)
			}
			if c.Status/100 == 3 && a.Header.Get("Location") == "" {
				t.Errorf("%d without Location", c.Status)
			}
		}
	}
	apple := start(t, `,"service":"apple"`)
	headers = apple.headers()
	for _, reason := range []string{"BadJwtToken", "ExpiredJwtToken", "VapidPkHashMismatch"} {
		a := apple.send(headers, apple.encrypt(`{"title":"sim:code=403/`+reason+`"}`))
		if a.Status != 403 || a.Field(t, "reason") != reason {
			t.Errorf("Apple answered %d %s, want %s", a.Status, a.Body, reason)
		}
	}
	google := start(t, `,"service":"google"`)
	a := google.send(google.headers(), google.encrypt(`{"title":"sim:code=410"}`))
	if a.Status != 410 || strings.HasPrefix(a.Body, "{") {
		t.Errorf("Google answered %d %s, want plain text", a.Status, a.Body)
	}
}

func TestDeadSubscriptionsAndLimits(t *testing.T) {
	t.Parallel()
	r := start(t, "")
	headers := r.headers()
	r.Patch(`{"limit":{"per_second":1,"retry_after":"3s"}}`)
	r.send(headers, r.encrypt(message))
	if a := r.send(headers, r.encrypt(message)); a.Status != 429 || a.Header.Get("Retry-After") != "3" {
		t.Errorf("over the rate: answered %d, Retry-After %s", a.Status, a.Header.Get("Retry-After"))
	}
	r.Patch(`{"invalid_share":1}`)
	if a := r.send(headers, r.encrypt(message)); a.Status != 410 || a.Field(t, "errno") != "106" {
		t.Errorf("dead by share: answered %d %s", a.Status, a.Body)
	}
	r.Patch(`{"outage":{"mode":"503"}}`)
	if a := r.send(headers, r.encrypt(message)); a.Status != 503 || a.Field(t, "errno") != "201" {
		t.Errorf("down: answered %d %s", a.Status, a.Body)
	}
}

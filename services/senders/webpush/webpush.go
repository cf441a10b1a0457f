// Package webpush is the channel to browsers: Web Push (RFC 8030), with messages encrypted for the browser (RFC 8291) and VAPID
// (RFC 8292).
package webpush

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
)

// Config is the configuration of sender-webpush.
type Config struct {
	sender.Config `yaml:",inline"`

	Hosts   []string      `yaml:"hosts" env:"WEBPUSH_HOSTS" default:"fcm.googleapis.com,push.services.mozilla.com,notify.windows.com,push.apple.com" doc:"services that subscriptions may name: hosts, and those below them"`
	Private bool          `yaml:"private" env:"WEBPUSH_PRIVATE" doc:"services may have private addresses; for simulators and behind a proxy"`
	CA      string        `yaml:"ca" env:"WEBPUSH_CA" doc:"file with certificates that sign the services', beside the system's; for simulators"`
	Token   time.Duration `yaml:"token_life" env:"WEBPUSH_TOKEN_LIFE" default:"12h" doc:"how long a VAPID token holds, 24h at the most"`
}

const (
	// maxTTL is how long services keep a message: 28 days at Google, 30 at Mozilla (from memory).
	maxTTL = 28 * 24 * time.Hour
	// concurrency is how many requests of one app are under way.
	concurrency = 200
	// maxOrigins bounds the services that an app's tokens are kept for; there are about four.
	maxOrigins = 64
	// octets is the media type of what is encrypted.
	octets = "application/octet-stream"
)

// Vendor is Web Push.
type Vendor struct {
	config *Config
	client *http.Client
}

var _ sender.Vendor = (*Vendor)(nil)

// New returns the vendor.
func New(c *Config) (*Vendor, error) {
	if c.Token <= 0 || c.Token > 24*time.Hour {
		return nil, errors.New("token_life must be between 0 and 24h")
	}
	client, err := sender.NewClient(concurrency, c.CA)
	if err != nil {
		return nil, err
	}
	if !c.Private {
		// Who subscribes names the address: it must not lead into the operator's own network.
		client.Transport.(*http.Transport).DialContext = (&net.Dialer{Timeout: 10 * time.Second, Control: publicOnly}).DialContext
	}
	return &Vendor{config: c, client: client}, nil
}

func publicOnly(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if ip := at.Addr().Unmap(); !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return errors.New("the service has a private address")
	}
	return nil
}

// Channel returns "webpush".
func (*Vendor) Channel() string { return channel.WebPush }

// Limits returns what services allow.
func (*Vendor) Limits() sender.Limits {
	return sender.Limits{Batch: 1, Concurrency: concurrency, MaxTTL: maxTTL}
}

// credential is an app's. It is set as a JSON object of these fields.
type credential struct {
	sender.Forever `json:"-"`

	// PrivateKey is the VAPID key, 32 bytes in base64url. Subject says whom services may ask: mailto:… or https://…
	PrivateKey string `json:"private_key"`
	Subject    string `json:"subject"`

	key    *ecdsa.PrivateKey
	public string // as browsers get it
	life   time.Duration

	mu     sync.Mutex
	tokens map[string]*sender.TokenSource // guarded by mu: by origin
}

// Parse reads a credential.
func (v *Vendor) Parse(text []byte) (sender.Credential, error) {
	c := &credential{life: v.config.Token, tokens: map[string]*sender.TokenSource{}}
	if err := sender.ParseFields(text, c); err != nil {
		return nil, err
	}
	if err := sender.Required("private_key", c.PrivateKey, "subject", c.Subject); err != nil {
		return nil, err
	}
	raw, err := decode(c.PrivateKey)
	if err == nil {
		c.key, err = ecdsa.ParseRawPrivateKey(elliptic.P256(), raw)
	}
	if err != nil {
		return nil, &sender.FieldError{Field: "private_key", Problem: "must be a P-256 key: 32 bytes in base64url"}
	}
	c.PrivateKey = ""
	if !strings.HasPrefix(c.Subject, "mailto:") && !strings.HasPrefix(c.Subject, "https://") {
		return nil, &sender.FieldError{Field: "subject", Problem: "must begin with mailto: or https://"}
	}
	public, err := c.key.PublicKey.Bytes()
	if err != nil {
		return nil, &sender.FieldError{Field: "private_key", Problem: "is no key"}
	}
	c.public = base64.RawURLEncoding.EncodeToString(public)
	return c, nil
}

// decode reads base64url with or without padding.
func decode(text string) ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
}

// of returns the tokens for a service. Each is signed once in a while, as services want it.
func (c *credential) of(origin string) *sender.TokenSource {
	c.mu.Lock()
	defer c.mu.Unlock()
	source := c.tokens[origin]
	if source == nil {
		if len(c.tokens) >= maxOrigins {
			clear(c.tokens)
		}
		source = &sender.TokenSource{Fetch: func(context.Context) (string, time.Duration, error) {
			token, err := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
				"aud": origin, "exp": time.Now().Add(c.life).Unix(), "sub": c.Subject,
			}).SignedString(c.key)
			return token, c.life / 2, err
		}}
		c.tokens[origin] = source
	}
	return source
}

// subscription is what a browser gives the page, as JSON.PushSubscription: the device's token.
type subscription struct {
	Endpoint string `json:"endpoint"`
	Keys     struct {
		P256DH string `json:"p256dh"`
		Auth   string `json:"auth"`
	} `json:"keys"`

	origin string
	key    *ecdh.PublicKey
	auth   []byte
}

func (v *Vendor) subscription(token string) (*subscription, error) {
	s := &subscription{}
	if json.Unmarshal([]byte(token), s) != nil || s.Endpoint == "" {
		return nil, errors.New("the token is no subscription: a JSON object with endpoint and keys")
	}
	u, err := url.Parse(s.Endpoint)
	if err != nil || u.Scheme != "https" || u.User != nil {
		return nil, errors.New("the subscription's endpoint is no https address")
	}
	if !v.allows(u.Hostname()) {
		return nil, errors.New("the subscription is of a service that hosts does not name")
	}
	s.origin = u.Scheme + "://" + u.Host
	point, err := decode(s.Keys.P256DH)
	if err == nil {
		s.key, err = ecdh.P256().NewPublicKey(point)
	}
	if err != nil {
		return nil, errors.New("the subscription's p256dh is no key")
	}
	if s.auth, err = decode(s.Keys.Auth); err != nil || len(s.auth) != authSize {
		return nil, errors.New("the subscription's auth has not 16 bytes")
	}
	return s, nil
}

func (v *Vendor) allows(host string) bool {
	for _, known := range v.config.Hosts {
		if host == known || strings.HasSuffix(host, "."+known) {
			return true
		}
	}
	return false
}

// Send makes one request; a second one only if the VAPID token is not taken.
func (v *Vendor) Send(ctx context.Context, given sender.Credential, m *sender.Message) []sender.Result {
	text, err := payload(m, time.Now())
	if err != nil {
		return sender.Same(m, sender.Result{Outcome: sender.Rejected, Code: err.Error()})
	}
	s, err := v.subscription(m.Targets[0].Token)
	if err != nil {
		return sender.Same(m, sender.Result{Outcome: sender.Rejected, Code: err.Error()})
	}
	return sender.Same(m, v.send(ctx, given.(*credential), m, s, text))
}

func (v *Vendor) send(ctx context.Context, c *credential, m *sender.Message, s *subscription, text []byte) (r sender.Result) {
	own, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return sender.ResultOf(err)
	}
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	body, err := encrypt(text, s.key, s.auth, own, salt)
	if err != nil {
		return sender.ResultOf(err)
	}
	headers := []string{"Content-Encoding", "aes128gcm", "TTL", strconv.Itoa(int(m.TTL / time.Second)), "Urgency", urgency(m)}
	if m.CollapseKey != "" {
		headers = append(headers, "Topic", topic(m.CollapseKey))
	}
	err = c.of(s.origin).Try(ctx, func(token string) (refused bool) {
		a, err := sender.Post(ctx, v.client, s.Endpoint, octets, body, append(headers, "Authorization", "vapid t="+token+", k="+c.public)...)
		if err != nil {
			r = sender.ResultOf(err)
			return false
		}
		r = read(m, a)
		return r.Outcome == sender.CredentialBad
	})
	if err != nil {
		return sender.ResultOf(err)
	}
	return r
}

// read returns what an answer says: the status, mostly.
func read(m *sender.Message, a *sender.Answer) sender.Result {
	text := m.Scrub(string(a.Body))
	if a.Status == http.StatusForbidden && isMismatch(text) {
		return codes.Result(mismatch, "", sender.TokenGone)
	}
	status := "HTTP " + strconv.Itoa(a.Status)
	r := codes.Judge(a, status, text, sender.Retry)
	location := a.Header.Get("Location")
	if r.Outcome == sender.Accepted {
		r.VendorID = location[strings.LastIndexByte(location, '/')+1:]
	}
	return r
}

// isMismatch reports whether a service says that the subscription was made with another key: Apple by a reason, Google in words
// (both from memory).
func isMismatch(text string) bool {
	return strings.Contains(text, "VapidPkHashMismatch") || strings.Contains(text, "do not correspond")
}

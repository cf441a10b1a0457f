// Package webpush simulates the push services of browsers (RFC 8030, 8188, 8291, 8292): it is the service and the browser at
// once, so that it decrypts what it is sent.
package webpush

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// service is one of the push services; they differ in paths, errors and limits.
type service struct {
	path   string // before the subscription's id
	maxTTL int64  // s
	write  func(w http.ResponseWriter, code frame.Code, detail string)
}

// services are those that an app's subscriptions can be of. The paths but Mozilla's and Google's are made up, and so is which
// limit Apple has.
var services = map[string]service{
	"mozilla": {path: "/wpush/v2/", maxTTL: 2_592_000, write: mozilla},
	"google":  {path: "/fcm/send/", maxTTL: 2_419_200, write: google}, // the limit is from memory (M)
	"apple":   {path: "/apple/", maxTTL: 2_592_000, write: apple},
}

func mozilla(w http.ResponseWriter, code frame.Code, detail string) {
	body := map[string]any{"code": code.Status, "error": http.StatusText(code.Status), "message": code.Meaning}
	if errno, err := strconv.Atoi(detail); err == nil {
		body["errno"] = errno
	}
	frame.WriteJSON(w, code.Status, body)
}

func google(w http.ResponseWriter, code frame.Code, _ string) {
	http.Error(w, code.Meaning, code.Status)
}

func apple(w http.ResponseWriter, code frame.Code, detail string) {
	if detail == "" {
		detail = strings.ReplaceAll(http.StatusText(code.Status), " ", "")
	}
	frame.WriteJSON(w, code.Status, map[string]string{"reason": detail})
}

// Simulator is the push service of all browsers.
type Simulator struct {
	frame *frame.Frame
	codes []frame.Code

	mu   sync.Mutex
	apps map[string]*app // by mark
}

var _ frame.Vendor = (*Simulator)(nil)

// New returns a simulator without apps.
func New(f *frame.Frame) *Simulator {
	return &Simulator{frame: f, codes: Codes(), apps: make(map[string]*app)}
}

// Codes lists the documented answers.
func (s *Simulator) Codes() []frame.Code { return Codes() }

// Unavailable answers as when the service is down.
func (s *Simulator) Unavailable(w http.ResponseWriter) { s.fail(w, services["mozilla"], backOff) }

// fail writes the answer of a code in a service's way.
func (s *Simulator) fail(w http.ResponseWriter, v service, name string) {
	code := frame.Wanted(s.codes, frame.InAnswer, name)
	s.frame.Answered(code.Code, 1)
	_, detail, _ := strings.Cut(name, "/")
	switch code.Status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		frame.RetryAfter(w, s.frame.Switches().Limit.RetryAfter)
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		w.Header().Set("Location", s.frame.URL+"/moved")
	}
	v.write(w, code, detail)
}

// app is a registered app: a web site with its VAPID key, and the secret that its subscriptions are made from.
type app struct {
	Name    string `json:"app"`
	Service string `json:"service"` // mozilla, google or apple
	// VAPIDPublicKey is what the site gives to subscribe, uncompressed, in base64url; VAPIDPrivateKey is there only if the
	// simulator made the pair. Without a key (WithoutKey) the service takes whatever comes.
	VAPIDPublicKey  string `json:"vapid_public_key,omitempty"`
	VAPIDPrivateKey string `json:"vapid_private_key,omitempty"`
	WithoutKey      bool   `json:"without_key,omitempty"`
	Seed            string `json:"seed"`
}

// Register makes an app known; see app for its document.
func (s *Simulator) Register(document json.RawMessage) (any, error) {
	var a app
	if err := json.Unmarshal(document, &a); err != nil {
		return nil, fmt.Errorf("app: %w", err)
	}
	if a.Name == "" {
		return nil, errors.New("app is needed")
	}
	if a.Service == "" {
		a.Service = "mozilla"
	}
	if _, known := services[a.Service]; !known {
		return nil, errors.New("service must be mozilla, google or apple")
	}
	if a.Seed == "" {
		a.Seed = rand.Text()
	}
	if a.VAPIDPublicKey == "" && !a.WithoutKey {
		private, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		a.VAPIDPrivateKey = base64.RawURLEncoding.EncodeToString(private.Bytes())
		a.VAPIDPublicKey = base64.RawURLEncoding.EncodeToString(private.PublicKey().Bytes())
	}
	if !a.WithoutKey {
		if _, err := publicKey(a.VAPIDPublicKey); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps[frame.Mark(a.Name)] = &a
	return a, nil
}

// app returns the app whose mark begins a subscription's id.
func (s *Simulator) app(id string) *app {
	if len(id) < frame.MarkLength {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apps[id[:frame.MarkLength]]
}

// Tokens makes subscriptions of new browsers.
func (s *Simulator) Tokens(name string, n int) ([]any, error) {
	a := s.app(frame.Mark(name))
	if a == nil || a.Name != name {
		return nil, fmt.Errorf("app %q is not registered", name)
	}
	list := make([]any, n)
	for i := range list {
		id := frame.Mark(name) + rand.Text()
		keys, err := subscriber(a.Seed, id)
		if err != nil {
			return nil, err
		}
		list[i] = Subscription{
			Endpoint: s.frame.URL + services[a.Service].path + id,
			Keys: Keys{
				P256DH: base64.RawURLEncoding.EncodeToString(keys.private.PublicKey().Bytes()),
				Auth:   base64.RawURLEncoding.EncodeToString(keys.auth),
			},
		}
	}
	return list, nil
}

// Subscription is what a browser gives to its site.
type Subscription struct {
	Endpoint       string `json:"endpoint"`
	Keys           Keys   `json:"keys"`
	ExpirationTime *int64 `json:"expirationTime"` // ms
}

// Keys are a subscription's, in base64url.
type Keys struct {
	P256DH string `json:"p256dh"`
	Auth   string `json:"auth"`
}

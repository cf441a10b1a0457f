// Package apns simulates Apple's push service: the HTTP/2 provider API for device tokens, and the one for broadcast channels
// with their management, which Apple serves on other ports.
package apns

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// Environment is one of Apple's two. A device token works in one only.
type Environment string

// The environments.
const (
	Production Environment = "production"
	Sandbox    Environment = "sandbox"
)

// Simulator is Apple's service in one environment.
type Simulator struct {
	frame       *frame.Frame
	environment Environment
	codes       map[string]frame.Code

	mu       sync.Mutex
	apps     map[string]*app // by bundle id
	keys     map[string]*key // by key id
	channels map[string]channel
}

var _ frame.Vendor = (*Simulator)(nil)

// New returns a simulator without apps.
func New(f *frame.Frame, e Environment) *Simulator {
	s := &Simulator{
		frame: f, environment: e, codes: make(map[string]frame.Code),
		apps: make(map[string]*app), keys: make(map[string]*key), channels: make(map[string]channel),
	}
	for _, c := range Codes() {
		s.codes[c.Code] = c
	}
	return s
}

// Codes lists the documented answers.
func (s *Simulator) Codes() []frame.Code { return Codes() }

// Unavailable answers as when Apple is down.
func (s *Simulator) Unavailable(w http.ResponseWriter) {
	frame.WriteJSON(w, http.StatusServiceUnavailable, map[string]string{"reason": serviceUnavailable})
}

// ServeHTTP answers the provider API and the management of channels.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	switch {
	case strings.HasPrefix(path, "/3/device/") || path == "/3/device":
		s.device(w, r, strings.TrimPrefix(strings.TrimPrefix(path, "/3/device"), "/"))
	case strings.HasPrefix(path, "/4/broadcasts/apps/"):
		s.broadcast(w, r, strings.TrimPrefix(path, "/4/broadcasts/apps/"))
	case strings.HasPrefix(path, "/1/apps/"):
		s.manage(w, r, strings.TrimPrefix(path, "/1/apps/"))
	default:
		s.fail(w, fault{reason: badPath})
	}
}

// fault is why a request is refused; an empty reason is none.
type fault struct {
	reason string
	at     time.Time // in answers with 410; zero: now
}

func (f fault) ok() bool { return f.reason == "" }

// fail writes the answer of a fault.
func (s *Simulator) fail(w http.ResponseWriter, f fault) {
	code, known := s.codes[f.reason]
	if !known {
		code = frame.Wanted(nil, frame.InAnswer, f.reason)
	}
	body := struct {
		Reason    string `json:"reason"`
		Timestamp int64  `json:"timestamp,omitempty"`
	}{Reason: code.Code}
	if code.Status == http.StatusGone {
		if f.at.IsZero() {
			f.at = s.frame.Now()
		}
		body.Timestamp = f.at.UnixMilli()
	}
	s.frame.Answered(code.Code, 1)
	frame.WriteJSON(w, code.Status, body)
}

// identify returns the request's apns-id, or makes one, and puts it into the answer's headers.
func identify(w http.ResponseWriter, r *http.Request) (id string, f fault) {
	id = r.Header.Get("apns-id")
	if id == "" {
		id = uuid.NewString()
	} else if parsed, err := uuid.Parse(id); err != nil || parsed.String() != id {
		return "", fault{reason: badMessageID}
	}
	w.Header().Set("apns-id", id)
	return id, fault{}
}

// device accepts a notification for one device.
func (s *Simulator) device(w http.ResponseWriter, r *http.Request, token string) {
	id, f := identify(w, r)
	if !f.ok() {
		s.fail(w, f)
		return
	}
	if r.Method != http.MethodPost {
		s.fail(w, fault{reason: methodNotAllowed})
		return
	}
	body, err := frame.ReadBody(w, r)
	if err != nil {
		s.fail(w, fault{reason: payloadTooLarge})
		return
	}
	n, f := s.check(r, token, body)
	if f.ok() {
		f = s.decide(r, n)
	}
	if !f.ok() {
		s.fail(w, f)
		return
	}
	unique := ""
	if s.environment == Sandbox {
		unique = uuid.NewString()
		w.Header().Set("apns-unique-id", unique)
	}
	s.frame.Answered("200", 1)
	s.frame.Record.Accept(frame.Accepted{
		At: s.frame.Now(), App: n.app.Name, Tokens: []string{token}, PushID: frame.PushID(body), DedupID: id, VendorID: unique,
		Headers: frame.Headers(r), Body: string(body), Notes: n.notes,
	})
	w.WriteHeader(http.StatusOK)
}

// decide asks the switches and limits about a good notification.
func (s *Simulator) decide(r *http.Request, n notification) fault {
	if s.frame.Revoked(n.app.Name) {
		return fault{reason: invalidProviderToken}
	}
	request := s.frame.ForRequest(n.app.Name, n.title)
	token := s.frame.ForToken(n.app.Name, said(n.token))
	for _, v := range []frame.Verdict{request, token} {
		if !frame.Pause(r.Context(), v.Delay) {
			return fault{reason: serviceUnavailable}
		}
		if v.Code != "" && v.Code != "200" {
			return fault{reason: v.Code, at: v.At}
		}
	}
	if token.Invalid {
		return fault{reason: unregistered}
	}
	// The sheet knows no limit but that of a device; the switch counts the app's.
	if s.frame.Admit(n.app.Name, 1) != frame.Admitted {
		return fault{reason: tooManyRequests}
	}
	return fault{}
}

// said returns the text that a token spells in hex, if that is a directive; otherwise the token.
func said(token string) string {
	if text, err := hex.DecodeString(token); err == nil && strings.HasPrefix(string(text), "sim:") {
		return string(text)
	}
	return token
}

// Tokens makes device tokens of this environment for an app.
func (s *Simulator) Tokens(name string, n int) ([]any, error) {
	a, err := s.named(name)
	if err != nil {
		return nil, err
	}
	tokens := make([]any, n)
	for i := range tokens {
		var random [28]byte
		_, _ = rand.Read(random[:]) // never fails
		tokens[i] = mark(s.environment, a.BundleID) + hex.EncodeToString(random[:])
	}
	return tokens, nil
}

// object decodes a JSON object.
func object(body []byte) (map[string]json.RawMessage, bool) {
	var o map[string]json.RawMessage
	err := json.Unmarshal(body, &o)
	return o, err == nil && o != nil
}

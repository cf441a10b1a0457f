// Package fcm simulates Firebase Cloud Messaging (HTTP v1) with Google's OAuth token endpoint. Topic subscription is not simulated.
package fcm

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// keyBits is the length of a service account's key.
const keyBits = 2048

// Simulator is FCM.
type Simulator struct {
	frame *frame.Frame

	mu       sync.Mutex
	accounts map[string]*app   // by client email
	marks    map[string]string // to project ids
}

var _ frame.Vendor = (*Simulator)(nil)

// New returns a simulator without projects.
func New(f *frame.Frame) *Simulator {
	return &Simulator{frame: f, accounts: make(map[string]*app), marks: make(map[string]string)}
}

// Codes lists the documented answers.
func (s *Simulator) Codes() []frame.Code { return Codes() }

// Unavailable answers as when FCM is down.
func (s *Simulator) Unavailable(w http.ResponseWriter) { s.fail(w, fault{code: unavailable}) }

// ServeHTTP answers the token endpoint and the send API, which Google has on two hosts.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		s.token(w, r)
		return
	}
	project, ok := strings.CutPrefix(r.URL.Path, "/v1/projects/")
	project, isSend := strings.CutSuffix(project, "/messages:send")
	if !ok || !isSend || strings.Contains(project, "/") || r.Method != http.MethodPost {
		s.frame.Answered(notFound, 1)
		http.NotFound(w, r)
		return
	}
	s.send(w, r, project)
}

// fault is why a request is refused.
type fault struct {
	code    string
	token   bool   // INVALID_ARGUMENT is about the token
	field   string // that is wrong; empty: none is named
	message string
}

// detail is one of the details of an error.
type detail struct {
	Type       string      `json:"@type"`
	ErrorCode  string      `json:"errorCode,omitempty"`
	Violations []violation `json:"fieldViolations,omitempty"`
}

type violation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

// fail writes an error.
func (s *Simulator) fail(w http.ResponseWriter, f fault) {
	code := frame.Wanted(Codes(), frame.InAnswer, f.code)
	switch {
	case f.token && f.code == invalidArgument:
		f.message = "The registration token is not a valid FCM registration token"
	case f.message == "":
		f.message = "Simulated: " + code.Meaning
	}
	if code.Code == invalidArgument && !f.token && f.field == "" {
		f.field = "message"
	}
	var details []detail
	if ofFCM(code) {
		details = append(details, detail{Type: "type.googleapis.com/google.firebase.fcm.v1.FcmError", ErrorCode: code.Code})
	}
	if f.field != "" {
		details = append(details, detail{
			Type:       "type.googleapis.com/google.rpc.BadRequest",
			Violations: []violation{{Field: f.field, Description: f.message}},
		})
	}
	if code.Status == http.StatusTooManyRequests || code.Status == http.StatusServiceUnavailable {
		frame.RetryAfter(w, s.frame.Switches().Limit.RetryAfter)
	}
	s.frame.Answered(code.Code, 1)
	frame.WriteJSON(w, code.Status, map[string]any{"error": map[string]any{
		"code": code.Status, "message": f.message, "status": canonical(code), "details": details,
	}})
}

// app is a registered app with its service account.
type app struct {
	Name    string  `json:"app"`
	Account account `json:"service_account"`
	// NoRole takes the right to send away.
	NoRole bool `json:"no_role,omitempty"`

	public *rsa.PublicKey
}

// account is the file of a service account.
type account struct {
	Type         string `json:"type"`
	ProjectID    string `json:"project_id"`
	PrivateKeyID string `json:"private_key_id"`
	PrivateKey   string `json:"private_key"`
	ClientEmail  string `json:"client_email"`
	ClientID     string `json:"client_id"`
	TokenURI     string `json:"token_uri"`
}

// Register makes an app known; see app for its document. token_uri is always the simulator's own.
func (s *Simulator) Register(document json.RawMessage) (any, error) {
	var a app
	if err := json.Unmarshal(document, &a); err != nil {
		return nil, fmt.Errorf("app: %w", err)
	}
	if a.Name == "" {
		return nil, errors.New("app is needed")
	}
	for made, text := range map[*string]string{
		&a.Account.Type: "service_account", &a.Account.ProjectID: a.Name + "-project",
		&a.Account.PrivateKeyID: strings.ToLower(rand.Text()), &a.Account.ClientID: strings.ToLower(rand.Text()[:21]),
	} {
		if *made == "" {
			*made = text
		}
	}
	if a.Account.ClientEmail == "" {
		a.Account.ClientEmail = fmt.Sprintf("%s@%s.iam.gserviceaccount.com", a.Name, a.Account.ProjectID)
	}
	a.Account.TokenURI = s.tokenURI()
	if err := a.readKey(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accounts[a.Account.ClientEmail] = &a
	s.marks[frame.Mark(a.Account.ProjectID)] = a.Account.ProjectID
	return a, nil
}

func (s *Simulator) tokenURI() string { return s.frame.URL + "/token" }

// readKey parses the service account's key, or makes one.
func (a *app) readKey() error {
	if a.Account.PrivateKey == "" {
		private, err := rsa.GenerateKey(rand.Reader, keyBits)
		if err != nil {
			return fmt.Errorf("make a key: %w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			return fmt.Errorf("encode the key: %w", err)
		}
		a.Account.PrivateKey = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	block, _ := pem.Decode([]byte(a.Account.PrivateKey))
	if block == nil {
		return errors.New("private_key is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("private_key: %w", err)
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return errors.New("private_key is not RSA")
	}
	a.public = &private.PublicKey
	return nil
}

// tokenMiddle stands in the middle of registration tokens; in those that the simulator makes, a mark of the project follows.
const tokenMiddle = ":APA91b"

// Tokens makes the registration tokens of new devices.
func (s *Simulator) Tokens(name string, n int) ([]any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.accounts {
		if a.Name != name {
			continue
		}
		tokens := make([]any, n)
		for i := range tokens {
			tokens[i] = rand.Text()[:22] + tokenMiddle + frame.Mark(a.Account.ProjectID) + rand.Text() + rand.Text() + rand.Text() + rand.Text()
		}
		return tokens, nil
	}
	return nil, fmt.Errorf("app %q is not registered", name)
}

// owner returns the project that a token is known to be of; empty: it could be any's.
func (s *Simulator) owner(token string) string {
	_, rest, ok := strings.Cut(token, tokenMiddle)
	if !ok || len(rest) < frame.MarkLength {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marks[rest[:frame.MarkLength]]
}

// Package harmony simulates HarmonyOS Push Kit v3 (HarmonyOS 5 and later, NEXT), with its receipts.
package harmony

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/pushkit"
)

// keyBits is the length of a service account's key.
const keyBits = 4096

// Simulator is the push service of HarmonyOS.
type Simulator struct {
	frame   *frame.Frame
	answers pushkit.Answers
	courier *frame.Courier
	daily   *frame.Daily
	devices *frame.Devices

	mu       sync.Mutex
	projects map[string]*app // by project id
	keys     map[string]*app // by key id
}

var _ frame.Vendor = (*Simulator)(nil)

// New returns a simulator without apps.
func New(f *frame.Frame) *Simulator {
	s := &Simulator{
		frame: f, answers: pushkit.NewAnswers(f, Codes()), daily: frame.NewDaily(f.Now), devices: frame.NewDevices("MAMzLg"),
		projects: make(map[string]*app), keys: make(map[string]*app),
	}
	s.courier = f.NewCourier(pushkit.MaxStatuses, s.encode)
	return s
}

// Codes lists the documented answers.
func (s *Simulator) Codes() []frame.Code { return Codes() }

// Unavailable answers as when the service is down.
func (s *Simulator) Unavailable(w http.ResponseWriter) {
	http.Error(w, "service unavailable", http.StatusServiceUnavailable)
}

// ServeHTTP answers the push API.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	part := strings.Split(r.URL.Path, "/")
	if len(part) != 4 || part[1] != "v3" || part[3] != "messages:send" || r.Method != http.MethodPost {
		s.answers.Write(w, wrongURL)
		return
	}
	s.send(w, r, part[2])
}

// app is a registered app, with the credentials that the console would give out.
type app struct {
	Name    string  `json:"app"`
	Package string  `json:"package"`
	Account account `json:"service_account"`
	KeyBits int     `json:"key_bits,omitempty"` // of a key that is made; 0: 4096, as the vendor has it

	Receipt  pushkit.Callback            `json:"receipt"`
	Receipts map[string]pushkit.Callback `json:"receipts,omitempty"` // those that receiptId picks, by id

	Disabled bool  `json:"disabled,omitempty"`  // push is not enabled
	NoRights []int `json:"no_rights,omitempty"` // push types that the app has no right to
	// MarketingDaily is how many messages of the marketing class a device gets in a day.
	MarketingDaily int `json:"marketing_daily,omitempty"`

	public *rsa.PublicKey
}

// account is the file of a service account.
type account struct {
	ProjectID  string `json:"project_id"`
	KeyID      string `json:"key_id"`
	PrivateKey string `json:"private_key"`
	SubAccount string `json:"sub_account"`
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
	if a.Package == "" {
		a.Package = "com.example." + a.Name
	}
	for _, made := range []*string{&a.Account.ProjectID, &a.Account.KeyID, &a.Account.SubAccount} {
		if *made == "" {
			*made = strings.ToLower(rand.Text()[:18])
		}
	}
	if err := a.readKey(); err != nil {
		return nil, err
	}
	s.devices.Know(a.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.keys, func(_ string, old *app) bool { return old.Name == a.Name }) // a new key takes the old one's place
	s.projects[a.Account.ProjectID], s.keys[a.Account.KeyID] = &a, &a
	return a, nil
}

// readKey parses the service account's key, or makes one.
func (a *app) readKey() error {
	if a.Account.PrivateKey == "" {
		bits := keyBits
		if a.KeyBits != 0 {
			bits = a.KeyBits
		}
		private, err := rsa.GenerateKey(rand.Reader, bits)
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

// Tokens makes the tokens of new devices.
func (s *Simulator) Tokens(app string, n int) ([]any, error) { return s.devices.Tokens(app, n) }

// refused says why a token cannot be one of an app's; empty: it can.
func (s *Simulator) refused(token, app string) string {
	switch {
	case !frame.WellFormed(token):
		return badFormat
	case s.devices.Foreign(token, app):
		return noRight
	}
	return ""
}

// receiver is what receipts of one call have in common, as a text.
func receiver(project, receiptID string) string { return project + "\n" + receiptID }

// encode makes the call for receipts of one receiver.
func (s *Simulator) encode(ctx context.Context, to string, items []any) (*http.Request, error) {
	project, receiptID, _ := strings.Cut(to, "\n")
	s.mu.Lock()
	a := s.projects[project]
	s.mu.Unlock()
	if a == nil {
		return nil, errors.New("the app is not registered any more")
	}
	callback, _ := a.callback(receiptID)
	return callback.Request(ctx, s.frame.Now(), items)
}

// callback returns where receipts of a message go; false if its receiptId is not known.
func (a *app) callback(id string) (pushkit.Callback, bool) {
	if id == "" {
		return a.Receipt, true
	}
	c, ok := a.Receipts[id]
	return c, ok
}

// Package honor simulates Honor Push with its OAuth server and receipts. Little about Honor is documented: where the sheet speaks
// from memory the simulator does what the sheet says, and its comments say so.
package honor

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// Simulator is Honor's service.
type Simulator struct {
	frame   *frame.Frame
	courier *frame.Courier
	daily   *frame.Daily
	devices *frame.Devices

	mu      sync.Mutex
	apps    map[string]*app // by app id
	clients map[string]*app // by client id
}

var _ frame.Vendor = (*Simulator)(nil)

// New returns a simulator without apps.
func New(f *frame.Frame) *Simulator {
	s := &Simulator{
		frame: f, daily: frame.NewDaily(f.Now), devices: frame.NewDevices("HNR"),
		apps: make(map[string]*app), clients: make(map[string]*app),
	}
	s.courier = f.NewCourier(maxStatuses, s.encode)
	return s
}

// Codes lists the documented answers.
func (s *Simulator) Codes() []frame.Code { return Codes() }

// Unavailable answers as when Honor is down.
func (s *Simulator) Unavailable(w http.ResponseWriter) {
	http.Error(w, "service unavailable", http.StatusServiceUnavailable)
}

// ServeHTTP answers the OAuth server and the push API, which Honor has on two hosts.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/auth/token", "/auth/realms/developer/protocol/openid-connect/token":
		s.token(w, r)
		return
	}
	part := strings.Split(r.URL.Path, "/")
	if len(part) != 5 || part[1] != "api" || part[2] != "v1" || part[4] != "sendMessage" || r.Method != http.MethodPost {
		s.answer(w, honors, wrongApp)
		return
	}
	s.send(w, r, part[3])
}

// app is a registered app, with the credentials that the console would give out.
type app struct {
	Name         string `json:"app"`
	ID           string `json:"app_id"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`

	Receipt  receiver `json:"receipt"`
	Disabled bool     `json:"disabled,omitempty"` // may not send
	// Answers is the form of answers: empty for {"code":200,"message",…}, huawei for {"code":"80000000","msg",…}, which one
	// client expects.
	Answers string `json:"answers,omitempty"`
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
	if a.Answers != "" && a.Answers != formHuawei {
		return nil, errors.New("answers must be huawei or left out")
	}
	if err := a.Receipt.validate(); err != nil {
		return nil, err
	}
	for _, made := range []*string{&a.ID, &a.ClientID, &a.ClientSecret} {
		if *made == "" {
			*made = strings.ToLower(rand.Text()[:18])
		}
	}
	s.devices.Know(a.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps[a.ID], s.clients[a.ClientID] = &a, &a
	return a, nil
}

// Tokens makes the tokens of new devices.
func (s *Simulator) Tokens(app string, n int) ([]any, error) { return s.devices.Tokens(app, n) }

// byID returns the app of an app id, or nil.
func (s *Simulator) byID(id string) *app {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apps[id]
}

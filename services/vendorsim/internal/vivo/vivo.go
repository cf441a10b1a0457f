// Package vivo simulates vivo Push: signed calls for tokens, single sends, lists by a stored payload, and receipts.
package vivo

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// Simulator is vivo's service.
type Simulator struct {
	frame   *frame.Frame
	courier *frame.Courier
	daily   *frame.Daily
	devices *frame.Devices
	drafts  *frame.Drafts

	mu   sync.Mutex
	apps map[string]*app // by app id
}

var _ frame.Vendor = (*Simulator)(nil)

// New returns a simulator without apps.
func New(f *frame.Frame) *Simulator {
	s := &Simulator{
		frame: f, daily: frame.NewDaily(f.Now), devices: frame.NewDevices("vivo"), drafts: frame.NewDrafts(), apps: make(map[string]*app),
	}
	s.courier = f.NewCourier(maxReceipts, encode)
	return s
}

// Codes lists the documented answers.
func (s *Simulator) Codes() []frame.Code { return Codes() }

// Unavailable answers as when vivo is down: the sheet knows 500 alone.
func (s *Simulator) Unavailable(w http.ResponseWriter) {
	http.Error(w, "internal error", http.StatusInternalServerError)
}

// The calls.
const (
	pathAuth = "/message/auth"
	pathSend = "/message/send"
	pathSave = "/message/saveListPayload"
	pathList = "/message/pushToList"
	pathAll  = "/message/all"
)

// ServeHTTP answers the calls whose answers are documented.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	calls := map[string]func(http.ResponseWriter, *http.Request, *app, []byte){
		pathSend: s.send, pathSave: s.save, pathList: s.list, pathAll: s.all,
	}
	call, ok := calls[r.URL.Path]
	if !ok && r.URL.Path != pathAuth || r.Method != http.MethodPost {
		s.answer(w, noSuchPath)
		return
	}
	body, err := frame.ReadBody(w, r)
	if err != nil || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		s.answer(w, badArgument)
		return
	}
	if r.URL.Path == pathAuth {
		s.auth(w, body)
		return
	}
	a := s.authenticate(r)
	if a == nil {
		s.answer(w, badToken)
		return
	}
	call(w, r, a, body)
}

// answer writes a code and counts it.
func (s *Simulator) answer(w http.ResponseWriter, name string) { s.finish(w, name, nil) }

// finish writes a code with further fields, and counts it.
func (s *Simulator) finish(w http.ResponseWriter, name string, fields map[string]any) {
	code := frame.Wanted(Codes(), frame.InAnswer, name)
	s.frame.Answered(code.Code, 1)
	if code.Status != http.StatusOK {
		http.Error(w, code.Meaning, code.Status)
		return
	}
	answer := map[string]any{"result": number(code.Code), "desc": code.Meaning}
	for name, value := range fields {
		answer[name] = value
	}
	frame.WriteJSON(w, code.Status, answer)
}

// number returns a code as vivo writes it.
func number(code string) any {
	if n, err := strconv.Atoi(code); err == nil {
		return n
	}
	return code
}

// app is a registered app, with the credentials that the console would give out.
type app struct {
	Name      string `json:"app"`
	ID        int    `json:"app_id"`
	AppKey    string `json:"app_key"`
	AppSecret string `json:"app_secret"`

	// Receipts are the registered addresses by their receipt id.
	Receipts map[string]string `json:"receipts,omitempty"`
	// TestDevices are those that messages with pushMode 1 reach.
	TestDevices []string `json:"test_devices,omitempty"`
	LongTTL     bool     `json:"long_ttl,omitempty"`   // 7 days, as in an older text
	TextRules   bool     `json:"text_rules,omitempty"` // refuse titles and contents that break the rules (L)
	Hours       bool     `json:"hours,omitempty"`      // refuse the operation class outside its hours

	second int64 // of the latest call for a token; this and logins are guarded by the simulator's mu
	logins int
}

// maxTestDevices is how many test devices an app can list.
const maxTestDevices = 20

// Register makes an app known; see app for its document.
func (s *Simulator) Register(document json.RawMessage) (any, error) {
	var a app
	if err := json.Unmarshal(document, &a); err != nil {
		return nil, fmt.Errorf("app: %w", err)
	}
	if a.Name == "" {
		return nil, errors.New("app is needed")
	}
	if len(a.TestDevices) > maxTestDevices {
		return nil, fmt.Errorf("at most %d test devices", maxTestDevices)
	}
	for _, made := range []*string{&a.AppKey, &a.AppSecret} {
		if *made == "" {
			*made = strings.ToLower(rand.Text())
		}
	}
	if a.ID == 0 {
		n, err := rand.Int(rand.Reader, big.NewInt(900_000_000))
		if err != nil {
			return nil, fmt.Errorf("make an app id: %w", err)
		}
		a.ID = int(n.Int64()) + 100_000_000
	}
	s.devices.Know(a.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps[strconv.Itoa(a.ID)] = &a
	return a, nil
}

// Tokens makes the tokens of new devices.
func (s *Simulator) Tokens(app string, n int) ([]any, error) { return s.devices.Tokens(app, n) }

// Package oppo simulates OPPO PUSH for phones of OPPO, OnePlus and realme: signed calls for tokens, single sends, batches,
// broadcasts to lists, and receipts.
package oppo

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// Simulator is OPPO's service, in China and overseas.
type Simulator struct {
	frame   *frame.Frame
	courier *frame.Courier
	daily   *frame.Daily
	devices *frame.Devices
	drafts  *frame.Drafts

	mu   sync.Mutex
	apps map[string]*app // by app key
}

var _ frame.Vendor = (*Simulator)(nil)

// New returns a simulator without apps.
func New(f *frame.Frame) *Simulator {
	s := &Simulator{
		frame: f, daily: frame.NewDaily(f.Now), devices: frame.NewDevices("CN_"), drafts: frame.NewDrafts(), apps: make(map[string]*app),
	}
	s.courier = f.NewCourier(maxReceipts, encode)
	return s
}

// Codes lists the documented answers.
func (s *Simulator) Codes() []frame.Code { return Codes() }

// Unavailable answers as when OPPO is down.
func (s *Simulator) Unavailable(w http.ResponseWriter) {
	http.Error(w, "service unavailable", http.StatusServiceUnavailable)
}

// The calls.
const (
	pathAuth      = "/server/v1/auth"
	pathUnicast   = "/server/v1/message/notification/unicast"
	pathBatch     = "/server/v1/message/notification/unicast_batch"
	pathSave      = "/server/v1/message/notification/save_message_content"
	pathBroadcast = "/server/v1/message/notification/broadcast"
)

// ServeHTTP answers the calls whose answers are documented.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	calls := map[string]func(http.ResponseWriter, *http.Request, *app, form){
		pathUnicast: s.unicast, pathBatch: s.batch, pathSave: s.save, pathBroadcast: s.broadcast,
	}
	call, ok := calls[r.URL.Path]
	switch {
	case !ok && r.URL.Path != pathAuth:
		s.answer(w, noSuchPath)
		return
	case r.Method != http.MethodPost:
		s.answer(w, wrongMethod)
		return
	}
	fields, err := frame.ReadForm(w, r)
	if err != nil {
		s.answer(w, badEncoding)
		return
	}
	if r.URL.Path == pathAuth {
		s.auth(w, fields)
		return
	}
	a, code := s.authenticate(r, fields)
	switch {
	case code != "":
		s.answer(w, code)
	case a.Disabled:
		s.answer(w, disabled)
	case a.NoRight:
		s.answer(w, noRight)
	default:
		call(w, r, a, fields)
	}
}

// answer writes a code and counts it.
func (s *Simulator) answer(w http.ResponseWriter, name string) {
	code := frame.Wanted(Codes(), frame.InAnswer, name)
	s.frame.Answered(code.Code, 1)
	if code.Status != http.StatusOK {
		http.Error(w, code.Meaning, code.Status)
		return
	}
	frame.WriteJSON(w, code.Status, map[string]any{"code": number(code.Code), "message": code.Meaning})
}

// finish writes success with its data.
func (s *Simulator) finish(w http.ResponseWriter, data any) {
	s.frame.Answered(success, 1)
	frame.WriteJSON(w, http.StatusOK, map[string]any{"code": 0, "message": "Success", "data": data})
}

// number returns a code as OPPO writes it.
func number(code string) any {
	if n, err := strconv.Atoi(code); err == nil {
		return n
	}
	return code
}

// app is a registered app, with the credentials that the console would give out.
type app struct {
	Name         string `json:"app"`
	ID           string `json:"app_id"`
	AppKey       string `json:"app_key"`
	MasterSecret string `json:"master_secret"`

	// Channels are the registered ones by id, each public or private. Without any, every channel_id is good.
	Channels map[string]string `json:"channels,omitempty"`
	// PublicDaily is how many messages of the public class a device gets in a day; 0: any number. OPPO has 2, or 5 for news (L).
	PublicDaily int  `json:"public_daily,omitempty"`
	Disabled    bool `json:"disabled,omitempty"`
	NoRight     bool `json:"no_right,omitempty"`  // may not use the API
	NoBanner    bool `json:"no_banner,omitempty"` // notify_level 16 is not approved
}

// The classes of channels.
const (
	classPublic  = "public"
	classPrivate = "private"
)

// Register makes an app known; see app for its document.
func (s *Simulator) Register(document json.RawMessage) (any, error) {
	var a app
	if err := json.Unmarshal(document, &a); err != nil {
		return nil, fmt.Errorf("app: %w", err)
	}
	if a.Name == "" {
		return nil, errors.New("app is needed")
	}
	for id, class := range a.Channels {
		if class != classPublic && class != classPrivate {
			return nil, fmt.Errorf("channel %s must be public or private", id)
		}
	}
	for _, made := range []*string{&a.ID, &a.AppKey, &a.MasterSecret} {
		if *made == "" {
			*made = strings.ToLower(rand.Text())
		}
	}
	s.devices.Know(a.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps[a.AppKey] = &a
	return a, nil
}

// Tokens makes the tokens of new devices; they look like those of China.
func (s *Simulator) Tokens(app string, n int) ([]any, error) { return s.devices.Tokens(app, n) }

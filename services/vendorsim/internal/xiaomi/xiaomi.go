// Package xiaomi simulates Xiaomi MiPush: its static key, its sends by form, and its receipts.
package xiaomi

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// Simulator is Xiaomi's service, in all its regions.
type Simulator struct {
	frame   *frame.Frame
	courier *frame.Courier
	daily   *frame.Daily
	devices *frame.Devices

	mu   sync.Mutex
	apps map[string]*app // by app secret
}

var _ frame.Vendor = (*Simulator)(nil)

// New returns a simulator without apps.
func New(f *frame.Frame) *Simulator {
	s := &Simulator{
		frame: f, daily: frame.NewDaily(f.Now), devices: frame.NewDevices("MiReg/"), apps: make(map[string]*app),
	}
	s.courier = f.NewCourier(maxReceipts, encode)
	return s
}

// Codes lists the documented answers.
func (s *Simulator) Codes() []frame.Code { return Codes() }

// Unavailable answers as when Xiaomi is down.
func (s *Simulator) Unavailable(w http.ResponseWriter) {
	http.Error(w, "service unavailable", http.StatusServiceUnavailable)
}

// kinds are the targets that a path can name, with the field of the form that holds them.
var kinds = map[string]kind{
	"regid":        {field: "registration_id"},
	"alias":        {prefix: "alias:", field: "alias"},
	"user_account": {prefix: "account:", field: "user_account"},
	"topic":        {prefix: "topic:", field: "topic", one: true},
	"multi_topic":  {prefix: "topics:", field: "topics", one: true},
	"all":          {prefix: "all", one: true},
}

// kind is a kind of targets.
type kind struct {
	prefix string // of the targets in the record
	field  string // empty: there is nothing to name
	one    bool   // the field is not a list
}

// multiKinds are the kinds of messages with a text for each target.
var multiKinds = map[string]kind{
	"regids": kinds["regid"], "aliases": kinds["alias"], "user_accounts": kinds["user_account"],
}

// ServeHTTP answers the paths that send: their answers are documented.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	part := strings.Split(r.URL.Path, "/")
	if len(part) != 4 || r.Method != http.MethodPost {
		s.answer(w, noSuchPath)
		return
	}
	version, name := part[1], part[3]
	switch part[2] {
	case "message":
		k, ok := kinds[name]
		if ok && (version == "v2" || version == "v3" || version == "v4" && name == "regid") {
			s.send(w, r, version, k)
			return
		}
	case "multi_messages":
		if k, ok := multiKinds[name]; ok && version == "v2" {
			s.sendMany(w, r, k)
			return
		}
	}
	s.answer(w, noSuchPath)
}

// app is a registered app, with the credentials that the console would give out.
type app struct {
	Name      string   `json:"app"`
	AppSecret string   `json:"app_secret"`
	Packages  []string `json:"packages"`

	// Channels are the registered ones by id, each public or private. Without any, messages need no channel.
	Channels map[string]string `json:"channels,omitempty"`
	// PublicDaily is how many messages that are not in a private channel a device gets in a day; 0: any number. Xiaomi has 5, or 8
	// for news, and 1 in the default channel (L).
	PublicDaily int `json:"public_daily,omitempty"`
}

// maxChannels is how many channels an app can register.
const maxChannels = 8

// Register makes an app known; see app for its document.
func (s *Simulator) Register(document json.RawMessage) (any, error) {
	var a app
	if err := json.Unmarshal(document, &a); err != nil {
		return nil, fmt.Errorf("app: %w", err)
	}
	if a.Name == "" {
		return nil, errors.New("app is needed")
	}
	if len(a.Channels) > maxChannels {
		return nil, fmt.Errorf("at most %d channels", maxChannels)
	}
	for id, class := range a.Channels {
		if class != public && class != private {
			return nil, fmt.Errorf("channel %s must be public or private", id)
		}
	}
	if a.AppSecret == "" {
		a.AppSecret = rand.Text()
	}
	if len(a.Packages) == 0 {
		a.Packages = []string{"com.example.app" + frame.Mark(a.Name)}
	}
	s.devices.Know(a.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.apps, func(_ string, old *app) bool { return old.Name == a.Name }) // a new secret takes the old one's place
	s.apps[a.AppSecret] = &a
	return a, nil
}

// The classes of channels.
const (
	public  = "public"
	private = "private"
)

// Tokens makes the tokens of new devices.
func (s *Simulator) Tokens(app string, n int) ([]any, error) { return s.devices.Tokens(app, n) }

// authenticate returns the app of a request's key, or nil.
func (s *Simulator) authenticate(r *http.Request) *app {
	secret, ok := strings.CutPrefix(r.Header.Get("Authorization"), "key=")
	if !ok {
		return nil
	}
	s.mu.Lock()
	a := s.apps[secret]
	s.mu.Unlock()
	if a == nil || s.frame.Revoked(a.Name) {
		return nil
	}
	return a
}

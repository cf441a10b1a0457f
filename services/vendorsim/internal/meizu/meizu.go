// Package meizu simulates Meizu Flyme Push: requests that are signed each, lists of push ids, tasks, and receipts.
package meizu

import (
	"crypto/md5" // Meizu's signature
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// Simulator is Meizu's service, in China and overseas.
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
		frame: f, daily: frame.NewDaily(f.Now), devices: frame.NewDevices("MZ"), drafts: frame.NewDrafts(), apps: make(map[string]*app),
	}
	s.courier = f.NewCourier(maxReceipts, s.encode)
	return s
}

// Codes lists the documented answers.
func (s *Simulator) Codes() []frame.Code { return Codes() }

// Unavailable answers as when Meizu is down. Its status is always 200.
func (s *Simulator) Unavailable(w http.ResponseWriter) { s.answer(w, "1003", "") }

const root = "/garcia/api/server/push/"

// ServeHTTP answers the calls whose answers are documented.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, root)
	calls := map[string]func(http.ResponseWriter, *http.Request, *app, url.Values){
		"varnished/pushByPushId":      s.byPushID,
		"varnished/pushByAlias":       s.byAlias,
		"pushTask/getTaskId":          s.task,
		"task/varnished/pushByPushId": s.taskByPushID,
		"task/varnished/pushByAlias":  s.taskByAlias,
		// Pass-through is stopped.
		"unvarnished/pushByPushId": func(w http.ResponseWriter, _ *http.Request, _ *app, _ url.Values) { s.answer(w, passThrough, "") },
	}
	call := calls[path]
	if !ok || call == nil || r.Method != http.MethodPost {
		s.answer(w, noSuchPath, "")
		return
	}
	form, err := frame.ReadForm(w, r)
	if err != nil {
		s.answer(w, badParameter, "")
		return
	}
	a, code := s.verify(form)
	if code != "" {
		s.answer(w, code, "")
		return
	}
	call(w, r, a, form)
}

// verify checks a request's signature.
func (s *Simulator) verify(form url.Values) (*app, string) {
	s.mu.Lock()
	a := s.apps[form.Get("appId")]
	s.mu.Unlock()
	if a == nil {
		return nil, badAppID
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(form)) {
		if name != "sign" {
			text.WriteString(name + "=" + form.Get(name))
		}
	}
	sum := md5.Sum([]byte(text.String() + a.AppSecret))
	if hex.EncodeToString(sum[:]) != form.Get("sign") || s.frame.Revoked(a.Name) {
		return nil, badSign
	}
	return a, ""
}

// answer writes a code and counts it. In other cases than success value may be an empty text, and is.
func (s *Simulator) answer(w http.ResponseWriter, name, to string) {
	s.write(w, frame.Wanted(Codes(), frame.InAnswer, name), "", "", to)
}

// finish writes success with its value.
func (s *Simulator) finish(w http.ResponseWriter, value any, id string) {
	code, _ := frame.Find(Codes(), frame.InAnswer, success)
	s.write(w, code, value, id, "")
}

func (s *Simulator) write(w http.ResponseWriter, code frame.Code, value any, id, to string) {
	s.frame.Answered(code.Code, 1)
	if code.Status != http.StatusOK {
		http.Error(w, code.Meaning, code.Status)
		return
	}
	message := code.Meaning
	if code.Code == success {
		message = ""
	}
	frame.WriteJSON(w, code.Status, map[string]any{
		"code": code.Code, "message": message, "value": value, "redirect": to, "msgId": id,
	})
}

// app is a registered app, with the credentials that the console would give out.
type app struct {
	Name      string `json:"app"`
	ID        string `json:"app_id"`
	AppSecret string `json:"app_secret"`

	// Callbacks are the registered addresses for receipts; AccessToken is sent with each.
	Callbacks   []string `json:"callbacks,omitempty"`
	AccessToken string   `json:"access_token"`

	VIP bool `json:"vip,omitempty"` // may send pictures and vipInfo
	// PublicDaily is how many public messages a device gets in a day; 0: any number. The sheet has no figure.
	PublicDaily int `json:"public_daily,omitempty"`
}

// maxCallbacks is how many addresses an app can register.
const maxCallbacks = 100

// Register makes an app known; see app for its document.
func (s *Simulator) Register(document json.RawMessage) (any, error) {
	var a app
	if err := json.Unmarshal(document, &a); err != nil {
		return nil, fmt.Errorf("app: %w", err)
	}
	if a.Name == "" {
		return nil, errors.New("app is needed")
	}
	if len(a.Callbacks) > maxCallbacks {
		return nil, fmt.Errorf("at most %d callbacks", maxCallbacks)
	}
	for _, made := range []*string{&a.ID, &a.AppSecret, &a.AccessToken} {
		if *made == "" {
			*made = strings.ToLower(rand.Text())
		}
	}
	s.devices.Know(a.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps[a.ID] = &a
	return a, nil
}

// Tokens makes the tokens of new devices, which Meizu calls push ids.
func (s *Simulator) Tokens(app string, n int) ([]any, error) { return s.devices.Tokens(app, n) }

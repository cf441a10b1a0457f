// Package huawei simulates Huawei Push Kit v1 and v2, for Android and HarmonyOS up to 4, with its OAuth server and receipts.
package huawei

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
	"github.com/halleypush/halley/services/vendorsim/internal/pushkit"
)

// Simulator is Huawei's service.
type Simulator struct {
	frame   *frame.Frame
	answers pushkit.Answers
	courier *frame.Courier
	daily   *frame.Daily
	logins  *logins
	devices *frame.Devices

	mu      sync.Mutex
	clients map[string]*app // by client id, which is the app id
}

var _ frame.Vendor = (*Simulator)(nil)

// New returns a simulator without apps.
func New(f *frame.Frame) *Simulator {
	s := &Simulator{
		frame: f, answers: pushkit.NewAnswers(f, Codes()), daily: frame.NewDaily(f.Now), logins: &logins{now: f.Now, calls: make(map[string]window)},
		devices: frame.NewDevices("IQAAAACy"), clients: make(map[string]*app),
	}
	s.courier = f.NewCourier(pushkit.MaxStatuses, s.encode)
	return s
}

// Codes lists the documented answers.
func (s *Simulator) Codes() []frame.Code { return Codes() }

// Unavailable answers as when Huawei is down.
func (s *Simulator) Unavailable(w http.ResponseWriter) {
	http.Error(w, "service unavailable", http.StatusServiceUnavailable)
}

// ServeHTTP answers the OAuth server and the push API, which Huawei has on two hosts.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/oauth2/v3/token", "/oauth2/v2/token":
		s.token(w, r)
		return
	}
	part := strings.Split(r.URL.Path, "/")
	if len(part) != 4 || part[1] != "v1" && part[1] != "v2" || part[3] != "messages:send" || r.Method != http.MethodPost {
		s.answer(w, wrongURL)
		return
	}
	s.send(w, r, part[1], part[2])
}

// answer writes a code that no further fields belong to.
func (s *Simulator) answer(w http.ResponseWriter, name string) { s.answers.Write(w, name) }

// app is a registered app, with the credentials that the console would give out.
type app struct {
	Name         string `json:"app"`
	ClientID     string `json:"client_id"` // the app id, too
	ClientSecret string `json:"client_secret"`
	ProjectID    string `json:"project_id"`

	// Receipt is where receipts go; Receipts are those that android.receipt_id picks, by id.
	Receipt  pushkit.Callback            `json:"receipt"`
	Receipts map[string]pushkit.Callback `json:"receipts,omitempty"`

	Disabled    bool `json:"disabled,omitempty"`      // may not send
	NoHighRight bool `json:"no_high_right,omitempty"` // may not use the high level
	// MarketingDaily is how many messages of the marketing class a device gets in a day; Huawei has 2 to 5 by the app's type (M).
	MarketingDaily int `json:"marketing_daily,omitempty"`
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
	for _, made := range []*string{&a.ClientID, &a.ClientSecret, &a.ProjectID} {
		if *made == "" {
			*made = strings.ToLower(rand.Text()[:18])
		}
	}
	s.devices.Know(a.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[a.ClientID] = &a
	return a, nil
}

// Tokens makes the tokens of new devices.
func (s *Simulator) Tokens(app string, n int) ([]any, error) { return s.devices.Tokens(app, n) }

// status is a receipt in V1 of the protocol.
type status struct {
	Token     string `json:"token"`
	Status    int    `json:"status"`
	Timestamp int64  `json:"timestamp"` // ms
	AppID     string `json:"appid"`
	Tag       string `json:"biTag"`
	RequestID string `json:"requestId"`
}

// receiver is what receipts of one call have in common, as a text.
func receiver(clientID, receiptID string) string { return clientID + "\n" + receiptID }

// encode makes the call for receipts of one receiver.
func (s *Simulator) encode(ctx context.Context, to string, items []any) (*http.Request, error) {
	clientID, receiptID, _ := strings.Cut(to, "\n")
	s.mu.Lock()
	a := s.clients[clientID]
	s.mu.Unlock()
	if a == nil {
		return nil, errors.New("the app is not registered any more")
	}
	config, _ := a.receiptConfig(receiptID)
	return config.Request(ctx, s.frame.Now(), items)
}

// receiptConfig returns where receipts of a message go; false if its receipt_id is not known.
func (a *app) receiptConfig(id string) (pushkit.Callback, bool) {
	if id == "" {
		return a.Receipt, true
	}
	c, ok := a.Receipts[id]
	return c, ok
}

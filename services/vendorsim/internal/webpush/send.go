package webpush

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// maxBody is the largest body that every service takes, in bytes.
const maxBody = 4096

var topicText = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// ServeHTTP answers the endpoints of all subscriptions. Behind a question mark, an endpoint can hold a directive.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, v := range services {
		id, ok := strings.CutPrefix(r.URL.Path, v.path)
		if !ok {
			continue
		}
		a := s.app(id)
		if a == nil || a.Service != name || r.Method != http.MethodPost {
			s.fail(w, v, unknown)
			return
		}
		s.send(w, r, v, a, id)
		return
	}
	s.fail(w, services["mozilla"], unknown)
}

// send accepts a message for a subscription.
func (s *Simulator) send(w http.ResponseWriter, r *http.Request, v service, a *app, id string) {
	if code := s.authenticate(r, a); code != "" {
		s.fail(w, v, code)
		return
	}
	ttl, code := headers(r)
	if code != "" {
		s.fail(w, v, code)
		return
	}
	body, err := frame.ReadBody(w, r)
	if err != nil || len(body) > maxBody {
		s.fail(w, v, tooLarge)
		return
	}
	plain, code := s.decrypt(r, a, id, body)
	if code == "" {
		code = s.decide(r, a, plain)
	}
	answer := frame.Wanted(s.codes, frame.InAnswer, code)
	if code != "" && answer.Group != frame.Success {
		s.fail(w, v, code)
		return
	}
	if code == "" {
		answer.Status, answer.Code = http.StatusCreated, created
	}
	message := s.frame.URL + "/m/" + rand.Text()
	s.frame.Record.Accept(frame.Accepted{
		At: s.frame.Now(), App: a.Name, Tokens: []string{s.frame.URL + v.path + id}, PushID: frame.PushID(plain),
		VendorID: message, Headers: frame.Headers(r), Body: string(plain),
	})
	s.frame.Answered(answer.Code, 1)
	w.Header().Set("Location", message)
	w.Header().Set("TTL", strconv.FormatInt(min(ttl, v.maxTTL), 10))
	w.WriteHeader(answer.Status)
}

// headers checks the headers of a message.
func headers(r *http.Request) (ttl int64, code string) {
	ttl, err := strconv.ParseInt(r.Header.Get("TTL"), 10, 64)
	if err != nil || ttl < 0 || r.ContentLength < 0 {
		return 0, badHeader
	}
	switch r.Header.Get("Urgency") {
	case "", "very-low", "low", "normal", "high":
	default:
		return 0, badHeader
	}
	if topic := r.Header.Get("Topic"); topic != "" && !topicText.MatchString(topic) {
		return 0, badHeader
	}
	return ttl, ""
}

// decrypt opens the body, if there is one.
func (s *Simulator) decrypt(r *http.Request, a *app, id string, body []byte) ([]byte, string) {
	if len(body) == 0 {
		return nil, ""
	}
	if r.Header.Get("Content-Encoding") != "aes128gcm" {
		return nil, badCrypto
	}
	if r.Header.Get("Content-Type") != "application/octet-stream" { // listed by the sheet, which does not say that it is needed
		return nil, badHeader
	}
	keys, err := subscriber(a.Seed, id)
	if err != nil {
		return nil, "500"
	}
	plain, err := keys.decrypt(body)
	if err != nil {
		s.frame.Log.Debug("body refused", "error", err)
		return nil, badCrypto
	}
	return plain, ""
}

// decide asks the switches and limits about a good message; empty: it is accepted.
func (s *Simulator) decide(r *http.Request, a *app, plain []byte) string {
	request := s.frame.ForRequest(a.Name, title(plain))
	token := s.frame.ForToken(a.Name, endpoint(r, s.frame.URL))
	for _, v := range []frame.Verdict{request, token} {
		if !frame.Pause(r.Context(), v.Delay) {
			return backOff
		}
		if v.Code != "" {
			return v.Code
		}
	}
	if token.Invalid {
		return gone
	}
	if s.frame.Admit(a.Name, 1) != frame.Admitted {
		return tooMany
	}
	return ""
}

// endpoint returns the endpoint that was called, or the directive behind its question mark.
func endpoint(r *http.Request, base string) string {
	if text, err := url.QueryUnescape(r.URL.RawQuery); err == nil && strings.HasPrefix(text, "sim:") {
		return text
	}
	return base + r.URL.Path
}

// title returns the title in a message, which is free JSON: at its root, or in "notification".
func title(plain []byte) string {
	var m struct {
		Title        string
		Notification struct{ Title string }
	}
	if json.Unmarshal(plain, &m) != nil {
		return ""
	}
	if m.Title != "" {
		return m.Title
	}
	return m.Notification.Title
}

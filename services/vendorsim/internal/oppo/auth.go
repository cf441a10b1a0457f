package oppo

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

const (
	// tokenLife is how long an auth_token is good.
	tokenLife = 24 * time.Hour
	// maxSkew is how far a timestamp may be off.
	maxSkew = 10 * time.Minute
)

// auth answers the signed call for an auth_token.
func (s *Simulator) auth(w http.ResponseWriter, form url.Values) {
	a, code := s.verify(form)
	if code != "" {
		s.answer(w, code)
		return
	}
	now := s.frame.Now()
	token := rand.Text() + rand.Text()
	s.frame.Sessions.Open(token, frame.Session{App: a.Name, Until: now.Add(s.frame.Life(tokenLife)), Value: a})
	s.frame.Answered("token", 1)
	frame.WriteJSON(w, http.StatusOK, map[string]any{
		"code": 0, "message": "", "data": map[string]any{"auth_token": token, "create_time": now.UnixMilli()},
	})
}

// verify checks the signature of a call for an auth_token.
func (s *Simulator) verify(form url.Values) (*app, string) {
	key, stamp, sign := form.Get("app_key"), form.Get("timestamp"), form.Get("sign")
	s.mu.Lock()
	a := s.apps[key]
	s.mu.Unlock()
	ms, err := strconv.ParseInt(stamp, 10, 64)
	switch {
	case key == "":
		return nil, noAppKey
	case sign == "":
		return nil, noSign
	case stamp == "":
		return nil, noTimestamp
	case err != nil || s.frame.Now().Sub(time.UnixMilli(ms)).Abs() > maxSkew:
		return nil, badTimestamp
	case a == nil:
		return nil, badAppKey
	}
	sum := sha256.Sum256([]byte(key + stamp + a.MasterSecret))
	if hex.EncodeToString(sum[:]) != sign || s.frame.Revoked(a.Name) {
		return nil, badSign
	}
	if a.Disabled {
		return nil, disabled
	}
	return a, ""
}

// authenticate returns the app of an auth_token, which stands in the form or in a header (L), or the code to answer.
func (s *Simulator) authenticate(r *http.Request, form url.Values) (*app, string) {
	token := form.Get("auth_token")
	if token == "" {
		token = r.Header.Get("auth_token")
	}
	if token == "" {
		return nil, noToken
	}
	session, state := s.frame.Sessions.Find(token)
	if state != frame.Good || s.frame.Revoked(session.App) {
		return nil, badToken
	}
	return session.Value.(*app), ""
}

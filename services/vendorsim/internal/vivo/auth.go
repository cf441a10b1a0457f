package vivo

import (
	"crypto/md5" // vivo's signature
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

const (
	// tokenLife is how long an authToken is good; an app may have several.
	tokenLife = 24 * time.Hour
	// maxSkew is how far a timestamp may be off.
	maxSkew = 10 * time.Minute
	// maxLogins calls for tokens are answered for an app in a second.
	maxLogins = 10
)

// auth answers the signed call for an authToken.
func (s *Simulator) auth(w http.ResponseWriter, body []byte) {
	var call struct {
		AppID     json.RawMessage `json:"appId"` // a number; a text is taken, too
		AppKey    string          `json:"appKey"`
		Timestamp json.RawMessage `json:"timestamp"`
		Sign      string          `json:"sign"`
	}
	if json.Unmarshal(body, &call) != nil {
		s.answer(w, badArgument)
		return
	}
	id, key := strings.TrimSpace(frame.Text(call.AppID)), strings.TrimSpace(call.AppKey)
	stamp := strings.TrimSpace(frame.Text(call.Timestamp))
	s.mu.Lock()
	a := s.apps[id]
	s.mu.Unlock()
	ms, err := strconv.ParseInt(stamp, 10, 64)
	code := ""
	switch {
	case id == "":
		code = noAppID
	case key == "":
		code = noAppKey
	case stamp == "":
		code = noTimestamp
	case call.Sign == "":
		code = noSign
	case a == nil:
		code = unknownApp
	case key != a.AppKey:
		code = badAppKey
	case err != nil || s.frame.Now().Sub(time.UnixMilli(ms)).Abs() > maxSkew:
		code = badTimestamp
	case call.Sign != sign(id, key, stamp, a.AppSecret) || s.frame.Revoked(a.Name):
		code = badSign
	case !s.loginAllowed(a):
		code = overRate
	}
	if code != "" {
		s.answer(w, code)
		return
	}
	token := rand.Text() + rand.Text()
	s.frame.Sessions.Open(token, frame.Session{App: a.Name, Until: s.frame.Now().Add(s.frame.Life(tokenLife)), Value: a})
	s.frame.Answered("token", 1)
	frame.WriteJSON(w, http.StatusOK, map[string]any{"result": 0, "desc": "success", "authToken": token})
}

func sign(parts ...string) string {
	sum := md5.Sum([]byte(strings.Join(parts, "")))
	return hex.EncodeToString(sum[:])
}

// loginAllowed counts a call for a token, and says whether it is one of the first of its second.
func (s *Simulator) loginAllowed(a *app) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if second := s.frame.Now().Unix(); a.second != second {
		a.second, a.logins = second, 0
	}
	a.logins++
	return a.logins <= maxLogins
}

// authenticate returns the app of a request's token, or nil.
func (s *Simulator) authenticate(r *http.Request) *app {
	session, state := s.frame.Sessions.Find(r.Header.Get("authToken"))
	if state != frame.Good || s.frame.Revoked(session.App) {
		return nil
	}
	return session.Value.(*app)
}

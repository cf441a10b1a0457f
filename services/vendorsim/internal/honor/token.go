package honor

import (
	"crypto/rand"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// tokenLife is how long an access token is good (M); clients have to trust expires_in.
const tokenLife = time.Hour

// token answers the OAuth server's call for an access token.
func (s *Simulator) token(w http.ResponseWriter, r *http.Request) {
	form, err := frame.ReadForm(w, r)
	if err != nil || r.Method != http.MethodPost || form.Get("grant_type") != "client_credentials" {
		s.refuse(w, invalidGrant)
		return
	}
	s.mu.Lock()
	a := s.clients[form.Get("client_id")]
	s.mu.Unlock()
	switch {
	case a == nil:
		s.refuse(w, unauthorized)
		return
	case a.ClientSecret != form.Get("client_secret") || s.frame.Revoked(a.Name):
		s.refuse(w, invalidClient)
		return
	}
	life := s.frame.Life(tokenLife)
	token := rand.Text() + rand.Text()
	s.frame.Sessions.Open(token, frame.Session{App: a.Name, Until: s.frame.Now().Add(life), Value: a})
	s.frame.Answered("token", 1)
	frame.WriteJSON(w, http.StatusOK, map[string]any{
		"access_token": token, "expires_in": int64(life.Seconds()), "token_type": "Bearer",
	})
}

func (s *Simulator) refuse(w http.ResponseWriter, name string) {
	code := frame.Wanted(Codes(), frame.InAuth, name)
	s.frame.Answered(code.Code, 1)
	frame.WriteJSON(w, code.Status, map[string]string{"error": code.Code, "error_description": code.Meaning})
}

// authenticate checks the headers of a send to an app, and returns the code of their fault, if they have one.
func (s *Simulator) authenticate(r *http.Request, a *app) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	session, state := s.frame.Sessions.Find(token)
	switch {
	case scheme != "Bearer" || state == frame.Unknown:
		return authError
	case state == frame.Expired:
		return tokenExpired
	case session.App != a.Name || s.frame.Revoked(a.Name):
		return authError
	}
	// How far the time may be off is not documented; that it is there, in ms, is.
	if ms, err := strconv.ParseInt(r.Header.Get("Timestamp"), 10, 64); err != nil || ms < 1e12 {
		return badParameter
	}
	return ""
}

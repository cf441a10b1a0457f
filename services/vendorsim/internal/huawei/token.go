package huawei

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

const (
	// tokenLife is how long an access token is good.
	tokenLife = time.Hour
	// maxLogins calls for tokens are answered for an app in loginWindow (M).
	maxLogins   = 1000
	loginWindow = 5 * time.Minute
)

// token answers the OAuth server's call for an access token.
func (s *Simulator) token(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || r.Method != http.MethodPost {
		s.refuse(w, invalidRequest)
		return
	}
	id, secret := r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	s.mu.Lock()
	a := s.clients[id]
	s.mu.Unlock()
	switch {
	case r.PostForm.Get("grant_type") != "client_credentials":
		s.refuse(w, unsupportedGrant)
		return
	case id == "" || secret == "":
		s.refuse(w, invalidRequest)
		return
	case a == nil || a.ClientSecret != secret || s.frame.Revoked(a.Name):
		s.refuse(w, invalidClient)
		return
	case !s.logins.take(id):
		s.refuse(w, traffic)
		return
	}
	life := s.frame.Life(tokenLife)
	token := "DQ/" + rand.Text() + "/" + rand.Text()
	s.frame.Sessions.Open(token, frame.Session{App: a.Name, Until: s.frame.Now().Add(life), Value: a})
	s.frame.Answered("token", 1)
	body, _ := json.Marshal(map[string]any{ // texts and a number can be encoded
		"access_token": token, "expires_in": int64(life.Seconds()), "token_type": "Bearer",
	})
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(strings.ReplaceAll(string(body), "/", `\/`))) // as Huawei writes them
}

func (s *Simulator) refuse(w http.ResponseWriter, name string) {
	code := frame.Wanted(Codes(), frame.InAuth, name)
	s.frame.Answered(code.Code, 1)
	frame.WriteJSON(w, code.Status, map[string]string{"error": code.Code, "error_description": code.Meaning})
}

// authenticate returns the app of an access token, or the code to answer.
func (s *Simulator) authenticate(r *http.Request) (*app, string) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if scheme != "Bearer" || token == "" {
		return nil, authError
	}
	session, state := s.frame.Sessions.Find(token)
	switch {
	case state == frame.Unknown:
		return nil, authError
	case state == frame.Expired:
		return nil, tokenExpired
	case s.frame.Revoked(session.App):
		return nil, authError
	}
	return session.Value.(*app), ""
}

// logins counts calls for access tokens.
type logins struct {
	now   func() time.Time
	mu    sync.Mutex
	calls map[string]window // by client id: as many as there are apps
}

type window struct {
	begin time.Time
	n     int
}

func (l *logins) take(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.calls[id]
	if now := l.now(); now.Sub(w.begin) >= loginWindow {
		w = window{begin: now}
	}
	w.n++
	l.calls[id] = w
	return w.n <= maxLogins
}

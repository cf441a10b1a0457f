package fcm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

const (
	grantType = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	// googleTokenURI is the audience that an assertion may have besides the simulator's own address.
	googleTokenURI = "https://oauth2.googleapis.com/token"
	// maxAssertion is how long an assertion may be valid; tokenLife how long an access token is.
	maxAssertion = time.Hour
	tokenLife    = 3599 * time.Second
	// clockSkew is how far in the future an assertion may be made; the sheet says nothing.
	clockSkew = time.Minute
)

// scopes are those that let send; one is enough.
var scopes = []string{
	"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform",
}

// token exchanges an assertion for an access token.
func (s *Simulator) token(w http.ResponseWriter, r *http.Request) {
	err := r.ParseForm()
	switch {
	case err != nil || r.Method != http.MethodPost || r.PostForm.Get("grant_type") != grantType:
		s.refuse(w, unsupportedGrant, "Invalid grant_type")
		return
	}
	a, scope, err := s.verify(r.PostForm.Get("assertion"))
	if err != nil {
		s.refuse(w, invalidGrant, err.Error())
		return
	}
	if s.frame.Revoked(a.Name) {
		s.refuse(w, invalidGrant, "the key is revoked")
		return
	}
	if !slices.ContainsFunc(strings.Fields(scope), func(s string) bool { return slices.Contains(scopes, s) }) {
		s.refuse(w, invalidScope, "the scope is not FCM's")
		return
	}
	life := s.frame.Life(tokenLife)
	token := "ya29." + rand.Text() + rand.Text()
	s.frame.Sessions.Open(token, frame.Session{App: a.Name, Until: s.frame.Now().Add(life), Value: a})
	s.frame.Answered("token", 1)
	frame.WriteJSON(w, http.StatusOK, map[string]any{
		"access_token": token, "expires_in": int64(life.Seconds()), "token_type": "Bearer",
	})
}

func (s *Simulator) refuse(w http.ResponseWriter, code, description string) {
	s.frame.Answered(code, 1)
	frame.WriteJSON(w, http.StatusBadRequest, map[string]string{"error": code, "error_description": description})
}

// verify checks an assertion, and returns whose it is and the scope that it asks for.
func (s *Simulator) verify(assertion string) (a *app, scope string, err error) {
	var claims struct {
		jwt.RegisteredClaims
		Scope string `json:"scope"`
	}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithoutClaimsValidation())
	_, err = parser.ParseWithClaims(assertion, &claims, func(t *jwt.Token) (any, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if a = s.accounts[claims.Issuer]; a == nil {
			return nil, errors.New("iss is not a service account")
		}
		if id, there := t.Header["kid"]; there && id != a.Account.PrivateKeyID {
			return nil, errors.New("kid is not the account's key")
		}
		return a.public, nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("invalid JWT: %w", err)
	}
	now := s.frame.Now()
	switch {
	case claims.IssuedAt == nil || claims.ExpiresAt == nil:
		return nil, "", errors.New("iat or exp is missing")
	case claims.ExpiresAt.Sub(claims.IssuedAt.Time) > maxAssertion:
		return nil, "", errors.New("the assertion is valid for more than an hour")
	case now.After(claims.ExpiresAt.Time) || claims.IssuedAt.After(now.Add(clockSkew)):
		return nil, "", errors.New("the assertion is not valid now")
	case !slices.Contains(claims.Audience, s.tokenURI()) && !slices.Contains(claims.Audience, googleTokenURI):
		return nil, "", errors.New("aud is not the token URI")
	}
	return a, claims.Scope, nil
}

// authenticate returns the app of an access token; false: it is not good.
func (s *Simulator) authenticate(r *http.Request) (*app, bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	session, state := s.frame.Sessions.Find(token)
	if scheme != "Bearer" || state != frame.Good || s.frame.Revoked(session.App) {
		return nil, false
	}
	return session.Value.(*app), true
}

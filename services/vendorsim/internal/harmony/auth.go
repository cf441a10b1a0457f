package harmony

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

const (
	// audience is what a JWT must be for. It is only a claim: nothing is called there.
	audience = "https://oauth-login.cloud.huawei.com/oauth2/v3/token"
	// maxValidity is how long a JWT may be valid; one hour is advised.
	maxValidity = 24 * time.Hour
	// clockSkew is how far in the future a JWT may be made. The sheet says only that the clock must be right.
	clockSkew = time.Minute
)

// authenticate returns the app of a JWT, or the code to answer.
func (s *Simulator) authenticate(r *http.Request) (*app, string) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if scheme != "Bearer" || token == "" {
		return nil, authError
	}
	session, state := s.frame.Sessions.Find(token)
	if state == frame.Unknown {
		claims, a, err := s.verify(token)
		if err != nil {
			s.frame.Log.Debug("JWT refused", "error", err)
			return nil, authError
		}
		if claims.ExpiresAt.Sub(claims.IssuedAt.Time) > maxValidity {
			return nil, jwtTooLong
		}
		if s.frame.Now().After(claims.ExpiresAt.Time) {
			return nil, jwtExpired
		}
		session = frame.Session{App: a.Name, Until: claims.ExpiresAt.Time, Value: a}
		s.frame.Sessions.Open(token, session)
	}
	switch {
	case state == frame.Expired:
		return nil, jwtExpired
	case s.frame.Revoked(session.App):
		return nil, authError
	}
	return session.Value.(*app), ""
}

// verify checks signature and claims of a JWT. Its times are for the caller to look at.
func (s *Simulator) verify(token string) (jwt.RegisteredClaims, *app, error) {
	var claims jwt.RegisteredClaims
	var a *app
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"PS256"}), jwt.WithoutClaimsValidation())
	parsed, err := parser.ParseWithClaims(token, &claims, func(t *jwt.Token) (any, error) {
		id, _ := t.Header["kid"].(string)
		s.mu.Lock()
		defer s.mu.Unlock()
		if a = s.keys[id]; a == nil {
			return nil, errors.New("kid is not a known key")
		}
		return a.public, nil
	})
	switch {
	case err != nil:
		return claims, nil, err
	case parsed.Header["typ"] != "JWT":
		return claims, nil, errors.New("typ is not JWT")
	case claims.Issuer != a.Account.SubAccount:
		return claims, nil, errors.New("iss is not the service account")
	case !slices.Contains(claims.Audience, audience):
		return claims, nil, errors.New("aud is wrong")
	case claims.IssuedAt == nil || claims.ExpiresAt == nil:
		return claims, nil, errors.New("iat or exp is missing")
	case claims.IssuedAt.After(s.frame.Now().Add(clockSkew)):
		return claims, nil, errors.New("iat is in the future")
	}
	return claims, a, nil
}

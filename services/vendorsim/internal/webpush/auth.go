package webpush

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// maxValidity is how far ahead a JWT's exp may be.
const maxValidity = 24 * time.Hour

// authenticate checks VAPID (RFC 8292) against the key that a subscription was made with, and returns the code of its fault.
func (s *Simulator) authenticate(r *http.Request, a *app) string {
	header := r.Header.Get("Authorization")
	if header == "" && a.WithoutKey {
		return ""
	}
	token, key, err := vapid(header)
	if err != nil {
		return s.refused(a, err)
	}
	known := token + "." + key
	_, state := s.frame.Sessions.Find(known)
	if state == frame.Unknown {
		claims, err := s.verify(token, key, r)
		if err != nil {
			return s.refused(a, err)
		}
		s.frame.Sessions.Open(known, frame.Session{App: a.Name, Until: claims.ExpiresAt.Time})
	}
	apple := a.Service == "apple"
	switch {
	case state == frame.Expired && apple:
		return appleExpired
	case state == frame.Expired:
		return badJWT
	case (!a.WithoutKey && key != a.VAPIDPublicKey || s.frame.Revoked(a.Name)) && apple:
		return appleOtherKey
	case !a.WithoutKey && key != a.VAPIDPublicKey || s.frame.Revoked(a.Name):
		return otherKey
	}
	return ""
}

var errExpired = errors.New("the JWT has expired")

// refused returns the code for a JWT that is not good.
func (s *Simulator) refused(a *app, err error) string {
	s.frame.Log.Debug("VAPID refused", "error", err)
	switch {
	case a.Service != "apple":
		return badJWT
	case errors.Is(err, errExpired):
		return appleExpired
	}
	return appleBadJWT
}

// vapid takes the header Authorization apart: vapid t=<jwt>, k=<key>.
func vapid(header string) (token, key string, err error) {
	scheme, rest, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "vapid") {
		return "", "", errors.New("the scheme is not vapid")
	}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "t":
			token = value
		case "k":
			key = value
		}
	}
	if token == "" || key == "" {
		return "", "", errors.New("t or k is missing")
	}
	return token, key, nil
}

// verify checks signature and claims of a JWT.
func (s *Simulator) verify(token, key string, r *http.Request) (jwt.RegisteredClaims, error) {
	var claims jwt.RegisteredClaims
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithoutClaimsValidation())
	parsed, err := parser.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return publicKey(key) })
	if err != nil {
		return claims, fmt.Errorf("verify the JWT: %w", err)
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	now := s.frame.Now()
	switch {
	case parsed.Header["typ"] != "JWT":
		return claims, errors.New("typ is not JWT")
	case claims.ExpiresAt == nil || claims.ExpiresAt.After(now.Add(maxValidity)):
		return claims, errors.New("exp is missing or over a day ahead")
	case now.After(claims.ExpiresAt.Time):
		return claims, errExpired
	case !slices.Contains(claims.Audience, scheme+r.Host):
		return claims, errors.New("aud is not the endpoint's origin")
	case !strings.HasPrefix(claims.Subject, "mailto:") && !strings.HasPrefix(claims.Subject, "https://"):
		return claims, errors.New("sub is not a contact")
	}
	return claims, nil
}

package apns

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
	// tokenLife is how old a provider token may be; tokenPace how long one must be kept.
	tokenLife = 60 * time.Minute
	tokenPace = 20 * time.Minute
	// clockSkew is how far in the future a token may be made. The sheet says nothing; without it, clocks would have to agree.
	clockSkew = time.Minute
	// maxTokens bounds the provider tokens that a connection's state remembers.
	maxTokens = 8
)

// sender is who sends: a key, or an app by its certificate.
type sender struct {
	team string
	key  *key
	cert *app
}

// authenticate finds out who sends.
func (s *Simulator) authenticate(r *http.Request) (sender, fault) {
	scheme, token, _ := strings.Cut(r.Header.Get("authorization"), " ")
	if strings.EqualFold(scheme, "bearer") && token != "" {
		return s.byToken(r, token)
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return sender{}, fault{reason: missingProviderToken}
	}
	subject, err := s.frame.Authority.Verify(r.TLS.PeerCertificates[0].Raw)
	if err != nil {
		return sender{}, fault{reason: badCertificate}
	}
	if subject.Unit != string(s.environment) {
		return sender{}, fault{reason: badCertificateEnv}
	}
	a := s.bundle(subject.UserID)
	if a == nil {
		return sender{}, fault{reason: badCertificate}
	}
	return sender{team: a.TeamID, cert: a}, fault{}
}

// provider is what a provider token says.
type provider struct {
	key  *key
	made time.Time
}

func (s *Simulator) byToken(r *http.Request, token string) (sender, fault) {
	session, state := s.frame.Sessions.Find(token)
	if state == frame.Unknown {
		p, err := s.verify(token)
		if err != nil {
			s.frame.Log.Debug("provider token refused", "error", err)
			return sender{}, fault{reason: invalidProviderToken}
		}
		session = frame.Session{App: p.key.app, Value: p}
		s.frame.Sessions.Open(token, session)
	}
	p := session.Value.(provider)
	age := s.frame.Now().Sub(p.made)
	switch {
	case state == frame.Expired || age > tokenLife:
		return sender{}, s.onConnection(r, token, p, true)
	case age < -clockSkew:
		return sender{}, fault{reason: invalidProviderToken}
	case p.key.environment != "" && p.key.environment != s.environment:
		return sender{}, fault{reason: badEnvironmentKeyID}
	}
	return sender{team: p.key.team, key: p.key}, s.onConnection(r, token, p, false)
}

// verify checks signature, key and team of a provider token.
func (s *Simulator) verify(token string) (provider, error) {
	var claims struct {
		jwt.RegisteredClaims
		Expires any `json:"exp"` // a provider token has none; what is there is not looked at
	}
	var k *key
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"ES256"}), jwt.WithoutClaimsValidation())
	_, err := parser.ParseWithClaims(token, &claims, func(t *jwt.Token) (any, error) {
		id, _ := t.Header["kid"].(string)
		if k = s.key(id); k == nil {
			return nil, errors.New("kid is not a known key")
		}
		return k.public, nil
	})
	switch {
	case err != nil:
		return provider{}, err
	case claims.Issuer != k.team:
		return provider{}, errors.New("iss is not the key's team")
	case claims.IssuedAt == nil:
		return provider{}, errors.New("iat is missing")
	}
	return provider{key: k, made: claims.IssuedAt.Time}, nil
}

// connection is what Apple remembers about one.
type connection struct {
	team   string
	tokens []shown // oldest first
}

type shown struct {
	token   string
	since   time.Time
	expired bool // it was refused as expired: the next one may come at once
}

// onConnection applies the rules for provider tokens on one connection: one team, and a new token every 20 minutes at most.
// That the second rule counts by connection is our reading (M): replicas and restarts have tokens of their own.
func (s *Simulator) onConnection(r *http.Request, token string, p provider, expired bool) (f fault) {
	if expired {
		f = fault{reason: expiredProviderToken}
	}
	c := frame.ConnOf(r)
	if c == nil {
		return f
	}
	c.Update(func(old any) any {
		state, _ := old.(connection)
		if state.team == "" {
			state.team = p.key.team
		}
		if state.team != p.key.team {
			f = fault{reason: invalidProviderToken}
			return state
		}
		now := s.frame.Now()
		if i := slices.IndexFunc(state.tokens, func(t shown) bool { return t.token == token }); i >= 0 {
			state.tokens[i].expired = state.tokens[i].expired || expired
			return state
		}
		if n := len(state.tokens); n > 0 && !state.tokens[n-1].expired && now.Sub(state.tokens[n-1].since) < tokenPace {
			f = fault{reason: tooManyTokenUpdates}
			return state
		}
		state.tokens = append(state.tokens, shown{token: token, since: now, expired: expired})
		if len(state.tokens) > maxTokens {
			state.tokens = state.tokens[1:]
		}
		return state
	})
	return f
}

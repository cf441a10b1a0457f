package sender

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// refreshAhead is how long before its end a token is fetched anew.
	refreshAhead = time.Minute
	// tokenWithin bounds a fetch.
	tokenWithin = 20 * time.Second
)

// TokenSource keeps an access token that has to be fetched and ends after a while. Whoever needs one while it is being fetched
// waits for the same answer.
type TokenSource struct {
	// Fetch gets a token and says how long it holds. Its ctx ends after 20 s.
	Fetch func(ctx context.Context) (token string, holds time.Duration, err error)

	loads singleflight.Group
	mu    sync.Mutex
	token string    // guarded by mu
	ends  time.Time // guarded by mu
}

// Token returns a token that holds for a while still. It blocks while one is fetched, or until ctx ends.
func (s *TokenSource) Token(ctx context.Context) (string, error) {
	if token := s.held(); token != "" {
		return token, nil
	}
	fetched := s.loads.DoChan("", func() (any, error) {
		if token := s.held(); token != "" { // who looked before it was there comes too late to share its fetch
			return token, nil
		}
		// The one who began it may give up; the others still want it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokenWithin)
		defer cancel()
		token, holds, err := s.Fetch(ctx)
		if err != nil {
			return "", err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.token, s.ends = token, time.Now().Add(max(holds-refreshAhead, holds/2))
		return token, nil
	})
	select {
	case <-ctx.Done():
		return "", fmt.Errorf("wait for an access token: %w", ctx.Err())
	case r := <-fetched:
		if r.Err != nil {
			return "", r.Err
		}
		return r.Val.(string), nil
	}
}

// held returns the token that is there, empty if there is none that holds.
func (s *TokenSource) held() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Until(s.ends) <= 0 {
		return ""
	}
	return s.token
}

// Void forgets a token that the vendor does not take any more, unless there is a newer one already.
func (s *TokenSource) Void(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token == token {
		s.token = ""
	}
}

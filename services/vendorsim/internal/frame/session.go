package frame

import (
	"slices"
	"sync"
	"time"
)

// maxSessions bounds the tokens that are remembered. When they are too many, those that have ended go first, then the oldest:
// to its owner such a token looks unknown.
const maxSessions = 20_000

// State is what has become of an access token.
type State int

// The states.
const (
	Unknown State = iota
	Good
	Expired
)

// Session is an access token that was issued, or a JWT that was verified.
type Session struct {
	App   string
	Until time.Time // zero: the vendor looks by itself
	Value any       // what the vendor keeps with it

	first   time.Time
	expired bool
}

// Sessions are the tokens that apps show. Safe for use by many.
type Sessions struct {
	now func() time.Time

	mu   sync.Mutex
	list map[string]*Session
}

// NewSessions returns an empty list.
func NewSessions(now func() time.Time) *Sessions {
	return &Sessions{now: now, list: make(map[string]*Session)}
}

// Open remembers a token.
func (s *Sessions) Open(token string, session Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) >= maxSessions {
		s.shrinkLocked()
	}
	session.first = s.now()
	s.list[token] = &session
}

// Find returns what is known about a token. The session is valid only with Good and Expired.
func (s *Sessions) Find(token string) (Session, State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	session := s.list[token]
	switch {
	case session == nil:
		return Session{}, Unknown
	case session.expired || !session.Until.IsZero() && s.now().After(session.Until):
		return *session, Expired
	}
	return *session, Good
}

// Expire ends all tokens of an app (empty: of all) that were seen until now, and returns how many.
func (s *Sessions) Expire(app string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, session := range s.list {
		if fits(app, session.App) && !session.expired {
			session.expired = true
			n++
		}
	}
	return n
}

// shrinkLocked removes what has ended, and if that is not enough, the older half.
func (s *Sessions) shrinkLocked() {
	now := s.now()
	times := make([]time.Time, 0, len(s.list))
	for token, session := range s.list {
		if session.expired || !session.Until.IsZero() && now.After(session.Until) {
			delete(s.list, token)
			continue
		}
		times = append(times, session.first)
	}
	if len(s.list) < maxSessions {
		return
	}
	slices.SortFunc(times, time.Time.Compare)
	middle := times[len(times)/2]
	for token, session := range s.list {
		if !session.first.After(middle) {
			delete(s.list, token)
		}
	}
}

// Revoked says whether the switches refuse an app's credential.
func (f *Frame) Revoked(app string) bool {
	return slices.Contains(f.Switches().Credentials.Revoked, app)
}

// Life returns how long access tokens live: as documented, unless the switches say otherwise.
func (f *Frame) Life(documented time.Duration) time.Duration {
	if life := f.Switches().Credentials.Life; life > 0 {
		return time.Duration(life)
	}
	return documented
}

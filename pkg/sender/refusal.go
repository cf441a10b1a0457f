package sender

import (
	"sync"
	"time"
)

// refusals is how many in a row, with nothing accepted between them, say that a vendor refuses a credential itself and not for
// some targets alone.
const refusals = 3

// refusal is what is known of a credential that its vendor refuses. For a time jobs wait for another one, which somebody is about
// to set if the old one was revoked or ended unnoticed; the vendor is left alone meanwhile.
type refusal struct {
	mu    sync.Mutex
	inRow int       // guarded by mu
	since time.Time // guarded by mu: the first of them
	probe time.Time // guarded by mu: when one request is let through, to see
}

// shut says whether a request has to wait, as jobs do for so long after the first refusal.
func (r *refusal) shut(now time.Time, wait time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inRow < refusals || !now.Before(r.since.Add(wait)) {
		return false
	}
	if now.Before(r.probe) {
		return true
	}
	r.probe = now.Add(withoutCredential)
	return false
}

// note notes a refusal after so many attempts, and says whether the target waits for another credential, whether that counts as
// an attempt, and whether it is the one that speaks against the credential itself.
func (r *refusal) note(now time.Time, wait time.Duration, attempts int) (waits, counted, tells bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inRow == 0 {
		r.since = now
	}
	if r.inRow++; r.inRow == refusals {
		r.probe = now.Add(withoutCredential)
	}
	counted = r.inRow < refusals
	return now.Before(r.since.Add(wait)) && (!counted || attempts+1 < refusals), counted, r.inRow == refusals
}

// over notes that the vendor takes the credential.
func (r *refusal) over() {
	r.mu.Lock()
	r.inRow = 0
	r.mu.Unlock()
}

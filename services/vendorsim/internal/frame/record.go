package frame

import (
	"context"
	"iter"
	"net/http"
	"regexp"
	"sync"
	"time"
)

// Accepted is a request that a vendor has accepted.
type Accepted struct {
	Seq      uint64            `json:"seq"` // 1 is the first; without gaps
	At       time.Time         `json:"at"`
	App      string            `json:"app"`      // the app that the credential is for
	Tokens   []string          `json:"tokens"`   // those that were accepted
	PushID   string            `json:"push_id"`  // our own, found in the body; empty: it holds none
	DedupID  string            `json:"dedup_id"` // what the vendor takes for that
	VendorID string            `json:"vendor_id"`
	Headers  map[string]string `json:"headers,omitempty"` // without those that hold a secret
	Body     string            `json:"body"`
	Notes    []string          `json:"notes,omitempty"` // what a phone or the vendor would do with it later
}

// id is what identifies the push for the set of pairs.
func (a *Accepted) id() string {
	if a.PushID != "" {
		return a.PushID
	}
	return a.DedupID
}

// size is about what the request costs in memory, in bytes.
func (a *Accepted) size() int {
	n := 256 + len(a.Body)
	for _, t := range a.Tokens {
		n += 16 + len(t)
	}
	for k, v := range a.Headers {
		n += 48 + len(k) + len(v)
	}
	return n
}

// Pair is how often a push was accepted for a token.
type Pair struct {
	Token  string `json:"token"`
	PushID string `json:"push_id"`
	Count  uint32 `json:"count"`
}

// RecorderConfig bounds a recorder's memory.
type RecorderConfig struct {
	Bytes int // of the latest requests; older ones are forgotten
	Pairs int // further (token, push_id) are not stored, but counted
}

// Recorder remembers what was accepted: the latest requests whole, and every (token, push_id) with its count.
type Recorder struct {
	config RecorderConfig

	mu      sync.Mutex
	ring    []Accepted // oldest first
	bytes   int
	last    uint64
	changed chan struct{} // closed at the next request, if someone waits

	tokens, pushes *names
	pairs          map[[2]uint32]uint32
	counts         RecordCounts
}

// RecordCounts are a recorder's counters.
type RecordCounts struct {
	Requests     uint64 `json:"requests"`
	Devices      uint64 `json:"devices"`       // tokens of the requests, repeats included
	Pairs        uint64 `json:"pairs"`         // different (token, push_id)
	Repeats      uint64 `json:"repeats"`       // devices - pairs - pairs_dropped
	PairsDropped uint64 `json:"pairs_dropped"` // not stored: there were too many. Over 0: the list of pairs is not complete
	Forgotten    uint64 `json:"forgotten"`     // requests that had to make room
}

// NewRecorder returns an empty recorder.
func NewRecorder(c RecorderConfig) *Recorder {
	r := &Recorder{config: c}
	r.Reset()
	return r
}

// Reset forgets everything but the sequence.
func (r *Recorder) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ring, r.bytes, r.counts = nil, 0, RecordCounts{}
	r.tokens, r.pushes = newNames(), newNames()
	r.pairs = make(map[[2]uint32]uint32)
}

// Accept records a request. Its Seq is set here.
func (r *Recorder) Accept(a Accepted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	a.Seq = r.last
	r.counts.Requests++
	r.counts.Devices += uint64(len(a.Tokens))
	for _, token := range a.Tokens {
		r.pairLocked(token, a.id())
	}
	r.ring = append(r.ring, a)
	r.bytes += a.size()
	for r.bytes > r.config.Bytes && len(r.ring) > 1 {
		r.bytes -= r.ring[0].size()
		r.ring[0] = Accepted{} // the array keeps it alive otherwise
		r.ring = r.ring[1:]
		r.counts.Forgotten++
	}
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

func (r *Recorder) pairLocked(token, push string) {
	if len(r.pairs) >= r.config.Pairs {
		t, known := r.tokens.find(token)
		p, seen := r.pushes.find(push)
		if !known || !seen || r.pairs[[2]uint32{t, p}] == 0 {
			r.counts.PairsDropped++
			return
		}
	}
	key := [2]uint32{r.tokens.number(token), r.pushes.number(push)}
	if r.pairs[key] == 0 {
		r.counts.Pairs++
	} else {
		r.counts.Repeats++
	}
	r.pairs[key]++
}

// Counts returns the counters.
func (r *Recorder) Counts() RecordCounts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// Pairs lists every (token, push_id), in no order.
func (r *Recorder) Pairs() []Pair {
	r.mu.Lock()
	defer r.mu.Unlock()
	pairs := make([]Pair, 0, len(r.pairs))
	for key, n := range r.pairs {
		pairs = append(pairs, Pair{Token: r.tokens.list[key[0]], PushID: r.pushes.list[key[1]], Count: n})
	}
	return pairs
}

// After returns the requests behind a sequence number that are not forgotten yet, oldest first.
func (r *Recorder) After(seq uint64) []Accepted {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.afterLocked(seq)
}

func (r *Recorder) afterLocked(seq uint64) []Accepted {
	first := r.last + 1 - uint64(len(r.ring))
	if seq >= r.last {
		return nil
	}
	return append([]Accepted(nil), r.ring[max(seq+1, first)-first:]...)
}

// Follow returns the requests that are not forgotten and then those that come, until ctx ends.
func (r *Recorder) Follow(ctx context.Context) iter.Seq[Accepted] {
	return func(yield func(Accepted) bool) {
		var seq uint64
		for {
			r.mu.Lock()
			list := r.afterLocked(seq)
			if r.changed == nil {
				r.changed = make(chan struct{})
			}
			changed := r.changed
			r.mu.Unlock()
			for _, a := range list {
				if !yield(a) {
					return
				}
				seq = a.Seq
			}
			if len(list) > 0 {
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// names numbers texts, so that a pair costs a few bytes.
type names struct {
	numbers map[string]uint32
	list    []string
}

func newNames() *names { return &names{numbers: make(map[string]uint32)} }

func (n *names) find(s string) (uint32, bool) {
	i, ok := n.numbers[s]
	return i, ok
}

func (n *names) number(s string) uint32 {
	if i, ok := n.numbers[s]; ok {
		return i
	}
	i := uint32(len(n.list))
	n.numbers[s] = i
	n.list = append(n.list, s)
	return i
}

// pushID finds our push's id wherever in a JSON text it stands, even in a text in the text.
var pushID = regexp.MustCompile(`\\*"push_id\\*"\s*:\s*\\*"([0-9A-Za-z_-]{1,64})\\*"`)

// PushID returns the push_id that a body holds at any depth, or an empty text. A form must be decoded before.
func PushID(body []byte) string {
	if m := pushID.FindSubmatch(body); m != nil {
		return string(m[1])
	}
	return ""
}

// secretHeaders are not recorded.
var secretHeaders = map[string]bool{"Authorization": true, "Cookie": true, "Authtoken": true, "Auth_token": true}

// Headers returns the headers of a request to record.
func Headers(r *http.Request) map[string]string {
	headers := make(map[string]string, len(r.Header))
	for name, values := range r.Header {
		if !secretHeaders[http.CanonicalHeaderKey(name)] && len(values) > 0 {
			headers[name] = values[0]
		}
	}
	return headers
}

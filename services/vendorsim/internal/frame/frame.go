// Package frame is what all simulators share: the server with its faults, the record of what was accepted, the switches, the
// limits, and the sending of receipts. What only one vendor does is in that vendor's package.
package frame

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// Vendor is one simulator.
type Vendor interface {
	// ServeHTTP answers all of the vendor's hosts.
	http.Handler
	// Codes lists every answer that the vendor's sheet documents.
	Codes() []Code
	// Unavailable writes the vendor's answer while it is down.
	Unavailable(w http.ResponseWriter)
	// Register makes an app and its credentials known, and returns the credentials as the vendor's console gives them out.
	// What the document leaves out is made up; the document that is returned can be registered again.
	Register(app json.RawMessage) (credentials any, err error)
	// Tokens makes the tokens of n new devices of a registered app.
	Tokens(app string, n int) ([]any, error)
}

// Options are what a frame needs.
type Options struct {
	Channel   string
	URL       string // of the listener, such as https://127.0.0.1:8443
	Log       *slog.Logger
	Record    RecorderConfig
	Receipts  *http.Client // sends receipts
	Authority Authority
	Now       func() time.Time // nil: the clock
}

// Authority signs certificates for clients of vendors that know them.
type Authority interface {
	// Client returns a certificate and its key, both in PEM, for a subject with these names.
	Client(subject Subject) (certificate, key []byte, err error)
	// Verify says whether the authority has signed a certificate (DER) for a client.
	Verify(der []byte) (Subject, error)
}

// Subject is whom a client certificate names.
type Subject struct {
	UserID string // UID
	Name   string // CN
	Unit   string // OU
}

// Frame is what a simulator stands in.
type Frame struct {
	Channel   string
	URL       string
	Log       *slog.Logger
	Now       func() time.Time
	Record    *Recorder
	Authority Authority
	Sessions  *Sessions // access tokens, or JWTs that were verified

	receipts *http.Client
	couriers []*Courier // all are made while the vendor is constructed
	limits   *limiter
	uses     *uses

	mu       sync.Mutex
	switches Switches
	answers  map[string]uint64 // by code
}

// New returns a frame with all switches off.
func New(o Options) *Frame {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Frame{
		Channel: o.Channel, URL: o.URL, Log: o.Log, Now: o.Now,
		Record: NewRecorder(o.Record), Authority: o.Authority, Sessions: NewSessions(o.Now), receipts: o.Receipts,
		limits: newLimiter(o.Now), uses: newUses(), answers: make(map[string]uint64),
	}
}

// Run sends receipts until ctx ends.
func (f *Frame) Run(ctx context.Context) {
	var running sync.WaitGroup
	for _, c := range f.couriers {
		running.Go(func() { c.run(ctx) })
	}
	running.Wait()
}

// Switches returns the switches. They must not be changed in place.
func (f *Frame) Switches() Switches {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.switches
}

// Patch changes the switches that a JSON document names, and returns all.
func (f *Frame) Patch(document []byte) (Switches, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.switches.merged(document)
	if err != nil {
		return f.switches, err
	}
	f.switches = s
	f.uses.resetRules()
	return s, nil
}

// Set replaces the switches.
func (f *Frame) Set(s Switches) error {
	if err := s.Validate(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.switches = s
	f.uses.resetRules()
	f.limits.reset()
	return nil
}

// Admit asks whether the limits let an app send to n devices, and takes them if so.
func (f *Frame) Admit(app string, n int) Admission { return f.limits.admit(app, n, f.Switches().Limit) }

// Answered counts an answer by its code.
func (f *Frame) Answered(code string, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[code] += uint64(n)
}

// Stats are a simulator's counters.
type Stats struct {
	Channel  string            `json:"channel"`
	URL      string            `json:"url"`
	Accepted RecordCounts      `json:"accepted"`
	Answers  map[string]uint64 `json:"answers"` // by code: of requests, and of tokens that are answered each by itself
	Receipts ReceiptCounts     `json:"receipts"`
}

// Stats returns the counters.
func (f *Frame) Stats() Stats {
	s := Stats{Channel: f.Channel, URL: f.URL, Accepted: f.Record.Counts(), Answers: make(map[string]uint64)}
	for _, c := range f.couriers {
		n := c.Counts()
		s.Receipts.Queued += n.Queued
		s.Receipts.Waiting += n.Waiting
		s.Receipts.Sent += n.Sent
		s.Receipts.Failed += n.Failed
		s.Receipts.Lost += n.Lost
		s.Receipts.Duplicated += n.Duplicated
		s.Receipts.Dropped += n.Dropped
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for code, n := range f.answers {
		s.Answers[code] = n
	}
	return s
}

// ResetAccepted forgets what was accepted and counted.
func (f *Frame) ResetAccepted() {
	f.Record.Reset()
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.answers)
}

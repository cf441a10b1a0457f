package frame

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Duration is a time.Duration that is written as "1.5s" in JSON.
type Duration time.Duration

// MarshalText writes the duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Switches are the weather of a simulator. The zero value is a vendor on a good day.
type Switches struct {
	Latency Latency `json:"latency"`
	Outage  Outage  `json:"outage"`
	Limit   Limit   `json:"limit"`
	// Answers are asked in order; the first that fits decides.
	Answers []Rule `json:"answers"`
	// InvalidShare of all tokens is dead: always the same ones.
	InvalidShare float64         `json:"invalid_share"`
	Receipts     ReceiptSwitches `json:"receipts"`
	Credentials  Credentials     `json:"credentials"`
	GoAway       GoAway          `json:"goaway"`
}

// Latency is waited before each answer.
type Latency struct {
	Base   Duration `json:"base"`
	Jitter Duration `json:"jitter"` // up to that much more
	Path   string   `json:"path"`   // only for paths that begin so
}

// Modes of an outage.
const (
	OutageUnavailable = "503"   // the vendor's answer for "unavailable"
	OutageClose       = "close" // the connection is closed without an answer
	OutageHang        = "hang"  // there is no answer until the client gives up
)

// Outage is a vendor that is down.
type Outage struct {
	Mode  string  `json:"mode"`  // 503, close or hang; empty: none
	Path  string  `json:"path"`  // only for paths that begin so
	Share float64 `json:"share"` // of the requests; 0: all
}

// Limit bounds what is accepted, counted in devices and for each app by itself.
type Limit struct {
	PerSecond  float64  `json:"per_second"` // 0: no limit
	Burst      int      `json:"burst"`      // 0: one second's worth
	Daily      int64    `json:"daily"`      // until midnight in Beijing; 0: no limit
	RetryAfter Duration `json:"retry_after"`
}

// Rule makes the simulator answer with a code.
type Rule struct {
	App     string   `json:"app"`     // empty: all
	Token   string   `json:"token"`   // for tokens that begin so; without it the rule is about whole requests
	Title   string   `json:"title"`   // for requests whose title begins so
	Code    string   `json:"code"`    // the code to answer; empty: as usual
	Receipt string   `json:"receipt"` // the code of the receipt; empty: as usual
	Delay   Duration `json:"delay"`
	Share   float64  `json:"share"` // of those that fit, by chance; 0: all
	Times   int      `json:"times"` // the rule is used up after so many; 0: never
}

// ReceiptSwitches say how receipts are sent.
type ReceiptSwitches struct {
	Off       bool     `json:"off"`
	Delay     Duration `json:"delay"`
	Duplicate float64  `json:"duplicate"` // share that is sent twice
	Lost      float64  `json:"lost"`      // share that is not sent
	Shuffle   bool     `json:"shuffle"`   // each waits any time up to delay, and they leave in any order
}

// Credentials say which are good.
type Credentials struct {
	Revoked []string `json:"revoked"` // apps whose credential is refused
	Life    Duration `json:"life"`    // of access tokens from now on; 0: as the vendor documents
}

// Modes of GoAway.
const (
	GoAwayGraceful = "graceful" // GOAWAY, and the streams that are open are answered
	GoAwayDrop     = "drop"     // the connection breaks, and the outcome of the open streams is unknown
)

// GoAway ends connections over HTTP/2.
type GoAway struct {
	Mode  string `json:"mode"`  // graceful or drop; empty: never
	Every int    `json:"every"` // after so many requests of a connection
}

// Validate says what is wrong with the switches.
func (s *Switches) Validate() error {
	switch s.Outage.Mode {
	case "", OutageUnavailable, OutageClose, OutageHang:
	default:
		return errors.New("outage.mode must be 503, close or hang")
	}
	switch s.GoAway.Mode {
	case "", GoAwayGraceful, GoAwayDrop:
	default:
		return errors.New("goaway.mode must be graceful or drop")
	}
	if s.GoAway.Mode != "" && s.GoAway.Every < 1 {
		return errors.New("goaway.every must be at least 1")
	}
	for name, share := range map[string]float64{
		"outage.share": s.Outage.Share, "invalid_share": s.InvalidShare,
		"receipts.duplicate": s.Receipts.Duplicate, "receipts.lost": s.Receipts.Lost,
	} {
		if share < 0 || share > 1 {
			return fmt.Errorf("%s must be between 0 and 1", name)
		}
	}
	for i, r := range s.Answers {
		if r.Share < 0 || r.Share > 1 || r.Times < 0 {
			return fmt.Errorf("answers[%d]: share must be between 0 and 1, times not negative", i)
		}
	}
	if s.Limit.PerSecond < 0 || s.Limit.Burst < 0 || s.Limit.Daily < 0 {
		return errors.New("limit must not be negative")
	}
	return nil
}

// merged returns the switches with those that a JSON document names changed. Unknown names are refused.
func (s Switches) merged(patch []byte) (Switches, error) {
	rules := s.Answers
	s.Answers = nil // the decoder would write into the rules that are there
	s.Credentials.Revoked = slices.Clone(s.Credentials.Revoked)
	decoder := json.NewDecoder(bytes.NewReader(patch))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return s, fmt.Errorf("switches: %w", err)
	}
	if s.Answers == nil {
		s.Answers = rules
	}
	if err := s.Validate(); err != nil {
		return s, fmt.Errorf("switches: %w", err)
	}
	return s, nil
}

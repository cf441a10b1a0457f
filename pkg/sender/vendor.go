// Package sender runs the service of one vendor channel: it takes jobs off JetStream, calls the vendor, and reports what
// became of every target. A vendor's package says only how one request is built, sent and understood.
package sender

import (
	"context"
	"errors"
	"net/http"
	"time"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// Vendor is one push service. It has no loop, no retry, no sleep and no storage: all that is the runtime's, once for all
// vendors. Its methods are called from several goroutines at once.
type Vendor interface {
	// Channel returns the channel's name, such as "apns".
	Channel() string
	// Limits returns what the vendor allows; the runtime keeps to it.
	Limits() Limits
	// Parse checks an app's credential, a JSON object, and returns it in the form that the other methods take. Its errors
	// are *FieldError where a field is wrong; they name no secret.
	Parse(credential []byte) (Credential, error)
	// Send makes one attempt: one request for all targets of the message, which are at most Limits().Batch, of one
	// environment and one app package. It returns an outcome for each target, in their order. A failure of the whole
	// request is every target's outcome.
	Send(ctx context.Context, credential Credential, message *Message) []Result
}

// Credential is an app's parsed credential for a channel. The runtime keeps one per app and version, and closes it if it is
// an io.Closer once it is not used any more. Access tokens that have to be fetched live in it (see TokenSource).
type Credential interface {
	// ExpiresAt returns when the credential ends by itself, such as a certificate; zero: never.
	ExpiresAt() time.Time
}

// Checker is a vendor that can try out a credential without reaching a phone.
type Checker interface {
	// Check asks the vendor whether the credential works. note says what could not be checked.
	Check(ctx context.Context, credential Credential) (note string, err error)
}

// Receiver is a vendor that calls back with receipts.
type Receiver interface {
	// Receipts checks where the request is from, if the vendor gives means for it, and reads its receipts; body is the whole
	// request body, already within the limits. answer is what the vendor wants to hear, with 200; nil: nothing.
	// ErrForged: the check failed.
	Receipts(credential Credential, request *http.Request, body []byte) (receipts []Receipt, answer []byte, err error)
}

// Limits are what a vendor allows. All can be changed in the service's configuration, because vendors change them.
type Limits struct {
	// Batch is the most targets of one request.
	Batch int
	// PerSecond is the most requests a second for one app; 0: no limit.
	PerSecond float64
	// PerDay is the most targets a day for one app, by the vendor's day, which begins at midnight UTC+8; 0: no limit.
	PerDay int64
	// Concurrency is the most requests under way for one app.
	Concurrency int
	// MaxTTL is the longest time the vendor keeps a message; a longer one is shortened, and that is counted.
	MaxTTL time.Duration
	// Title and Body are the longest a vendor shows, in the unit it counts in; 0: no limit.
	Title, Body Length
}

// Length is a limit on a text, in one of the two units that vendors count in; 0: no limit in that unit.
type Length struct {
	Characters int
	Bytes      int
}

// Message is one push as a vendor gets it: title and body within the limits, ttl above zero and within MaxTTL.
type Message struct {
	PushID string
	// Tag is what the vendor is to give back with receipts, where it can: at most 64 of a-z, A-Z, 0-9, - and _. ID is a
	// deterministic de-dup id of this push for these targets, a UUID: the same for every attempt.
	Tag, ID      string
	Notification *pushv1.Notification // nil: data, which the system does not show
	Data         map[string]string
	Payload      string
	Override     map[string]any // merged last into the vendor's request, see Merge
	High         bool           // priority
	Low          bool
	CollapseKey  string
	SentAt       time.Time
	TTL          time.Duration
	AppPackage   string
	Sandbox      bool
	// User is what the phone knows the user by that the push is for; empty if it is for the device. All targets have the same.
	User    string
	Targets []Target
	// ReceiptURL is where the vendor is to send receipts, for vendors that want it in the request; empty: none wanted.
	ReceiptURL string

	common *common // nil: the message is the only one of its kind
}

// Target is one device.
type Target struct {
	Token      string
	ReportedAt time.Time // when the device reported the token
}

// Result is the outcome for one target.
type Result struct {
	Outcome Outcome
	// Code is the vendor's own status or code, and what it says: for people.
	Code string
	// VendorID is the vendor's id of the message.
	VendorID string
	// After is how long to wait, for Retry; 0: the runtime's back-off decides. Until is when the quota is there again, for
	// QuotaSpent; zero: midnight UTC+8.
	After time.Duration
	Until time.Time
	// GoneAt is since when the token is void, for TokenGone, where the vendor says so.
	GoneAt time.Time
}

// Outcome is what one attempt came to. The set is closed: every status and code of every vendor maps to one of them.
type Outcome int

// The outcomes.
const (
	// Retry: it may work later, such as after a time-out, 429 or 5xx. It is the zero value: what is not understood is tried
	// again, and given up in the end.
	Retry Outcome = iota
	// Accepted: the vendor took it. Whether the phone gets it is not known.
	Accepted
	// TokenGone: the vendor says without doubt that the token is void for this app.
	TokenGone
	// Rejected: the payload or the vendor's policy; another attempt would be refused, too.
	Rejected
	// CredentialBad: the app's credential is void, expired, or for another app. The runtime drops what it has cached of it
	// and tries once more before it reports that.
	CredentialBad
	// QuotaSpent: the app has no more of something until a time.
	QuotaSpent
)

// Receipt is a vendor's word on what became of one target later.
type Receipt struct {
	// Tag is the message's tag as the vendor gave it back.
	Tag   string
	Token string
	What  ReceiptKind
	// Code is the vendor's own status.
	Code string
}

// ReceiptKind is what a receipt says.
type ReceiptKind int

// The kinds of receipts.
const (
	ReceiptUnknown ReceiptKind = iota // counted, nothing else
	ReceiptArrived
	ReceiptShown
	ReceiptClicked
	ReceiptTokenGone
	// ReceiptDropped: accepted, but it did not reach the phone or was not shown, such as for its settings.
	ReceiptDropped
)

// FieldError is a field of a credential, or of a call, that is wrong.
type FieldError struct {
	Field, Problem string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// ErrForged is returned for receipts that fail the vendor's authenticity check.
var ErrForged = errors.New("receipt is not the vendor's")

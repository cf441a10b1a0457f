package session

import (
	"github.com/google/uuid"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
)

// Kind says what an Action asks of the host.
type Kind byte

const (
	// DoClose closes the connection after Bytes have been written.
	DoClose Kind = iota + 1
	// DoOpen opens the session with pushcore, or again with other wishes.
	DoOpen
	// DoPull asks pushcore for what is kept.
	DoPull
	// DoCall passes a call or events on to pushcore.
	DoCall
	// DoReceipt publishes a receipt.
	DoReceipt
	// DoHanded notes that an audience message was handed over otherwise than by a slice.
	DoHanded
	// DoProbe finds out whether the peer is still there.
	DoProbe
)

// Action is something that a session asks of its host. Which fields count depends on the kind.
type Action struct {
	Kind Kind

	// DoClose
	Reason Reason

	// DoOpen: whether the device receives. DoPull: the push to begin after. Both: how many messages fit.
	Receiving bool
	After     uuid.UUID
	Limit     int

	// DoPull, DoCall: the answer is given back with the same Seq. JSON is a copy.
	Seq    uint16
	Method string
	JSON   []byte

	// DoReceipt, DoHanded (Message only)
	Step     ledgerv1.Step
	Message  uuid.UUID
	Audience bool
}

// Output takes what sessions want: bytes for the peer, and actions. A host empties and reuses one.
type Output struct {
	Bytes   []byte
	Actions []Action
	// Pool may be nil.
	Pool *Pool
}

// Reset empties the output and keeps its memory.
func (o *Output) Reset() {
	o.Bytes = o.Bytes[:0]
	clear(o.Actions)
	o.Actions = o.Actions[:0]
}

func (o *Output) close(r Reason) { o.Actions = append(o.Actions, Action{Kind: DoClose, Reason: r}) }

func (o *Output) receipt(step ledgerv1.Step, e *flight) {
	o.Actions = append(o.Actions, Action{Kind: DoReceipt, Step: step, Message: e.push, Audience: e.flags&isAudience != 0})
}

// Reason is why a connection ended; a closed list, and a metric label.
type Reason byte

// The reasons for the end of a connection.
const (
	ByClient Reason = iota + 1
	ByPeer
	ConnectTimeout
	Refused
	Malformed
	Violation
	TooLarge
	TooFast
	KeepAlive
	NoAck
	TakenOver
	Gone
	SlowReader
	Overload
	Shutdown
	// Shed: an operator spreads the load anew. Lifetime: it was here for long enough.
	Shed
	Lifetime
	// Handshake: TLS did not come about.
	Handshake
	reasons
)

var reasonNames = [reasons]string{
	ByClient: "client", ByPeer: "peer", ConnectTimeout: "connect_timeout", Refused: "refused", Malformed: "malformed",
	Violation: "violation", TooLarge: "too_large", TooFast: "too_fast", KeepAlive: "keep_alive", NoAck: "no_ack",
	TakenOver: "taken_over", Gone: "gone", SlowReader: "slow_reader", Overload: "overload", Shutdown: "shutdown", Shed: "shed", Lifetime: "lifetime",
	Handshake: "handshake",
}

func (r Reason) String() string { return reasonNames[r] }

// Reasons returns the names of all reasons.
func Reasons() []string { return reasonNames[1:] }

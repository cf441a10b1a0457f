// Package session is what a connection means: MQTT in, messages out, and what is asked of pushcore in between. It never
// touches a socket, a clock or a logger: bytes and the time come in as arguments, bytes and actions go out.
//
// A Session is not safe for concurrent use: whoever owns the connection owns it.
package session

import (
	"time"

	"github.com/google/uuid"

	"github.com/halleypush/halley/pkg/token"
	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
)

const (
	// MaxWindow is how many unacknowledged packets a session has at the most.
	MaxWindow = 16
	// MaxCalls is how many calls and events a session may have under way; CONNACK announces it as Receive Maximum.
	MaxCalls = 16

	// sentAfter is when a message without an acknowledgement is reported as sent; most are acknowledged before.
	sentAfter = time.Second
	// IDBits is how many bits of a packet identifier sessions use. What they share a connection with has the others.
	IDBits = 13
	// MinShared is the smallest Receive Maximum of a connection that may be shared: a full window for the device that opened
	// it, and one packet for each other.
	MinShared = MaxWindow + 1<<(16-IDBits) - 1
	// openAfter is when a session is opened with pushcore although the device has not subscribed or called yet.
	openAfter = time.Second
	// probesPerClose: without an acknowledgement for the app's ack timeout the connection is probed, and for so many times
	// as long it is closed, so that the phone comes back and what it misses is sent again.
	probesPerClose = 3
	// fullFor is how long a window may be full without an acknowledgement, where the app's ack timeout allows more.
	fullFor = time.Minute
)

// App is an app as its sessions need it. It is immutable.
type App struct {
	ID     string
	Number uint32
	Codec  *token.Codec
	// KeepAlive is asked of devices that name none; a device may choose within the range. In seconds.
	KeepAlive, KeepAliveMin, KeepAliveMax uint16
	AckTimeout                            time.Duration
}

// Limits bound what a session may do.
type Limits struct {
	// MaxPacket is the largest packet a client may send, in bytes.
	MaxPacket int
	// Rate and Burst bound the packets that a client sends per second; acknowledgements and pings count, too.
	Rate, Burst float32
}

// Flags of a session.
const (
	v5 uint32 = 1 << iota
	subscribed
	subscribedQoS1
	repliesAny
	repliesQoS1
	// asked: an Open is under way. opened: pushcore has answered one with OPEN, so calls and events go through.
	asked
	opened
	// stale: the device unsubscribed while an Open was under way. Its answer may miss what was not handed over meanwhile.
	stale
	// openAsReceiving: the newest Open said so. live: one that said so was answered, so pushes are handed over.
	openAsReceiving
	live
	// permissionOff: pushes of kind notification are not handed over.
	permissionOff
	// wantPull: something is kept that has not been handed over. pulling: a Pull is under way.
	wantPull
	pulling
	// missedMeanwhile: a push could not be handed over while a Pull was under way; its answer may not have it.
	missedMeanwhile
	// terse: the client wants no reason strings but in CONNACK and DISCONNECT (3.1.2.11.7).
	terse
	// registered: the device registered with this connection, and has not shown its secret.
	registered
	// shared: the connection carries several devices, so messages say whose they are. rides: another device opened it.
	shared
	rides
	closed
)

// Session is the protocol state of an identified device's connection.
type Session struct {
	Ordinal uint64
	// Number is unique within the process; of two sessions of a device the one with the higher number is the newer.
	Number     uint64
	Generation uint32
	flags      uint32
	keepAlive  uint16        // seconds that the client promised to speak within
	lastSeq    uint16        // of calls and Pulls
	maxPacket  uint32        // of the client; 0: any
	begun      time.Duration // on the host's clock: when the connection came
	lastIn     uint32        // milliseconds on the host's clock
	tokensAt   uint32        // milliseconds on the host's clock
	tokens     float32
	nextID     uint16
	window     byte // how many unacknowledged packets the client takes, up to MaxWindow
	share      byte // how many it takes of each other device on its connection
	letter     byte // of the device's token
	App        *App
	// active is what only a session with something going on needs.
	active *active
}

// active is the part of a session that exists while messages, calls or bytes are under way.
type active struct {
	flights []flight
	held    []held
	calls   []call
	replies []string // reply topics subscribed to one by one
	// cursor is the push that the next Pull begins after.
	cursor uuid.UUID
	// missed is the oldest push that missedMeanwhile is about; the zero id: any.
	missed  uuid.UUID
	recent  []recent
	pullSeq uint16           // of the Pull whose answer counts
	report  *devicev1.Report // until the session is open
}

// flight is a QoS 1 packet that waits for its PUBACK, oldest first.
type flight struct {
	push  uuid.UUID
	at    uint32
	id    uint16
	flags byte
}

// Flags of a flight.
const (
	isReply byte = 1 << iota
	isAudience
	// isReported: whoever handed it over has been told that it was sent.
	isReported
	isProbed
)

// held is a delivery that came between Open and its answer.
type held struct {
	message *Message
	user    string
}

// Start is what is known of a connection that proved to be a device's.
type Start struct {
	App        *App
	Ordinal    uint64
	Number     uint64
	Generation uint32
	Connect    *mqtt.Connect
	// Begun is when the connection came, on the host's clock.
	Begun time.Duration
	// Token and Secret are told to a device that registered with this connection; empty otherwise.
	Token, Secret string
	// Report is what the device said of itself; nil if nothing.
	Report *devicev1.Report
	// Rides is true for a device that was attached to the connection of another one, which has had its CONNACK.
	Rides bool
}

// New returns the session of an identified connection and appends its CONNACK. For a client that does not take a packet as
// large as that, it returns a closed one.
func New(s Start, l Limits, now Clock, out *Output) Session {
	c := s.Connect
	session := Session{
		App: s.App, Ordinal: s.Ordinal, Number: s.Number, Generation: s.Generation, begun: s.Begun, lastIn: now.Millis(),
		tokensAt: now.Millis(), tokens: l.Burst, window: byte(min(c.ReceiveMaximum, MaxWindow)), maxPacket: c.MaximumPacketSize,
	}
	if c.Version == mqtt.V5 {
		session.flags |= v5
	}
	session.set(terse, c.NoProblemInformation)
	session.share = byte(min((int(c.ReceiveMaximum)-MaxWindow)/(1<<(16-IDBits)-1), MaxWindow))
	if c.ReceiveMaximum < MinShared {
		session.share = 0
	}
	if t := c.ClientID + s.Token; t != "" { // one of them is the device's
		session.letter = t[0]
	}
	if s.Rides {
		session.flags |= rides | shared
		return session
	}
	session.keepAlive = s.App.keepAliveFor(c)
	ack := mqtt.Connack{
		KeepAlive: session.keepAlive, ReceiveMaximum: MaxCalls, MaximumPacketSize: uint32(l.MaxPacket),
		AssignedClientID: s.Token,
	}
	if s.Report != nil {
		session.activate(out).report = s.Report
	}
	if s.Secret != "" {
		session.flags |= registered
		ack.User = []mqtt.UserProperty{{Name: "secret", Value: s.Secret}}
	}
	begin := len(out.Bytes)
	out.Bytes = ack.Append(out.Bytes, c.Version) // whole: a device that registers needs its secret
	if !mqtt.Fits(out.Bytes[begin:], c.MaximumPacketSize) {
		out.Bytes = out.Bytes[:begin]
		session.flags |= closed
		out.close(TooLarge)
		return session
	}
	for _, p := range c.User {
		if p.Name == "deliver" && p.Value == "now" {
			session.flags |= subscribed | subscribedQoS1
		}
	}
	if session.flags&subscribed != 0 {
		session.open(out)
	}
	return session
}

// keepAliveFor returns the heartbeat of a connection in seconds. An MQTT 5 client is told it and must follow (3.2.2.3.14); a
// 3.1.1 client's own counts, and only 0 or too much is cut to the longest.
func (a *App) keepAliveFor(c *mqtt.Connect) uint16 {
	switch {
	case c.Version == mqtt.V311 && c.KeepAlive == 0:
		return a.KeepAliveMax
	case c.Version == mqtt.V311:
		return min(c.KeepAlive, a.KeepAliveMax)
	case c.KeepAlive == 0:
		return a.KeepAlive
	default:
		return min(max(c.KeepAlive, a.KeepAliveMin), a.KeepAliveMax)
	}
}

func (s *Session) version() byte {
	if s.flags&v5 != 0 {
		return mqtt.V5
	}
	return mqtt.V311
}

// Version returns the MQTT version that is spoken.
func (s *Session) Version() byte { return s.version() }

// Share returns how many unacknowledged packets each further device on the connection may have; 0: there can be none.
func (s *Session) Share() int { return int(s.share) }

// SetShared notes that the connection carries further devices: from now on messages say whose they are.
func (s *Session) SetShared() { s.flags |= shared }

// Replies reports whether the device has subscribed to the replies to a method.
func (s *Session) Replies(method string) bool {
	return s.is(repliesAny) || s.hasReply("reply/"+s.App.ID+"/"+method)
}

// Heard notes that the peer has spoken to another device's session on the same connection.
func (s *Session) Heard(c Clock) { s.lastIn = c.Millis() }

// ConnectFor returns a CONNECT for a further device on this session's connection.
func (s *Session) ConnectFor(app, token, secret string) *mqtt.Connect {
	return &mqtt.Connect{
		Version: s.version(), ClientID: token, HasUsername: true, Username: app, HasPassword: true, Password: secret,
		ReceiveMaximum: uint16(s.share), MaximumPacketSize: s.maxPacket, NoProblemInformation: s.is(terse),
	}
}

// to returns the device's token where messages must say it.
func (s *Session) to() string {
	if !s.is(shared) {
		return ""
	}
	text, err := s.App.Codec.Token(s.letter, s.Ordinal)
	if err != nil {
		return "" // the key that it was made with is gone
	}
	return text
}

func (s *Session) is(flag uint32) bool { return s.flags&flag != 0 }

func (s *Session) set(flag uint32, on bool) {
	if on {
		s.flags |= flag
	} else {
		s.flags &^= flag
	}
}

// Receiving reports whether pushes are handed over to the session: the device has subscribed, and pushcore knows.
func (s *Session) Receiving() bool { return s.is(live) && !s.is(closed) }

// Opened reports whether the session has been opened with pushcore.
func (s *Session) Opened() bool { return s.is(opened) }

// Asked reports whether an Open was ever sent, so that a Close is due at the end.
func (s *Session) Asked() bool { return s.is(asked) || s.is(opened) }

// Registered reports whether the device registered with this connection.
func (s *Session) Registered() bool { return s.is(registered) }

// Report returns what the device said of itself at CONNECT, until the session is open.
func (s *Session) Report() *devicev1.Report {
	if s.active == nil {
		return nil
	}
	return s.active.report
}

// Age returns how long ago the connection came.
func (s *Session) Age(now Clock) time.Duration { return now.Since - s.begun }

// InFlight returns how many packets wait for their PUBACK.
func (s *Session) InFlight() int {
	if s.active == nil {
		return 0
	}
	return len(s.active.flights)
}

// Idle reports whether the session has nothing under way, so that its active part may be given back.
func (s *Session) Idle() bool {
	a := s.active
	return a == nil || len(a.flights) == 0 && len(a.held) == 0 && len(a.calls) == 0 && len(a.replies) == 0 && len(a.recent) == 0 &&
		a.report == nil && !s.is(wantPull|pulling)
}

func (s *Session) activate(out *Output) *active {
	if s.active == nil {
		s.active = out.Pool.take()
	}
	return s.active
}

// rest gives the active part back if nothing is under way.
func (s *Session) rest(out *Output) {
	if s.active != nil && s.Idle() {
		out.Pool.give(s.active)
		s.active = nil
	}
}

// seq returns the number of the next call or Pull.
func (s *Session) seq() uint16 {
	s.lastSeq++
	return s.lastSeq
}

// open asks the host to open the session with what it wants now.
func (s *Session) open(out *Output) {
	if s.is(asked) || s.is(opened) && s.is(openAsReceiving) == s.is(subscribed) {
		return // an Open under way is followed by another one if its answer finds other wishes
	}
	s.ask(out)
}

func (s *Session) ask(out *Output) {
	s.flags |= asked
	s.flags &^= stale | pulling // what is kept comes with the answer
	s.set(openAsReceiving, s.is(subscribed))
	out.Actions = append(out.Actions, Action{Kind: DoOpen, Receiving: s.is(subscribed), Limit: s.room()})
}

// OpenRequest returns what an Open of this session says now; hosts ask it again for retries and new incarnations.
func (s *Session) OpenRequest() (receiving bool, limit int) { return s.is(openAsReceiving), s.room() }

// Reopen has the session opened again: its route may be lost. Nothing is handed over until that is answered.
func (s *Session) Reopen(out *Output) {
	if !s.is(closed) && s.Asked() {
		s.flags &^= live
		s.ask(out)
	}
}

// room returns how many more packets fit into the window.
func (s *Session) room() int { return max(int(s.window)-s.InFlight(), 0) }

// End is called when the connection is closed, for whatever reason. It reports what was sent and not acknowledged, and
// returns the audience pushes among it: they must be handed over to the device's next session.
func (s *Session) End(out *Output) (unacked []uuid.UUID) {
	s.flags |= closed
	if s.active == nil {
		return nil
	}
	for i := range s.active.flights {
		f := &s.active.flights[i]
		if f.flags&isReply != 0 {
			continue
		}
		s.reportSent(out, f)
		if f.flags&isAudience != 0 {
			unacked = append(unacked, f.push)
		}
	}
	out.Pool.give(s.active)
	s.active = nil
	return unacked
}

// disconnect tells an MQTT 5 client why, and closes.
func (s *Session) disconnect(out *Output, code mqtt.Code, r Reason) {
	s.Disconnect(out, mqtt.Disconnect{Code: code}, r)
}

// Disconnect tells an MQTT 5 client what d says, and closes.
func (s *Session) Disconnect(out *Output, d mqtt.Disconnect, r Reason) {
	if s.is(closed) {
		return
	}
	s.flags |= closed
	out.Bytes = d.AppendUpTo(out.Bytes, s.version(), s.maxPacket)
	out.close(r)
}

// Supersede ends the session because the device has a newer one.
func (s *Session) Supersede(out *Output) { s.disconnect(out, mqtt.SessionTakenOver, TakenOver) }

// Expel ends the session because the device was removed or its secret revoked: it must register again.
func (s *Session) Expel(out *Output) { s.disconnect(out, mqtt.AdministrativeAction, Gone) }

// SetPermission notes whether the system shows the app's notifications on the device.
func (s *Session) SetPermission(off bool) { s.set(permissionOff, off) }

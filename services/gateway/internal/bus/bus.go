// Package bus takes pushcore's requests off NATS and answers them: direct hand-overs and pokes on one connection, slices of
// audience pushes on another, so that a broadcast does not keep a direct push waiting.
package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/subject"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/internal/core"
	"github.com/halleypush/halley/services/gateway/internal/loop"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// maxRunning bounds the slices that are handed over at a time: each keeps its bitmap, 128 KiB at the most. pushcores hand out a few each;
// one that is refused has no answer, and is asked about again.
const maxRunning = 256

// Apps finds apps that are known to the gateway, and hears of changes.
type Apps interface {
	App(number uint32) *session.App
	Changed(id string)
}

// Loops hand over.
type Loops interface {
	Deliver(targets []loop.Target, done func([]gatewayv1.DeliverResponse_Result))
	Slice(app, slice uint32, m *session.Message, members *roaring.Bitmap, done func(loop.SliceResult))
	Poke(pokes []*gatewayv1.PokeRequest_Poke, done func())
}

// Bus is the gateway's side of NATS.
type Bus struct {
	direct, audience *nats.Conn
	apps             Apps
	loops            Loops
	log              *slog.Logger
	refused          prometheus.Counter

	mu          sync.Mutex
	proof       *proof                 // guarded by mu: of the incarnation
	incarnation *gatewayv1.Incarnation // guarded by mu
	own         []*nats.Subscription   // guarded by mu: of the incarnation
	followed    map[uint32]bool        // guarded by mu: apps whose slices are subscribed to
	running     map[sliceKey][]string  // guarded by mu: slices being handed over, and who wants to hear
}

// proof is when the last ping of an incarnation came back on each connection, in nanoseconds since 1970.
type proof struct{ direct, audience atomic.Int64 }

func (p *proof) age() time.Duration {
	return time.Since(time.Unix(0, min(p.direct.Load(), p.audience.Load())))
}

type sliceKey struct {
	app, slice uint32
	push       uuid.UUID
}

// New returns a bus that listens to nothing yet.
func New(direct, audience *nats.Conn, apps Apps, loops Loops, registry prometheus.Registerer, log *slog.Logger) *Bus {
	b := &Bus{
		direct: direct, audience: audience, apps: apps, loops: loops, log: log,
		proof: &proof{}, followed: map[uint32]bool{}, running: map[sliceKey][]string{},
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_gateway_slices_refused_total", Help: "Slices not begun because too many were being handed over; pushcore asks again.",
		}),
	}
	registry.MustRegister(b.refused)
	return b
}

// Listen begins to take requests for an incarnation, in place of the one before. It needs a proof of its own: a ping that
// came back on its subject proves that its requests come, too.
func (b *Bus) Listen(i *gatewayv1.Incarnation) error {
	defer b.Ping()
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, sub := range b.own {
		errs = append(errs, sub.Unsubscribe())
	}
	fresh := &proof{}
	b.own, b.incarnation, b.proof = nil, i, fresh
	for _, s := range []struct {
		conn *nats.Conn
		verb string
		take nats.MsgHandler
	}{
		{b.direct, "deliver", b.deliver},
		{b.direct, "poke", b.poke},
		{b.direct, "ping", func(*nats.Msg) { fresh.direct.Store(time.Now().UnixNano()) }},
		{b.audience, "slice", b.slice},
		{b.audience, "ping", func(*nats.Msg) { fresh.audience.Store(time.Now().UnixNano()) }},
	} {
		sub, err := s.conn.Subscribe(subject.Gateway(i, s.verb), s.take)
		if err != nil {
			errs = append(errs, fmt.Errorf("subscribe to %s: %w", s.verb, err))
			continue
		}
		b.own = append(b.own, sub)
	}
	return errors.Join(errs...)
}

// ListenForChanges hears when apps change.
func (b *Bus) ListenForChanges() error {
	_, err := b.direct.Subscribe(subject.AppChanged, func(m *nats.Msg) {
		var changed gatewayv1.AppChanged
		if err := proto.Unmarshal(m.Data, &changed); err != nil {
			b.malformed(m, err)
			return
		}
		b.apps.Changed(changed.GetApp())
	})
	if err != nil {
		return fmt.Errorf("subscribe to changes: %w", err)
	}
	return nil
}

// Follow begins to take the audience slices of an app. One that is missed until the subscription is there is asked about
// again.
func (b *Bus) Follow(app uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.followed[app] {
		return
	}
	if _, err := b.audience.Subscribe(subject.Slice(app), b.slice); err != nil {
		b.log.Error("cannot follow an app's slices; pushcore asks for each", "app", app, "error", err)
		return
	}
	b.followed[app] = true
}

// Ping sends a message to the gateway itself on each connection. RoundTripAge tells how long ago one came back.
func (b *Bus) Ping() {
	b.mu.Lock()
	to := subject.Gateway(b.incarnation, "ping")
	b.mu.Unlock()
	// The audience connection's subscription hears both pings and the direct one's, too; each proves its own reader.
	_ = b.direct.Publish(to, nil)   // no round trip, no proof: that is the point
	_ = b.audience.Publish(to, nil) // likewise
}

// RoundTripAge returns how long ago NATS last brought the incarnation a message from itself, on the connection that is worse
// off.
func (b *Bus) RoundTripAge() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.proof.age()
}

// Connected reports whether both connections are up.
func (b *Bus) Connected() bool { return b.direct.IsConnected() && b.audience.IsConnected() }

func (b *Bus) malformed(m *nats.Msg, err error) {
	b.log.Error("a request does not have its form", "subject", m.Subject, "error", err)
}

func (b *Bus) respond(conn *nats.Conn, to string, answer proto.Message) {
	data, err := proto.Marshal(answer)
	if err == nil {
		err = conn.Publish(to, data)
	}
	if err != nil {
		b.log.Warn("an answer was lost; pushcore asks again", "error", err)
	}
}

func (b *Bus) deliver(m *nats.Msg) {
	var request gatewayv1.DeliverRequest
	if err := proto.Unmarshal(m.Data, &request); err != nil {
		b.malformed(m, err)
		return
	}
	made := map[uint32]*session.Message{}
	targets := make([]loop.Target, len(request.GetTargets()))
	for i, t := range request.GetTargets() {
		targets[i] = loop.Target{App: t.GetApp(), Ordinal: t.GetOrdinal(), Session: t.GetSession(), User: t.GetUser()}
		message, ok := made[t.GetBody()]
		if !ok && int(t.GetBody()) < len(request.GetBodies()) {
			if app := b.apps.App(t.GetApp()); app != nil {
				message = core.Message(app, request.GetBodies()[t.GetBody()])
			}
			made[t.GetBody()] = message // a push is of one app
		}
		targets[i].Message = message
	}
	reply := m.Reply
	b.loops.Deliver(targets, func(results []gatewayv1.DeliverResponse_Result) {
		b.respond(b.direct, reply, &gatewayv1.DeliverResponse{Results: results})
	})
}

func (b *Bus) poke(m *nats.Msg) {
	var request gatewayv1.PokeRequest
	if err := proto.Unmarshal(m.Data, &request); err != nil {
		b.malformed(m, err)
		return
	}
	reply := m.Reply
	b.loops.Poke(request.GetPokes(), func() {
		if err := b.direct.Publish(reply, nil); err != nil {
			b.log.Warn("an answer was lost; pushcore asks again", "error", err)
		}
	})
}

// slice hands a slice over. A request for one that is being handed over joins it.
func (b *Bus) slice(m *nats.Msg) {
	var request gatewayv1.SliceRequest
	if err := proto.Unmarshal(m.Data, &request); err != nil {
		b.malformed(m, err)
		return
	}
	members := roaring.New()
	if err := members.UnmarshalBinary(request.GetOrdinals()); err != nil {
		b.malformed(m, err)
		return
	}
	id, err := uuid.FromBytes(request.GetBody().GetPushId())
	if err != nil {
		b.malformed(m, err)
		return
	}
	key := sliceKey{request.GetApp(), request.GetSlice(), id}
	b.mu.Lock()
	waiting, runs := b.running[key]
	full := !runs && len(b.running) >= maxRunning
	if !full {
		b.running[key] = append(waiting, m.Reply)
	}
	b.mu.Unlock()
	if full {
		b.refused.Inc()
	}
	if runs || full {
		return
	}
	app := b.apps.App(request.GetApp())
	if app == nil { // no device of it ever came here
		b.answerSlice(key, loop.SliceResult{})
		return
	}
	message := core.Message(app, request.GetBody())
	if message == nil {
		b.malformed(m, errors.New("the body is not a message"))
		b.answerSlice(key, loop.SliceResult{})
		return
	}
	b.loops.Slice(request.GetApp(), request.GetSlice(), message, members, func(r loop.SliceResult) { b.answerSlice(key, r) })
}

func (b *Bus) answerSlice(key sliceKey, r loop.SliceResult) {
	b.mu.Lock()
	replies := b.running[key]
	delete(b.running, key)
	answer := &gatewayv1.SliceResponse{
		Incarnation: b.incarnation, Sent: encode(r.Sent), SentUnconfirmed: encode(r.SentUnconfirmed),
		PermissionOff: encode(r.PermissionOff),
	}
	b.mu.Unlock()
	for _, to := range replies {
		b.respond(b.audience, to, answer)
	}
}

// encode returns a bitmap's bytes, none for an empty one.
func encode(bits *roaring.Bitmap) []byte {
	if bits == nil || bits.IsEmpty() {
		return nil
	}
	bits.RunOptimize()
	data, err := bits.ToBytes()
	if err != nil { // a bitmap in memory always encodes
		panic(err)
	}
	return data
}

package pushcoretest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/ordinal"
	"github.com/halleypush/halley/pkg/subject"
	"github.com/halleypush/halley/pkg/token"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
)

// Gateway is a scripted gateway: a client of the internal contract and the NATS user gateway, that answers nothing by
// itself. Only its lease is renewed in the background, until Lapse.
type Gateway struct {
	// Client is the internal contract with the service token on every call.
	Client gatewayv1.GatewayServiceClient
	// NATS is the connection of the user gateway.
	NATS *nats.Conn

	core     *Core
	process  string
	delivers chan *Deliver
	slices   chan *Slice
	pokes    chan *Poke

	mu         sync.Mutex
	number     uint32               // guarded by mu: of the incarnation
	session    uint64               // guarded by mu: the last one
	stream     *Stream              // guarded by mu: nil until the first batch
	renewing   context.CancelFunc   // guarded by mu
	renewed    chan struct{}        // closed when the renewing goroutine has ended
	subscribed []*nats.Subscription // guarded by mu
}

// queue is how many requests may wait for a test to look at them.
const queue = 10_000

// Gateway starts a gateway process with a live lease. It goes when the test ends.
func (c *Core) Gateway(t testing.TB) *Gateway {
	t.Helper()
	var id [8]byte
	_, _ = rand.Read(id[:])
	g := &Gateway{
		core: c, process: hex.EncodeToString(id[:]), Client: gatewayv1.NewGatewayServiceClient(c.InternalConn),
		delivers: make(chan *Deliver, queue), slices: make(chan *Slice, queue), pokes: make(chan *Poke, queue),
	}
	conn, err := natsbus.Connect("test-gateway",
		natsbus.Config{URL: c.NATS.URL(), User: "gateway", Password: passwords["gateway"]},
		slog.New(slog.DiscardHandler), natsbus.Events{})
	if err != nil {
		t.Fatal(err)
	}
	g.NATS = conn
	t.Cleanup(func() {
		g.Lapse()
		g.Disconnect()
		conn.Close()
	})
	g.Reincarnate(t)
	g.subscribe(t, subject.AllGateways, g.onSlice)
	return g
}

// Move makes the gateway talk to another pushcore of the site, as it does when its own is gone. Its sessions stay.
func (g *Gateway) Move(c *Core) {
	g.Disconnect()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.core, g.Client = c, gatewayv1.NewGatewayServiceClient(c.InternalConn)
}

// client returns the internal contract of the pushcore that the gateway talks to.
func (g *Gateway) client() gatewayv1.GatewayServiceClient {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Client
}

// Incarnation returns who the gateway is now.
func (g *Gateway) Incarnation() *gatewayv1.Incarnation {
	g.mu.Lock()
	defer g.mu.Unlock()
	return &gatewayv1.Incarnation{Gateway: g.process, Number: g.number}
}

// Reincarnate takes the next incarnation, listens for it, and renews its lease from now on.
func (g *Gateway) Reincarnate(t testing.TB) {
	t.Helper()
	g.Lapse()
	g.mu.Lock()
	g.number++
	g.mu.Unlock()
	self := g.Incarnation()
	g.subscribe(t, subject.Gateway(self, "deliver"), g.onDeliver)
	g.subscribe(t, subject.Gateway(self, "slice"), g.onSlice)
	g.subscribe(t, subject.Gateway(self, "poke"), g.onPoke)
	if status := g.Renew(t).GetStatus(); status != gatewayv1.RenewLeaseResponse_LIVE {
		t.Fatalf("the first renewal of %s: %s", subject.Incarnation(self), status)
	}
	g.renewInBackground()
}

func (g *Gateway) subscribe(t testing.TB, to string, handle nats.MsgHandler) {
	t.Helper()
	sub, err := g.NATS.Subscribe(to, handle)
	if err == nil {
		err = g.NATS.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	g.subscribed = append(g.subscribed, sub)
	g.mu.Unlock()
}

// Deaf ends all subscriptions: NATS answers in the gateway's place that nobody is there.
func (g *Gateway) Deaf(t testing.TB) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, sub := range g.subscribed {
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
	g.subscribed = nil
	if err := g.NATS.Flush(); err != nil {
		t.Fatal(err)
	}
}

// Renew renews the lease once, with a fresh proof.
func (g *Gateway) Renew(t testing.TB) *gatewayv1.RenewLeaseResponse {
	t.Helper()
	return g.RenewWith(t, func(*gatewayv1.RenewLeaseRequest) {})
}

// RenewWith renews the lease once with a changed request.
func (g *Gateway) RenewWith(t testing.TB, change func(*gatewayv1.RenewLeaseRequest)) *gatewayv1.RenewLeaseResponse {
	t.Helper()
	request := g.renewal()
	change(request)
	response, err := g.Client.RenewLease(g.auth(t.Context()), request)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func (g *Gateway) renewal() *gatewayv1.RenewLeaseRequest {
	return &gatewayv1.RenewLeaseRequest{
		Incarnation: g.Incarnation(), Pod: "scripted", NatsRoundTripAge: durationpb.New(0),
	}
}

func (g *Gateway) auth(ctx context.Context) context.Context { return As(ctx, ServiceToken) }

func (g *Gateway) renewInBackground() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	g.mu.Lock()
	g.renewing, g.renewed = cancel, ended
	g.mu.Unlock()
	go func() {
		defer close(ended)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				_, _ = g.client().RenewLease(g.auth(ctx), g.renewal()) // an outage is the test's
			}
		}
	}()
}

// Lapse stops the renewal of the lease; it ends by itself then.
func (g *Gateway) Lapse() {
	g.mu.Lock()
	cancel, ended := g.renewing, g.renewed
	g.renewing = nil
	g.mu.Unlock()
	if cancel != nil {
		cancel()
		<-ended
	}
}

// Deliver is a request to hand direct pushes over.
type Deliver struct {
	*gatewayv1.DeliverRequest
	msg *nats.Msg
}

// PushIDs returns the pushes of the targets, in their order.
func (d *Deliver) PushIDs() []string {
	ids := make([]string, len(d.GetTargets()))
	for i, target := range d.GetTargets() {
		ids[i] = PushID(d.GetBodies()[target.GetBody()])
	}
	return ids
}

// PushID returns the id of a body's push.
func PushID(b *gatewayv1.Body) string { return uuid.UUID(b.GetPushId()).String() }

// Take answers TAKEN for every target.
func (d *Deliver) Take(t testing.TB) {
	t.Helper()
	d.AnswerAll(t, gatewayv1.DeliverResponse_TAKEN)
}

// AnswerAll answers the same for every target.
func (d *Deliver) AnswerAll(t testing.TB, result gatewayv1.DeliverResponse_Result) {
	t.Helper()
	results := make([]gatewayv1.DeliverResponse_Result, len(d.GetTargets()))
	for i := range results {
		results[i] = result
	}
	d.Answer(t, results...)
}

// Answer answers for each target. It may be called more than once.
func (d *Deliver) Answer(t testing.TB, results ...gatewayv1.DeliverResponse_Result) {
	t.Helper()
	respond(t, d.msg, &gatewayv1.DeliverResponse{Results: results})
}

func respond(t testing.TB, msg *nats.Msg, answer proto.Message) {
	t.Helper()
	data, err := proto.Marshal(answer)
	if err == nil {
		err = msg.Respond(data)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Slice is a request to hand an audience push over to one slice.
type Slice struct {
	*gatewayv1.SliceRequest
	// Subject tells a first question, to all gateways, from one to this gateway alone.
	Subject string
	// Ordinals are whom it is for.
	Ordinals *roaring.Bitmap

	gateway *Gateway
	msg     *nats.Msg
}

// Answer answers that these sessions have it.
func (s *Slice) Answer(t testing.TB, sent ...*Session) {
	t.Helper()
	s.AnswerWith(t, &gatewayv1.SliceResponse{Sent: Bits(t, sent...)})
}

// AnswerWith answers in full; the incarnation is filled in where it is missing. It may be called more than once.
func (s *Slice) AnswerWith(t testing.TB, answer *gatewayv1.SliceResponse) {
	t.Helper()
	if answer.Incarnation == nil {
		answer.Incarnation = s.gateway.Incarnation()
	}
	respond(t, s.msg, answer)
}

// Has reports whether the slice's bitmap has a session's device.
func (s *Slice) Has(session *Session) bool { return s.Ordinals.Contains(ordinal.Low(session.Ordinal)) }

// Bits returns the bitmap of sessions' devices, which must be of one slice.
func Bits(t testing.TB, sessions ...*Session) []byte {
	t.Helper()
	bits := roaring.New()
	for _, s := range sessions {
		bits.Add(ordinal.Low(s.Ordinal))
	}
	data, err := bits.ToBytes()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Poke is a request to look after sessions.
type Poke struct {
	*gatewayv1.PokeRequest
	msg *nats.Msg
}

// Answer answers the poke.
func (p *Poke) Answer(t testing.TB) {
	t.Helper()
	if err := p.msg.Respond(nil); err != nil {
		t.Fatal(err)
	}
}

func (g *Gateway) onDeliver(msg *nats.Msg) {
	var request gatewayv1.DeliverRequest
	if proto.Unmarshal(msg.Data, &request) == nil {
		g.delivers <- &Deliver{&request, msg}
	}
}

func (g *Gateway) onSlice(msg *nats.Msg) {
	request, bits := &gatewayv1.SliceRequest{}, roaring.New()
	if proto.Unmarshal(msg.Data, request) == nil && bits.UnmarshalBinary(request.GetOrdinals()) == nil {
		g.slices <- &Slice{SliceRequest: request, Subject: msg.Subject, Ordinals: bits, gateway: g, msg: msg}
	}
}

func (g *Gateway) onPoke(msg *nats.Msg) {
	var request gatewayv1.PokeRequest
	if proto.Unmarshal(msg.Data, &request) == nil {
		g.pokes <- &Poke{&request, msg}
	}
}

// Delivers, Slices and Pokes are the requests as they come, for a test that answers them all.
func (g *Gateway) Delivers() <-chan *Deliver { return g.delivers }

// Slices are the requests to hand audience pushes over, as they come.
func (g *Gateway) Slices() <-chan *Slice { return g.slices }

// Pokes are the pokes as they come.
func (g *Gateway) Pokes() <-chan *Poke { return g.pokes }

// NextDeliver waits for the next request to hand direct pushes over.
func (g *Gateway) NextDeliver(t testing.TB) *Deliver {
	t.Helper()
	return next(t, "deliver request", g.delivers)
}

// NextSlice waits for the next request to hand an audience push of the app over. Those of other apps are passed over.
func (g *Gateway) NextSlice(t testing.TB, app *App) *Slice {
	t.Helper()
	for {
		if s := next(t, "slice request", g.slices); s.GetApp() == app.Number {
			return s
		}
	}
}

// NextPoke waits for the next poke.
func (g *Gateway) NextPoke(t testing.TB) *Poke {
	t.Helper()
	return next(t, "poke", g.pokes)
}

// Waiting returns how many deliver requests, slice requests and pokes nobody has looked at.
func (g *Gateway) Waiting() (delivers, slices, pokes int) {
	return len(g.delivers), len(g.slices), len(g.pokes)
}

func next[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(Patience):
		t.Fatalf("no %s came", what)
		panic("unreachable")
	}
}

// codec returns the codec of an app's tokens, as a gateway makes it.
func (g *Gateway) codec(t testing.TB, app *App) *token.Codec {
	t.Helper()
	found, err := g.Client.GetApp(g.auth(t.Context()), &gatewayv1.GetAppRequest{App: app.ID})
	if err != nil {
		t.Fatal(err)
	}
	var keys []token.AppKeys
	for _, k := range found.GetKeys() {
		key := token.AppKeys{Letter: k.GetLetter()[0]}
		copy(key.TokenKey[:], k.GetTokenKey())
		copy(key.SecretKey[:], k.GetSecretKey())
		keys = append(keys, key)
	}
	codec, err := token.NewCodec(found.GetNumber(), keys...)
	if err != nil {
		t.Fatal(err)
	}
	return codec
}

// Receipt publishes a receipt of a direct delivery and waits until JetStream has it.
func (g *Gateway) Receipt(t testing.TB, s *Session, push string, step ledgerv1.Step) {
	t.Helper()
	g.Receipts(t, &ledgerv1.DirectReceipt{
		App: s.Device.App.Number, Ordinal: s.Ordinal, PushId: ID(t, push), Step: step,
	})
}

// Receipts publishes receipts of direct deliveries as one message.
func (g *Gateway) Receipts(t testing.TB, receipts ...*ledgerv1.DirectReceipt) {
	t.Helper()
	g.publish(t, subject.ReceiptsDirect, &ledgerv1.DirectReceipts{Receipts: receipts})
}

// SliceReceipt publishes a receipt of an audience push for sessions of one slice.
func (g *Gateway) SliceReceipt(t testing.TB, push string, step ledgerv1.Step, sessions ...*Session) {
	t.Helper()
	app, slice := sessions[0].Device.App.Number, ordinal.Slice(sessions[0].Ordinal)
	g.publish(t, subject.ReceiptsAudience(ordinal.Partition(app, slice)), &ledgerv1.SliceReceipts{
		Receipts: []*ledgerv1.SliceReceipt{{
			App: app, Slice: slice, PushId: ID(t, push), Step: step, Ordinals: Bits(t, sessions...),
		}},
	})
}

// publish waits until JetStream has the message; the stream may not be there yet.
func (g *Gateway) publish(t testing.TB, to string, m proto.Message) {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	Eventually(t, "JetStream has the receipt", func() bool {
		ack, err := g.NATS.Request(to, data, time.Second)
		return err == nil && len(ack.Data) > 0
	})
}

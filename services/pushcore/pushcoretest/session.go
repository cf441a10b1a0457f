package pushcoretest

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
)

// Stream is one stream of sessions batches.
type Stream struct {
	stream gatewayv1.GatewayService_SessionsClient
	cancel context.CancelFunc
	ended  chan struct{}

	sending sync.Mutex

	mu      sync.Mutex
	batch   uint64                                      // guarded by mu: the last one
	answers map[uint64]chan *gatewayv1.SessionsResponse // guarded by mu
}

// Batch is a batch that was sent.
type Batch struct {
	stream  *Stream
	answers <-chan *gatewayv1.SessionsResponse
}

// Message is one kept push in an answer.
type Message struct {
	ID   string
	Body *gatewayv1.Body
	User string
}

// Result is the whole answer to a batch.
type Result struct {
	Status gatewayv1.SessionsResponse_Status
	Opened []*gatewayv1.Opened
	Pulled []*gatewayv1.Pulled
	// Kept are the messages of each session, in order.
	Kept map[uint64][]Message
}

// Session is a device's session on a gateway.
type Session struct {
	Gateway    *Gateway
	Device     *Device
	Ordinal    uint64
	Generation uint32
	Number     uint64
	// Connected is when its connection came.
	Connected time.Time
}

// Connect makes a session that pushcore does not know of yet: what a gateway has after a CONNECT.
func (g *Gateway) Connect(t testing.TB, d *Device) *Session {
	t.Helper()
	number, generation, err := g.codec(t, d.App).Verify(d.Token, d.Secret)
	if err != nil {
		t.Fatalf("%s: %v", d.Token, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.session++
	return &Session{
		Gateway: g, Device: d, Ordinal: number, Generation: generation, Number: g.session, Connected: time.Now(),
	}
}

// OpenOption changes an Open.
type OpenOption func(*gatewayv1.Open)

// Limit sets how many kept messages fit.
func Limit(n uint32) OpenOption { return func(o *gatewayv1.Open) { o.Limit = n } }

// Deafly opens a session whose device has not subscribed.
func Deafly() OpenOption { return func(o *gatewayv1.Open) { o.Receiving = false } }

// Aged sets how long ago the connection came.
func Aged(d time.Duration) OpenOption { return func(o *gatewayv1.Open) { o.Age = durationpb.New(d) } }

// Registering marks the connection as the one that registered the device.
func Registering() OpenOption { return func(o *gatewayv1.Open) { o.Returned = false } }

// Reporting adds what the device said of itself.
func Reporting(r *devicev1.Report) OpenOption { return func(o *gatewayv1.Open) { o.Report = r } }

// OpenRequest returns the Open of a session: receiving, with room for 1,000 messages.
func (s *Session) OpenRequest(options ...OpenOption) *gatewayv1.Open {
	o := &gatewayv1.Open{
		App: s.Device.App.Number, Ordinal: s.Ordinal, Generation: s.Generation, Session: s.Number,
		Age: durationpb.New(time.Since(s.Connected)), Receiving: true, Returned: true, Limit: 1000,
	}
	for _, option := range options {
		option(o)
	}
	return o
}

// CloseRequest returns the Close of a session.
func (s *Session) CloseRequest() *gatewayv1.Close {
	return &gatewayv1.Close{App: s.Device.App.Number, Ordinal: s.Ordinal, Session: s.Number}
}

// Open connects a device and opens its session, which must succeed. What was kept is passed over: see Session.Open.
func (g *Gateway) Open(t testing.TB, d *Device, options ...OpenOption) *Session {
	t.Helper()
	s := g.Connect(t, d)
	s.Open(t, options...)
	return s
}

// Open opens the session, which must succeed, and returns what was kept.
func (s *Session) Open(t testing.TB, options ...OpenOption) []Message {
	t.Helper()
	result := s.TryOpen(t, options...)
	if got := result.Opened[0].GetStatus(); got != gatewayv1.Opened_OPEN {
		t.Fatalf("open: %s", got)
	}
	return result.Kept[s.Number]
}

// TryOpen opens the session, with whatever outcome.
func (s *Session) TryOpen(t testing.TB, options ...OpenOption) *Result {
	t.Helper()
	result := s.Gateway.Send(t, &gatewayv1.SessionsRequest{Opens: []*gatewayv1.Open{s.OpenRequest(options...)}}).Wait(t)
	if result.Status != gatewayv1.SessionsResponse_OK {
		t.Fatalf("open: the batch is %s", result.Status)
	}
	return result
}

// Close closes the session.
func (s *Session) Close(t testing.TB) {
	t.Helper()
	result := s.Gateway.Send(t, &gatewayv1.SessionsRequest{Closes: []*gatewayv1.Close{s.CloseRequest()}}).Wait(t)
	if result.Status != gatewayv1.SessionsResponse_OK {
		t.Fatalf("close: the batch is %s", result.Status)
	}
}

// Pull returns what is kept after a push; an empty id means from the oldest.
func (s *Session) Pull(t testing.TB, after string, limit uint32) (kept []Message, more bool) {
	t.Helper()
	pull := &gatewayv1.Pull{App: s.Device.App.Number, Ordinal: s.Ordinal, Session: s.Number, Limit: limit}
	if after != "" {
		pull.After = ID(t, after)
	}
	result := s.Gateway.Send(t, &gatewayv1.SessionsRequest{Pulls: []*gatewayv1.Pull{pull}}).Wait(t)
	if result.Status != gatewayv1.SessionsResponse_OK || !result.Pulled[0].GetOpen() {
		t.Fatalf("pull: %s, %v", result.Status, result.Pulled)
	}
	return result.Kept[s.Number], result.Pulled[0].GetMore()
}

// Send sends a batch and does not wait for its answer. The batch number and the incarnation are filled in where they are
// missing.
func (g *Gateway) Send(t testing.TB, r *gatewayv1.SessionsRequest) *Batch {
	t.Helper()
	stream := g.open(t)
	answers := make(chan *gatewayv1.SessionsResponse, 1000)
	stream.mu.Lock()
	stream.batch++
	r.Batch = stream.batch
	stream.answers[r.Batch] = answers
	stream.mu.Unlock()
	if r.Incarnation == nil {
		r.Incarnation = g.Incarnation()
	}
	stream.sending.Lock()
	defer stream.sending.Unlock()
	if err := stream.stream.Send(r); err != nil {
		t.Fatal(err)
	}
	return &Batch{stream: stream, answers: answers}
}

// open returns the stream, a new one if there is none or it ended.
func (g *Gateway) open(t testing.TB) *Stream {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stream != nil {
		select {
		case <-g.stream.ended:
		default:
			return g.stream
		}
	}
	ctx, cancel := context.WithCancel(g.auth(context.Background()))
	stream, err := g.Client.Sessions(ctx)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	s := &Stream{
		stream: stream, cancel: cancel, ended: make(chan struct{}), answers: map[uint64]chan *gatewayv1.SessionsResponse{},
	}
	go s.receive()
	g.stream = s
	return s
}

func (s *Stream) receive() {
	defer close(s.ended)
	for {
		part, err := s.stream.Recv()
		if err != nil {
			return
		}
		s.mu.Lock()
		answers := s.answers[part.GetBatch()]
		s.mu.Unlock()
		answers <- part
	}
}

// Disconnect ends the stream of batches; the next batch begins a new one.
func (g *Gateway) Disconnect() {
	g.mu.Lock()
	stream := g.stream
	g.stream = nil
	g.mu.Unlock()
	if stream != nil {
		stream.cancel()
		<-stream.ended
	}
}

// Wait waits for the whole answer.
func (b *Batch) Wait(t testing.TB) *Result {
	t.Helper()
	result := &Result{Kept: map[uint64][]Message{}}
	deadline := time.After(Patience)
	for {
		select {
		case part := <-b.answers:
			result.add(part)
			if part.GetLast() {
				return result
			}
		case <-b.stream.ended:
			t.Fatal("the stream ended before the answer")
		case <-deadline:
			t.Fatal("no answer to a batch")
		}
	}
}

// Answered reports whether an answer, or a part of it, has come.
func (b *Batch) Answered() bool { return len(b.answers) > 0 }

func (r *Result) add(part *gatewayv1.SessionsResponse) {
	r.Status = part.GetStatus()
	r.Opened = append(r.Opened, part.GetOpened()...)
	r.Pulled = append(r.Pulled, part.GetPulled()...)
	keep := func(session uint64, kept []*gatewayv1.Kept) {
		for _, k := range kept {
			body := part.GetBodies()[k.GetBody()]
			r.Kept[session] = append(r.Kept[session], Message{ID: PushID(body), Body: body, User: k.GetUser()})
		}
	}
	for _, o := range part.GetOpened() {
		keep(o.GetSession(), o.GetKept())
	}
	for _, p := range part.GetPulled() {
		keep(p.GetSession(), p.GetKept())
	}
}

// IDs returns the push ids of messages, in their order.
func IDs(messages []Message) []string {
	ids := make([]string, len(messages))
	for i, m := range messages {
		ids[i] = m.ID
	}
	return ids
}

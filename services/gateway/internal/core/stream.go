package core

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/internal/loop"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

type stream = grpc.BidiStreamingClient[gatewayv1.SessionsRequest, gatewayv1.SessionsResponse]

// batch is what one SessionsRequest asks for, until its answer is complete.
type batch struct {
	incarnation *gatewayv1.Incarnation
	opens       map[uint64]*opening
	pulls       map[uint64]pull
	closes      []loop.Close
	begun       time.Time
}

// streams keeps one stream of session batches to pushcore, and opens another when it breaks.
func (c *Client) streams(ctx context.Context, answers Answers) {
	wait := firstPause
	for ctx.Err() == nil {
		begun := time.Now()
		err := c.stream(ctx, answers)
		if ctx.Err() != nil {
			return
		}
		c.log.WarnContext(ctx, "stream of sessions broke; another follows", "error", err)
		if time.Since(begun) > longestPause {
			wait = firstPause
		}
		pause(ctx, &wait)
	}
}

// stream works through the queues over one stream until it breaks. What had no answer by then is queued again.
func (c *Client) stream(ctx context.Context, answers Answers) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.rpc.Sessions(ctx)
	if err != nil {
		return fmt.Errorf("open stream: %w", err)
	}
	flow := &flow{client: c, stream: s, answers: answers, batches: map[uint64]*batch{}}
	received := make(chan error, 1)
	go func() { received <- flow.receive() }()
	err = flow.run(ctx, received)
	cancel()
	if err == nil {
		err = <-received
	}
	flow.mu.Lock()
	defer flow.mu.Unlock()
	for _, b := range flow.batches {
		c.putBack(b, answers)
	}
	flow.batches = nil
	return err
}

// flow is one stream and what is under way on it. Batches are sent and answers received side by side, so that neither side
// can wait for the other to read.
type flow struct {
	client  *Client
	stream  stream
	answers Answers
	last    uint64

	mu      sync.Mutex
	batches map[uint64]*batch // guarded by mu
	// notBefore holds new batches back after pushcore said that it is not available.
	notBefore time.Time // guarded by mu
}

// receive applies answers until the stream breaks.
func (f *flow) receive() error {
	for {
		part, err := f.stream.Recv()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		f.mu.Lock()
		f.take(part)
		f.mu.Unlock()
		f.client.wake()
	}
}

// run sends batches until the stream breaks. It returns nil if the cause of that comes from received.
func (f *flow) run(ctx context.Context, received chan error) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait, err := f.sendAll()
		if err != nil {
			return err
		}
		if wait > 0 {
			timer.Reset(wait)
		}
		select {
		case err := <-received:
			received <- err
			return nil
		case <-f.client.work:
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// sendAll sends batches while there is work and room, and returns how long to wait before the next if pushcore asked for it.
func (f *flow) sendAll() (wait time.Duration, err error) {
	for {
		request, wait := f.next()
		if request == nil {
			return wait, nil
		}
		f.client.metrics.batches.Inc()
		if err := f.stream.Send(request); err != nil {
			return 0, fmt.Errorf("send: %w", err)
		}
	}
}

// next takes the next batch, if there is one and it may go.
func (f *flow) next() (*gatewayv1.SessionsRequest, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if wait := time.Until(f.notBefore); wait > 0 {
		return nil, wait
	}
	if len(f.batches) >= batchesAtOnce {
		return nil, 0
	}
	request, b := f.client.next()
	if b == nil {
		return nil, 0
	}
	f.last++
	request.Batch = f.last
	f.batches[f.last] = b
	return request, 0
}

// next takes the next batch from the queues; nil if there is nothing to do, or no lease yet.
func (c *Client) next() (*gatewayv1.SessionsRequest, *batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.live {
		return nil, nil
	}
	r := &gatewayv1.SessionsRequest{Incarnation: c.incarnation}
	b := &batch{
		incarnation: c.incarnation, opens: map[uint64]*opening{}, pulls: map[uint64]pull{}, begun: time.Now(),
	}
	for len(c.openQueue) > 0 && len(r.Opens) < maxBatch {
		number := c.openQueue[0]
		c.openQueue = c.openQueue[1:]
		if p := c.opens[number]; p != nil && !p.sent {
			p.sent, p.tried = true, true
			b.opens[number] = p
			r.Opens = append(r.Opens, openProto(&p.request))
		}
	}
	for len(c.pulls) > 0 && len(r.Pulls) < maxBatch {
		p := c.pulls[0]
		if _, twice := b.pulls[p.Session]; twice {
			break // answers name sessions, so the next batch asks again
		}
		c.pulls = c.pulls[1:]
		b.pulls[p.Session] = p
		r.Pulls = append(r.Pulls, &gatewayv1.Pull{
			App: p.App, Ordinal: p.Ordinal, Session: p.Session, After: p.After[:], Limit: uint32(p.Limit),
		})
	}
	n := min(len(c.closes), maxBatch)
	b.closes = append(b.closes, c.closes[:n]...)
	c.closes = c.closes[n:]
	for _, o := range b.closes {
		r.Closes = append(r.Closes, &gatewayv1.Close{App: o.App, Ordinal: o.Ordinal, Session: o.Session})
	}
	if len(r.Opens)+len(r.Pulls)+len(r.Closes) == 0 {
		return nil, nil
	}
	return r, b
}

// openProto returns an Open as it travels, with its age of now.
func openProto(o *loop.Open) *gatewayv1.Open {
	return &gatewayv1.Open{
		App: o.App, Ordinal: o.Ordinal, Generation: o.Generation, Session: o.Session, Age: durationpb.New(time.Since(o.Begun)),
		Receiving: o.Receiving, Returned: o.Returned, Limit: uint32(o.Limit), Report: o.Report,
	}
}

// take applies one part of an answer. It must be called with mu held.
func (f *flow) take(part *gatewayv1.SessionsResponse) {
	b := f.batches[part.GetBatch()]
	if b == nil {
		return
	}
	c := f.client
	if part.GetStatus() != gatewayv1.SessionsResponse_OK {
		delete(f.batches, part.GetBatch())
		c.metrics.refusals.WithLabelValues(part.GetStatus().String()).Inc()
		c.putBack(b, f.answers)
		if part.GetStatus() == gatewayv1.SessionsResponse_LAPSED {
			c.lost(b.incarnation)
		}
		f.notBefore = time.Now().Add(max(part.GetRetryAfter().AsDuration(), firstPause))
		return
	}
	messages := &messages{apps: c.apps, bodies: part.GetBodies(), made: map[messageKey]*session.Message{}}
	f.answers.Opened(c.takeOpened(b, part, messages))
	f.answers.Pulled(c.takePulled(b, part, messages))
	if part.GetLast() {
		delete(f.batches, part.GetBatch())
		c.metrics.batchSeconds.Observe(time.Since(b.begun).Seconds())
		b.closes = nil
		c.putBack(b, f.answers) // what had no answer, if anything
	}
}

func (c *Client) takeOpened(b *batch, part *gatewayv1.SessionsResponse, m *messages) []loop.Opened {
	var answers []loop.Opened
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range part.GetOpened() {
		p := b.opens[o.GetSession()]
		if p == nil {
			continue
		}
		delete(b.opens, o.GetSession())
		// An Open that is asked for again answers for the first one, too, unless that ended the session.
		if p.next == nil || o.GetStatus() != gatewayv1.Opened_OPEN {
			answers = append(answers, loop.Opened{
				Ref: p.request.Ref, Session: o.GetSession(), Status: o.GetStatus(), PermissionOff: o.GetPermissionOff(),
				Kept: m.kept(p.request.App, o.GetKept()), More: o.GetMore(),
			})
		}
		c.settleLocked(o.GetSession(), p)
	}
	c.opened.Add(time.Since(c.begun), len(part.GetOpened()))
	return answers
}

// settleLocked does what is due after an Open was answered. It must be called with mu held.
func (c *Client) settleLocked(number uint64, p *opening) {
	delete(c.opens, number)
	c.repair.settled(p.round)
	switch {
	case p.closing != nil:
		c.closes = append(c.closes, *p.closing)
		c.wake()
	case p.next != nil:
		c.opens[number] = &opening{request: *p.next, round: c.repair.asked()}
		c.queueOpenLocked(number)
	}
}

func (c *Client) takePulled(b *batch, part *gatewayv1.SessionsResponse, m *messages) []loop.Pulled {
	var answers []loop.Pulled
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range part.GetPulled() {
		p, ok := b.pulls[o.GetSession()]
		if !ok {
			continue
		}
		delete(b.pulls, o.GetSession())
		c.repair.settled(p.round)
		answers = append(answers, loop.Pulled{
			Ref: p.Ref, Session: o.GetSession(), Seq: p.Seq, Open: o.GetOpen(), Kept: m.kept(p.App, o.GetKept()), More: o.GetMore(),
		})
	}
	return answers
}

// putBack queues what a batch asked for again. Pulls fail instead: their sessions ask again when they still need it.
func (c *Client) putBack(b *batch, answers Answers) {
	var failed []loop.Pulled
	c.mu.Lock()
	for number, p := range b.opens {
		p.sent = false
		if p.closing != nil {
			// The Open may have been done without an answer, so that the Close is due.
			c.settleLocked(number, p)
			continue
		}
		if p.next != nil {
			p.request, p.next = *p.next, nil
		}
		c.queueOpenLocked(number)
	}
	for _, p := range b.pulls {
		c.repair.settled(p.round)
		failed = append(failed, loop.Pulled{Ref: p.Ref, Session: p.Session, Seq: p.Seq, Failed: true})
	}
	c.closes = append(c.closes, b.closes...)
	c.mu.Unlock()
	c.wake()
	if len(failed) > 0 {
		answers.Pulled(failed)
	}
}

// messages makes the messages of one part of an answer, each once per app.
type messages struct {
	apps   Apps
	bodies []*gatewayv1.Body
	made   map[messageKey]*session.Message
}

type messageKey struct {
	app  uint32
	body uint32
}

func (m *messages) kept(app uint32, list []*gatewayv1.Kept) []loop.KeptMessage {
	var kept []loop.KeptMessage
	for _, k := range list {
		if message := m.get(app, k.GetBody()); message != nil {
			kept = append(kept, loop.KeptMessage{Message: message, User: k.GetUser()})
		}
	}
	return kept
}

func (m *messages) get(app, body uint32) *session.Message {
	key := messageKey{app, body}
	if message := m.made[key]; message != nil {
		return message
	}
	known := m.apps.App(app)
	if known == nil || int(body) >= len(m.bodies) {
		return nil
	}
	message := Message(known, m.bodies[body])
	m.made[key] = message
	return message
}

// Message returns a body as sessions hand it over; nil if it does not have its form.
func Message(app *session.App, b *gatewayv1.Body) *session.Message {
	id, err := uuid.FromBytes(b.GetPushId())
	if err != nil || len(b.GetJson()) < 2 {
		return nil
	}
	m := session.NewMessage(app.ID, id, b.GetJson())
	m.QoS = byte(min(b.GetQos(), 1))
	m.Expires, m.Audience, m.Notification, m.Trace = b.GetExpiresAt(), b.GetAudience(), b.GetNotification(), b.GetTrace()
	return m
}

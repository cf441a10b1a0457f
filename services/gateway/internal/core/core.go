// Package core is pushcore as the gateway sees it: sessions are opened, closed and refilled in batches over a stream, calls
// go in batches, and a lease says that the gateway lives. While pushcore is away everything waits, and nothing is lost.
package core

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"slices"
	"sync"
	"time"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/internal/loop"
	"github.com/halleypush/halley/services/gateway/internal/pace"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

const (
	// maxBatch bounds one batch of opens, of pulls or of calls; batchesAtOnce those of sessions under way. There is no timer:
	// what finds room goes out at once, and what comes meanwhile shares the next batch.
	maxBatch      = 256
	batchesAtOnce = 8

	// maxCloses bounds the closes that wait while pushcore is away. Beyond it they are dropped: a route that stays leads to a
	// gateway that answers that it has no such session.
	maxCloses = 1_000_000

	firstPause, longestPause = 100 * time.Millisecond, 2 * time.Second
)

// Answers is where answers go.
type Answers interface {
	Opened(answers []loop.Opened)
	Pulled(answers []loop.Pulled)
	Answered(answers []loop.Answered)
	ReopenAll(rate int, done func())
}

// Apps finds apps that are known to the gateway.
type Apps interface {
	App(number uint32) *session.App
}

// Client talks to pushcore. It implements loop.Core.
type Client struct {
	rpc        gatewayv1.GatewayServiceClient
	apps       Apps
	metrics    *Metrics
	log        *slog.Logger
	pod        string
	revision   string
	reopenRate int
	calls      *calls

	mu          sync.Mutex
	incarnation *gatewayv1.Incarnation // guarded by mu; replaced, never changed
	live        bool                   // guarded by mu: the incarnation has a lease
	granted     bool                   // guarded by mu: some incarnation had one
	identity    string                 // guarded by mu: of the database
	repair      repair                 // guarded by mu
	opens       map[uint64]*opening    // guarded by mu: by session number
	openQueue   []uint64               // guarded by mu: may name sessions that are gone
	opened      pace.Meter             // guarded by mu: of answers to them
	begun       time.Time
	pulls       []pull        // guarded by mu
	closes      []loop.Close  // guarded by mu
	work        chan struct{} // has room for one: there may be something to send
	renewNow    chan struct{} // has room for one: the lease is over, as a batch was told, or a drain begins
	draining    bool          // guarded by mu
	last        chan struct{} // closed once this gateway drains and none that a rollout replaces takes devices
}

// opening is a session that is to be opened, or is being opened.
type opening struct {
	request loop.Open
	round   int // of the repair
	// sent: an answer is awaited. tried: it was sent at least once, so that pushcore may have opened it.
	sent, tried bool
	// next is asked for after the answer; closing is due after it.
	next    *loop.Open
	closing *loop.Close
}

// pull is a question for what is kept.
type pull struct {
	loop.Pull
	round int // of the repair
}

// New returns a client of pushcore. reopenRate is how many sessions a second are opened again after a lapse.
func New(
	rpc gatewayv1.GatewayServiceClient, apps Apps, pod, revision string, reopenRate int, metrics *Metrics, log *slog.Logger,
) *Client {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	return &Client{
		rpc: rpc, apps: apps, pod: pod, revision: revision, reopenRate: reopenRate, metrics: metrics, log: log, calls: newCalls(rpc, metrics, log),
		incarnation: &gatewayv1.Incarnation{Gateway: hex.EncodeToString(id[:]), Number: 1},
		repair:      repair{open: map[int]int{}, left: metrics.repairs},
		opens:       map[uint64]*opening{}, work: make(chan struct{}, 1), renewNow: make(chan struct{}, 1),
		last: make(chan struct{}), begun: time.Now(),
	}
}

// Incarnation returns the gateway's present one.
func (c *Client) Incarnation() *gatewayv1.Incarnation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.incarnation
}

func (c *Client) wake() {
	select {
	case c.work <- struct{}{}:
	default:
	}
}

// Open queues a session to be opened. One that is queued already is opened with what it wants now; for one whose answer is
// awaited another Open follows.
func (c *Client) Open(o loop.Open) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.opens[o.Session]
	switch {
	case p == nil:
		c.opens[o.Session] = &opening{request: o, round: c.repair.asked()}
		c.queueOpenLocked(o.Session)
	case p.sent:
		p.next = &o
	default:
		p.request = o
	}
}

// queueOpenLocked puts a session into the queue. It must be called with mu held. The queue may name sessions that are gone:
// when those are most of it, it is cleared of them, so that it stays in proportion to the sessions that there are.
func (c *Client) queueOpenLocked(number uint64) {
	if len(c.openQueue) > 2*len(c.opens)+1024 {
		c.openQueue = slices.DeleteFunc(c.openQueue, func(n uint64) bool { return c.opens[n] == nil || c.opens[n].sent })
	}
	c.openQueue = append(c.openQueue, number)
	c.wake()
}

// Close queues the end of a session, behind an Open of it whose answer is awaited.
func (c *Client) Close(o loop.Close) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.opens[o.Session]
	if p != nil {
		if p.sent {
			p.next, p.closing = nil, &o
			return
		}
		delete(c.opens, o.Session)
		c.repair.settled(p.round)
	}
	if p != nil && !p.tried && !o.Opened {
		return // pushcore never heard of it
	}
	if len(c.closes) >= maxCloses {
		c.metrics.closesDropped.Inc()
		return
	}
	c.closes = append(c.closes, o)
	c.wake()
}

// Pull queues a question for what is kept.
func (c *Client) Pull(p loop.Pull) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pulls = append(c.pulls, pull{p, c.repair.asked()})
	c.wake()
}

// Call queues a call, or answers it at once if too many wait.
func (c *Client) Call(call loop.Call) { c.calls.add(call) }

// Run keeps the lease and works through the queues until ctx ends. It needs round trips that say how long ago NATS brought a
// message from the gateway to itself.
func (c *Client) Run(ctx context.Context, answers Answers, roundTrip func() time.Duration, onIncarnation func()) {
	var wg sync.WaitGroup
	wg.Go(func() { c.keepLease(ctx, answers, roundTrip, onIncarnation) })
	wg.Go(func() { c.streams(ctx, answers) })
	wg.Go(func() { c.calls.run(ctx, answers) })
	wg.Wait()
}

// Opening returns how many sessions wait to be opened, or for the answer.
func (c *Client) Opening() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.opens)
}

// OpenRate returns how many sessions a second pushcore opens lately.
func (c *Client) OpenRate() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opened.PerSecond(time.Since(c.begun))
}

// Flushed reports whether no close waits to be sent, nor an answer that a close must follow.
func (c *Client) Flushed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.closes) == 0 && len(c.opens) == 0
}

// pause waits with growing length, and returns false if ctx ended.
func pause(ctx context.Context, length *time.Duration) bool {
	timer := time.NewTimer(*length)
	defer timer.Stop()
	*length = min(*length*2, longestPause)
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

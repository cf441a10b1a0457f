package gatewaytest

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
)

// route is where a device is online.
type route struct {
	session     uint64
	incarnation *gatewayv1.Incarnation
	receiving   bool
}

// kept is a push that waits for its receipt.
type kept struct {
	body *gatewayv1.Body
	user string
}

// sessions is one stream of batches.
type sessions struct {
	stream grpc.BidiStreamingServer[gatewayv1.SessionsRequest, gatewayv1.SessionsResponse]
	end    context.CancelFunc
	mu     sync.Mutex // one answer is sent at a time
}

// Sessions implements the contract.
func (c *Core) Sessions(stream grpc.BidiStreamingServer[gatewayv1.SessionsRequest, gatewayv1.SessionsResponse]) error {
	if err := authenticate(stream.Context()); err != nil {
		return err
	}
	ctx, end := context.WithCancel(stream.Context())
	defer end()
	s := &sessions{stream: stream, end: end}
	c.mu.Lock()
	c.streams[s] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.streams, s)
		c.mu.Unlock()
	}()
	go func() {
		defer end()
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			go c.batch(s, r)
		}
	}()
	<-ctx.Done()
	return status.Error(codes.Unavailable, "the stream broke")
}

// BreakStreams ends the streams of sessions that there are.
func (c *Core) BreakStreams() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.streams {
		s.end()
	}
}

func (c *Core) batch(s *sessions, r *gatewayv1.SessionsRequest) {
	c.Saw.Opens.add(r.GetOpens()...)
	c.Saw.Pulls.add(r.GetPulls()...)
	c.Saw.Closes.add(r.GetCloses()...)
	answer := c.scripted().Batch
	if answer == nil {
		answer = c.Answer
	}
	response := answer(r)
	if response == nil {
		return
	}
	response.Batch = r.GetBatch()
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.stream.Send(response) // the gateway is gone, or the stream was broken: it asks again
}

// Answer is the pushcore's own answer to a batch.
func (c *Core) Answer(r *gatewayv1.SessionsRequest) *gatewayv1.SessionsResponse {
	verdict := c.scripted().Open
	if verdict == nil {
		verdict = func(*gatewayv1.Open) gatewayv1.Opened_Status { return gatewayv1.Opened_OPEN }
	}
	response := &gatewayv1.SessionsResponse{Status: gatewayv1.SessionsResponse_OK, Last: true}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lapsed[r.GetIncarnation().GetNumber()] {
		return &gatewayv1.SessionsResponse{Status: gatewayv1.SessionsResponse_LAPSED, Last: true}
	}
	for _, o := range r.GetOpens() {
		opened := &gatewayv1.Opened{Session: o.GetSession(), Status: verdict(o)}
		if opened.GetStatus() == gatewayv1.Opened_OPEN {
			c.routes[o.GetOrdinal()] = route{o.GetSession(), r.GetIncarnation(), o.GetReceiving()}
			if o.GetReceiving() {
				opened.Kept, opened.More = c.keptLocked(response, o.GetOrdinal(), nil, o.GetLimit())
			}
		}
		response.Opened = append(response.Opened, opened)
	}
	for _, p := range r.GetPulls() {
		pulled := &gatewayv1.Pulled{Session: p.GetSession(), Open: c.routes[p.GetOrdinal()].session == p.GetSession()}
		if pulled.GetOpen() {
			pulled.Kept, pulled.More = c.keptLocked(response, p.GetOrdinal(), p.GetAfter(), p.GetLimit())
		}
		response.Pulled = append(response.Pulled, pulled)
	}
	for _, o := range r.GetCloses() {
		if c.routes[o.GetOrdinal()].session == o.GetSession() {
			delete(c.routes, o.GetOrdinal())
		}
	}
	return response
}

// keptLocked returns what is kept for a device. It must be called with mu held.
func (c *Core) keptLocked(
	response *gatewayv1.SessionsResponse, ordinal uint64, after []byte, limit uint32,
) (page []*gatewayv1.Kept, more bool) {
	for _, k := range c.kept[ordinal] {
		if bytes.Compare(k.body.GetPushId(), after) <= 0 {
			continue
		}
		if len(page) == int(limit) {
			return page, true
		}
		at := slices.Index(response.GetBodies(), k.body)
		if at < 0 {
			at = len(response.GetBodies())
			response.Bodies = append(response.Bodies, k.body)
		}
		page = append(page, &gatewayv1.Kept{Body: uint32(at), User: k.user})
	}
	return page, false
}

// Keep keeps a push for a device until its receipt comes.
func (c *Core) Keep(d Device, p Push) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.kept[d.Ordinal]
	at, found := slices.BinarySearchFunc(list, p.Body.GetPushId(), func(k kept, id []byte) int {
		return bytes.Compare(k.body.GetPushId(), id)
	})
	if !found {
		c.kept[d.Ordinal] = slices.Insert(list, at, kept{p.Body, p.User})
	}
}

// Kept returns how many pushes are kept for a device.
func (c *Core) Kept(d Device) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.kept[d.Ordinal])
}

// drop ends the keeping of a push.
func (c *Core) drop(ordinal uint64, push []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept[ordinal] = slices.DeleteFunc(c.kept[ordinal], func(k kept) bool { return bytes.Equal(k.body.GetPushId(), push) })
}

// AwaitOnline waits until a device is open and receiving, and returns its session.
func (c *Core) AwaitOnline(t testing.TB, d Device) uint64 {
	t.Helper()
	var r route
	Eventually(t, "the device is online", func() bool {
		r = c.route(d)
		return r.receiving
	})
	return r.session
}

// LoseRoutes forgets where devices are.
func (c *Core) LoseRoutes() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.routes)
}

func (c *Core) route(d Device) route {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.routes[d.Ordinal]
}

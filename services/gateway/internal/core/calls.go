package core

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/internal/loop"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

const (
	// callsAtOnce is how many batches of calls are under way.
	callsAtOnce = 4
	// maxCalls bounds the calls and events that wait. Beyond it a call is refused, and an event stays unacknowledged.
	maxCalls = 100_000
	// callWithin bounds one batch.
	callWithin = 10 * time.Second
	// keepEvents is how long events are tried for while pushcore is away; then their device repeats them at its next connect.
	keepEvents = time.Minute
)

// calls passes calls on in batches.
type calls struct {
	rpc     gatewayv1.GatewayServiceClient
	metrics *Metrics
	log     *slog.Logger
	work    chan struct{}

	mu    sync.Mutex
	queue []queued        // guarded by mu
	full  []loop.Answered // guarded by mu: refused because the queue was full
}

type queued struct {
	loop.Call
	since time.Time
}

func newCalls(rpc gatewayv1.GatewayServiceClient, metrics *Metrics, log *slog.Logger) *calls {
	return &calls{rpc: rpc, metrics: metrics, log: log, work: make(chan struct{}, callsAtOnce)}
}

func (c *calls) add(call loop.Call) {
	c.mu.Lock()
	if len(c.queue) < maxCalls {
		c.queue = append(c.queue, queued{call, time.Now()})
	} else {
		c.full = append(c.full, refused(call, "RESOURCE_EXHAUSTED", "too many calls wait; try again"))
	}
	c.mu.Unlock()
	c.wake()
}

func (c *calls) wake() {
	select {
	case c.work <- struct{}{}:
	default:
	}
}

func isEvents(call loop.Call) bool { return call.Method == "events" }

// refused is the answer to a call that pushcore was not asked, or did not answer. Events are lost here, not in the device.
func refused(call loop.Call, code, message string) loop.Answered {
	if isEvents(call) {
		return loop.Answered{Ref: call.Ref, Seq: call.Seq, Answer: session.Answer{Lost: true}}
	}
	body, err := json.Marshal(map[string]string{"code": code, "message": message})
	if err != nil { // a map of strings always encodes
		panic(err)
	}
	return loop.Answered{Ref: call.Ref, Seq: call.Seq, Answer: session.Answer{JSON: body}}
}

func (c *calls) run(ctx context.Context, answers Answers) {
	var wg sync.WaitGroup
	for range callsAtOnce {
		wg.Go(func() { c.worker(ctx, answers) })
	}
	wg.Wait()
}

func (c *calls) worker(ctx context.Context, answers Answers) {
	wait := firstPause
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.work:
		}
		for {
			batch, full := c.take()
			if len(full) > 0 {
				answers.Answered(full)
			}
			if len(batch) == 0 {
				break
			}
			if c.ask(ctx, batch, answers) {
				wait = firstPause
			} else if !pause(ctx, &wait) {
				return
			}
		}
	}
}

func (c *calls) take() (batch []queued, full []loop.Answered) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.queue), maxBatch)
	batch = append(batch, c.queue[:n]...)
	c.queue = c.queue[n:]
	if len(c.queue) == 0 {
		c.queue = nil
	} else {
		c.wake()
	}
	full, c.full = c.full, nil
	return batch, full
}

// ask sends a batch and passes the answers on. Events that could not be asked for are queued again; it reports whether there
// were none.
func (c *calls) ask(ctx context.Context, batch []queued, answers Answers) bool {
	request := &gatewayv1.CallsRequest{}
	for _, q := range batch {
		request.Calls = append(request.Calls, &gatewayv1.Call{
			App: q.App, Ordinal: q.Ordinal, Method: q.Method, Json: q.JSON,
		})
	}
	call, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	response, err := c.rpc.Calls(call, request)
	if err == nil && len(response.GetResults()) != len(batch) {
		c.log.ErrorContext(ctx, "pushcore answered another number of calls than it was asked")
		response = &gatewayv1.CallsResponse{}
	}
	var again []queued
	done := make([]loop.Answered, 0, len(batch))
	for i, q := range batch {
		var result *gatewayv1.CallsResponse_Result
		if i < len(response.GetResults()) {
			result = response.GetResults()[i]
		}
		switch {
		case result != nil && (result.GetOk() || !mayComeAgain(q.Call, result)):
			done = append(done, loop.Answered{
				Ref: q.Ref, Seq: q.Seq, Answer: session.Answer{OK: result.GetOk(), JSON: result.GetJson()},
			})
		case isEvents(q.Call) && time.Since(q.since) < keepEvents:
			again = append(again, q)
		default:
			done = append(done, refused(q.Call, "UNAVAILABLE", "the service cannot be reached right now; try again"))
		}
	}
	c.metrics.calls.WithLabelValues("answered").Add(float64(len(done)))
	c.metrics.calls.WithLabelValues("again").Add(float64(len(again)))
	answers.Answered(done)
	c.mu.Lock()
	c.queue = append(c.queue, again...)
	c.mu.Unlock()
	return len(again) == 0
}

// mayComeAgain reports whether events were refused only for now.
func mayComeAgain(call loop.Call, result *gatewayv1.CallsResponse_Result) bool {
	var e struct {
		Code string `json:"code"`
	}
	if !isEvents(call) || json.Unmarshal(result.GetJson(), &e) != nil {
		return false
	}
	switch e.Code {
	case "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "INTERNAL":
		return true
	}
	return false
}

package core

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
)

// renewWithin bounds one renewal.
const renewWithin = 2 * time.Second

// keepLease renews the lease three times as often as it must be, and asks for one with growing pauses while there is none.
func (c *Client) keepLease(ctx context.Context, answers Answers, roundTrip func() time.Duration, onIncarnation func()) {
	wait := firstPause
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-c.renewNow:
		}
		lease, err := c.renew(ctx, answers, roundTrip(), onIncarnation)
		if err != nil && ctx.Err() == nil {
			c.metrics.renewals.WithLabelValues("error").Inc()
			c.log.WarnContext(ctx, "lease not renewed", "error", err)
		}
		if lease > 0 {
			wait = firstPause
			timer.Reset(lease / 3)
		} else {
			timer.Reset(wait)
			wait = min(2*wait, longestPause)
		}
	}
}

// renew asks for the lease and returns how long it holds; 0 if it was not renewed.
func (c *Client) renew(
	ctx context.Context, answers Answers, natsAge time.Duration, onIncarnation func(),
) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, renewWithin)
	defer cancel()
	c.mu.Lock()
	incarnation, draining := c.incarnation, c.draining
	c.mu.Unlock()
	response, err := c.rpc.RenewLease(ctx, &gatewayv1.RenewLeaseRequest{
		Incarnation: incarnation, Pod: c.pod, NatsRoundTripAge: durationpb.New(natsAge), Sessions: uint32(c.metrics.sessions()),
		Revision: c.revision, Draining: draining,
	})
	if err != nil {
		return 0, err
	}
	c.metrics.renewals.WithLabelValues(response.GetStatus().String()).Inc()
	switch response.GetStatus() {
	case gatewayv1.RenewLeaseResponse_LAPSED:
		c.lapse(incarnation, answers, onIncarnation)
	case gatewayv1.RenewLeaseResponse_LIVE:
		c.renewed(response.GetDatabaseIdentity(), answers)
		if draining {
			c.noteBehind(response.GetBehind())
		}
		return response.GetLease().AsDuration(), nil
	}
	return 0, nil
}

// lost notes that an incarnation is over, as a batch was told. The renewal that follows takes another.
func (c *Client) lost(over *gatewayv1.Incarnation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.incarnation.GetNumber() != over.GetNumber() || !c.live {
		return // noticed before
	}
	c.live = false
	c.renewSoon()
}

func (c *Client) renewSoon() {
	select {
	case c.renewNow <- struct{}{}:
	default:
	}
}

// Drain tells pushcore that this gateway is to stop. The channel that it returns is closed once no gateway that the same rollout
// replaces takes devices any more: those that are sent away now need not move again. That is at once if there is no rollout.
func (c *Client) Drain() (last <-chan struct{}) {
	c.mu.Lock()
	c.draining = true
	c.mu.Unlock()
	c.renewSoon()
	return c.last
}

// noteBehind notes how many gateways are to drain after this one, as a renewal said. Only the loop that renews calls it.
func (c *Client) noteBehind(behind uint32) {
	select {
	case <-c.last:
		return
	default:
	}
	if behind == 0 {
		close(c.last)
	}
}

// renewed notes that the incarnation is alive. A database that is another than before may have lost the routes.
func (c *Client) renewed(identity string, answers Answers) {
	c.mu.Lock()
	changed := c.identity != "" && c.identity != identity
	c.identity = identity
	c.live, c.granted = true, true
	c.mu.Unlock()
	c.wake()
	if changed {
		c.log.Warn("the database is another one, or was restarted: sessions are opened again")
		answers.ReopenAll(c.reopenRate, c.Repairing())
	}
}

// lapse takes a new incarnation in place of one that is over, and opens every session again. That waits for the new lease,
// and so until NATS brings the new incarnation its messages.
func (c *Client) lapse(over *gatewayv1.Incarnation, answers Answers, onIncarnation func()) {
	c.mu.Lock()
	c.incarnation = &gatewayv1.Incarnation{Gateway: over.GetGateway(), Number: over.GetNumber() + 1}
	c.live = false
	c.mu.Unlock()
	c.metrics.lapses.Inc()
	c.log.Warn("the lease has lapsed: sessions are opened again", "incarnation", over.GetNumber()+1)
	onIncarnation()
	answers.ReopenAll(c.reopenRate, c.Repairing())
}

// End ends the lease: the gateway has closed its sessions.
func (c *Client) End(ctx context.Context) error {
	_, err := c.rpc.RenewLease(ctx, &gatewayv1.RenewLeaseRequest{Incarnation: c.Incarnation(), Ending: true})
	return err
}

var errNoLease = errors.New("no lease yet")

// Ready returns nil if the gateway has had a lease. That pushcore or its database is away now, or that sessions have yet to be opened
// again, or to Pull, does not make a gateway unready: it happens to all gateways at once, and devices can come meanwhile, while a
// balancer that took all away could let nobody in.
func (c *Client) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.granted {
		return errNoLease
	}
	return nil
}

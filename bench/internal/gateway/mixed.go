package gateway

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/halleypush/halley/bench/internal/phones"
	"github.com/halleypush/halley/bench/internal/report"
	"github.com/halleypush/halley/bench/internal/sink"
)

const (
	// directRate is how many direct messages a second are sent.
	directRate = 200
	// promptHost is the address of the gateway, a loopback one. Packets to it are acknowledged at once if tools/bench-network.sh could
	// see to it. The phones' kernel is this machine's here. Where they do not come to read within 40 ms it acknowledges for
	// them, by timers, which end together and keep a processor busy for 1 to 2 ms: their own, if phones were elsewhere.
	promptHost = "127.0.0.2"
	// ahead is how many broadcasts may be on their way; a session's window takes 16.
	ahead = 4
)

// mixed measures direct messages, first alone, then while one broadcast follows the other.
func (b *bench) mixed(ctx context.Context) error {
	starting, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if err := promptly(starting); err != nil {
		b.say("phones acknowledge by timers, which cost this machine's processors: %v", err)
	} else {
		b.say("phones connect to %s, whose route has quickack", promptHost)
	}
	h, err := b.newHalleyAt(starting, promptHost, 0)
	if err != nil {
		return err
	}
	defer h.stop()
	// Each direct message goes to a device of its own. Those devices are in no broadcast, and in another process, whose
	// turn does not depend on how many broadcasts wait to be read.
	messages := int(b.direct.Seconds() * directRate)
	many, err := b.connect(ctx, h, b.sessions-messages)
	if err != nil {
		return err
	}
	defer many.stop()
	few, err := b.connectWith(ctx, h, b.sessions, func(p *phones.Plan) { p.Who, p.From = p.Who[b.sessions-messages:], 1 })
	if err != nil {
		return err
	}
	defer few.stop()
	few.n = messages
	if err := h.opened(starting, b.sessions); err != nil {
		return err
	}
	if _, err := b.directly(ctx, h, few, many.n); err != nil { // unmeasured: all is warm then
		return err
	}
	var quiet, busy, ratios []float64
	for range b.pairs {
		q, err := b.directly(ctx, h, few, many.n)
		if err != nil {
			return err
		}
		p, rate, err := b.directlyMeanwhile(ctx, h, few, many)
		if err != nil {
			return err
		}
		quiet, busy, ratios = append(quiet, q), append(busy, p), append(ratios, p/q)
		b.say("p99 of direct messages: %.2f ms, during broadcasts of %.0f messages/s %.2f ms", q, rate, p)
	}
	b.add(report.Of("mixed.p99_ratio", "x quiet", ratios...).Target("<= 3"))
	b.add(report.Of("mixed.p99_ms", "ms", busy...).With("quiet", quiet...))
	return nil
}

// promptly returns an error if packets to promptHost are not acknowledged at once.
func promptly(ctx context.Context) error {
	route, err := exec.CommandContext(ctx, "ip", "route", "show", "table", "local", promptHost).CombinedOutput()
	if err == nil && !strings.Contains(string(route), "quickack") {
		err = fmt.Errorf("%s has no route with quickack", promptHost)
	}
	return err
}

// directly sends direct messages and returns the 99th percentile, in ms, of the time from the request to the PUBLISH at the
// device, whose ordinals begin at first.
func (b *bench) directly(ctx context.Context, h *halley, few *crowd, first int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, messageWithin)
	defer cancel()
	if err := few.expect(ctx, few.n); err != nil {
		return 0, err
	}
	sent := make([]int64, few.n)
	begin := time.Now()
	group, sending := errgroup.WithContext(ctx)
	for i := range few.n {
		if err := wait(sending, time.Until(begin.Add(time.Duration(i)*time.Second/directRate))); err != nil {
			break // the group tells why
		}
		group.Go(func() error {
			body, err := sink.NewBody(false, 1, sink.BodySize)
			if err != nil {
				return err
			}
			sent[i] = time.Now().UnixNano()
			return h.sink.Deliver(sending, h.first+first+i, body)
		})
	}
	if err := group.Wait(); err != nil {
		return 0, fmt.Errorf("direct message: %w", err)
	}
	a, err := few.arrived(ctx, few.n)
	if err != nil {
		return 0, err
	}
	delays := make([]float64, len(a.At))
	for i, at := range a.At {
		delays[i] = milliseconds(time.Duration(at - sent[a.Clients[i]]))
	}
	slices.Sort(delays)
	return report.Quantile(delays, .99), nil
}

// directlyMeanwhile does so while one broadcast follows the other. It also returns how many of their messages a second there
// were.
func (b *bench) directlyMeanwhile(ctx context.Context, h *halley, few, many *crowd) (p99, rate float64, err error) {
	group, meanwhile := errgroup.WithContext(ctx)
	broadcasting, stop := context.WithCancel(meanwhile)
	defer stop()
	started := make(chan struct{})
	begin := time.Now()
	broadcasts := 0
	group.Go(func() error {
		for broadcasting.Err() == nil {
			if err := b.broadcastAhead(meanwhile, h, many, broadcasts); err != nil {
				return err
			}
			if broadcasts++; broadcasts == ahead {
				close(started)
			}
		}
		return nil
	})
	group.Go(func() (err error) {
		defer stop()
		select {
		case <-started:
		case <-meanwhile.Done():
			return meanwhile.Err()
		}
		p99, err = b.directly(meanwhile, h, few, many.n)
		return err
	})
	if err := group.Wait(); err != nil {
		return 0, 0, err
	}
	took := time.Since(begin)
	return p99, float64(broadcasts*many.n) / took.Seconds(), many.member.Ask(ctx, "Reach", broadcasts*many.n, &struct{}{})
}

// broadcastAhead sends a broadcast once those long before it have arrived.
func (b *bench) broadcastAhead(ctx context.Context, h *halley, many *crowd, number int) error {
	if number == 0 {
		if err := many.expect(ctx, 0); err != nil {
			return err
		}
	}
	if err := many.member.Ask(ctx, "Reach", max(number-ahead+1, 0)*many.n, &struct{}{}); err != nil {
		return err
	}
	return h.broadcast(ctx, many.n)
}

package spine

import (
	"context"
	"fmt"
	"time"

	"github.com/halleypush/halley/bench/internal/process"
	"github.com/halleypush/halley/bench/internal/report"
	"github.com/halleypush/halley/bench/internal/swarm"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

const broadcastWithin = time.Minute

// broadcast measures what a message of a broadcast costs the gateway and mosquitto, in turn, with the same payload, clients
// and loop. Both speak MQTT 5 at QoS 1; the times count from the push until all acknowledgements have been read.
func (b *bench) broadcast(ctx context.Context, ours *swarm.Swarm) error {
	payload, err := b.warm(ctx, ours)
	if err != nil {
		return err
	}
	m, err := startMosquitto(ctx, b.sessions)
	if err != nil {
		return err
	}
	defer m.close()
	var halley, mosquitto []float64
	for range b.broadcasts {
		want := ours.Count() + int64(b.sessions)
		cost, took, err := measure(ctx, b.site.Gateway, b.sessions, func() error { return b.pushAll(ctx) },
			func(ctx context.Context) error { return ours.Await(ctx, want) })
		if err != nil {
			return fmt.Errorf("broadcast: %w", err)
		}
		if err := b.counted(ctx); err != nil {
			return fmt.Errorf("broadcast in the ledger: %w", err)
		}
		halley = append(halley, cost)
		theirs, theirTime, err := m.broadcast(ctx, payload)
		if err != nil {
			return fmt.Errorf("mosquitto's broadcast: %w", err)
		}
		mosquitto = append(mosquitto, theirs)
		b.say("broadcast to %d: gateway %.2f µs each, %.0f ms in all; mosquitto %.2f µs each, %.0f ms",
			b.sessions, cost, milliseconds(took), theirs, milliseconds(theirTime))
	}
	b.figures = append(b.figures, report.Of("broadcast.cpu_us_per_message", "µs", halley...).With("mosquitto", mosquitto...))
	return nil
}

// measure returns a server's processor time per message of one broadcast, in µs, and how long it took until all had
// arrived.
func measure(
	ctx context.Context, server *process.Process, sessions int, push func() error, arrived func(context.Context) error,
) (cost float64, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, broadcastWithin)
	defer cancel()
	if err := quiescent(ctx, server); err != nil {
		return 0, 0, err
	}
	before, err := server.CPU()
	if err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	if err := push(); err != nil {
		return 0, 0, err
	}
	if err := arrived(ctx); err != nil {
		return 0, 0, err
	}
	took = time.Since(begin)
	if err := quiescent(ctx, server); err != nil {
		return 0, 0, err
	}
	after, err := server.CPU()
	return float64((after - before).Microseconds()) / float64(sessions), took, err
}

// quiescent waits until a process has used next to nothing for half a second.
func quiescent(ctx context.Context, p *process.Process) error {
	for {
		before, err := p.CPU()
		if err != nil {
			return err
		}
		if err := wait(ctx, 500*time.Millisecond); err != nil {
			return err
		}
		if after, err := p.CPU(); err != nil || after-before <= 20*time.Millisecond {
			return err
		}
	}
}

func (b *bench) pushAll(ctx context.Context) error {
	request := b.notification(&pushv1.Audience{Target: &pushv1.Audience_All_{All: &pushv1.Audience_All{}}})
	answer, err := b.site.Client.Push(ctx, request)
	b.pushed = answer.GetPushId()
	return err
}

// counted waits until the ledger has the last broadcast as arrived at every session.
func (b *bench) counted(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, broadcastWithin)
	defer cancel()
	for {
		push, err := b.site.Client.GetPush(ctx, b.site.App, b.pushed)
		if err != nil {
			return err
		}
		if int(push.GetCounts().GetArrived()) == b.sessions {
			return nil
		}
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d have arrived: %w", push.GetCounts().GetArrived(), b.sessions, err)
		}
	}
}

// warm pushes once to everybody, unmeasured, and returns what a device got.
func (b *bench) warm(ctx context.Context, s *swarm.Swarm) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, broadcastWithin)
	defer cancel()
	want := s.Count() + int64(b.sessions)
	if err := b.pushAll(ctx); err != nil {
		return nil, err
	}
	if err := s.Await(ctx, want); err != nil {
		return nil, err
	}
	_, payload := s.First()
	b.say("the payload has %d B", len(payload))
	return payload, nil
}

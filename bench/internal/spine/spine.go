// Package spine measures the whole path: from a business server's call to the device's acknowledgement in the ledger.
package spine

import (
	"context"
	"fmt"
	"time"

	"github.com/halleypush/halley/bench/internal/report"
	"github.com/halleypush/halley/bench/internal/site"
	"github.com/halleypush/halley/bench/internal/suite"
	"github.com/halleypush/halley/bench/internal/swarm"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// sizes are how much a run does.
type sizes struct {
	devices    int           // of the loads
	sessions   int           // of the broadcast
	load       time.Duration // of each load, all rounds together
	rounds     int
	quiet      int           // direct pushes
	settle     time.Duration // before memory is read
	broadcasts int
}

func sizesOf(quick bool) sizes {
	if quick {
		return sizes{devices: 2000, sessions: 5000, load: 9 * time.Second, rounds: 3, quiet: 200, settle: 3 * time.Second, broadcasts: 3}
	}
	return sizes{devices: 10_000, sessions: 15_000, load: time.Minute, rounds: 3, quiet: 2000, settle: time.Minute, broadcasts: 7}
}

// bench is one run.
type bench struct {
	sizes
	suite.Options
	site    *site.Site
	who     []swarm.Identity
	figures []report.Figure
	arrived arrivals
	pushed  string // the last broadcast's id
}

// Run measures.
func Run(ctx context.Context, o suite.Options) ([]report.Figure, error) {
	s, err := site.Start(ctx, o.Bin, o.Profiles != "")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	b := &bench{sizes: sizesOf(o.Quick), site: s, Options: o}
	b.say("%+v", b.sizes)
	for _, line := range s.Config {
		b.say("%s", line)
	}
	if b.who, err = s.Register(ctx, max(b.sessions, b.devices)); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{b.idle, b.loads} {
		if err := step(ctx); err != nil {
			return b.figures, err
		}
	}
	return b.figures, nil
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.Out, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}

// phones are the first devices, as they connect.
func (b *bench) phones(n int) *swarm.MQTT {
	return &swarm.MQTT{Topic: "push/" + b.site.App, Who: b.who[:n]}
}

// idle measures what an idle session costs, then broadcasts to all of them.
func (b *bench) idle(ctx context.Context) error {
	if !b.Wanted("gateway.idle_rss_bytes", "broadcast.cpu_us_per_message") {
		return nil
	}
	before, err := b.site.Gateway.RSS()
	if err != nil {
		return err
	}
	s, err := swarm.Connect(ctx, swarm.Options{Address: b.site.MQTT}, b.phones(b.sessions))
	if err != nil {
		return err
	}
	defer s.Close()
	if err := wait(ctx, b.settle); err != nil {
		return err
	}
	after, err := b.site.Gateway.RSS()
	if err != nil {
		return err
	}
	b.say("gateway: %d MB before the first session, %d MB with %d", before>>20, after>>20, b.sessions)
	b.figures = append(b.figures, report.Of("gateway.idle_rss_bytes", "B", float64(after-before)/float64(b.sessions)))
	if err := b.broadcast(ctx, s); err != nil {
		return err
	}
	if after, err = b.site.Gateway.RSS(); err != nil {
		return err
	}
	b.say("gateway: %d MB after the broadcasts", after>>20)
	return nil
}

// loads measures the three loads, and the latency while there is none.
func (b *bench) loads(ctx context.Context) error {
	s, err := swarm.Connect(ctx, swarm.Options{Address: b.site.MQTT, Arrived: b.arrived.note}, b.phones(b.devices))
	if err != nil {
		return err
	}
	defer s.Close()
	if err := b.online(ctx); err != nil {
		return err
	}
	if b.Wanted("push.direct.p50_ms", "push.direct.p99_ms", "push.direct.published_p50_ms", "push.direct.published_p99_ms") {
		if err := b.quietly(ctx); err != nil {
			return err
		}
	}
	for _, l := range []load{
		{"push.single.per_s", "deliveries/s", 64, b.single},
		{"push.batch.per_s", "deliveries/s", 8, b.batch},
		{"push.list.deliveries_per_s", "deliveries/s", 8, b.list},
	} {
		if !b.Wanted(l.name) {
			continue
		}
		if err := b.run(ctx, s, l); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return nil
}

// online waits until pushcore has a route to each device.
func (b *bench) online(ctx context.Context) error {
	for {
		var n int
		err := b.site.SQL.QueryRow(ctx, "SELECT count(*) FROM session WHERE open AND receiving").Scan(&n)
		if err != nil || n >= b.devices {
			return err
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d devices are online: %w", n, b.devices, err)
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// notification is a push of which the device gets about 200 B.
func (b *bench) notification(audience *pushv1.Audience) *pushv1.PushRequest {
	return &pushv1.PushRequest{
		App: b.site.App, Audience: audience,
		Notification: &pushv1.Notification{Title: "Your order", Body: "It is on its way."},
		Policy:       &pushv1.Policy{Channel: pushv1.Policy_OWN_ONLY},
	}
}

func devices(tokens ...string) *pushv1.Audience {
	return &pushv1.Audience{Target: &pushv1.Audience_Devices_{Devices: &pushv1.Audience_Devices{Tokens: tokens}}}
}

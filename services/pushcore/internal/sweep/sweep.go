// Package sweep makes good what was lost: it finds deliveries and slices that nobody works on any more, ends what has
// expired, and clears away what is old. Every replica sweeps; rows are taken with SKIP LOCKED.
package sweep

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/halleypush/halley/services/pushcore/internal/dispatch"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
	"github.com/halleypush/halley/services/pushcore/internal/route"
	"github.com/halleypush/halley/services/pushcore/internal/vendor"
)

// page is how many rows one statement takes.
const page = 1_000

// Sweeper runs the sweeps.
type Sweeper struct {
	pool      *pgxpool.Pool
	sessions  *route.Sessions
	leases    *route.Leases
	devices   *registry.Devices
	apps      *registry.Apps
	poker     *dispatch.Poker
	wakes     *dispatch.Wakes
	ledger    *ledger.Ledger
	hints     *Hints
	vendors   *vendor.Vendors
	publisher *vendor.Publisher
	channels  *registry.Channels
	tokens    *registry.VoidTokens
	pushes    *message.Store
	retention time.Duration
	behind    func() time.Duration
	log       *slog.Logger
	runs      *prometheus.CounterVec
	rows      *prometheus.CounterVec
}

// Parts are what a sweeper works with.
type Parts struct {
	Pool     *pgxpool.Pool
	Sessions *route.Sessions
	Leases   *route.Leases
	Devices  *registry.Devices
	Apps     *registry.Apps
	Poker    *dispatch.Poker
	Wakes    *dispatch.Wakes
	Ledger   *ledger.Ledger
	Hints    *Hints

	Vendors   *vendor.Vendors
	Publisher *vendor.Publisher
	Channels  *registry.Channels
	Tokens    *registry.VoidTokens
	Pushes    *message.Store
	// Retention is how long pushes and what became of them are kept.
	Retention time.Duration
	// Behind is how far the ledger is behind the gateways.
	Behind  func() time.Duration
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// New returns a sweeper.
func New(p Parts) *Sweeper {
	s := &Sweeper{
		pool: p.Pool, sessions: p.Sessions, leases: p.Leases, devices: p.Devices, apps: p.Apps, poker: p.Poker, wakes: p.Wakes,
		ledger: p.Ledger, hints: p.Hints, retention: p.Retention, behind: p.Behind, log: p.Log,
		vendors: p.Vendors, publisher: p.Publisher, channels: p.Channels, tokens: p.Tokens, pushes: p.Pushes,
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "halley_pushcore_sweeps_total", Help: "Sweeps by kind and result.",
		}, []string{"sweep", "result"}),
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "halley_pushcore_swept_total", Help: "Rows that sweeps worked on, by kind.",
		}, []string{"sweep"}),
	}
	p.Metrics.MustRegister(s.runs, s.rows)
	return s
}

// Run sweeps until ctx ends.
func (s *Sweeper) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, sweep := range []struct {
		name  string
		every time.Duration
		run   func(context.Context) (int, error)
	}{
		{"expired", 2 * time.Second, s.expire},
		{"due", time.Second, s.retry},
		{"slices", time.Second, s.wakeSlices},
		{"follow", time.Second, s.followUp},
		{"jobs", time.Second, s.publishJobs},
		{"held", 10 * time.Second, func(ctx context.Context) (int, error) { return 0, s.tokens.Show(ctx) }},
		{"users", 5 * time.Second, s.expireUsers},
		{"audiences", 2 * time.Second, s.endAudiences},
		{"provisional", time.Minute, s.removeProvisional},
		{"old", 10 * time.Minute, s.clearOld},
	} {
		for _, result := range []string{"ok", "error"} {
			s.runs.WithLabelValues(sweep.name, result)
		}
		s.rows.WithLabelValues(sweep.name)
		wg.Go(func() { s.loop(ctx, sweep.name, sweep.every, sweep.run) })
	}
	wg.Wait()
}

// loop runs one sweep at its interval, and at once again while it finds full pages.
func (s *Sweeper) loop(ctx context.Context, name string, every time.Duration, run func(context.Context) (int, error)) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		n, err := run(ctx)
		s.rows.WithLabelValues(name).Add(float64(n))
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.runs.WithLabelValues(name, "error").Inc()
			s.log.WarnContext(ctx, "sweep failed; the next one tries again", "sweep", name, "error", err)
		default:
			s.runs.WithLabelValues(name, "ok").Inc()
			if n >= page {
				continue
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Package vendor gives deliveries to vendors' channels: it chooses the channel, claims the deliveries in the ledger together
// with the jobs that are to be done, and publishes those to the senders, as often as it takes. What became of them comes back
// as reports (package report).
package vendor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/halleypush/halley/pkg/channel"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
)

// perRequest is the most targets of a job for vendors that take one target in a request: their senders lose little by it,
// and a job's results come sooner.
const perRequest = 500

// Batches says how many targets a job may have, by channel.
type Batches struct {
	Default int `yaml:"default" env:"DEFAULT" default:"1000" doc:"targets of a job for a vendor that takes many in a request"`
	Meizu   int `yaml:"meizu" env:"MEIZU" default:"100" doc:"targets of a job for Meizu"`
}

// Of returns how many targets a job for a channel may have.
func (b Batches) Of(name string) int {
	switch name {
	case channel.APNs, channel.FCM, channel.WebPush:
		return perRequest
	case channel.Meizu:
		return b.Meizu
	}
	return b.Default
}

// Vendors claims deliveries for vendors' channels.
type Vendors struct {
	direct, bulk *pgxpool.Pool
	apps         *registry.Apps
	channels     *registry.Channels
	ledger       *ledger.Ledger
	publisher    *Publisher
	batches      Batches
	metrics      *Metrics
	ended        func(context.Context, []ledger.SliceKey)
}

// New returns what claims for vendors: direct deliveries on one pool, audience ones on the other. ended is told of slices
// whose deliveries are all final.
func New(
	direct, bulk *pgxpool.Pool, apps *registry.Apps, channels *registry.Channels, l *ledger.Ledger, publisher *Publisher,
	batches Batches, metrics *Metrics, ended func(context.Context, []ledger.SliceKey),
) *Vendors {
	return &Vendors{
		direct: direct, bulk: bulk, apps: apps, channels: channels, ledger: l, publisher: publisher, batches: batches,
		metrics: metrics, ended: ended,
	}
}

// Ways returns the channels that a push of an app may go by, the preferred one first.
func (v *Vendors) Ways(ctx context.Context, app uint32, r *pushv1.PushRequest) ([]string, error) {
	way := message.Way(r)
	if way == pushv1.Policy_OWN_ONLY || way == pushv1.Policy_OWN_FIRST && message.OnlineOnly(r) {
		return nil, nil
	}
	active, err := v.channels.Active(ctx, app)
	if err != nil || len(active) == 0 {
		return nil, err
	}
	var ways []string
	for _, name := range channel.Vendors() {
		if active[name] && !slices.Contains(r.GetPolicy().GetDisabledChannels(), name) {
			ways = append(ways, name)
		}
	}
	return ways, nil
}

// ClaimAfter returns how long after its hand-over an unconfirmed delivery of a push is a vendor's; nil: it never is.
func (v *Vendors) ClaimAfter(ctx context.Context, app uint32, r *pushv1.PushRequest) (*time.Duration, error) {
	if message.Way(r) != pushv1.Policy_OWN_FIRST {
		return nil, nil
	}
	ways, err := v.Ways(ctx, app, r)
	if err != nil || len(ways) == 0 {
		return nil, err
	}
	settings, err := v.apps.ByNumber(ctx, app)
	if err != nil {
		return nil, fmt.Errorf("read the app's ack_timeout: %w", err)
	}
	after := settings.Settings.GetAckTimeout().AsDuration()
	return &after, nil
}

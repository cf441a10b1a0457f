package receipt

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/halleypush/halley/services/pushcore/internal/batch"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
)

const (
	// events of concurrent calls share a commit: up to so many calls, in so many commits at a time; more calls wait up to a
	// limit, and are refused beyond it.
	eventBatch   = 256
	eventWorkers = 2
	eventWaiting = 10_000
)

// Applier applies what phones report, and returns once it is committed: phones hear that an event is durable.
type Applier struct {
	pool    *pgxpool.Pool
	ledger  *ledger.Ledger
	ended   func(context.Context, []ledger.SliceKey)
	refused prometheus.Counter
	direct  *batch.Batcher[*directEvents]
	slices  *batch.Batcher[*sliceEvents]
}

type directEvents struct {
	entries []ledger.Entry
	err     error
}

type sliceEvents struct {
	changes []ledger.SliceChange
	err     error
}

// NewApplier returns an applier. ended is told of slices whose deliveries are all final; refused counts the calls that found
// too many others waiting.
func NewApplier(
	pool *pgxpool.Pool, l *ledger.Ledger, ended func(context.Context, []ledger.SliceKey), refused prometheus.Counter,
) *Applier {
	a := &Applier{pool: pool, ledger: l, ended: ended, refused: refused}
	a.direct = batch.New(eventWorkers, eventBatch, eventWaiting, a.applyDirect)
	a.slices = batch.New(eventWorkers, eventBatch, eventWaiting, a.applySlices)
	return a
}

// ApplyDirect applies steps of direct deliveries.
func (a *Applier) ApplyDirect(ctx context.Context, entries []ledger.Entry) error {
	e := &directEvents{entries: entries}
	if err := a.direct.Do(ctx, e); err != nil {
		return a.count(err)
	}
	return e.err
}

// ApplySlices applies steps of audience deliveries.
func (a *Applier) ApplySlices(ctx context.Context, changes []ledger.SliceChange) error {
	e := &sliceEvents{changes: changes}
	if err := a.slices.Do(ctx, e); err != nil {
		return a.count(err)
	}
	return e.err
}

func (a *Applier) count(err error) error {
	if errors.Is(err, batch.ErrFull) {
		a.refused.Inc()
	}
	return err
}

func (a *Applier) applyDirect(ctx context.Context, all []*directEvents) {
	var entries []ledger.Entry
	for _, e := range all {
		entries = append(entries, e.entries...)
	}
	err := ledger.ApplyDirect(ctx, a.pool, entries)
	for _, e := range all {
		e.err = err
	}
}

func (a *Applier) applySlices(ctx context.Context, all []*sliceEvents) {
	var changes []ledger.SliceChange
	for _, e := range all {
		changes = append(changes, e.changes...)
	}
	ended, err := a.ledger.ApplySlices(ctx, merge(changes))
	if len(ended) > 0 {
		a.ended(ctx, ended)
	}
	for _, e := range all {
		e.err = err
	}
}

// Endings takes what reads found to be over: direct deliveries and audience ones.
type Endings struct {
	*Direct
	*Audience
}

package receipt

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/ordinal"
	"github.com/halleypush/halley/pkg/subject"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/stream"
)

const (
	// flushEvery is how long audience receipts are gathered before they are applied; maxGathered applies them earlier.
	flushEvery  = time.Second
	maxGathered = 4_096

	// ownFor is the lease of a partition, renewed three times as often.
	ownFor = 9 * time.Second
)

// Audience applies audience receipts of the partitions that this process owns. Each pushcore holds its share of the
// partitions; a second owner is harmless.
type Audience struct {
	stream  *stream.Stream
	pool    *pgxpool.Pool
	ledger  *ledger.Ledger
	replica string
	ended   func(context.Context, []ledger.SliceKey)
	metrics *Metrics
	log     *slog.Logger

	gathered chan gathered
}

type gathered struct {
	msg     jetstream.Msg
	changes []ledger.SliceChange
}

// NewAudience returns a consumer of audience receipts. replica names this process; ended is told of slices whose
// deliveries are all final.
func NewAudience(
	js jetstream.JetStream, pool *pgxpool.Pool, l *ledger.Ledger, replica string,
	ended func(context.Context, []ledger.SliceKey), metrics *Metrics, log *slog.Logger,
) *Audience {
	return &Audience{
		stream: newStream(js, subject.StreamReceiptsAudience, "receipt.a.*"),
		pool:   pool, ledger: l, replica: replica, ended: ended, metrics: metrics, log: log,
		gathered: make(chan gathered, maxGathered),
	}
}

// EndSlices applies changes that this process found itself with the next flush. What does not fit is dropped and counted:
// whoever finds the deliveries next finds the same again.
func (a *Audience) EndSlices(changes []ledger.SliceChange) {
	select {
	case a.gathered <- gathered{changes: changes}:
	default:
		a.metrics.dropped.WithLabelValues("audience").Add(float64(len(changes)))
	}
}

// Run owns partitions and applies their receipts until ctx ends, through outages of NATS and PostgreSQL.
func (a *Audience) Run(ctx context.Context) {
	var wg sync.WaitGroup
	// The flusher outlives the consumers, to apply what they gathered.
	gathering, stop := context.WithCancel(context.WithoutCancel(ctx))
	flusher := make(chan struct{})
	go func() {
		defer close(flusher)
		a.flushLoop(gathering)
	}()
	owned := map[int]context.CancelFunc{}
	ticker := time.NewTicker(ownFor / 3)
	defer ticker.Stop()
	for {
		mine, err := a.own(ctx)
		if err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "cannot renew the ownership of receipt partitions", "error", err)
		} else if err == nil {
			a.follow(ctx, mine, owned, &wg)
		}
		select {
		case <-ticker.C:
			continue
		case <-ctx.Done():
		}
		break
	}
	for _, cancel := range owned {
		cancel()
	}
	wg.Wait()
	stop()
	<-flusher
	a.disown(context.WithoutCancel(ctx))
}

// follow starts the consumers of partitions that are new here and stops those of partitions that are not ours any more.
func (a *Audience) follow(ctx context.Context, mine map[int]bool, owned map[int]context.CancelFunc, wg *sync.WaitGroup) {
	for p, cancel := range owned {
		if !mine[p] {
			cancel()
			delete(owned, p)
		}
	}
	for p := range mine {
		if owned[p] == nil {
			own, cancel := context.WithCancel(ctx)
			owned[p] = cancel
			wg.Go(func() { a.consume(own, p) })
		}
	}
	a.metrics.partitions.Set(float64(len(owned)))
}

// own renews the lease of this replica and of its partitions, takes free ones up to its fair share, gives back what is
// beyond it, and returns those it has.
func (a *Audience) own(ctx context.Context) (map[int]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, ownFor/3)
	defer cancel()
	var mine []int16
	err := pgx.BeginFunc(ctx, a.pool, func(tx pgx.Tx) error {
		var replicas int
		err := tx.QueryRow(ctx, `
			WITH me AS (
				INSERT INTO replica (replica, until) VALUES ($1, now() + $2)
				ON CONFLICT (replica) DO UPDATE SET until = excluded.until
			)
			SELECT 1 + count(*) FROM replica WHERE until > now() AND replica <> $1`, a.replica, ownFor).Scan(&replicas)
		if err != nil {
			return err
		}
		share := (ordinal.Partitions + replicas - 1) / replicas
		b := &pgx.Batch{}
		b.Queue("UPDATE receipt_partition SET until = now() + $2 WHERE owner = $1", a.replica, ownFor)
		b.Queue(`
			UPDATE receipt_partition SET until = '-infinity', owner = '' WHERE partition IN (
				SELECT partition FROM receipt_partition WHERE owner = $1 ORDER BY partition OFFSET $2)`, a.replica, share)
		b.Queue(`
			UPDATE receipt_partition SET owner = $1, until = now() + $2 WHERE partition IN (
				SELECT partition FROM receipt_partition WHERE until < now() AND owner <> $1 ORDER BY partition
				LIMIT greatest(0, $3 - (SELECT count(*) FROM receipt_partition WHERE owner = $1)) FOR UPDATE SKIP LOCKED)`,
			a.replica, ownFor, share)
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT partition FROM receipt_partition WHERE owner = $1", a.replica)
		if err != nil {
			return err
		}
		mine, err = pgx.CollectRows(rows, pgx.RowTo[int16])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("own receipt partitions: %w", err)
	}
	set := make(map[int]bool, len(mine))
	for _, p := range mine {
		set[int(p)] = true
	}
	return set, nil
}

// disown gives everything back at a graceful stop, so that others need not wait for the leases.
func (a *Audience) disown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	b := &pgx.Batch{}
	b.Queue("UPDATE receipt_partition SET until = '-infinity', owner = '' WHERE owner = $1", a.replica)
	b.Queue("DELETE FROM replica WHERE replica = $1", a.replica)
	if err := a.pool.SendBatch(ctx, b).Close(); err != nil {
		a.log.InfoContext(ctx, "receipt partitions not given back; their leases end", "error", err)
	}
}

// consume takes the receipts of one partition off JetStream until ctx ends.
func (a *Audience) consume(ctx context.Context, partition int) {
	a.stream.Run(ctx, a.log, consumerAudience(partition), fetchAhead, func(msg jetstream.Msg) error {
		changes, err := decodeSlices(msg.Data())
		if err != nil {
			a.metrics.malformed.Inc()
			a.log.ErrorContext(ctx, "malformed audience receipts thrown away", "partition", partition, "error", err)
			_ = msg.Term() // comes again otherwise; that is all a failure means
			return nil
		}
		select {
		case a.gathered <- gathered{msg, changes}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// flushLoop gathers changes and applies them once a second, and once more at the end.
func (a *Audience) flushLoop(ctx context.Context) {
	ticker := time.NewTicker(flushEvery)
	defer ticker.Stop()
	var all []gathered
	for {
		select {
		case g := <-a.gathered:
			if all = append(all, g); len(all) < maxGathered {
				continue
			}
		case <-ticker.C:
		case <-ctx.Done():
			for len(a.gathered) > 0 {
				all = append(all, <-a.gathered)
			}
			a.flush(context.WithoutCancel(ctx), all)
			return
		}
		a.flush(ctx, all)
		all = nil
	}
}

func (a *Audience) flush(ctx context.Context, all []gathered) {
	if len(all) == 0 {
		return
	}
	var changes []ledger.SliceChange
	for _, g := range all {
		changes = append(changes, g.changes...)
	}
	begin := time.Now()
	ended, err := a.ledger.ApplySlices(ctx, merge(changes))
	a.metrics.flushes.Observe(time.Since(begin).Seconds())
	if err != nil {
		a.metrics.failed.WithLabelValues("audience").Inc()
		a.log.WarnContext(ctx, "audience receipts not applied; they come again", "receipts", len(changes), "error", err)
	} else {
		a.metrics.applied.WithLabelValues("audience").Add(float64(len(changes)))
	}
	if len(ended) > 0 {
		a.ended(ctx, ended)
	}
	for _, g := range all {
		answer(g.msg, err)
	}
}

// merge ORs changes of the same kind into one.
func merge(changes []ledger.SliceChange) []ledger.SliceChange {
	type kind struct {
		ledger.SliceKey
		step   ledgerv1.Step
		reason ledgerv1.Reason
		among  ledger.Among
	}
	merged := map[kind]*roaring.Bitmap{}
	var order []kind
	for _, c := range changes {
		k := kind{c.SliceKey, c.Step, c.Reason, c.Among}
		if merged[k] == nil {
			merged[k] = roaring.New()
			order = append(order, k)
		}
		merged[k].Or(c.Bits)
	}
	out := make([]ledger.SliceChange, len(order))
	for i, k := range order {
		out[i] = ledger.SliceChange{SliceKey: k.SliceKey, Step: k.step, Reason: k.reason, Among: k.among, Bits: merged[k]}
	}
	return out
}

func decodeSlices(data []byte) ([]ledger.SliceChange, error) {
	var batch ledgerv1.SliceReceipts
	if err := proto.Unmarshal(data, &batch); err != nil {
		return nil, err
	}
	changes := make([]ledger.SliceChange, 0, len(batch.GetReceipts()))
	for _, r := range batch.GetReceipts() {
		id, err := uuid.FromBytes(r.GetPushId())
		if err != nil {
			return nil, err
		}
		bits := roaring.New()
		if err := bits.UnmarshalBinary(r.GetOrdinals()); err != nil {
			return nil, err
		}
		changes = append(changes, ledger.SliceChange{
			SliceKey: ledger.SliceKey{App: r.GetApp(), Push: id, Slice: r.GetSlice()},
			Step:     r.GetStep(), Reason: r.GetReason(), Bits: bits,
		})
	}
	return changes, nil
}

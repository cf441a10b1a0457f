package dispatch

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/halleypush/halley/pkg/ordinal"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/route"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

const (
	// credit is how many slices one pushcore resolves and hands to the gateways at a time. A slice that has waited askAgain
	// gives its credit back: what it waits for is a gateway that is silent, and the slices of others need not.
	credit = 4
	// workers bounds the slices that are handed over or wait for silent gateways.
	workers = 64
	// maxQueued bounds the slices that wait for a worker; more stay in JetStream.
	maxQueued = 256
	// claim is how long a slice is ours without a heartbeat before the sweeper wakes another worker.
	claim = 30 * time.Second
)

// Slices hands audience pushes over, slice by slice.
type Slices struct {
	pool    *pgxpool.Pool
	conn    *nats.Conn
	leases  *route.Leases
	pushes  *message.Store
	ledger  *ledger.Ledger
	metrics *Metrics
	log     *slog.Logger

	mu    sync.Mutex
	held  map[ledger.SliceKey]bool     // guarded by mu: queued or being worked on
	byApp map[uint32][]ledger.SliceKey // guarded by mu: queued
	turns []uint32                     // guarded by mu: the apps with queued slices, next one first
	more  chan struct{}                // has room for one: something was queued
	room  chan struct{}                // one token per slice that may be held
	busy  chan struct{}                // one token per slice that has credit
	ended func(context.Context, []ledger.SliceKey)

	vendors SliceVendors
}

// SliceVendors claims deliveries of slices for vendors' channels.
type SliceVendors interface {
	ClaimSlice(ctx context.Context, k ledger.SliceKey, push *message.Push, among ledger.Among) error
	FailLeft(ctx context.Context, k ledger.SliceKey, push *message.Push) error
	ClaimAfter(ctx context.Context, app uint32, r *pushv1.PushRequest) (*time.Duration, error)
}

// NewSlices returns a dispatcher of audience pushes on the audience plane's pool and NATS connection. ended is told of
// slices whose deliveries are all final.
func NewSlices(
	pool *pgxpool.Pool, conn *nats.Conn, leases *route.Leases, pushes *message.Store, l *ledger.Ledger, vendors SliceVendors,
	metrics *Metrics, log *slog.Logger, ended func(context.Context, []ledger.SliceKey),
) *Slices {
	return &Slices{
		pool: pool, conn: conn, leases: leases, pushes: pushes, ledger: l, vendors: vendors, metrics: metrics, log: log, ended: ended,
		held:  map[ledger.SliceKey]bool{},
		byApp: map[uint32][]ledger.SliceKey{},
		more:  make(chan struct{}, 1),
		room:  make(chan struct{}, maxQueued),
		busy:  make(chan struct{}, credit),
	}
}

// Add queues a slice for hand-over. It blocks while too many are held. A slice that is held already is not queued again.
func (s *Slices) Add(ctx context.Context, k ledger.SliceKey) error {
	select {
	case s.room <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[k] {
		<-s.room
		return nil
	}
	s.held[k] = true
	if len(s.byApp[k.App]) == 0 {
		s.turns = append(s.turns, k.App)
	}
	s.byApp[k.App] = append(s.byApp[k.App], k)
	s.wake()
	return nil
}

func (s *Slices) wake() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// next returns a queued slice, of the apps in turn: an app with many slices does not keep the others waiting.
func (s *Slices) next() (ledger.SliceKey, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.turns) == 0 {
		return ledger.SliceKey{}, false
	}
	app := s.turns[0]
	k := s.byApp[app][0]
	s.turns = s.turns[1:]
	if s.byApp[app] = s.byApp[app][1:]; len(s.byApp[app]) > 0 {
		s.turns = append(s.turns, app)
		s.wake()
	} else {
		delete(s.byApp, app)
	}
	if len(s.turns) > 0 {
		s.wake()
	}
	return k, true
}

func (s *Slices) done(k ledger.SliceKey) {
	s.mu.Lock()
	delete(s.held, k)
	s.mu.Unlock()
	<-s.room
}

// Run hands queued slices over until ctx ends.
func (s *Slices) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { s.heartbeat(ctx) })
	for range workers {
		wg.Go(func() { s.work(ctx) })
	}
	wg.Wait()
}

func (s *Slices) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.more:
		}
		for s.one(ctx) { // each hands one over
		}
	}
}

// one hands the next slice over, once there is credit for it, and reports whether there was one.
func (s *Slices) one(ctx context.Context) bool {
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	release := sync.OnceFunc(func() { <-s.busy })
	defer release()
	k, ok := s.next()
	if !ok {
		return false
	}
	defer s.done(k)
	begin := time.Now()
	err := s.handOver(ctx, k, release)
	s.metrics.slices.WithLabelValues(result(err)).Observe(time.Since(begin).Seconds())
	if err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "slice left to the sweeper", "push_id", k.Push, "slice", k.Slice, "error", err)
	}
	return true
}

// heartbeat keeps the held slices ours.
func (s *Slices) heartbeat(ctx context.Context) {
	ticker := time.NewTicker(claim / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s.mu.Lock()
		held := slices.Collect(maps.Keys(s.held))
		s.mu.Unlock()
		if len(held) == 0 {
			continue
		}
		if err := s.ledger.Claim(ctx, s.pool, held, claim); err != nil {
			s.log.WarnContext(ctx, "cannot extend the claim on slices", "slices", len(held), "error", err)
		}
	}
}

// handOver does all for one slice: resolve and commit its targets, then look for the gateways, then ask them until each
// has answered or lapsed. slow is called when it takes longer because a gateway is silent.
func (s *Slices) handOver(ctx context.Context, k ledger.SliceKey, slow func()) error {
	found, err := s.pushes.Get(ctx, s.pool, []uuid.UUID{k.Push})
	if err != nil {
		return err
	}
	push := found[k.Push]
	if push == nil {
		return nil // dropped with its day
	}
	targeted, err := s.target(ctx, k, push)
	if err != nil {
		return err
	}
	if targeted == nil { // handed over, or over
		return s.followUp(ctx, k, push, slow)
	}
	if targeted.IsEmpty() {
		s.ended(ctx, []ledger.SliceKey{k})
		return nil
	}
	claimAfter, err := s.reach(ctx, k, push, targeted, slow)
	if err != nil {
		return err
	}
	if push.OnlineOnly() {
		_, err := s.ledger.ApplySlices(ctx, []ledger.SliceChange{{
			SliceKey: k, Step: ledgerv1.Step_STEP_EXPIRED, Reason: ledgerv1.Reason_REASON_NOT_ONLINE, Among: ledger.Pending,
		}})
		if err != nil {
			return err
		}
	}
	over, err := s.ledger.HandOver(ctx, k, claimAfter)
	if err == nil && over {
		s.ended(ctx, []ledger.SliceKey{k})
	}
	return err
}

// target resolves whom a push is for in one slice, and commits that together with the push's place in the slice's live
// list. It returns nil if the slice has been handed over, and nobody if it has ended because there is nobody in it.
func (s *Slices) target(ctx context.Context, k ledger.SliceKey, push *message.Push) (*roaring.Bitmap, error) {
	var targeted *roaring.Bitmap
	var live []uuid.UUID
	err := storage.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		targeted, live = nil, nil
		var err error
		if live, err = lockLive(ctx, tx, k); err != nil {
			return err
		}
		var state int16
		var stored, members []byte
		err = tx.QueryRow(ctx, `
			SELECT p.state, p.targeted, a.members FROM push_slice p
			LEFT JOIN slice_active a ON a.bucket = p.bucket AND a.app_no = p.app_no AND a.slice = p.slice
			WHERE p.bucket = $1 AND p.push_id = $2 AND p.slice = $3 FOR UPDATE OF p`,
			k.Bucket(), k.Push, int32(k.Slice)).Scan(&state, &stored, &members)
		if err != nil {
			return fmt.Errorf("lock slice: %w", err)
		}
		switch state {
		case ledger.SliceAccepted:
			targeted, err = s.commitTargets(ctx, tx, k, push, members, live)
			return err
		case ledger.SliceTargeted:
			targeted = roaring.New()
			return targeted.UnmarshalBinary(stored)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("resolve slice: %w", err)
	}
	if targeted != nil && !targeted.IsEmpty() {
		if err := s.collapse(ctx, k, push, targeted, live); err != nil {
			return nil, err
		}
	}
	return targeted, nil
}

// lockLive locks the slice's live list and returns it, oldest push first.
func lockLive(ctx context.Context, tx pgx.Tx, k ledger.SliceKey) ([]uuid.UUID, error) {
	_, err := tx.Exec(ctx, `
		INSERT INTO live (bucket, app_no, slice, version, pushes) VALUES ($1, $2, $3, 0, '{}') ON CONFLICT DO NOTHING`,
		k.Bucket(), int32(k.App), int32(k.Slice))
	if err != nil {
		return nil, fmt.Errorf("make live list: %w", err)
	}
	var live []uuid.UUID
	err = tx.QueryRow(ctx, "SELECT pushes FROM live WHERE bucket = $1 AND app_no = $2 AND slice = $3 FOR UPDATE",
		k.Bucket(), int32(k.App), int32(k.Slice)).Scan(&live)
	if err != nil {
		return nil, fmt.Errorf("lock live list: %w", err)
	}
	return live, nil
}

func (s *Slices) commitTargets(
	ctx context.Context, tx pgx.Tx, k ledger.SliceKey, push *message.Push, members []byte, live []uuid.UUID,
) (*roaring.Bitmap, error) {
	targeted := roaring.New()
	if members != nil {
		if err := targeted.UnmarshalBinary(members); err != nil {
			return nil, fmt.Errorf("members of the slice: %w", err)
		}
	}
	stored, err := targeted.ToBytes()
	if err != nil {
		return nil, fmt.Errorf("encode targets: %w", err)
	}
	state := ledger.SliceTargeted
	if targeted.IsEmpty() {
		state = ledger.SliceEnded
	}
	b := &pgx.Batch{}
	b.Queue(`
		UPDATE push_slice SET state = $4, targeted = $5, counts = $6, next_try = now() + $7
		WHERE bucket = $1 AND push_id = $2 AND slice = $3`,
		k.Bucket(), k.Push, int32(k.Slice), state, stored, ledger.PendingCounts(targeted.GetCardinality()), claim)
	own := push.Way() != pushv1.Policy_VENDOR_ONLY
	if own && !push.OnlineOnly() && !targeted.IsEmpty() && !slices.Contains(live, k.Push) {
		b.Queue("UPDATE live SET version = version + 1, pushes = $4 WHERE bucket = $1 AND app_no = $2 AND slice = $3",
			k.Bucket(), int32(k.App), int32(k.Slice), append(live, k.Push))
	}
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("commit targets: %w", err)
	}
	return targeted, nil
}

// collapse ends what is pending of older live pushes with the same collapse key, for those whom this push targets.
func (s *Slices) collapse(
	ctx context.Context, k ledger.SliceKey, push *message.Push, targeted *roaring.Bitmap, live []uuid.UUID,
) error {
	if push.CollapseKey() == "" {
		return nil
	}
	older, err := s.pushes.Get(ctx, s.pool, live)
	if err != nil {
		return err
	}
	var changes []ledger.SliceChange
	for _, old := range older {
		if old.CollapseKey() == push.CollapseKey() && slices.Compare(old.ID[:], push.ID[:]) < 0 {
			changes = append(changes, ledger.SliceChange{
				SliceKey: ledger.SliceKey{App: k.App, Push: old.ID, Slice: k.Slice},
				Step:     ledgerv1.Step_STEP_COLLAPSED, Reason: ledgerv1.Reason_REASON_NEWER_PUSH,
				Bits: targeted, Among: ledger.Pending,
			})
		}
	}
	ended, err := s.ledger.ApplySlices(ctx, changes)
	if len(ended) > 0 {
		s.ended(ctx, ended)
	}
	return err
}

// Finish takes pushes that have ended off the live lists of their slices.
func Finish(ctx context.Context, pool *pgxpool.Pool, ended []ledger.SliceKey) error {
	slices.SortFunc(ended, func(a, b ledger.SliceKey) int {
		return slices.Compare(
			[]int64{int64(a.Bucket()), int64(a.App), int64(a.Slice)}, []int64{int64(b.Bucket()), int64(b.App), int64(b.Slice)})
	})
	var buckets []int16
	var apps, numbers []int32
	var pushes []uuid.UUID
	for _, k := range ended {
		buckets = append(buckets, ordinal.Bucket(k.App, k.Slice))
		apps = append(apps, int32(k.App))
		numbers = append(numbers, int32(k.Slice))
		pushes = append(pushes, k.Push)
	}
	err := storage.InTx(ctx, pool, func(tx pgx.Tx) error {
		b := &pgx.Batch{}
		for i := range ended {
			b.Queue(`
				UPDATE live SET version = version + 1, pushes = array_remove(pushes, $4::uuid)
				WHERE bucket = $1 AND app_no = $2 AND slice = $3 AND pushes @> ARRAY[$4::uuid]`,
				buckets[i], apps[i], numbers[i], pushes[i])
		}
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil {
		return fmt.Errorf("take ended pushes off the live lists: %w", err)
	}
	return nil
}

// Package accept takes pushes in: it resolves whom a direct push is for, commits the push with its deliveries, and only
// then answers. What is accepted is durable.
package accept

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/ordinal"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/batch"
	"github.com/halleypush/halley/services/pushcore/internal/dispatch"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
	"github.com/halleypush/halley/services/pushcore/internal/route"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

const (
	// maxBatch bounds the pushes of one commit, maxWaiting those that wait for the next.
	maxBatch   = 256
	maxWaiting = 20_000
	// committers is how many commits are under way at a time.
	committers = 3
	// firstTry is when the sweeper looks after a delivery whose hand-over right after the commit was lost.
	firstTry = 10 * time.Second
	// rememberedFor is how long an idempotency key is bound to its push.
	rememberedFor = 72 * time.Hour
	// MaxLiveAudience bounds the live audience pushes of an app.
	MaxLiveAudience = 200
)

// Deliverer hands over what was committed. It must not block.
type Deliverer interface {
	Deliver(ctx context.Context, deliveries []dispatch.Delivery)
}

// Waker wakes workers for the slices of an audience push. Wakes that are lost are made good by the sweeper.
type Waker interface {
	Wake(ctx context.Context, app uint32, push uuid.UUID, slices int)
}

// Vendors knows when a push is due for vendors' channels.
type Vendors interface {
	// ClaimAfter returns how long after its acceptance a push that is not confirmed is a vendor's; nil: it never is.
	ClaimAfter(ctx context.Context, app uint32, r *pushv1.PushRequest) (*time.Duration, error)
}

// Accepter accepts pushes.
type Accepter struct {
	db      *storage.DB
	users   *registry.Users
	pushes  *message.Store
	deliver Deliverer
	waker   Waker
	vendors Vendors
	log     *slog.Logger
	refused prometheus.Counter
	direct  *batch.Batcher[*job]
	// background outlives calls: hand-overs go on after the answer.
	background context.Context //nolint:containedctx // the process's life, given once
}

// New returns an accepter. background ends with the process; refused counts the pushes that found too many others waiting.
func New(
	background context.Context, db *storage.DB, users *registry.Users, pushes *message.Store, deliver Deliverer, waker Waker,
	vendors Vendors, refused prometheus.Counter, log *slog.Logger,
) *Accepter {
	a := &Accepter{
		db: db, users: users, pushes: pushes, deliver: deliver, waker: waker, vendors: vendors, refused: refused, log: log,
		background: background,
	}
	a.direct = batch.New(committers, maxBatch, maxWaiting, a.acceptBatch)
	return a
}

// job is one push on its way in.
type job struct {
	app     *registry.App
	request *pushv1.PushRequest
	hash    [32]byte
	id      uuid.UUID
	trace   string
	// claimAfter is when the vendor way opens; nil: not by time.
	claimAfter *time.Duration

	devices []uint64 // of a push to devices
	targets []target // resolved; of a push to devices only those that exist
	buckets []int16
	without []string        // users without a device
	taken   map[uint64]bool // devices of the targets, of a push to users

	push   *message.Push
	result uuid.UUID // id, or an earlier push's with the same key and content
	err    error
}

// target is one delivery of a direct push.
type target struct {
	ordinal uint64
	user    string
	epoch   int64
}

// Push accepts one push that has passed validation and message.Check, and returns its id. trace is the W3C traceparent of
// the call, or empty. The same idempotency key with the same content returns the earlier push's id; with other content
// the fault is IDEMPOTENCY_KEY_REUSED.
func (a *Accepter) Push(ctx context.Context, app *registry.App, r *pushv1.PushRequest, trace string) (uuid.UUID, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.Nil, fmt.Errorf("make push id: %w", err)
	}
	j := &job{app: app, request: proto.CloneOf(r), hash: message.Hash(r), id: id, trace: trace}
	j.request.App = app.ID
	j.applyDefaults()
	if j.claimAfter, err = a.vendors.ClaimAfter(ctx, app.No, j.request); err != nil {
		return uuid.Nil, fmt.Errorf("accept push: %w", err)
	}
	if r.GetAudience().GetAll() != nil {
		err = a.acceptAudience(ctx, j)
	} else {
		j.readTokens()
		if err = a.direct.Do(ctx, j); err == nil {
			err = j.err
		}
	}
	switch {
	case errors.Is(err, batch.ErrFull):
		a.refused.Inc()
		return uuid.Nil, fault.Exhausted("OVERLOADED", time.Second, "too many pushes wait for their commit; try again")
	case err != nil:
		return uuid.Nil, fmt.Errorf("accept push: %w", err)
	}
	return j.result, nil
}

// applyDefaults writes the app's own default into the push, where it differs from everybody's: a later change of the setting
// does not reach pushes that were accepted before.
func (j *job) applyDefaults() {
	way := j.app.Settings.GetChannel()
	if way == pushv1.Policy_OWN_FIRST || j.request.GetPolicy().GetChannel() != pushv1.Policy_CHANNEL_UNSPECIFIED {
		return
	}
	if j.request.Policy == nil {
		j.request.Policy = &pushv1.Policy{}
	}
	j.request.Policy.Channel = way
}

// readTokens fills devices with the ordinals of the request's tokens, each once. Tokens that are none of the app's are
// passed over: ListDeliveries finds them in the request again.
func (j *job) readTokens() {
	for _, tok := range j.request.GetAudience().GetDevices().GetTokens() {
		if number, err := j.app.Codec.Ordinal(tok); err == nil {
			j.devices = append(j.devices, number)
		}
	}
	slices.Sort(j.devices)
	j.devices = slices.Compact(j.devices)
}

// acceptBatch commits pushes together, then hands them over together.
func (a *Accepter) acceptBatch(ctx context.Context, all []*job) {
	pending := all
	for len(pending) > 0 {
		now, twins := splitTwins(pending)
		err := storage.InTx(ctx, a.db.Direct, func(tx pgx.Tx) error { return a.acceptTx(ctx, tx, now) })
		if err != nil && len(now) > 1 && !storage.Unavailable(err) {
			// Something in one of them is bad: each gets a transaction of its own, so that only that one fails.
			for _, j := range now {
				a.acceptBatch(ctx, []*job{j})
			}
		} else if err != nil {
			for _, j := range now {
				j.err = err
			}
		} else {
			a.handOver(now)
		}
		pending = twins
	}
}

// splitTwins takes out the pushes whose idempotency key stands in the batch already: they wait for the first one's answer.
func splitTwins(all []*job) (now, twins []*job) {
	seen := map[idempotencyKey]bool{}
	for _, j := range all {
		k, ok := j.key()
		switch {
		case ok && seen[k]:
			twins = append(twins, j)
		default:
			seen[k] = ok
			now = append(now, j)
		}
	}
	return now, twins
}

type idempotencyKey struct {
	app uint32
	key string
}

func (j *job) key() (idempotencyKey, bool) {
	key := j.request.GetPolicy().GetIdempotencyKey()
	return idempotencyKey{j.app.No, key}, key != ""
}

// acceptTx does everything that is committed for direct pushes.
func (a *Accepter) acceptTx(ctx context.Context, tx pgx.Tx, all []*job) error {
	for _, j := range all {
		j.targets, j.buckets, j.without, j.push, j.result, j.err = nil, nil, nil, nil, j.id, nil
		j.taken = map[uint64]bool{}
	}
	fresh, err := claimKeys(ctx, tx, all)
	if err != nil || len(fresh) == 0 {
		return err
	}
	if err := resolve(ctx, tx, fresh); err != nil {
		return err
	}
	now, err := insert(ctx, tx, fresh)
	if err != nil {
		return err
	}
	for _, j := range fresh {
		j.push, err = message.New(message.Push{
			ID: j.id, App: j.app.No, Request: j.request, Created: now, Expires: now.Add(message.KeptFor(j.request)),
			Buckets: j.buckets, Trace: j.trace,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// handOver passes on what a commit made durable.
func (a *Accepter) handOver(committed []*job) {
	var deliveries []dispatch.Delivery
	for _, j := range committed {
		if j.push == nil {
			continue // an earlier push's twin
		}
		a.pushes.Add(j.push)
		for _, t := range j.targets {
			d := dispatch.Delivery{Device: route.Device{App: j.app.No, Ordinal: t.ordinal}, Push: j.push}
			if t.user != "" {
				d.User, d.Epoch, d.Opaque = t.user, t.epoch, a.users.OpaqueID(j.app, t.user)
			}
			deliveries = append(deliveries, d)
		}
	}
	if len(deliveries) > 0 {
		a.deliver.Deliver(a.background, deliveries)
	}
}

// claimKeys binds idempotency keys to their pushes and returns the pushes that are new. A concurrent claim of the same key
// is waited for.
func claimKeys(ctx context.Context, tx pgx.Tx, all []*job) ([]*job, error) {
	keyed := map[idempotencyKey]*job{}
	var order []*job
	for _, j := range all {
		if k, ok := j.key(); ok {
			keyed[k] = j
			order = append(order, j)
		}
	}
	if len(order) == 0 {
		return all, nil
	}
	slices.SortFunc(order, func(x, y *job) int { // every batch locks keys in the same order
		a, _ := x.key()
		b, _ := y.key()
		if a.app != b.app {
			return int(a.app) - int(b.app)
		}
		return bytes.Compare([]byte(a.key), []byte(b.key))
	})
	if err := claim(ctx, tx, order, keyed); err != nil {
		return nil, err
	}
	var fresh []*job
	for _, j := range all {
		if k, ok := j.key(); !ok || keyed[k] == nil {
			fresh = append(fresh, j)
		}
	}
	return fresh, nil
}

// claim writes the keys; those that it got leave keyed, the others get the earlier push's answer.
func claim(ctx context.Context, tx pgx.Tx, order []*job, keyed map[idempotencyKey]*job) error {
	var apps []int32
	var keys []string
	var hashes [][]byte
	var ids []uuid.UUID
	for _, j := range order {
		k, _ := j.key()
		apps, keys = append(apps, int32(k.app)), append(keys, k.key)
		hashes, ids = append(hashes, j.hash[:]), append(ids, j.id)
	}
	rows, err := tx.Query(ctx, `
		INSERT INTO idempotency AS i (app_no, key, hash, push_id)
		SELECT * FROM unnest($1::integer[], $2::text[], $3::bytea[], $4::uuid[])
		ON CONFLICT (app_no, key) DO UPDATE SET hash = excluded.hash, push_id = excluded.push_id, created_at = now()
		WHERE i.created_at < now() - $5::interval
		RETURNING app_no, key`, apps, keys, hashes, ids, rememberedFor)
	if err != nil {
		return fmt.Errorf("claim idempotency keys: %w", err)
	}
	var app int32
	var key string
	_, err = pgx.ForEachRow(rows, []any{&app, &key}, func() error {
		delete(keyed, idempotencyKey{uint32(app), key})
		return nil
	})
	if err != nil {
		return fmt.Errorf("claim idempotency keys: %w", err)
	}
	if len(keyed) == 0 {
		return nil
	}
	rows, err = tx.Query(ctx, `
		SELECT i.app_no, i.key, i.hash, i.push_id FROM unnest($1::integer[], $2::text[]) AS k (app_no, key)
		JOIN idempotency i USING (app_no, key)`, apps, keys)
	if err != nil {
		return fmt.Errorf("read idempotency keys: %w", err)
	}
	var hash []byte
	var id uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&app, &key, &hash, &id}, func() error {
		if j := keyed[idempotencyKey{uint32(app), key}]; j != nil {
			j.result = id
			if !bytes.Equal(hash, j.hash[:]) {
				j.err = errReused(id)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read idempotency keys: %w", err)
	}
	return nil
}

func errReused(id uuid.UUID) error {
	return &fault.Error{
		Code: codes.AlreadyExists, Reason: "IDEMPOTENCY_KEY_REUSED", Field: "policy.idempotency_key",
		Message: fmt.Sprintf("the push %s has this key, but other content", id),
	}
}

func (j *job) addBucket(number uint64) {
	if b := ordinal.DeviceBucket(j.app.No, number); !slices.Contains(j.buckets, b) {
		j.buckets = append(j.buckets, b)
	}
}

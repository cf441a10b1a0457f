package keep

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/singleflight"

	"github.com/halleypush/halley/pkg/ordinal"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
)

const (
	// cachedSlices bounds the cache; an entry is at most 200 live pushes with two bitmaps of 128 KiB each, far less in
	// practice: bitmaps of dense sets are a few bytes.
	cachedSlices = 500
	// finalFor is how old the knowledge may be of who needs a push no more. What is stale costs a repeat, never a loss.
	finalFor = time.Second
)

type appSlice struct{ app, slice uint32 }

// livePushes are the live audience pushes of a slice, as cached at one version.
type livePushes struct {
	version int64
	pushes  []*livePush

	mu        sync.Mutex
	refreshed time.Time // guarded by mu: when the finals were read
}

type livePush struct {
	push *message.Push
	// targeted never changes.
	targeted *roaring.Bitmap

	mu      sync.Mutex
	version int64           // guarded by mu: of final
	final   *roaring.Bitmap // guarded by mu; replaced, never changed
}

func (p *livePush) wants(low uint32) bool {
	p.mu.Lock()
	final := p.final
	p.mu.Unlock()
	return p.targeted.Contains(low) && !final.Contains(low)
}

// live reads which audience pushes are live for slices, from memory where the version is the stored one.
type live struct {
	pushes *message.Store
	ledger *ledger.Ledger
	cache  *lru.Cache[appSlice, *livePushes]
	loads  singleflight.Group
}

func newLive(pushes *message.Store, l *ledger.Ledger) (*live, error) {
	cache, err := lru.New[appSlice, *livePushes](cachedSlices)
	if err != nil {
		return nil, fmt.Errorf("live cache: %w", err)
	}
	return &live{pushes: pushes, ledger: l, cache: cache}, nil
}

// get returns the live pushes of slices, and the database's time. The versions are read now, on the primary.
func (l *live) get(
	ctx context.Context, pool *pgxpool.Pool, slices []appSlice,
) (found map[appSlice]*livePushes, now time.Time, err error) {
	buckets, apps, numbers := make([]int16, len(slices)), make([]int32, len(slices)), make([]int32, len(slices))
	for i, s := range slices {
		buckets[i], apps[i], numbers[i] = ordinal.Bucket(s.app, s.slice), int32(s.app), int32(s.slice)
	}
	rows, err := pool.Query(ctx, `
		SELECT i.n, l.version, now() FROM unnest($1::smallint[], $2::integer[], $3::integer[]) WITH ORDINALITY
			AS i (bucket, app_no, slice, n) JOIN live l USING (bucket, app_no, slice)
		WHERE cardinality(l.pushes) > 0`, buckets, apps, numbers)
	if err != nil {
		return nil, now, fmt.Errorf("read live versions: %w", err)
	}
	found = map[appSlice]*livePushes{}
	stale := map[appSlice]int64{}
	var n, version int64
	_, err = pgx.ForEachRow(rows, []any{&n, &version, &now}, func() error {
		s := slices[n-1]
		if cached, ok := l.cache.Get(s); ok && cached.version == version {
			found[s] = cached
		} else {
			stale[s] = version
		}
		return nil
	})
	if err != nil {
		return nil, now, fmt.Errorf("read live versions: %w", err)
	}
	for s, version := range stale {
		// Callers that read the same version share one load; it began after that version was stored, so it has it. It goes on
		// when the caller who began it gives up.
		entry, err, _ := l.loads.Do(fmt.Sprint(s, version), func() (any, error) {
			return l.load(context.WithoutCancel(ctx), pool, s)
		})
		if err != nil {
			return nil, now, err
		}
		found[s] = entry.(*livePushes)
	}
	for s, entry := range found {
		if err := l.refresh(ctx, pool, s, entry); err != nil {
			return nil, now, err
		}
	}
	return found, now, nil
}

func (l *live) load(ctx context.Context, pool *pgxpool.Pool, s appSlice) (*livePushes, error) {
	entry := &livePushes{}
	var ids []uuid.UUID
	err := pool.QueryRow(ctx, "SELECT version, pushes FROM live WHERE bucket = $1 AND app_no = $2 AND slice = $3",
		ordinal.Bucket(s.app, s.slice), int32(s.app), int32(s.slice)).Scan(&entry.version, &ids)
	if err != nil {
		return nil, fmt.Errorf("read live pushes: %w", err)
	}
	known := map[uuid.UUID]*livePush{}
	if old, ok := l.cache.Get(s); ok {
		for _, p := range old.pushes {
			known[p.push.ID] = p
		}
	}
	pushes, err := l.pushes.Get(ctx, pool, ids)
	if err != nil {
		return nil, err
	}
	var missing []ledger.SliceKey
	for _, id := range ids {
		if known[id] == nil {
			missing = append(missing, ledger.SliceKey{App: s.app, Push: id, Slice: s.slice})
		}
	}
	targets, err := l.ledger.Targets(ctx, pool, missing)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		p := known[id]
		if p == nil {
			p = &livePush{push: pushes[id], targeted: targets[id], version: -1, final: roaring.New()}
		}
		if p.push != nil && p.targeted != nil { // dropped with its day, by retention
			entry.pushes = append(entry.pushes, p)
		}
	}
	l.cache.Add(s, entry)
	return entry, nil
}

// refresh reads again who needs the pushes no more, if what is known is too old.
func (l *live) refresh(ctx context.Context, pool *pgxpool.Pool, s appSlice, entry *livePushes) error {
	entry.mu.Lock()
	fresh := time.Since(entry.refreshed) < finalFor
	if !fresh {
		entry.refreshed = time.Now()
	}
	entry.mu.Unlock()
	if fresh {
		return nil
	}
	versions := make(map[ledger.SliceKey]int64, len(entry.pushes))
	byKey := make(map[ledger.SliceKey]*livePush, len(entry.pushes))
	for _, p := range entry.pushes {
		k := ledger.SliceKey{App: s.app, Push: p.push.ID, Slice: s.slice}
		p.mu.Lock()
		versions[k], byKey[k] = p.version, p
		p.mu.Unlock()
	}
	finals, err := l.ledger.Finals(ctx, pool, versions)
	if err != nil {
		return err
	}
	for k, f := range finals {
		p := byKey[k]
		p.mu.Lock()
		p.version, p.final = f.Version, f.Bits
		p.mu.Unlock()
	}
	return nil
}

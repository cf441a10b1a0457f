package message

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/ordinal"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// cacheSize bounds the memory of cached pushes: at most about 100 MB, with bodies of 4 KiB and lists of 1,000 targets.
const cacheSize = 2_000

// Store reads pushes and caches them: all but Buckets never changes.
type Store struct {
	pool  *pgxpool.Pool
	cache *lru.Cache[uuid.UUID, *Push]
}

// NewStore returns the pushes of a database.
func NewStore(pool *pgxpool.Pool) (*Store, error) {
	cache, err := lru.New[uuid.UUID, *Push](cacheSize)
	if err != nil {
		return nil, fmt.Errorf("push cache: %w", err)
	}
	return &Store{pool: pool, cache: cache}, nil
}

// Add puts a push that was just committed into the cache.
func (s *Store) Add(p *Push) { s.cache.Add(p.ID, p) }

// Get returns the pushes with these ids, on the given pool; ids that no push has are left out.
func (s *Store) Get(ctx context.Context, pool *pgxpool.Pool, ids []uuid.UUID) (map[uuid.UUID]*Push, error) {
	found := make(map[uuid.UUID]*Push, len(ids))
	var missing []uuid.UUID
	for _, id := range ids {
		if p, ok := s.cache.Get(id); ok {
			found[id] = p
		} else if _, asked := found[id]; !asked {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	rows, err := pool.Query(ctx, selectPush+"WHERE push_id = ANY($1)", missing)
	if err != nil {
		return nil, fmt.Errorf("load pushes: %w", err)
	}
	pushes, err := pgx.CollectRows(rows, scanPush)
	if err != nil {
		return nil, fmt.Errorf("load pushes: %w", err)
	}
	for _, p := range pushes {
		s.cache.Add(p.ID, p)
		found[p.ID] = p
	}
	return found, nil
}

// List returns up to limit pushes of an app, newest first, those before the given id.
func (s *Store) List(ctx context.Context, app uint32, before uuid.UUID, limit int) ([]*Push, error) {
	rows, err := s.pool.Query(ctx, selectPush+"WHERE app_no = $1 AND push_id < $2 ORDER BY push_id DESC LIMIT $3",
		int32(app), before, limit)
	if err != nil {
		return nil, fmt.Errorf("list pushes: %w", err)
	}
	pushes, err := pgx.CollectRows(rows, scanPush)
	if err != nil {
		return nil, fmt.Errorf("list pushes: %w", err)
	}
	return pushes, nil
}

// Fresh returns one push of an app past the cache, so that its Buckets are those of now; pgx.ErrNoRows if there is none.
func (s *Store) Fresh(ctx context.Context, app uint32, id uuid.UUID) (*Push, error) {
	rows, err := s.pool.Query(ctx, selectPush+"WHERE push_id = $1 AND app_no = $2", id, int32(app))
	if err != nil {
		return nil, fmt.Errorf("load push: %w", err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, scanPush)
	if err != nil {
		return nil, fmt.Errorf("load push: %w", err)
	}
	return p, nil
}

const selectPush = "SELECT push_id, app_no, request, created_at, expires_at, slices, buckets, trace FROM push "

func scanPush(row pgx.CollectableRow) (*Push, error) {
	var app int32
	var request []byte
	p := Push{Request: &pushv1.PushRequest{}}
	if err := row.Scan(&p.ID, &app, &request, &p.Created, &p.Expires, &p.Slices, &p.Buckets, &p.Trace); err != nil {
		return nil, err
	}
	p.App = uint32(app)
	if err := proto.Unmarshal(request, p.Request); err != nil {
		return nil, fmt.Errorf("decode push %s: %w", p.ID, err)
	}
	return New(p)
}

// Key names one delivery of a direct push.
type Key struct {
	App     uint32
	Ordinal uint64
	Push    uuid.UUID
}

// Bucket returns the storage bucket of the delivery's rows.
func (k Key) Bucket() int16 { return ordinal.DeviceBucket(k.App, k.Ordinal) }

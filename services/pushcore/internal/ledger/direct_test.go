package ledger_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/halleypush/halley/pkg/postgres/postgrestest"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m)) }

func migrate(ctx context.Context, dsn string) error {
	return storage.Migrate(ctx, dsn, slog.New(slog.DiscardHandler))
}

func open(t *testing.T) *storage.DB {
	t.Helper()
	db, err := storage.Open(t.Context(), postgrestest.New(t, migrate), storage.Sizes{Direct: 2, Open: 2, Ledger: 4, Bulk: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// newPush stores a push to the devices 0 to n-1 of app 1, without anything else.
func newPush(t *testing.T, pool *pgxpool.Pool, n int) *message.Push {
	t.Helper()
	p := &message.Push{ID: uuid.Must(uuid.NewV7()), App: 1, Request: &pushv1.PushRequest{}}
	p.Buckets = []int16{message.Key{App: 1}.Bucket()}
	_, err := pool.Exec(t.Context(), `
		INSERT INTO push (push_id, app_no, request, notification, qos, collapse_key, created_at, expires_at, online_only, buckets, slices, trace)
		VALUES ($1, 1, '', true, 1, '', now(), now() + interval '1 day', false, $2, 0, '')`, p.ID, p.Buckets)
	if err != nil {
		t.Fatal(err)
	}
	_, err = pool.Exec(t.Context(), `
		INSERT INTO inbox (bucket, app_no, ordinal, push_id, expires_at, next_try, notification, collapse_key)
		SELECT $2, 1, n, $1, now() + interval '1 day', now(), true, '' FROM generate_series(0, $3::integer - 1) n`,
		p.ID, p.Buckets[0], n)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var steps = []ledgerv1.Step{
	ledgerv1.Step_STEP_SENT, ledgerv1.Step_STEP_SENT_UNCONFIRMED, ledgerv1.Step_STEP_ARRIVED, ledgerv1.Step_STEP_SHOWN,
	ledgerv1.Step_STEP_CLICKED, ledgerv1.Step_STEP_DISMISSED, ledgerv1.Step_STEP_FAILED, ledgerv1.Step_STEP_EXPIRED,
	ledgerv1.Step_STEP_EVICTED, ledgerv1.Step_STEP_COLLAPSED,
}

func TestAnyOrderAndRepetitionOfDirectReceiptsGivesTheSameCounts(t *testing.T) {
	t.Parallel()
	db := open(t)
	books, err := ledger.New(db.Ledger)
	if err != nil {
		t.Fatal(err)
	}
	const devices = 12
	var want ledger.Counts
	for round := range 8 {
		r := rand.New(rand.NewPCG(7, uint64(round%2))) //nolint:gosec // the same receipts in every other round
		push := newPush(t, db.Ledger, devices)
		var entries []ledger.Entry
		for range 30 {
			entries = append(entries, ledger.Entry{
				Key: message.Key{App: 1, Ordinal: r.Uint64N(devices), Push: push.ID}, Step: steps[r.IntN(len(steps))],
			})
		}
		entries = append(entries, entries[:10]...)
		rand.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
		for len(entries) > 0 {
			n := 1 + rand.IntN(len(entries))
			if err := ledger.ApplyDirect(t.Context(), db.Ledger, entries[:n]); err != nil {
				t.Fatal(err)
			}
			entries = entries[n:]
		}
		counts, _, err := books.Counts(t.Context(), push)
		if err != nil {
			t.Fatal(err)
		}
		if counts.Targeted() != devices {
			t.Errorf("the counts add up to %d: %v", counts.Targeted(), counts)
		}
		switch {
		case round < 2 && round%2 == 0:
			want = counts
		case round%2 == 0 && withoutSent(counts) != withoutSent(want):
			t.Errorf("round %d: %v, want %v", round, counts, want)
		}
	}
}

// withoutSent counts SENT as PENDING: a hand-over that is reported after the delivery has ended is of no interest.
func withoutSent(c ledger.Counts) ledger.Counts {
	c[pushv1.Delivery_PENDING] += c[pushv1.Delivery_SENT]
	c[pushv1.Delivery_SENT] = 0
	return c
}

func TestConcurrentReceiptsOnTheSameRowsDoNotDeadlock(t *testing.T) {
	t.Parallel()
	db := open(t)
	const devices, workers = 50, 4
	var pushes []*message.Push
	for range 10 {
		pushes = append(pushes, newPush(t, db.Ledger, devices))
	}
	errs := make(chan error, workers)
	for range workers {
		go func() {
			for range 30 {
				var entries []ledger.Entry
				for range 100 {
					entries = append(entries, ledger.Entry{
						Key:  message.Key{App: 1, Ordinal: rand.Uint64N(devices), Push: pushes[rand.IntN(len(pushes))].ID},
						Step: steps[rand.IntN(len(steps))],
					})
				}
				var keys []message.Key
				for _, e := range entries[:50] {
					keys = append(keys, e.Key)
				}
				if err := ledger.Rest(context.Background(), db.Ledger, keys); err != nil {
					errs <- err
					return
				}
				if err := ledger.ApplyDirect(context.Background(), db.Ledger, entries); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range workers {
		select {
		case err := <-errs:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("receipts hang")
		}
	}
	db.Ledger.Reset() // PostgreSQL counts what a connection saw when it ends
	var deadlocks int
	err := db.Bulk.QueryRow(t.Context(), "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").Scan(&deadlocks)
	if err != nil || deadlocks > 0 {
		t.Errorf("%d deadlocks, %v", deadlocks, err)
	}
}

package vendor

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
)

// firstTry is when the sweeper publishes a job that was not published right after its claim.
const firstTry = 5 * time.Second

// Ref names a job.
type Ref struct {
	Bucket  int16
	Push    uuid.UUID
	Slice   uint32
	Channel int16
	Job     int64
}

func compareRefs(a, b Ref) int {
	return cmp.Or(
		cmp.Compare(a.Bucket, b.Bucket), bytes.Compare(a.Push[:], b.Push[:]), cmp.Compare(a.Slice, b.Slice),
		cmp.Compare(a.Channel, b.Channel), cmp.Compare(a.Job, b.Job))
}

// refColumns are refs as arrays for unnest.
type refColumns struct {
	buckets, channels []int16
	pushes            []uuid.UUID
	slices            []int32
	jobs              []int64
}

func columnsOf(refs []Ref) *refColumns {
	c := &refColumns{}
	for _, r := range refs {
		c.buckets = append(c.buckets, r.Bucket)
		c.pushes = append(c.pushes, r.Push)
		c.slices = append(c.slices, int32(r.Slice))
		c.channels = append(c.channels, r.Channel)
		c.jobs = append(c.jobs, r.Job)
	}
	return c
}

// newJob is a job that is to be stored.
type newJob struct {
	ledger.SliceKey
	channel  int16
	audience bool
	expires  time.Time
	members  *roaring.Bitmap
}

// split makes jobs of at most the channel's batch size.
func (v *Vendors) split(
	k ledger.SliceKey, number int16, audience bool, expires time.Time, members *roaring.Bitmap,
) []newJob {
	name := channel.Name(number)
	v.metrics.claimed.WithLabelValues(name).Add(float64(members.GetCardinality()))
	var jobs []newJob
	buffer := make([]uint32, v.batches.Of(name))
	for it := members.ManyIterator(); ; {
		n := it.NextMany(buffer)
		if n == 0 {
			return jobs
		}
		jobs = append(jobs, newJob{k, number, audience, expires, roaring.BitmapOf(buffer[:n]...)})
	}
}

// insertJobs stores jobs in the transaction of their claim.
func insertJobs(ctx context.Context, tx pgx.Tx, jobs []newJob) ([]Ref, error) {
	if len(jobs) == 0 {
		return nil, nil
	}
	var c refColumns
	var apps []int32
	var audience []bool
	var members [][]byte
	var expires []time.Time
	for _, j := range jobs {
		j.members.RunOptimize()
		encoded, err := j.members.ToBytes()
		if err != nil {
			return nil, fmt.Errorf("encode members: %w", err)
		}
		c.buckets, c.pushes = append(c.buckets, j.Bucket()), append(c.pushes, j.Push)
		c.slices, c.channels = append(c.slices, int32(j.Slice)), append(c.channels, j.channel)
		apps, audience = append(apps, int32(j.App)), append(audience, j.audience)
		members, expires = append(members, encoded), append(expires, j.expires)
	}
	rows, err := tx.Query(ctx, `
		INSERT INTO send_job (bucket, push_id, slice, channel, app_no, audience, members, expires_at, next_try)
		SELECT bucket, push_id, slice, channel, app_no, audience, members, expires_at, least(expires_at, now() + $9::interval)
		FROM unnest($1::smallint[], $2::uuid[], $3::integer[], $4::smallint[], $5::integer[], $6::boolean[], $7::bytea[],
			$8::timestamptz[]) AS i (bucket, push_id, slice, channel, app_no, audience, members, expires_at)
		RETURNING bucket, push_id, slice, channel, job`,
		c.buckets, c.pushes, c.slices, c.channels, apps, audience, members, expires, firstTry)
	if err != nil {
		return nil, fmt.Errorf("store jobs: %w", err)
	}
	refs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Ref])
	if err != nil {
		return nil, fmt.Errorf("store jobs: %w", err)
	}
	return refs, nil
}

// Done is what a sender says of a job.
type Done struct {
	Ref
	// Members have their results.
	Members *roaring.Bitmap
	// Again is when the sender tries the others again; zero: it does not.
	Again time.Time
}

// TakeOut takes members out of their jobs, in the transaction that applies their results. A job without members goes; one
// whose sender tries it again is not published again before that. A Ref without a job means every job of the push for that
// slice and channel.
func TakeOut(ctx context.Context, tx pgx.Tx, done []Done) error {
	if len(done) == 0 {
		return nil
	}
	slices.SortFunc(done, func(a, b Done) int { return compareRefs(a.Ref, b.Ref) })
	refs := make([]Ref, len(done))
	for i, d := range done {
		refs[i] = d.Ref
	}
	c := columnsOf(refs)
	rows, err := tx.Query(ctx, `
		SELECT i.n, s.job, s.members
		FROM unnest($1::smallint[], $2::uuid[], $3::integer[], $4::smallint[], $5::bigint[]) WITH ORDINALITY
			AS i (bucket, push_id, slice, channel, job, n)
		JOIN send_job s ON s.bucket = i.bucket AND s.push_id = i.push_id AND s.slice = i.slice AND s.channel = i.channel
			AND (i.job = 0 OR s.job = i.job)
		ORDER BY i.n, s.job FOR UPDATE OF s`, c.buckets, c.pushes, c.slices, c.channels, c.jobs)
	if err != nil {
		return fmt.Errorf("lock jobs: %w", err)
	}
	left, again := map[Ref]*roaring.Bitmap{}, map[Ref]time.Time{}
	var n, job int64
	var stored []byte
	_, err = pgx.ForEachRow(rows, []any{&n, &job, &stored}, func() error {
		d := done[n-1]
		d.Job = job
		if left[d.Ref] == nil {
			left[d.Ref] = roaring.New()
			if err := left[d.Ref].UnmarshalBinary(stored); err != nil {
				return fmt.Errorf("members of job %d: %w", job, err)
			}
		}
		left[d.Ref].AndNot(d.Members)
		if d.Again.After(again[d.Ref]) {
			again[d.Ref] = d.Again
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("lock jobs: %w", err)
	}
	b := &pgx.Batch{}
	for r, members := range left {
		key := []any{r.Bucket, r.Push, int32(r.Slice), r.Channel, r.Job}
		if members.IsEmpty() {
			b.Queue("DELETE FROM send_job WHERE bucket = $1 AND push_id = $2 AND slice = $3 AND channel = $4 AND job = $5", key...)
			continue
		}
		encoded, err := members.ToBytes()
		if err != nil {
			return fmt.Errorf("encode members: %w", err)
		}
		b.Queue(`UPDATE send_job SET members = $6, next_try = greatest(next_try, least(expires_at, $7::timestamptz + $8::interval))
			WHERE bucket = $1 AND push_id = $2 AND slice = $3 AND channel = $4 AND job = $5`,
			append(key, encoded, again[r], againAfter)...)
	}
	if b.Len() == 0 {
		return nil
	}
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("take members out of jobs: %w", err)
	}
	return nil
}

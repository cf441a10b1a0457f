package vendor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/subject"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
	"github.com/halleypush/halley/services/pushcore/internal/batch"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
	"github.com/halleypush/halley/services/pushcore/internal/stream"
)

const (
	// publishers is how many batches of jobs each plane publishes at a time, perPublish how many jobs are one, and maxWaiting
	// how many jobs wait; more are left to the sweeper.
	publishers = 2
	perPublish = 8
	maxWaiting = 20_000
	// storedWithin bounds the wait for JetStream to store a job.
	storedWithin = 5 * time.Second
	// againAfter is when a job without results is published again, though its stream is the same one: by then its sender has
	// given it up, or it is lost in a power cut. It doubles with each time, up to maxDoubled times.
	againAfter = 15 * time.Minute
	maxDoubled = 3
	// maxJobBytes keeps a message well below the megabyte that NATS lets through.
	maxJobBytes = 600 << 10
	// maxStream bounds the jobs in JetStream; beyond it new ones are refused there, and wait in PostgreSQL.
	maxStream = 2 << 30
	// maxRetries bounds what is to be tried again later.
	maxRetries = 1 << 30
	// repeatsWithin is how long JetStream knows a job's id: who publishes it twice at once publishes it once.
	repeatsWithin = 2 * time.Minute
)

// SweepPage is how many jobs Sweep takes at a time.
const SweepPage = 200

// Publisher makes messages of stored jobs.
type Publisher struct {
	direct, bulk plane
	apps         *registry.Apps
	users        *registry.Users
	pushes       *message.Store
	ledger       *ledger.Ledger
	stream       *stream.Stream
	retries      *stream.Stream // is the senders'; they may not make it
	metrics      *Metrics
	log          *slog.Logger

	mu   sync.Mutex
	made time.Time // guarded by mu: when the stream was made that is there now
}

// plane is what direct jobs, or those of audiences, go by.
type plane struct {
	pool  *pgxpool.Pool
	js    jetstream.JetStream
	queue *batch.Batcher[turn]
}

// turn is a job that is to be published, if it has been so often and not more: whoever comes second leaves it.
type turn struct {
	Ref
	Published int32
}

// PublisherParts are what a publisher works with.
type PublisherParts struct {
	DirectPool, BulkPool *pgxpool.Pool
	DirectJS, BulkJS     jetstream.JetStream
	Apps                 *registry.Apps
	Users                *registry.Users
	Pushes               *message.Store
	Ledger               *ledger.Ledger
	Metrics              *Metrics
	Log                  *slog.Logger
}

// NewPublisher returns a publisher of jobs.
func NewPublisher(parts PublisherParts) *Publisher {
	p := &Publisher{
		direct: plane{pool: parts.DirectPool, js: parts.DirectJS}, bulk: plane{pool: parts.BulkPool, js: parts.BulkJS},
		apps: parts.Apps, users: parts.Users, pushes: parts.Pushes, ledger: parts.Ledger, metrics: parts.Metrics, log: parts.Log,
		stream: stream.New(parts.BulkJS, jetstream.StreamConfig{
			Name: subject.StreamSend, Subjects: []string{"send.>"}, Retention: jetstream.WorkQueuePolicy,
			Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew, MaxBytes: maxStream,
			Duplicates: repeatsWithin, MaxAge: 8 * 24 * time.Hour, // the longest ttl, and a day
		}),
		// What is dropped here beyond its size is published again from PostgreSQL, after a while.
		retries: stream.New(parts.BulkJS, jetstream.StreamConfig{
			Name: subject.StreamRetries, Subjects: []string{"retry.>"}, Retention: jetstream.WorkQueuePolicy,
			Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld, MaxBytes: maxRetries,
			AllowMsgSchedules: true, MaxAge: 8 * 24 * time.Hour,
		}),
	}
	for _, pl := range []*plane{&p.direct, &p.bulk} {
		pl.queue = batch.New(publishers, perPublish, maxWaiting, func(ctx context.Context, turns []turn) { p.publish(ctx, pl, turns) })
	}
	return p
}

// Run keeps the stream of jobs there until ctx ends, and then publishes what waits.
func (p *Publisher) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := p.look(ctx); err != nil && ctx.Err() == nil {
			p.log.DebugContext(ctx, "cannot look after the stream of jobs", "error", err)
		}
		stream.Pause(ctx, time.Second)
	}
	p.direct.queue.Close()
	p.bulk.queue.Close()
}

// add has jobs published whose claims are committed. What does not fit is the sweeper's.
func (p *Publisher) add(pl *plane, refs []Ref) {
	for i, r := range refs {
		if pl.queue.Go(turn{Ref: r}) != nil {
			p.metrics.spilled.Add(float64(len(refs) - i))
			return
		}
	}
}

// AddDirect has jobs of direct pushes published.
func (p *Publisher) AddDirect(refs []Ref) { p.add(&p.direct, refs) }

// AddAudience has jobs of audience pushes published.
func (p *Publisher) AddAudience(refs []Ref) { p.add(&p.bulk, refs) }

// look makes the stream if it is gone. When it is another one than before, all jobs in it were lost: they are due at once.
func (p *Publisher) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storedWithin)
	defer cancel()
	made, err := p.stream.Made(ctx)
	if err != nil {
		return err
	}
	if _, err := p.retries.Made(ctx); err != nil {
		return err
	}
	made = made.Truncate(time.Microsecond) // what PostgreSQL keeps
	p.mu.Lock()
	before := p.made
	p.mu.Unlock()
	if made.Equal(before) {
		return nil
	}
	tag, err := p.bulk.pool.Exec(ctx, `
		UPDATE send_job SET next_try = least(expires_at, now()), stream_made = NULL
		WHERE stream_made IS NOT NULL AND stream_made <> $1`, made)
	if err != nil {
		return fmt.Errorf("find lost jobs: %w", err)
	}
	if tag.RowsAffected() > 0 {
		p.metrics.remade.Inc()
		p.log.WarnContext(ctx, "NATS has lost its jobs: they are published again", "jobs", tag.RowsAffected())
	}
	p.mu.Lock()
	p.made = made
	p.mu.Unlock()
	return nil
}

// current returns when the stream was made that jobs are published to now. It is asked for before they are: if the stream is
// another one afterwards, the jobs count as lost.
func (p *Publisher) current(ctx context.Context) (time.Time, error) {
	p.mu.Lock()
	made := p.made
	p.mu.Unlock()
	if !made.IsZero() {
		return made, nil
	}
	if err := p.look(ctx); err != nil {
		return made, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made, nil
}

// Sweep publishes what is due, and deletes jobs whose push has expired. It returns how many it looked at.
func (p *Publisher) Sweep(ctx context.Context) (int, error) {
	tag, err := p.bulk.pool.Exec(ctx, `
		DELETE FROM send_job WHERE (bucket, push_id, slice, channel, job) IN (
			SELECT bucket, push_id, slice, channel, job FROM send_job
			WHERE next_try <= now() AND expires_at <= now() ORDER BY next_try LIMIT $1 FOR UPDATE SKIP LOCKED)`, SweepPage)
	if err != nil {
		return 0, fmt.Errorf("delete expired jobs: %w", err)
	}
	rows, err := p.bulk.pool.Query(ctx, `
		UPDATE send_job s SET next_try = least(s.expires_at, now() + $2::interval)
		FROM (SELECT bucket, push_id, slice, channel, job FROM send_job
			WHERE next_try <= now() AND expires_at > now() ORDER BY next_try LIMIT $1 FOR UPDATE SKIP LOCKED) d
		WHERE s.bucket = d.bucket AND s.push_id = d.push_id AND s.slice = d.slice AND s.channel = d.channel AND s.job = d.job
		RETURNING s.bucket, s.push_id, s.slice, s.channel, s.job, s.published`, SweepPage, 6*firstTry)
	if err != nil {
		return 0, fmt.Errorf("find due jobs: %w", err)
	}
	turns, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (turn, error) {
		var t turn
		err := r.Scan(&t.Bucket, &t.Push, &t.Slice, &t.Channel, &t.Job, &t.Published)
		return t, err
	})
	if err != nil {
		return 0, fmt.Errorf("find due jobs: %w", err)
	}
	for chunk := range slices.Chunk(turns, perPublish) {
		p.publish(ctx, &p.bulk, chunk)
	}
	return int(tag.RowsAffected()) + len(turns), nil
}

// row is a stored job.
type row struct {
	Ref
	App       uint32
	Audience  bool
	Members   []byte
	Expires   time.Time
	Published int
}

// publish makes messages of jobs and waits until JetStream has them. What fails is tried again by the sweeper.
func (p *Publisher) publish(ctx context.Context, pl *plane, turns []turn) {
	err := p.tryPublish(ctx, pl, turns)
	if err != nil {
		p.metrics.failed.Add(float64(len(turns)))
		p.log.DebugContext(ctx, "jobs are published later", "jobs", len(turns), "error", err)
	}
}

func (p *Publisher) tryPublish(ctx context.Context, pl *plane, turns []turn) error {
	made, err := p.current(ctx)
	if err != nil {
		return err
	}
	jobs, err := read(ctx, pl.pool, turns)
	if err != nil {
		return err
	}
	ids := make([]uuid.UUID, len(jobs))
	for i, j := range jobs {
		ids[i] = j.Push
	}
	pushes, err := p.pushes.Get(ctx, pl.pool, ids)
	if err != nil {
		return err
	}
	sent := make([]row, 0, len(jobs))
	var futures []jetstream.PubAckFuture
	for _, j := range jobs {
		if pushes[j.Push] == nil {
			continue // dropped with its day
		}
		messages, err := p.messages(ctx, pl.pool, j, pushes[j.Push])
		if err != nil {
			return err
		}
		for _, m := range messages {
			future, err := pl.js.PublishMsgAsync(m)
			if err != nil {
				return fmt.Errorf("publish job: %w", err)
			}
			futures = append(futures, future)
		}
		sent = append(sent, j)
	}
	if err := stored(ctx, futures); err != nil {
		p.stream.Gone()
		return err
	}
	return p.mark(ctx, pl.pool, sent, made)
}

// read returns the jobs that are there still and whose turn it is.
func read(ctx context.Context, pool *pgxpool.Pool, turns []turn) ([]row, error) {
	refs, published := make([]Ref, len(turns)), make([]int32, len(turns))
	for i, t := range turns {
		refs[i], published[i] = t.Ref, t.Published
	}
	c := columnsOf(refs)
	rows, err := pool.Query(ctx, `
		SELECT s.bucket, s.push_id, s.slice, s.channel, s.job, s.app_no, s.audience, s.members, s.expires_at, s.published
		FROM unnest($1::smallint[], $2::uuid[], $3::integer[], $4::smallint[], $5::bigint[], $6::integer[])
			AS i (bucket, push_id, slice, channel, job, published)
		JOIN send_job s USING (bucket, push_id, slice, channel, job, published) WHERE s.expires_at > now()`,
		c.buckets, c.pushes, c.slices, c.channels, c.jobs, published)
	if err != nil {
		return nil, fmt.Errorf("read jobs: %w", err)
	}
	jobs, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (row, error) {
		var j row
		err := r.Scan(&j.Bucket, &j.Push, &j.Slice, &j.Channel, &j.Job, &j.App, &j.Audience, &j.Members, &j.Expires, &j.Published)
		return j, err
	})
	if err != nil {
		return nil, fmt.Errorf("read jobs: %w", err)
	}
	return jobs, nil
}

// stored waits until JetStream has stored messages.
func stored(ctx context.Context, futures []jetstream.PubAckFuture) error {
	ctx, cancel := context.WithTimeout(ctx, storedWithin)
	defer cancel()
	for _, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return fmt.Errorf("store job: %w", err)
		case <-ctx.Done():
			return errors.New("store job: no answer from JetStream")
		}
	}
	return nil
}

// mark notes that jobs are published, and when they are to be again if no results come.
func (p *Publisher) mark(ctx context.Context, pool *pgxpool.Pool, sent []row, made time.Time) error {
	refs := make([]Ref, len(sent))
	published, after := make([]int32, len(sent)), make([]time.Duration, len(sent))
	for i, j := range sent {
		name := channel.Name(j.Channel)
		refs[i], published[i], after[i] = j.Ref, int32(j.Published), againAfter<<min(j.Published, maxDoubled)
		p.metrics.published.WithLabelValues(name).Inc()
		if j.Published > 0 {
			p.metrics.again.WithLabelValues(name).Inc()
		}
	}
	c := columnsOf(refs)
	_, err := pool.Exec(ctx, `
		UPDATE send_job s SET published = i.published + 1, stream_made = $6, next_try = least(s.expires_at, now() + i.after)
		FROM unnest($1::smallint[], $2::uuid[], $3::integer[], $4::smallint[], $5::bigint[], $7::integer[], $8::interval[])
			AS i (bucket, push_id, slice, channel, job, published, after)
		WHERE s.bucket = i.bucket AND s.push_id = i.push_id AND s.slice = i.slice AND s.channel = i.channel AND s.job = i.job
			AND s.published = i.published`,
		c.buckets, c.pushes, c.slices, c.channels, c.jobs, made, published, after)
	if err != nil {
		return fmt.Errorf("note published jobs: %w", err)
	}
	return nil
}

// jobMessage returns the message of one part of a job. Its id makes a part that two publish at once one message.
func jobMessage(j row, part int, to string, job *senderv1.Job) (*nats.Msg, error) {
	data, err := proto.Marshal(job)
	if err != nil {
		return nil, fmt.Errorf("encode job: %w", err)
	}
	m := nats.NewMsg(to)
	m.Data = data
	m.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("%d.%d.%d", j.Job, j.Published, part))
	return m, nil
}

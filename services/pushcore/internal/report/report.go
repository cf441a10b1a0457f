// Package report takes what became of vendors' jobs off JetStream and applies it: to the ledger, to the jobs, and to the
// devices' channel tokens. A report is acknowledged only after its commit, and applying it again changes nothing. What a
// vendor did not take is the own connection's again.
package report

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/subject"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
	"github.com/halleypush/halley/services/pushcore/internal/batch"
	"github.com/halleypush/halley/services/pushcore/internal/dispatch"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
	"github.com/halleypush/halley/services/pushcore/internal/stream"
)

const (
	// workers is how many transactions of each kind apply reports at a time, perBatch how many reports share one, and
	// maxWaiting how many wait for the next; more stay in JetStream.
	workers    = 2
	perBatch   = 128
	maxWaiting = 1_000
	// whenFull is the pause before a full queue is tried again.
	whenFull = 10 * time.Millisecond
	// ackWait is after how long an unacknowledged report is given to somebody else, and retryAfter one that could not be
	// applied. fetchAhead is how many may be at hand.
	ackWait    = 30 * time.Second
	retryAfter = time.Second
	fetchAhead = 500
	// maxStream bounds the reports that wait while no pushcore runs; beyond it the oldest are dropped: then their jobs are
	// published again in time.
	maxStream = 1 << 30
)

// Deliverer hands direct deliveries over in the background. It must not block.
type Deliverer interface {
	Deliver(ctx context.Context, deliveries []dispatch.Delivery)
}

// Reports applies reports.
type Reports struct {
	Parts

	stream   *stream.Stream
	direct   *batch.Batcher[received]
	audience *batch.Batcher[received]
}

// Parts are what reports are applied with.
type Parts struct {
	JS      jetstream.JetStream
	Pool    *pgxpool.Pool
	Ledger  *ledger.Ledger
	Apps    *registry.Apps
	Users   *registry.Users
	Tokens  *registry.VoidTokens
	Pushes  *message.Store
	Deliver Deliverer
	// Ended is told of slices whose deliveries are all final.
	Ended   func(context.Context, []ledger.SliceKey)
	Metrics *Metrics
	Log     *slog.Logger
}

// received is one message with the report that it holds.
type received struct {
	msg    jetstream.Msg
	report *report
}

// report is a decoded report.
type report struct {
	ledger.SliceKey
	audience bool
	channel  string
	number   int16
	job      int64
	again    time.Time // when the rest of the job is tried again; zero: there is none
	results  []result
}

// result is what became of one target.
type result struct {
	*senderv1.Result
	ordinal uint64
	// receipt is true for a vendor's word on what became of a target later, false for the result of a job.
	receipt bool
}

// New returns a consumer of reports.
func New(parts Parts) *Reports {
	r := &Reports{Parts: parts, stream: stream.New(parts.JS, jetstream.StreamConfig{
		Name: subject.StreamReports, Subjects: []string{"receipt.v.*"}, Retention: jetstream.WorkQueuePolicy,
		Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld, MaxBytes: maxStream,
		MaxAge: 8 * 24 * time.Hour, // the longest ttl, and a day
	})}
	r.direct = batch.New(workers, perBatch, maxWaiting, func(ctx context.Context, all []received) { r.apply(ctx, all, r.applyDirect) })
	r.audience = batch.New(workers, perBatch, maxWaiting, func(ctx context.Context, all []received) { r.apply(ctx, all, r.applyAudience) })
	return r
}

// Run takes reports off JetStream until ctx ends, through outages of NATS and PostgreSQL, and applies what it took.
func (r *Reports) Run(ctx context.Context) {
	consumer := jetstream.ConsumerConfig{
		Durable: "reports", AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 4 * fetchAhead,
	}
	r.stream.Run(ctx, r.Log, consumer, fetchAhead, func(msg jetstream.Msg) error {
		decoded, err := decode(msg.Data())
		if err != nil {
			r.Metrics.malformed.Inc()
			r.Log.ErrorContext(ctx, "malformed report thrown away", "error", err)
			_ = msg.Term() // comes again otherwise; that is all a failure means
			return nil
		}
		queue := r.direct
		if decoded.audience {
			queue = r.audience
		}
		for queue.Go(received{msg, decoded}) != nil {
			if stream.Pause(ctx, whenFull); ctx.Err() != nil {
				return ctx.Err()
			}
		}
		return nil
	})
	r.direct.Close()
	r.audience.Close()
}

func decode(data []byte) (*report, error) {
	var m senderv1.Report
	if err := proto.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	id, err := uuid.FromBytes(m.GetPushId())
	if err != nil {
		return nil, fmt.Errorf("push id: %w", err)
	}
	number, known := channel.Number(m.GetChannel())
	if !known || number == 0 {
		return nil, fmt.Errorf("there is no vendor channel %q", m.GetChannel())
	}
	d := &report{
		SliceKey: ledger.SliceKey{App: m.GetApp(), Push: id, Slice: m.GetSlice()},
		audience: m.GetAudience(), channel: m.GetChannel(), number: number, job: int64(m.GetJob()),
	}
	if m.GetAgainAt() != nil {
		d.again = m.GetAgainAt().AsTime()
	}
	for _, one := range m.GetResults() {
		d.results = append(d.results, result{Result: one, ordinal: one.GetOrdinal(), receipt: one.Ordinal == nil})
	}
	return d, nil
}

// apply applies reports of one kind together, and answers each message once all is committed.
func (r *Reports) apply(ctx context.Context, all []received, to func(context.Context, *work) error) {
	err := r.tryApply(ctx, all, to)
	if err != nil {
		r.Metrics.failed.Inc()
		r.Log.WarnContext(ctx, "reports not applied; they come again", "reports", len(all), "error", err)
	}
	for _, one := range all {
		// An answer that is lost has the message come again, which changes nothing.
		if err != nil {
			_ = one.msg.NakWithDelay(retryAfter)
		} else {
			_ = one.msg.Ack()
		}
	}
}

// work is a batch of reports with the pushes that they are about.
type work struct {
	reports []*report
	pushes  map[uuid.UUID]*message.Push
}

func (r *Reports) tryApply(ctx context.Context, all []received, to func(context.Context, *work) error) error {
	var reports []*report
	var ids []uuid.UUID
	for _, one := range all {
		reports = append(reports, one.report)
		ids = append(ids, one.report.Push)
	}
	if err := r.resolve(ctx, reports); err != nil {
		return err
	}
	pushes, err := r.Pushes.Get(ctx, r.Pool, ids)
	if err != nil {
		return err
	}
	w := &work{pushes: pushes}
	for _, one := range reports {
		if p := pushes[one.Push]; p != nil && p.App == one.App { // or it is past retention
			w.reports = append(w.reports, one)
		}
	}
	if err := to(ctx, w); err != nil {
		return err
	}
	r.count(w)
	return r.noteTokens(ctx, w)
}

// resolve finds the devices of receipts, which name tokens. A receipt for a token that no device has any more is passed over.
func (r *Reports) resolve(ctx context.Context, reports []*report) error {
	var asked []registry.TokenOf
	for _, one := range reports {
		for _, res := range one.results {
			if res.receipt {
				asked = append(asked, registry.TokenOf{App: one.App, Slice: one.Slice, Channel: one.channel, Token: res.GetToken()})
			}
		}
	}
	if len(asked) == 0 {
		return nil
	}
	found, err := r.Tokens.FindTokens(ctx, asked)
	if err != nil {
		return err
	}
	for _, one := range reports {
		known := one.results[:0]
		for _, res := range one.results {
			if res.receipt {
				number, ok := found[registry.TokenOf{App: one.App, Slice: one.Slice, Channel: one.channel, Token: res.GetToken()}]
				if !ok {
					r.Metrics.unknown.Inc()
					continue
				}
				res.ordinal = number
			}
			known = append(known, res)
		}
		one.results = known
	}
	return nil
}

func (r *Reports) count(w *work) {
	for _, one := range w.reports {
		for _, res := range one.results {
			r.Metrics.result(one.channel, res.GetOutcome())
		}
	}
}

// noteTokens counts the vendors' words on tokens, and has void ones deleted or held.
func (r *Reports) noteTokens(ctx context.Context, w *work) error {
	type vendor struct {
		app     uint32
		channel string
	}
	results, void := map[vendor]int{}, map[vendor][]registry.VoidToken{}
	for _, one := range w.reports {
		v := vendor{one.App, one.channel}
		for _, res := range one.results {
			switch res.GetOutcome() {
			case senderv1.Outcome_OUTCOME_ACCEPTED:
				results[v]++
			case senderv1.Outcome_OUTCOME_TOKEN_GONE:
				if res.GetToken() == "" {
					continue // our own word: the token was away before it was sent
				}
				results[v]++
				t := registry.VoidToken{Ordinal: res.ordinal, Token: res.GetToken()}
				if res.GetGoneAt() != nil {
					at := res.GetGoneAt().AsTime()
					t.GoneAt = &at
				}
				void[v] = append(void[v], t)
			}
		}
	}
	for v, n := range results {
		app, err := r.Apps.ByNumber(ctx, v.app)
		if err != nil {
			return err
		}
		held, err := r.Tokens.Note(ctx, app, v.channel, n, void[v])
		if err != nil {
			return err
		}
		if held {
			r.Log.WarnContext(ctx, "too many channel tokens are called void at once: they are held until somebody decides",
				"app", app.ID, "channel", v.channel, "tokens", len(void[v]))
		}
	}
	return nil
}

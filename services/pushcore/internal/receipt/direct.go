package receipt

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/subject"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/batch"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/stream"
)

const (
	// directWorkers is how many transactions apply direct receipts at a time, maxMessages how many batches of gateways share
	// one, maxWaiting how many wait for the next; more stay in JetStream.
	directWorkers = 2
	maxMessages   = 16
	maxWaiting    = 1_000
	// whenFull is the pause before a full queue is tried again; meanwhile receipts stay in JetStream.
	whenFull = 10 * time.Millisecond
)

// Direct applies direct receipts.
type Direct struct {
	stream  *stream.Stream
	pool    *pgxpool.Pool
	metrics *Metrics
	log     *slog.Logger
	apply   *batch.Batcher[received]
	behind  atomic.Int64 // how old the message was that was taken last, in nanoseconds
	taken   atomic.Int64 // when that was, in Unix nanoseconds
}

// received is one message with the entries it holds; msg is nil for entries of this process.
type received struct {
	msg     jetstream.Msg
	entries []ledger.Entry
}

// NewDirect returns a consumer of direct receipts.
func NewDirect(js jetstream.JetStream, pool *pgxpool.Pool, metrics *Metrics, log *slog.Logger) *Direct {
	d := &Direct{
		stream: newStream(js, subject.StreamReceiptsDirect, subject.ReceiptsDirect), pool: pool, metrics: metrics, log: log,
	}
	d.apply = batch.New(directWorkers, maxMessages, maxWaiting, d.applyBatch)
	return d
}

// EndDirect applies entries that this process found itself. What does not fit is dropped and counted: whoever finds the
// deliveries next finds the same again.
func (d *Direct) EndDirect(entries []ledger.Entry) {
	if d.apply.Go(received{entries: entries}) != nil {
		d.metrics.dropped.WithLabelValues("direct").Add(float64(len(entries)))
	}
}

// Run takes receipts off JetStream until ctx ends, through outages of NATS and PostgreSQL, and applies what it took.
func (d *Direct) Run(ctx context.Context) {
	d.stream.Run(ctx, d.log, consumerDirect(), fetchAhead, func(msg jetstream.Msg) error {
		entries, err := decodeDirect(msg.Data())
		if err != nil {
			d.metrics.malformed.Inc()
			d.log.ErrorContext(ctx, "malformed direct receipts thrown away", "error", err)
			_ = msg.Term() // comes again otherwise; that is all a failure means
			return nil
		}
		d.note(msg)
		for d.apply.Go(received{msg, entries}) != nil {
			if stream.Pause(ctx, whenFull); ctx.Err() != nil {
				return ctx.Err()
			}
		}
		return nil
	})
	d.apply.Close()
}

// idleAfter is when receipts that do not come any more say that there are none.
const idleAfter = 2 * time.Second

// note remembers how long a message has waited.
func (d *Direct) note(msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		return
	}
	now := time.Now()
	d.behind.Store(int64(max(now.Sub(meta.Timestamp), 0)))
	d.taken.Store(now.UnixNano())
}

// Behind returns how far the ledger is behind the gateways: what a device has confirmed more recently may not be in it.
func (d *Direct) Behind() time.Duration {
	if time.Since(time.Unix(0, d.taken.Load())) > idleAfter {
		return 0
	}
	return time.Duration(d.behind.Load())
}

func (d *Direct) applyBatch(ctx context.Context, all []received) {
	var entries []ledger.Entry
	for _, r := range all {
		entries = append(entries, r.entries...)
	}
	err := ledger.ApplyDirect(ctx, d.pool, entries)
	if err != nil {
		d.metrics.failed.WithLabelValues("direct").Inc()
		d.log.WarnContext(ctx, "direct receipts not applied; they come again", "receipts", len(entries), "error", err)
	} else {
		d.metrics.applied.WithLabelValues("direct").Add(float64(len(entries)))
	}
	for _, r := range all {
		answer(r.msg, err)
	}
}

// answer acknowledges a message that was applied, or asks for it again. An answer that is lost has the message come again,
// which changes nothing.
func answer(msg jetstream.Msg, err error) {
	switch {
	case msg == nil:
	case err == nil:
		_ = msg.Ack()
	default:
		_ = msg.NakWithDelay(retryAfter)
	}
}

func decodeDirect(data []byte) ([]ledger.Entry, error) {
	var batch ledgerv1.DirectReceipts
	if err := proto.Unmarshal(data, &batch); err != nil {
		return nil, err
	}
	entries := make([]ledger.Entry, 0, len(batch.GetReceipts()))
	for _, r := range batch.GetReceipts() {
		id, err := uuid.FromBytes(r.GetPushId())
		if err != nil {
			return nil, err
		}
		entries = append(entries, ledger.Entry{
			Key:  message.Key{App: r.GetApp(), Ordinal: r.GetOrdinal(), Push: id},
			Step: r.GetStep(), Reason: r.GetReason(),
		})
	}
	return entries, nil
}

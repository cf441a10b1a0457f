package receipt

import (
	"context"
	"errors"
	"log/slog"
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
)

const (
	// directWorkers is how many transactions apply direct receipts at a time, maxMessages how many batches of gateways share
	// one, maxWaiting how many wait for the next; more stay in JetStream.
	directWorkers = 2
	maxMessages   = 16
	maxWaiting    = 1_000

	retryAfter = time.Second
)

// Direct applies direct receipts.
type Direct struct {
	js      jetstream.JetStream
	pool    *pgxpool.Pool
	metrics *Metrics
	log     *slog.Logger
	apply   *batch.Batcher[received]
}

// received is one message with the entries it holds; msg is nil for entries of this process.
type received struct {
	msg     jetstream.Msg
	entries []ledger.Entry
}

// NewDirect returns a consumer of direct receipts.
func NewDirect(js jetstream.JetStream, pool *pgxpool.Pool, metrics *Metrics, log *slog.Logger) *Direct {
	d := &Direct{js: js, pool: pool, metrics: metrics, log: log}
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

// Run takes receipts off JetStream until ctx ends, through outages of NATS and PostgreSQL.
func (d *Direct) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := d.consume(ctx); err != nil && ctx.Err() == nil {
			d.log.WarnContext(ctx, "direct receipts wait", "error", err)
			pause(ctx, retryAfter)
		}
	}
	d.apply.Close()
}

func (d *Direct) consume(ctx context.Context) error {
	messages, err := open(ctx, d.js, subject.StreamReceiptsDirect, consumerDirect)
	if err != nil {
		return err
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	for {
		msg, err := messages.Next()
		if err != nil {
			return err
		}
		entries, err := decodeDirect(msg.Data())
		if err != nil {
			d.metrics.malformed.Inc()
			d.log.ErrorContext(ctx, "malformed direct receipts thrown away", "error", err)
			_ = msg.Term() // comes again otherwise; that is all a failure means
			continue
		}
		for d.apply.Go(received{msg, entries}) != nil {
			if pause(ctx, 10*time.Millisecond) != nil {
				return ctx.Err()
			}
		}
	}
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

// open begins to take messages of a consumer; if the stream is not there, which is so after NATS lost its data, it is
// made first.
func open(ctx context.Context, js jetstream.JetStream, stream, consumer string) (jetstream.MessagesContext, error) {
	c, err := js.Consumer(ctx, stream, consumer)
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) {
		if err := EnsureStreams(ctx, js); err != nil {
			return nil, err
		}
		c, err = js.Consumer(ctx, stream, consumer)
	}
	if err != nil {
		return nil, err
	}
	// A short heartbeat notices a consumer that is gone.
	return c.Messages(jetstream.PullMaxMessages(500), jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
}

// pause waits, or returns the context's error if it ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/subject"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
)

const (
	consumerSlices = "workers"
	// takeFor is how long a worker may take to queue a slice; then the wake goes to another process. A slow queue is normal,
	// and a second wake is harmless.
	takeFor = 5 * time.Minute
	// retryAfter is the pause after NATS failed.
	retryAfter = time.Second
)

// Wakes carries wakes for slices over JetStream to whichever pushcore has a free worker.
type Wakes struct {
	js  jetstream.JetStream
	log *slog.Logger
}

// NewWakes returns wakes over the audience plane's JetStream.
func NewWakes(js jetstream.JetStream, log *slog.Logger) *Wakes { return &Wakes{js: js, log: log} }

// EnsureStream makes the stream and consumer of wakes, or brings them to this version's configuration.
func (w *Wakes) EnsureStream(ctx context.Context) error {
	_, err := w.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: subject.StreamSlices, Subjects: []string{"work.slice.*"}, Retention: jetstream.WorkQueuePolicy,
		Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld,
		MaxMsgs: 1_000_000, MaxAge: time.Hour, // the sweeper wakes again whatever is lost
	})
	if err != nil {
		return fmt.Errorf("stream %s: %w", subject.StreamSlices, err)
	}
	_, err = w.js.CreateOrUpdateConsumer(ctx, subject.StreamSlices, jetstream.ConsumerConfig{
		Durable: consumerSlices, AckPolicy: jetstream.AckExplicitPolicy, AckWait: takeFor, MaxAckPending: 1_000,
	})
	if err != nil {
		return fmt.Errorf("consumer of %s: %w", subject.StreamSlices, err)
	}
	return nil
}

// Wake wakes workers for all slices of a push. It does not wait for JetStream, and what is lost the sweeper makes good.
func (w *Wakes) Wake(ctx context.Context, app uint32, push uuid.UUID, slices int) {
	for i := range slices {
		w.WakeSlice(ctx, ledger.SliceKey{App: app, Push: push, Slice: uint32(i)})
	}
}

// WakeSlice wakes a worker for one slice.
func (w *Wakes) WakeSlice(ctx context.Context, k ledger.SliceKey) {
	data, err := proto.Marshal(&ledgerv1.SliceWork{App: k.App, Slice: k.Slice, PushId: k.Push[:]})
	if err == nil {
		_, err = w.js.PublishAsync(subject.WorkSlice(k.App), data)
	}
	if err != nil {
		w.log.WarnContext(ctx, "wake lost; the sweeper makes it good", "push_id", k.Push, "slice", k.Slice, "error", err)
	}
}

// Run queues the slices that this process is woken for until ctx ends, through outages of NATS.
func (w *Wakes) Run(ctx context.Context, slices *Slices) {
	for ctx.Err() == nil {
		err := w.consume(ctx, slices)
		if err == nil || ctx.Err() != nil {
			continue
		}
		w.log.WarnContext(ctx, "slices wait", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
}

func (w *Wakes) consume(ctx context.Context, slices *Slices) error {
	consumer, err := w.js.Consumer(ctx, subject.StreamSlices, consumerSlices)
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrConsumerNotFound) {
		if err := w.EnsureStream(ctx); err != nil {
			return err
		}
		consumer, err = w.js.Consumer(ctx, subject.StreamSlices, consumerSlices)
	}
	if err != nil {
		return fmt.Errorf("consumer of %s: %w", subject.StreamSlices, err)
	}
	messages, err := consumer.Messages(
		jetstream.PullMaxMessages(workers), jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return fmt.Errorf("take wakes: %w", err)
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	for {
		msg, err := messages.Next()
		if err != nil {
			return fmt.Errorf("take wakes: %w", err)
		}
		var work ledgerv1.SliceWork
		if err := proto.Unmarshal(msg.Data(), &work); err == nil {
			if id, err := uuid.FromBytes(work.GetPushId()); err == nil {
				k := ledger.SliceKey{App: work.GetApp(), Push: id, Slice: work.GetSlice()}
				if err := slices.Add(ctx, k); err != nil {
					return err
				}
			}
		}
		// A slice in the queue is ours by its row in PostgreSQL, so the wake has done its work.
		_ = msg.Ack() // one that is lost wakes us again, which changes nothing
	}
}

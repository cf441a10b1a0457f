package dispatch

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/subject"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/stream"
)

// takeFor is how long a worker may take to queue a slice; then the wake goes to another process. A slow queue is normal, and
// a second wake is harmless.
const takeFor = 5 * time.Minute

// Wakes carries wakes for slices over JetStream to whichever pushcore has a free worker.
type Wakes struct {
	js     jetstream.JetStream
	stream *stream.Stream
	log    *slog.Logger
}

// NewWakes returns wakes over the audience plane's JetStream.
func NewWakes(js jetstream.JetStream, log *slog.Logger) *Wakes {
	return &Wakes{js: js, log: log, stream: stream.New(js, jetstream.StreamConfig{
		Name: subject.StreamSlices, Subjects: []string{"work.slice.*"}, Retention: jetstream.WorkQueuePolicy,
		Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld,
		MaxMsgs: 1_000_000, MaxAge: time.Hour, // the sweeper wakes again whatever is lost
	})}
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
	consumer := jetstream.ConsumerConfig{
		Durable: "workers", AckPolicy: jetstream.AckExplicitPolicy, AckWait: takeFor, MaxAckPending: 1_000,
	}
	w.stream.Run(ctx, w.log, consumer, credit, func(msg jetstream.Msg) error {
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
		return nil
	})
}

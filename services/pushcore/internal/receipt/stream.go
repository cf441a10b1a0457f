// Package receipt takes receipts off JetStream and has the ledger apply them: direct ones as they come, audience ones
// gathered for a moment per leased partition. A receipt is acknowledged only after its commit.
package receipt

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/halleypush/halley/pkg/ordinal"
	"github.com/halleypush/halley/pkg/subject"
)

const (
	consumerDirect   = "ledger"
	consumerAudience = "ledger-%d"

	// ackWait is after how long an unacknowledged receipt is given to somebody else.
	ackWait = 30 * time.Second
	// maxStream bounds the receipts that wait while no pushcore runs; beyond it the oldest are dropped, and the next Pull of
	// each device makes them again.
	maxStream = 8 << 30
)

// EnsureStreams makes the streams and consumers of receipts, or brings them to this version's configuration. It may be
// called at any time: after NATS lost its data they are made anew.
func EnsureStreams(ctx context.Context, js jetstream.JetStream) error {
	for _, s := range []jetstream.StreamConfig{
		{Name: subject.StreamReceiptsDirect, Subjects: []string{subject.ReceiptsDirect}},
		{Name: subject.StreamReceiptsAudience, Subjects: []string{"receipt.a.*"}},
	} {
		s.Retention = jetstream.WorkQueuePolicy
		s.Storage = jetstream.FileStorage
		s.Discard = jetstream.DiscardOld
		s.MaxBytes = maxStream
		s.MaxAge = 8 * 24 * time.Hour // the longest ttl, and a day
		if _, err := js.CreateOrUpdateStream(ctx, s); err != nil {
			return fmt.Errorf("stream %s: %w", s.Name, err)
		}
	}
	if err := ensureConsumer(ctx, js, subject.StreamReceiptsDirect, consumerDirect, subject.ReceiptsDirect); err != nil {
		return err
	}
	for p := range ordinal.Partitions {
		name, filter := fmt.Sprintf(consumerAudience, p), subject.ReceiptsAudience(p)
		if err := ensureConsumer(ctx, js, subject.StreamReceiptsAudience, name, filter); err != nil {
			return err
		}
	}
	return nil
}

func ensureConsumer(ctx context.Context, js jetstream.JetStream, stream, name, filter string) error {
	_, err := js.CreateOrUpdateConsumer(ctx, stream, jetstream.ConsumerConfig{
		Durable: name, FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 2_000,
	})
	if err != nil {
		return fmt.Errorf("consumer %s of %s: %w", name, stream, err)
	}
	return nil
}

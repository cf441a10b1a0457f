// Package receipt takes receipts off JetStream and has the ledger apply them: direct ones as they come, audience ones
// gathered for a moment per leased partition. A receipt is acknowledged only after its commit.
package receipt

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/halleypush/halley/pkg/subject"
	"github.com/halleypush/halley/services/pushcore/internal/stream"
)

const (
	// ackWait is after how long an unacknowledged receipt is given to somebody else, and retryAfter one that could not be
	// applied.
	ackWait    = 30 * time.Second
	retryAfter = time.Second
	// fetchAhead is how many messages one consumer may have at hand.
	fetchAhead = 500
	// maxStream bounds the receipts that wait while no pushcore runs; beyond it the oldest are dropped, and the next Pull of
	// each device makes them again.
	maxStream = 2 << 30
)

// newStream returns the stream of one plane's receipts, a work queue.
func newStream(js jetstream.JetStream, name, subjects string) *stream.Stream {
	return stream.New(js, jetstream.StreamConfig{
		Name: name, Subjects: []string{subjects}, Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage,
		Discard: jetstream.DiscardOld, MaxBytes: maxStream,
		MaxAge: 8 * 24 * time.Hour, // the longest ttl, and a day
	})
}

func consumerOf(name, filter string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: name, FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 2_000,
	}
}

func consumerDirect() jetstream.ConsumerConfig { return consumerOf("ledger", subject.ReceiptsDirect) }

func consumerAudience(partition int) jetstream.ConsumerConfig {
	return consumerOf(fmt.Sprintf("ledger-%d", partition), subject.ReceiptsAudience(partition))
}

// Package stream takes messages off JetStream streams that may vanish: NATS may lose all it stores, and what was in it is
// made again from PostgreSQL.
package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// retryAfter is the pause after a failure.
	retryAfter = time.Second
	// askFor is how long one request for messages stands at the server, and heartbeat how often it says that it still does:
	// a stream or consumer that is gone is noticed after two of them.
	askFor    = 10 * time.Second
	heartbeat = 2 * time.Second
)

// leastBytes is the smallest size of a stream.
const leastBytes = 16 << 20

// Stream is one stream with its configuration.
type Stream struct {
	js     jetstream.JetStream
	config jetstream.StreamConfig

	mu   sync.Mutex
	made bool // guarded by mu: the stream is there, with this version's configuration
}

// New returns a stream. It is made when the first consumer runs, and again whenever it is gone.
func New(js jetstream.JetStream, config jetstream.StreamConfig) *Stream {
	return &Stream{js: js, config: config}
}

// Run hands each message of a consumer to handle until ctx ends, through outages of NATS; consumer and stream are made
// where they are missing. Up to ahead messages are fetched before they are handled. If handle fails the message is left as
// it is, and taking begins again after a moment.
func (s *Stream) Run(
	ctx context.Context, log *slog.Logger, consumer jetstream.ConsumerConfig, ahead int, handle func(jetstream.Msg) error,
) {
	for ctx.Err() == nil {
		err := s.take(ctx, consumer, ahead, handle)
		if ctx.Err() != nil {
			return
		}
		log.WarnContext(ctx, "messages wait", "stream", s.config.Name, "consumer", consumer.Durable, "error", err)
		Pause(ctx, retryAfter)
	}
}

func (s *Stream) take(
	ctx context.Context, consumer jetstream.ConsumerConfig, ahead int, handle func(jetstream.Msg) error,
) error {
	if err := s.make(ctx); err != nil {
		return err
	}
	c, err := s.js.CreateOrUpdateConsumer(ctx, s.config.Name, consumer)
	if err != nil {
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			s.Gone()
		}
		return fmt.Errorf("make consumer: %w", err)
	}
	messages, err := c.Messages(
		jetstream.PullMaxMessages(ahead), jetstream.PullExpiry(askFor), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return fmt.Errorf("take messages: %w", err)
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	for {
		msg, err := messages.Next()
		if err != nil {
			return fmt.Errorf("take messages: %w", err)
		}
		if err := handle(msg); err != nil {
			return err
		}
	}
}

// make makes the stream, or brings it to this version's configuration, once for all consumers.
func (s *Stream) make(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.made {
		return nil
	}
	err := s.makeWith(ctx, s.config.MaxBytes)
	if lacksRoom(err) {
		err = s.fit(ctx)
	}
	if err != nil {
		return fmt.Errorf("make stream: %w", err)
	}
	s.made = true
	return nil
}

func (s *Stream) makeWith(ctx context.Context, size int64) error {
	c := s.config
	c.MaxBytes = size
	_, err := s.js.CreateOrUpdateStream(ctx, c)
	return err
}

// fit makes the stream where NATS, which reserves the size of each, has no room for it as it should be. One that is there keeps its
// size; a new one gets a quarter of what there is room for, and leaves the rest to others. What finds no place in it waits in
// PostgreSQL, or is made again later.
func (s *Stream) fit(ctx context.Context) error {
	if there, err := s.js.Stream(ctx, s.config.Name); err == nil {
		return s.makeWith(ctx, there.CachedInfo().Config.MaxBytes)
	}
	size := s.config.MaxBytes / 2
	err := s.makeWith(ctx, size)
	for ; lacksRoom(err) && size > leastBytes; err = s.makeWith(ctx, size) {
		size /= 2
	}
	if err != nil {
		return err
	}
	return s.makeWith(ctx, max(size/4, leastBytes))
}

// lacksRoom reports whether a server, an account or a cluster has too little storage left (nats-server, server/errors.json).
func lacksRoom(err error) bool {
	var refused *jetstream.APIError
	return errors.As(err, &refused) && slices.Contains([]jetstream.ErrorCode{10047, 10002, 10023, 10005}, refused.ErrorCode)
}

// Made makes the stream if it is not there, and returns when it was made: NATS that lost its data has another one.
func (s *Stream) Made(ctx context.Context) (time.Time, error) {
	if err := s.make(ctx); err != nil {
		return time.Time{}, err
	}
	found, err := s.js.Stream(ctx, s.config.Name)
	if err != nil {
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			s.Gone()
		}
		return time.Time{}, fmt.Errorf("look at stream: %w", err)
	}
	return found.CachedInfo().Created, nil
}

// Gone has the stream made again before it is used.
func (s *Stream) Gone() {
	s.mu.Lock()
	s.made = false
	s.mu.Unlock()
}

// Pause waits for a time, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

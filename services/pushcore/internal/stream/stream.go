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

const (
	// allBytes is more than all streams are together, parts more than there are streams. A server that has not even leastBytes left has
	// no room for a stream.
	allBytes   = 16 << 30
	parts      = 8
	leastBytes = 16 << 20
)

// making is held while a stream is made: nats-server (2.15) reserves more than it has for streams that are made at the same time, and
// has no room for any other then.
var making sync.Mutex

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
	making.Lock()
	defer making.Unlock()
	var err error
	switch there, lookErr := s.js.Stream(ctx, s.config.Name); {
	case errors.Is(lookErr, jetstream.ErrStreamNotFound):
		err = s.fit(ctx)
	case lookErr != nil:
		err = lookErr
	default:
		err = s.adjust(ctx, there.CachedInfo())
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

// adjust brings a stream to this version's configuration. Where there is no room for more it stays as small as it is.
func (s *Stream) adjust(ctx context.Context, is *jetstream.StreamInfo) error {
	err := s.makeWith(ctx, s.config.MaxBytes)
	switch {
	case !lacksRoom(err):
		return err
	case is.Config.MaxBytes <= s.config.MaxBytes:
		return s.makeWith(ctx, is.Config.MaxBytes)
	case is.State.Msgs == 0: // who was making it did not come to its end
		return errors.Join(err, s.js.DeleteStream(ctx, s.config.Name))
	}
	return err
}

// fit makes the stream. NATS reserves the size of each, and says how much room it has only by refusing: so the stream is made larger
// than all are together at first, then as large as may be, and shrinks to its part of that. What finds no place in it waits in
// PostgreSQL, or is made again later.
func (s *Stream) fit(ctx context.Context) error {
	if s.config.MaxBytes <= 0 {
		return s.makeWith(ctx, s.config.MaxBytes)
	}
	room := int64(allBytes)
	err := s.makeWith(ctx, room)
	for ; lacksRoom(err) && room > leastBytes; err = s.makeWith(ctx, room) {
		room /= 2
	}
	if err != nil {
		return err
	}
	if err = s.makeWith(ctx, min(s.config.MaxBytes, room/parts)); lacksRoom(err) {
		// Another pushcore has made one at the same time, and together they reserve more than there is. Then NATS does not even let them
		// shrink; who comes again finds room.
		err = errors.Join(err, s.js.DeleteStream(ctx, s.config.Name))
	}
	return err
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

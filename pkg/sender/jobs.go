package sender

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/halleypush/halley/pkg/subject"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

const (
	// ackWait is how long a job is ours without a word; workers say that it still is every third of it.
	ackWait = time.Minute
	// takenAhead bounds the jobs that are taken and not settled, by all senders of the channel together. Each bounds its own
	// by its room.
	takenAhead = 16_384
	// parkers is how many jobs that find no room are put off at a time, while others are taken.
	parkers = 32
	// askFor and heartbeat are how long one request for jobs stands, and how often NATS says that it does.
	askFor    = 10 * time.Second
	heartbeat = 2 * time.Second
	takeAgain = time.Second
	// streamsWithin is how long a stream may be missing after the start before that is worth a warning: pushcore makes them, and
	// may start at the same time.
	streamsWithin = 30 * time.Second
	// storedWithin bounds the wait for JetStream to store a report or a retry.
	storedWithin = 5 * time.Second
)

// take takes jobs of one stream until ctx ends, through outages of NATS.
func (s *Sender) take(ctx context.Context, stream, filter string, taking *atomic.Bool, wg *sync.WaitGroup) {
	begun := time.Now()
	for ctx.Err() == nil {
		err := s.takeFrom(ctx, stream, filter, taking, wg)
		if ctx.Err() == nil {
			taking.Store(false)
			level := slog.LevelWarn
			if errors.Is(err, jetstream.ErrStreamNotFound) && time.Since(begun) < streamsWithin {
				level = slog.LevelDebug
			}
			s.log.Log(ctx, level, "jobs wait", "stream", stream, "error", err)
			pause(ctx, takeAgain)
		}
	}
}

func (s *Sender) takeFrom(ctx context.Context, stream, filter string, taking *atomic.Bool, wg *sync.WaitGroup) error {
	consumer, err := s.js.CreateOrUpdateConsumer(ctx, stream, jetstream.ConsumerConfig{
		Durable: "sender-" + s.vendor.Channel(), FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxAckPending: takenAhead,
	})
	if err != nil {
		return fmt.Errorf("make consumer: %w", err)
	}
	messages, err := consumer.Messages(
		jetstream.PullMaxMessages(64), jetstream.PullExpiry(askFor), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return fmt.Errorf("take jobs: %w", err)
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	taking.Store(true)
	parking := make(chan struct{}, parkers)
	for {
		msg, err := messages.Next()
		if err != nil {
			return fmt.Errorf("take jobs: %w", err)
		}
		job := &senderv1.Job{}
		if err := proto.Unmarshal(msg.Data(), job); err != nil || job.GetChannel() != s.vendor.Channel() {
			s.metrics.malformed.Inc()
			s.log.ErrorContext(ctx, "a job that cannot be read is thrown away; pushcore issues it again", "error", err)
			_ = msg.Term() // it comes again otherwise, which is the same
			continue
		}
		s.begin(ctx, msg, job, parking, wg)
	}
}

// begin works on a job in the background, if its app has room. Else it is parked: stored again, to come back when there is
// likely to be room, so that it is not held here and does not count as taken.
func (s *Sender) begin(ctx context.Context, msg jetstream.Msg, job *senderv1.Job, parking chan struct{}, wg *sync.WaitGroup) {
	t, n := s.tenant(job.GetApp()), len(job.GetTargets())
	back, ok := t.enter(time.Now(), n)
	if !ok {
		s.metrics.parked.WithLabelValues("share").Inc()
		parked := &settled{}
		parked.later(job.GetTargets(), back, false)
		parking <- struct{}{} // given back within storedWithin
		wg.Go(func() {
			defer func() { <-parking }()
			s.settle(ctx, msg, job, parked)
		})
		return
	}
	wg.Go(func() {
		defer t.leave(n)
		// What has begun is finished when the process stops: a request that was sent must be reported.
		working := context.WithoutCancel(ctx)
		done := s.keepOurs(msg)
		defer done()
		s.settle(working, msg, job, s.attempt(working, job, t, ctx.Done()))
	})
}

// keepOurs tells JetStream that a job is being worked on until stop is called.
func (s *Sender) keepOurs(msg jetstream.Msg) (stop func()) {
	done := make(chan struct{})
	go func() {
		ticker := time.NewTicker(ackWait / 3)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				_ = msg.InProgress() // lost: somebody else may do it, too, with the same ids
			}
		}
	}()
	return sync.OnceFunc(func() { close(done) })
}

// settle reports what is known, stores what is to be tried again as a new message, and then lets go of the old one. If that
// fails the job comes again as it was, after a while; the requests then carry the same ids.
func (s *Sender) settle(ctx context.Context, msg jetstream.Msg, job *senderv1.Job, out *settled) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storedWithin)
	defer cancel()
	err := s.report(ctx, job, out)
	for _, part := range out.again {
		err = errors.Join(err, s.retry(ctx, job, part))
	}
	if err == nil {
		err = msg.DoubleAck(ctx)
	}
	if err != nil {
		s.metrics.unsettled.Inc()
		s.log.WarnContext(ctx, "a job comes again", "app", job.GetAppId(), "error", err)
	}
}

func (s *Sender) report(ctx context.Context, job *senderv1.Job, out *settled) error {
	report := &senderv1.Report{
		App: job.GetApp(), PushId: job.GetPushId(), Slice: job.GetSlice(), Audience: job.GetAudience(), Channel: job.GetChannel(),
		Results: out.results, Attempts: job.GetAttempts() + 1, Job: job.GetJob(),
	}
	for _, part := range out.again {
		if part.at.After(report.GetAgainAt().AsTime()) {
			report.AgainAt = timestamppb.New(part.at)
		}
	}
	for _, result := range out.results {
		s.metrics.reported[result.GetOutcome()].Inc()
	}
	return s.publish(ctx, subject.Report(job.GetApp()), report, nil)
}

// retry stores a message that NATS delivers when its time has come: nothing is held meanwhile.
func (s *Sender) retry(ctx context.Context, job *senderv1.Job, part *again) error {
	later := &senderv1.Job{
		App: job.GetApp(), AppId: job.GetAppId(), PushId: job.GetPushId(), Slice: job.GetSlice(), Audience: job.GetAudience(),
		Channel: job.GetChannel(), Content: job.GetContent(), ExpiresAt: job.GetExpiresAt(), NotBefore: timestamppb.New(part.at),
		Attempts: job.GetAttempts(), Targets: part.targets, Trace: job.GetTrace(), Job: job.GetJob(),
	}
	if part.counted {
		later.Attempts++
		s.metrics.retries.Inc()
	}
	return s.publish(ctx, subject.Retry(job.GetChannel(), uuid.NewString()), later, nats.Header{
		// NATS's own helper cuts off the fraction, which is too early.
		"Nats-Schedule":        {"@at " + part.at.UTC().Format(time.RFC3339Nano)},
		"Nats-Schedule-Target": {subject.Due(job.GetChannel(), job.GetApp())},
	})
}

func (s *Sender) publish(ctx context.Context, to string, m proto.Message, header nats.Header) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode for %s: %w", to, err)
	}
	if _, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: to, Data: data, Header: header}); err != nil {
		return fmt.Errorf("store on %s: %w", to, err)
	}
	return nil
}

package sender

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	// takenAhead bounds the jobs that are taken and not settled, of all apps.
	takenAhead = 1024
	// askFor and heartbeat are how long one request for jobs stands, and how often NATS says that it does.
	askFor    = 10 * time.Second
	heartbeat = 2 * time.Second
	takeAgain = time.Second
	// storedWithin bounds the wait for JetStream to store a report or a retry.
	storedWithin = 5 * time.Second
)

// take takes jobs of one stream until ctx ends, through outages of NATS.
func (s *Sender) take(ctx context.Context, stream, filter string, wg *sync.WaitGroup) {
	for ctx.Err() == nil {
		err := s.takeFrom(ctx, stream, filter, wg)
		if ctx.Err() == nil {
			s.taking.Store(false)
			s.log.WarnContext(ctx, "jobs wait", "stream", stream, "error", err)
			pause(ctx, takeAgain)
		}
	}
}

func (s *Sender) takeFrom(ctx context.Context, stream, filter string, wg *sync.WaitGroup) error {
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
	s.taking.Store(true)
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
		s.begin(ctx, msg, job, wg)
	}
}

// begin works on a job in the background, if its app has room; else it is parked.
func (s *Sender) begin(ctx context.Context, msg jetstream.Msg, job *senderv1.Job, wg *sync.WaitGroup) {
	t := s.tenant(job.GetApp())
	if !t.enter() {
		s.metrics.parked.WithLabelValues("share").Inc()
		parked := &settled{}
		parked.later(job.GetTargets(), time.Now().Add(jitter(parkFor)), false)
		s.settle(ctx, msg, job, parked)
		return
	}
	wg.Go(func() {
		defer t.leave()
		// What has begun is finished when the process stops: a request that was sent must be reported.
		ctx := context.WithoutCancel(ctx)
		stop := s.keepOurs(msg)
		defer stop()
		s.settle(ctx, msg, job, s.attempt(ctx, job))
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
	err := errors.Join(s.report(ctx, job, out), s.retry(ctx, job, out))
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
	if len(out.retry) > 0 {
		report.AgainAt = timestamppb.New(out.at)
	}
	return s.publish(ctx, subject.Report(job.GetApp()), report, nil)
}

// retry stores a message that NATS delivers when its time has come: nothing is held meanwhile.
func (s *Sender) retry(ctx context.Context, job *senderv1.Job, out *settled) error {
	if len(out.retry) == 0 {
		return nil
	}
	again := proto.CloneOf(job)
	again.Targets, again.NotBefore = out.retry, timestamppb.New(out.at)
	if out.counted {
		again.Attempts++
	}
	s.metrics.retries.Inc()
	return s.publish(ctx, subject.Retry(job.GetChannel(), uuid.NewString()), again, nats.Header{
		// NATS's own helper cuts off the fraction, which is too early.
		"Nats-Schedule":        {"@at " + out.at.UTC().Format(time.RFC3339Nano)},
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

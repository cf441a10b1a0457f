package pushcoretest

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/subject"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

// Sender is a scripted sender of one channel: the NATS user sender, and the credentials over the internal contract. It takes
// jobs and reports nothing by itself.
type Sender struct {
	// Credentials is the internal contract; calls need Auth.
	Credentials senderv1.CredentialServiceClient
	NATS        *nats.Conn

	channel string
	js      jetstream.JetStream
	jobs    chan *Job
	checks  chan *Check
}

// Job is a job as a sender gets it; it was acknowledged when it came.
type Job struct {
	*senderv1.Job
	sender *Sender
}

// Check is a request to try a candidate out.
type Check struct {
	*senderv1.Check
	msg *nats.Msg
}

// Sender starts a sender of a channel, which goes when the test ends.
func (c *Core) Sender(t testing.TB, name string) *Sender {
	t.Helper()
	s := &Sender{
		channel: name, Credentials: senderv1.NewCredentialServiceClient(c.InternalConn),
		jobs: make(chan *Job, queue), checks: make(chan *Check, queue),
	}
	conn, err := natsbus.Connect("test-sender",
		natsbus.Config{URL: c.NATS.URL(), User: "sender", Password: passwords["sender"]},
		slog.New(slog.DiscardHandler), natsbus.Events{})
	if err != nil {
		t.Fatal(err)
	}
	s.NATS = conn
	if s.js, err = jetstream.New(conn); err != nil {
		t.Fatal(err)
	}
	_, err = conn.QueueSubscribe(subject.Check(name), "senders", func(m *nats.Msg) {
		var check senderv1.Check
		if proto.Unmarshal(m.Data, &check) == nil {
			s.checks <- &Check{&check, m}
		}
	})
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			s.take(ctx) // until the stream is gone; then again
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		conn.Close()
	})
	return s
}

// take takes jobs off the stream until it fails or ctx ends.
func (s *Sender) take(ctx context.Context) {
	pause, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	consumer, err := s.js.CreateOrUpdateConsumer(ctx, subject.StreamSend, jetstream.ConsumerConfig{
		Durable: s.channel, FilterSubject: subject.SendChannel(s.channel), AckPolicy: jetstream.AckExplicitPolicy,
	})
	if err != nil {
		<-pause.Done()
		return
	}
	messages, err := consumer.Messages(jetstream.PullHeartbeat(500*time.Millisecond), jetstream.PullExpiry(time.Second))
	if err != nil {
		<-pause.Done()
		return
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	for {
		msg, err := messages.Next()
		if err != nil {
			return
		}
		var job senderv1.Job
		if proto.Unmarshal(msg.Data(), &job) == nil {
			s.jobs <- &Job{&job, s}
		}
		_ = msg.Ack() // one that is lost comes again
	}
}

// Auth returns a context whose calls carry the service token.
func (s *Sender) Auth(ctx context.Context) context.Context { return As(ctx, ServiceToken) }

// NextJob waits for the next job.
func (s *Sender) NextJob(t testing.TB) *Job {
	t.Helper()
	return next(t, s.channel+" job", s.jobs)
}

// Jobs are the jobs as they come.
func (s *Sender) Jobs() <-chan *Job { return s.jobs }

// NextCheck waits for the next request to try a candidate out.
func (s *Sender) NextCheck(t testing.TB) *Check {
	t.Helper()
	return next(t, s.channel+" check", s.checks)
}

// Answer answers a check.
func (c *Check) Answer(t testing.TB, answer *senderv1.Checked) {
	t.Helper()
	respond(t, c.msg, answer)
}

// PushID returns the id of the job's push.
func (j *Job) PushID() string { return uuid.UUID(j.GetPushId()).String() }

// Report reports the same outcome for all targets.
func (j *Job) Report(t testing.TB, outcome senderv1.Outcome) {
	t.Helper()
	var results []*senderv1.Result
	for _, target := range j.GetTargets() {
		results = append(results, ResultOf(target, outcome))
	}
	j.ReportResults(t, results...)
}

// ResultOf returns what became of a target.
func ResultOf(target *senderv1.Target, outcome senderv1.Outcome) *senderv1.Result {
	return &senderv1.Result{
		Ordinal: proto.Uint64(target.GetOrdinal()), Token: target.GetToken(), Outcome: outcome, Code: "scripted",
	}
}

// ReportResults reports results of the job.
func (j *Job) ReportResults(t testing.TB, results ...*senderv1.Result) {
	t.Helper()
	j.sender.Report(t, &senderv1.Report{
		App: j.GetApp(), PushId: j.GetPushId(), Slice: j.GetSlice(), Audience: j.GetAudience(), Channel: j.GetChannel(),
		Results: results, Attempts: 1, Job: j.GetJob(),
	})
}

// Receipt reports a vendor's receipt for a token of the job: it does not name the device.
func (j *Job) Receipt(t testing.TB, token string, outcome senderv1.Outcome) {
	t.Helper()
	j.sender.Report(t, &senderv1.Report{
		App: j.GetApp(), PushId: j.GetPushId(), Slice: j.GetSlice(), Audience: j.GetAudience(), Channel: j.GetChannel(),
		Results: []*senderv1.Result{{Token: token, Outcome: outcome, Code: "scripted"}},
	})
}

// Report publishes a report and waits until JetStream has it.
func (s *Sender) Report(t testing.TB, r *senderv1.Report) {
	t.Helper()
	data, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	Eventually(t, "JetStream has the report", func() bool {
		ack, err := s.NATS.Request(subject.Report(r.GetApp()), data, time.Second)
		return err == nil && len(ack.Data) > 0
	})
}

// SetChannel gives the app a credential for a channel that nobody checks.
func (a *App) SetChannel(t testing.TB, name string) {
	t.Helper()
	credential, err := structpb.NewStruct(map[string]any{"secret": "credential-of-" + name})
	if err != nil {
		t.Fatal(err)
	}
	sender := a.core.checker(t, name)
	defer sender()
	_, err = a.core.Apps.SetChannel(AsAdmin(t.Context()), &adminv1.SetChannelRequest{
		App: a.ID, Channel: name, Credential: credential, Unchecked: true,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// checker answers checks of a channel until the returned function is called, so that nobody waits for one.
func (c *Core) checker(t testing.TB, name string) (stop func()) {
	t.Helper()
	conn, err := natsbus.Connect("test-checker",
		natsbus.Config{URL: c.NATS.URL(), User: "sender", Password: passwords["sender"]},
		slog.New(slog.DiscardHandler), natsbus.Events{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Subscribe(subject.Check(name), func(m *nats.Msg) { _ = m.Respond(nil) }) // empty: it works
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return conn.Close
}

// RegisterWith makes an active device that has a token of each of these channels: TokenOf.
func (a *App) RegisterWith(t testing.TB, channels ...string) *Device {
	t.Helper()
	d := a.Register(t)
	for _, name := range channels {
		d.ReportToken(t, name, TokenOf(d, name))
	}
	return d
}

// TokenOf returns the token that RegisterWith gives a device for a channel.
func TokenOf(d *Device, name string) string { return name + "-token-of-" + d.Token }

// ReportToken reports a channel token; an empty one takes it away.
func (d *Device) ReportToken(t testing.TB, name, token string) {
	t.Helper()
	d.Call(t, "report", fmt.Sprintf(`{"channel_tokens":[{"channel":%q,"token":%q,"app_package":"com.example"}]}`, name, token))
}

// By sets the channel policy.
func By(way pushv1.Policy_Channel) PushOption {
	return func(r *pushv1.PushRequest) { r.Policy.Channel = way }
}

// Without disables channels for the push.
func Without(channels ...string) PushOption {
	return func(r *pushv1.PushRequest) { r.Policy.DisabledChannels = channels }
}

// WaitChannel waits until a delivery's last attempt went by a channel with an outcome, and returns it.
func (a *App) WaitChannel(
	t testing.TB, id string, d *Device, name string, outcome pushv1.Delivery_Attempt_Outcome,
) *pushv1.Delivery {
	t.Helper()
	var last *pushv1.Delivery
	Eventually(t, fmt.Sprintf("%s went by %s (%s) to %s", id, name, outcome, d.Token), func() bool {
		last = a.Delivery(t, id, d)
		n := len(last.GetAttempts())
		return last.GetChannel() == name && n > 0 && last.GetAttempts()[n-1].GetOutcome() == outcome
	})
	return last
}

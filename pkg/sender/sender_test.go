package sender_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/natsbus/natsserver"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/pkg/subject"
	"github.com/halleypush/halley/pkg/telemetry"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

const (
	patience = 30 * time.Second
	password = "testpassword"
)

// vendor is a push service that does as the test says.
type vendor struct {
	limits sender.Limits
	send   func(ctx context.Context, key string, m *sender.Message) []sender.Result

	mu    sync.Mutex
	calls []*sender.Message
}

type key struct{ text string }

func (key) ExpiresAt() time.Time { return time.Time{} }

func (*vendor) Channel() string         { return "fcm" }
func (v *vendor) Limits() sender.Limits { return v.limits }

func (*vendor) Parse(text []byte) (sender.Credential, error) {
	var c struct{ Key string }
	if err := json.Unmarshal(text, &c); err != nil || c.Key == "" {
		return nil, &sender.FieldError{Field: "key", Problem: "is missing"}
	}
	return key{c.Key}, nil
}

func (*vendor) Check(_ context.Context, c sender.Credential) (string, error) {
	if c.(key).text == "void" {
		return "", errors.New("the vendor refuses it")
	}
	return "", nil
}

func (v *vendor) Send(ctx context.Context, c sender.Credential, m *sender.Message) []sender.Result {
	v.mu.Lock()
	v.calls = append(v.calls, m)
	v.mu.Unlock()
	return v.send(ctx, c.(key).text, m)
}

func (v *vendor) Broadcast(_ context.Context, c sender.Credential, call *senderv1.Check) ([]string, sender.Result, error) {
	if call.GetBroadcast() != nil {
		return nil, sender.Result{}, &sender.FieldError{Field: "content_state", Problem: "too long"}
	}
	return []string{"channel"}, v.send(context.Background(), c.(key).text, &sender.Message{Targets: []sender.Target{{Token: "channel"}}})[0], nil
}

func (*vendor) Receipts(_ sender.Credential, r *http.Request, body []byte) ([]sender.Receipt, []byte, error) {
	if r.Header.Get("Signature") != "good" {
		return nil, nil, sender.ErrForged
	}
	tag, token, _ := strings.Cut(string(body), " ")
	return []sender.Receipt{{Tag: tag, Token: token, What: sender.ReceiptArrived, Code: "0"}}, []byte("thanks"), nil
}

func (v *vendor) seen() []*sender.Message {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]*sender.Message{}, v.calls...)
}

// all returns the same result for every target.
func all(m *sender.Message, r sender.Result) []sender.Result {
	results := make([]sender.Result, len(m.Targets))
	for i := range results {
		results[i] = r
	}
	return results
}

// core is pushcore, as a sender sees it.
type core struct {
	senderv1.UnimplementedCredentialServiceServer

	mu      sync.Mutex
	keys    map[uint32]string
	asked   int
	changes chan []uint32
}

func (c *core) GetCredential(_ context.Context, r *senderv1.GetCredentialRequest) (*senderv1.GetCredentialResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	text, ok := c.keys[r.GetApp()]
	if !ok {
		return nil, status.Error(codes.NotFound, "none")
	}
	return &senderv1.GetCredentialResponse{
		Credential: []byte(text), Version: 1, ReceiptSecret: strings.Repeat("5", 32), AppId: fmt.Sprintf("app%d", r.GetApp()),
	}, nil
}

func (c *core) WatchCredentials(_ *senderv1.WatchCredentialsRequest, stream grpc.ServerStreamingServer[senderv1.WatchCredentialsResponse]) error {
	c.mu.Lock()
	first := &senderv1.WatchCredentialsResponse{Ids: map[uint32]string{}}
	for app := range c.keys {
		first.Ids[app] = fmt.Sprintf("app%d", app)
	}
	c.mu.Unlock()
	if err := stream.Send(first); err != nil {
		return err
	}
	for {
		select {
		case apps := <-c.changes:
			if err := stream.Send(&senderv1.WatchCredentialsResponse{Apps: apps}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (c *core) set(app uint32, text string) {
	c.mu.Lock()
	c.keys[app] = text
	c.mu.Unlock()
}

// rig is a sender with NATS, a scripted vendor and a scripted pushcore.
type rig struct {
	*sender.Sender
	core    *core
	vendor  *vendor
	js      jetstream.JetStream
	conn    *nats.Conn
	reports chan *senderv1.Report
	start   func() (stop func())
}

func newRig(t *testing.T, v *vendor, change func(*sender.Config)) *rig {
	t.Helper()
	server, err := natsserver.Start(natsserver.Options{
		StoreDir: t.TempDir(), Listen: "127.0.0.1:0",
		Passwords: map[string]config.Secret{"pushcore": password, "gateway": password, "sender": password},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	r := &rig{core: &core{keys: map[uint32]string{1: `{"key":"k1"}`, 2: `{"key":"k2"}`}, changes: make(chan []uint32)}, vendor: v}
	r.reports = make(chan *senderv1.Report, 1000)
	r.conn, err = natsbus.Connect("test", natsbus.Config{URL: server.URL(), User: "pushcore", Password: password},
		slog.New(slog.DiscardHandler), natsbus.Events{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.conn.Close)
	r.streams(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rpc := grpc.NewServer()
	senderv1.RegisterCredentialServiceServer(rpc, r.core)
	go func() { _ = rpc.Serve(listener) }() // ends with Stop
	t.Cleanup(rpc.Stop)
	if v.limits.Batch == 0 {
		v.limits = sender.Limits{Batch: 10, Concurrency: 4, MaxTTL: time.Hour}
	}
	r.start = func() func() {
		c := sender.Config{
			Pushcore: listener.Addr().String(), ServiceToken: "test-service-token",
			NATS:      natsbus.Config{URL: server.URL(), User: "sender", Password: password},
			Telemetry: telemetry.Config{Listen: "127.0.0.1:0", LogLevel: "error"},
		}
		if err := config.Defaults(&c); err != nil {
			t.Fatal(err)
		}
		c.FirstRetry, c.LongestRetry, c.Receipts, c.PublicURL = 50*time.Millisecond, time.Second, "127.0.0.1:0", "https://push.test"
		if change != nil {
			change(&c)
		}
		return r.run(t, c)
	}
	t.Cleanup(r.start())
	return r
}

func (r *rig) run(t *testing.T, c sender.Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	if r.Sender, err = sender.New(ctx, c, r.vendor); err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func(s *sender.Sender) { ended <- s.Run(ctx) }(r.Sender) // a test may start another
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the sender ended with %v", err)
		}
	})
}

// streams makes what pushcore makes, and takes the reports.
func (r *rig) streams(t *testing.T) {
	t.Helper()
	var err error
	if r.js, err = jetstream.New(r.conn); err != nil {
		t.Fatal(err)
	}
	for _, c := range []jetstream.StreamConfig{
		{Name: subject.StreamSend, Subjects: []string{"send.>"}},
		{Name: subject.StreamRetries, Subjects: []string{"retry.>"}, AllowMsgSchedules: true},
		{Name: subject.StreamReports, Subjects: []string{"receipt.v.*"}},
	} {
		c.Retention = jetstream.WorkQueuePolicy
		if _, err := r.js.CreateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	consumer, err := r.js.CreateConsumer(t.Context(), subject.StreamReports, jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	consuming, err := consumer.Consume(func(msg jetstream.Msg) {
		report := &senderv1.Report{}
		if err := proto.Unmarshal(msg.Data(), report); err != nil {
			t.Error(err)
		}
		r.reports <- report
		_ = msg.Ack() // it would come again
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(consuming.Stop)
}

// job publishes a job for n targets and returns it.
func (r *rig) job(t *testing.T, app uint32, n int, change func(*senderv1.Job)) *senderv1.Job {
	t.Helper()
	id := uuid.New()
	j := &senderv1.Job{
		App: app, AppId: fmt.Sprintf("app%d", app), PushId: id[:], Slice: 3, Channel: "fcm", Job: 7,
		ExpiresAt: timestamppb.New(time.Now().Add(time.Hour)),
		Content:   &senderv1.Content{Notification: &pushv1.Notification{Title: "Hi", Body: "there"}},
	}
	for i := range n {
		j.Targets = append(j.Targets, &senderv1.Target{Ordinal: uint64(i), Token: fmt.Sprintf("t%d", i), Environment: "production"})
	}
	if change != nil {
		change(j)
	}
	data, err := proto.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.js.Publish(t.Context(), subject.Send("fcm", app), data); err != nil {
		t.Fatal(err)
	}
	return j
}

// results waits for the results of n targets of an app, and returns how many have which outcome.
func (r *rig) results(t *testing.T, app uint32, n int) map[senderv1.Outcome]int {
	t.Helper()
	got := map[senderv1.Outcome]int{}
	timeout := time.After(patience)
	for have := 0; have < n; {
		select {
		case report := <-r.reports:
			if report.GetApp() != app {
				continue
			}
			for _, result := range report.GetResults() {
				got[result.GetOutcome()]++
				have++
			}
		case <-timeout:
			t.Fatalf("only %v of %d results came", got, n)
		}
	}
	return got
}

func wantOutcomes(t *testing.T, got map[senderv1.Outcome]int, outcome senderv1.Outcome, n int) {
	t.Helper()
	if got[outcome] != n || len(got) != 1 {
		t.Errorf("the results are %v, not %d times %v", got, n, outcome)
	}
}

func TestAJobIsSentInBatchesAndReported(t *testing.T) {
	t.Parallel()
	v := &vendor{send: func(_ context.Context, _ string, m *sender.Message) []sender.Result {
		return all(m, sender.Result{Outcome: sender.Accepted, VendorID: "v1"})
	}}
	r := newRig(t, v, nil)
	r.job(t, 1, 25, func(j *senderv1.Job) {
		j.Targets[3].Environment = "sandbox"
		j.Targets[4].User = "u_1"
		j.ExpiresAt = timestamppb.New(time.Now().Add(48 * time.Hour))
	})
	wantOutcomes(t, r.results(t, 1, 25), senderv1.Outcome_OUTCOME_ACCEPTED, 25)
	ids := map[string]bool{}
	for _, m := range v.seen() {
		if len(m.Targets) > 10 || m.Sandbox && len(m.Targets) != 1 || m.User != "" && len(m.Targets) != 1 {
			t.Errorf("a request has %d targets, sandbox %v, user %q", len(m.Targets), m.Sandbox, m.User)
		}
		if m.TTL != time.Hour || m.Notification.GetTitle() != "Hi" || !strings.HasPrefix(m.ReceiptURL, "https://push.test/receipts/fcm/app1/") {
			t.Errorf("the message is %+v", m)
		}
		ids[m.ID] = true
	}
	if len(ids) != len(v.seen()) || len(ids) != 5 { // 10, 10, 3 and the two that differ
		t.Errorf("%d requests with %d ids", len(v.seen()), len(ids))
	}
}

func TestWhatFailsIsTriedAgainWithTheSameIDAndGivenUpInTheEnd(t *testing.T) {
	t.Parallel()
	v := &vendor{}
	v.send = func(_ context.Context, _ string, m *sender.Message) []sender.Result {
		results := all(m, sender.Result{Outcome: sender.Retry, Code: "503"})
		if len(v.seen()) > 1 { // the second time one works
			results[0] = sender.Result{Outcome: sender.Accepted}
		}
		return results
	}
	r := newRig(t, v, func(c *sender.Config) { c.Tries = 3 })
	r.job(t, 1, 2, nil)
	got := r.results(t, 1, 2)
	if got[senderv1.Outcome_OUTCOME_ACCEPTED] != 2 {
		// one is accepted at the second attempt, the other is alone at the third, and its first there
		t.Errorf("the results are %v", got)
	}
	calls := v.seen()
	if len(calls) != 3 || calls[0].ID != calls[1].ID || len(calls[2].Targets) != 1 {
		t.Errorf("%d calls", len(calls))
	}
	v.send = func(_ context.Context, _ string, m *sender.Message) []sender.Result {
		return all(m, sender.Result{Outcome: sender.Retry, Code: "500"})
	}
	r.job(t, 2, 1, nil)
	wantOutcomes(t, r.results(t, 2, 1), senderv1.Outcome_OUTCOME_GIVEN_UP, 1)
}

func TestNobodyIsTriedAfterThePushHasExpired(t *testing.T) {
	t.Parallel()
	v := &vendor{send: func(_ context.Context, _ string, m *sender.Message) []sender.Result {
		return all(m, sender.Result{Outcome: sender.Retry, After: time.Hour})
	}}
	r := newRig(t, v, nil)
	r.job(t, 1, 1, func(j *senderv1.Job) { j.ExpiresAt = timestamppb.New(time.Now().Add(-time.Second)) })
	wantOutcomes(t, r.results(t, 1, 1), senderv1.Outcome_OUTCOME_EXPIRED, 1)
	if len(v.seen()) != 0 {
		t.Error("the vendor was asked")
	}
	r.job(t, 1, 1, func(j *senderv1.Job) { j.ExpiresAt = timestamppb.New(time.Now().Add(time.Minute)) })
	wantOutcomes(t, r.results(t, 1, 1), senderv1.Outcome_OUTCOME_EXPIRED, 1)
}

func TestABadCredentialIsFetchedAnewOnceAndThenReported(t *testing.T) {
	t.Parallel()
	v := &vendor{send: func(_ context.Context, key string, m *sender.Message) []sender.Result {
		if key == "new" {
			return all(m, sender.Result{Outcome: sender.Accepted})
		}
		return all(m, sender.Result{Outcome: sender.CredentialBad, Code: "403"})
	}}
	r := newRig(t, v, func(c *sender.Config) { c.CredentialWait = 0 })
	r.job(t, 1, 2, nil)
	wantOutcomes(t, r.results(t, 1, 2), senderv1.Outcome_OUTCOME_CREDENTIAL_BAD, 2)
	if n := len(v.seen()); n != 2 {
		t.Errorf("the vendor was asked %d times", n)
	}
	r.core.set(1, `{"key":"new"}`)
	r.core.changes <- []uint32{1}
	begun := time.Now()
	for got := 0; got < 2; { // jobs may overtake the news
		if time.Since(begun) > patience {
			t.Fatal("the credential that was set is not used")
		}
		r.job(t, 1, 2, nil)
		got = r.results(t, 1, 2)[senderv1.Outcome_OUTCOME_ACCEPTED]
	}
	r.job(t, 9, 1, nil)
	wantOutcomes(t, r.results(t, 9, 1), senderv1.Outcome_OUTCOME_CREDENTIAL_BAD, 1)
}

func TestOneAppsTroubleStopsNoOther(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	v := &vendor{send: func(ctx context.Context, key string, m *sender.Message) []sender.Result {
		if key == "k1" { // a vendor that hangs for this app
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return all(m, sender.Result{Outcome: sender.Accepted})
	}}
	r := newRig(t, v, nil)
	for range 100 {
		r.job(t, 1, 5, nil)
	}
	for range 20 {
		r.job(t, 2, 5, nil)
	}
	wantOutcomes(t, r.results(t, 2, 100), senderv1.Outcome_OUTCOME_ACCEPTED, 100)
	close(release)
	wantOutcomes(t, r.results(t, 1, 500), senderv1.Outcome_OUTCOME_ACCEPTED, 500)
}

func TestAnOpenBreakerLeavesTheVendorAlone(t *testing.T) {
	t.Parallel()
	v := &vendor{limits: sender.Limits{Batch: 1, Concurrency: 1}}
	v.send = func(_ context.Context, _ string, m *sender.Message) []sender.Result {
		if len(v.seen()) <= 3 {
			return all(m, sender.Result{Outcome: sender.Retry, Code: "503"})
		}
		return all(m, sender.Result{Outcome: sender.Accepted})
	}
	r := newRig(t, v, func(c *sender.Config) { c.BreakerAfter, c.BreakerFor = 3, time.Second })
	r.job(t, 1, 30, nil)
	wantOutcomes(t, r.results(t, 1, 30), senderv1.Outcome_OUTCOME_ACCEPTED, 30)
	if n := len(v.seen()); n != 33 {
		t.Errorf("the vendor was asked %d times for 30 devices and 3 failures", n)
	}
}

func TestASpentQuotaWaitsForTheNextDayOrIsReported(t *testing.T) {
	t.Parallel()
	v := &vendor{send: func(_ context.Context, _ string, m *sender.Message) []sender.Result {
		return all(m, sender.Result{Outcome: sender.QuotaSpent})
	}}
	r := newRig(t, v, nil)
	r.job(t, 1, 1, func(j *senderv1.Job) { j.ExpiresAt = timestamppb.New(time.Now().Add(time.Second * 2)) })
	wantOutcomes(t, r.results(t, 1, 1), senderv1.Outcome_OUTCOME_QUOTA_SPENT, 1)
	r.job(t, 1, 1, func(j *senderv1.Job) { j.ExpiresAt = timestamppb.New(time.Now().Add(72 * time.Hour)) })
	select {
	case report := <-r.reports:
		if again := report.GetAgainAt().AsTime(); len(report.GetResults()) != 0 || time.Until(again) < 0 || time.Until(again) > 25*time.Hour {
			t.Errorf("the report is %v", report)
		}
	case <-time.After(patience):
		t.Fatal("no report")
	}
	if n := len(v.seen()); n != 1 {
		t.Errorf("the vendor was asked %d times", n)
	}
}

func TestACredentialIsCheckedBeforeItIsUsed(t *testing.T) {
	t.Parallel()
	r := newRig(t, &vendor{}, nil)
	for text, want := range map[string]*senderv1.Checked{
		`{}`:             {Field: "key", Error: "is missing"},
		`{"key":"void"}`: {Error: "the vendor refuses it"},
		`{"key":"good"}`: {},
	} {
		r.core.set(5, text)
		data, err := proto.Marshal(&senderv1.Check{App: 5})
		if err != nil {
			t.Fatal(err)
		}
		got := &senderv1.Checked{}
		deadline := time.Now().Add(patience)
		for {
			reply, err := r.conn.Request(subject.Check("fcm"), data, time.Second)
			if err == nil {
				if err := proto.Unmarshal(reply.Data, got); err != nil {
					t.Fatal(err)
				}
				break
			}
			if time.Now().After(deadline) { // it listens soon
				t.Fatal(err)
			}
		}
		if !proto.Equal(got, want) {
			t.Errorf("%s is %v, not %v", text, got, want)
		}
	}
}

func TestAStopFinishesWhatHasBegun(t *testing.T) {
	t.Parallel()
	begun, release := make(chan struct{}, 10), make(chan struct{})
	v := &vendor{send: func(_ context.Context, _ string, m *sender.Message) []sender.Result {
		begun <- struct{}{}
		<-release
		return all(m, sender.Result{Outcome: sender.Accepted})
	}}
	r := newRig(t, v, nil)
	stop := r.start() // a second one beside the first: jobs go to either
	r.job(t, 1, 3, nil)
	<-begun
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	close(release)
	wantOutcomes(t, r.results(t, 1, 3), senderv1.Outcome_OUTCOME_ACCEPTED, 3)
	<-stopped
}

package senders

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/halleypush/halley/bench/internal/site"
	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/subject"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

const (
	appID     = "bench"
	appNumber = 7
	// unsampled is the trace of a call that is not sampled, as most are not.
	unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
)

// office is pushcore as senders know it: it gives out credentials, issues jobs and takes reports, and keeps no ledger.
type office struct {
	senderv1.UnimplementedCredentialServiceServer

	address string // of its gRPC server
	server  *grpc.Server
	nats    *nats.Conn
	js      jetstream.JetStream

	mu          sync.Mutex
	credentials map[string][]byte // guarded by mu: by channel
	pushID      []byte            // guarded by mu: the id of the push under way
	left        int               // guarded by mu: its devices without a result
	failed      error             // guarded by mu
	done        chan struct{}     // guarded by mu: closed when left is 0 or it has failed
}

var _ senderv1.CredentialServiceServer = (*office)(nil)

// openOffice starts it on a nats-server. Close it.
func openOffice(ctx context.Context, natsURL string) (_ *office, err error) {
	o := &office{credentials: map[string][]byte{}, server: grpc.NewServer()}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o.address = listener.Addr().String()
	senderv1.RegisterCredentialServiceServer(o.server, o)
	go func() { _ = o.server.Serve(listener) }() // until close
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	o.nats, err = natsbus.Connect("bench-office",
		natsbus.Config{URL: natsURL, User: "pushcore", Password: config.Secret(site.Password)}, slog.New(slog.DiscardHandler), natsbus.Events{})
	if err != nil {
		return nil, err
	}
	if o.js, err = jetstream.New(o.nats); err != nil {
		return nil, err
	}
	return o, o.makeStreams(ctx)
}

// makeStreams makes the streams as pushcore does, and takes reports.
func (o *office) makeStreams(ctx context.Context) error {
	for _, c := range []jetstream.StreamConfig{
		{Name: subject.StreamSend, Subjects: []string{"send.>"}, Duplicates: 10 * time.Minute},
		{Name: subject.StreamRetries, Subjects: []string{"retry.>"}, AllowMsgSchedules: true},
		{Name: subject.StreamReports, Subjects: []string{"receipt.v.*"}},
	} {
		c.Retention, c.Storage = jetstream.WorkQueuePolicy, jetstream.FileStorage
		if _, err := o.js.CreateStream(ctx, c); err != nil {
			return fmt.Errorf("stream %s: %w", c.Name, err)
		}
	}
	reports, err := o.js.CreateConsumer(ctx, subject.StreamReports, jetstream.ConsumerConfig{Durable: "bench", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		return fmt.Errorf("consumer of reports: %w", err)
	}
	if _, err := reports.Consume(o.report); err != nil {
		return fmt.Errorf("take reports: %w", err)
	}
	return nil
}

func (o *office) close() {
	if o.nats != nil {
		o.nats.Close()
	}
	o.server.Stop()
}

// issue gives out a credential for a channel from now on.
func (o *office) issue(channel string, credential json.RawMessage) {
	o.mu.Lock()
	o.credentials[channel] = credential
	o.mu.Unlock()
}

// GetCredential implements the contract.
func (o *office) GetCredential(_ context.Context, r *senderv1.GetCredentialRequest) (*senderv1.GetCredentialResponse, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	credential := o.credentials[r.GetChannel()]
	if credential == nil || r.GetApp() != appNumber {
		return nil, status.Error(codes.NotFound, "there is one app")
	}
	return &senderv1.GetCredentialResponse{Credential: credential, Version: 1, AppId: appID}, nil
}

// WatchCredentials implements the contract: nothing changes.
func (o *office) WatchCredentials(_ *senderv1.WatchCredentialsRequest, stream grpc.ServerStreamingServer[senderv1.WatchCredentialsResponse]) error {
	if err := stream.Send(&senderv1.WatchCredentialsResponse{}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// push issues jobs for devices, and returns when all of them are reported as accepted.
func (o *office) push(ctx context.Context, channel string, perJob int, tokens []string) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	done := make(chan struct{})
	o.mu.Lock()
	o.pushID, o.left, o.failed, o.done = id[:], len(tokens), nil, done
	o.mu.Unlock()
	job := &senderv1.Job{
		Trace: unsampled,
		App:   appNumber, AppId: appID, PushId: id[:], Audience: true, Channel: channel, ExpiresAt: timestamppb.New(time.Now().Add(time.Hour)),
		Content: &senderv1.Content{
			Notification: &pushv1.Notification{Title: "Your order", Body: "It is on its way."}, Data: map[string]string{"order": "12345678"},
			SentAt: timestamppb.Now(),
		},
	}
	for targets := range slices.Chunk(tokens, perJob) {
		job.Job, job.Targets = job.GetJob()+1, nil
		for i, token := range targets {
			job.Targets = append(job.Targets, &senderv1.Target{
				Ordinal: job.GetJob()*uint64(perJob) + uint64(i), Token: token, Environment: "production", ReportedAt: timestamppb.Now(),
			})
		}
		data, err := proto.Marshal(job)
		if err != nil {
			return err
		}
		if _, err := o.js.PublishAsync(subject.Send(channel, appNumber), data); err != nil {
			return fmt.Errorf("issue a job: %w", err)
		}
	}
	select {
	case <-done:
	case <-ctx.Done():
		o.mu.Lock()
		defer o.mu.Unlock()
		return fmt.Errorf("%d of %d devices have no result: %w", o.left, len(tokens), ctx.Err())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failed
}

// report counts what became of devices.
func (o *office) report(m jetstream.Msg) {
	defer func() { _ = m.Ack() }() // a repeat is noticed: the simulator counts
	var r senderv1.Report
	if err := proto.Unmarshal(m.Data(), &r); err != nil {
		return // then devices have no result, which is seen
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if string(r.GetPushId()) != string(o.pushID) || o.left == 0 || o.failed != nil {
		return
	}
	for _, result := range r.GetResults() {
		if result.GetOutcome() != senderv1.Outcome_OUTCOME_ACCEPTED {
			o.failed = fmt.Errorf("a device is reported as %v: %s", result.GetOutcome(), result.GetCode())
		}
	}
	if o.left -= len(r.GetResults()); o.left <= 0 || o.failed != nil {
		close(o.done)
	}
}

package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/halleypush/halley/pkg/client"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is a server whose answers a test scripts: the next call gets the next one, the last one stays.
type service struct {
	pushv1.UnimplementedPushServiceServer
	pushv1.UnimplementedDeviceServiceServer
	pushv1.UnimplementedUserServiceServer
	adminv1.UnimplementedAdminServiceServer

	mu       sync.Mutex
	requests []proto.Message
	at       []time.Time
	keys     []string
	answers  []answer
}

type answer struct {
	reply proto.Message
	err   error
	hang  bool // until the caller gives up
}

func (s *service) intercept(ctx context.Context, request any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
	s.mu.Lock()
	md, _ := metadata.FromIncomingContext(ctx)
	s.keys = append(s.keys, md.Get("authorization")...)
	s.requests = append(s.requests, proto.Clone(request.(proto.Message)))
	s.at = append(s.at, time.Now())
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	s.mu.Unlock()
	if a.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return a.reply, a.err
}

// serve starts a server and returns its address.
func serve(t *testing.T, s *service, options ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(append(options, grpc.UnaryInterceptor(s.intercept))...)
	pushv1.RegisterPushServiceServer(g, s)
	pushv1.RegisterDeviceServiceServer(g, s)
	pushv1.RegisterUserServiceServer(g, s)
	adminv1.RegisterAdminServiceServer(g, s)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func dial(t *testing.T, s *service, options ...client.Option) *client.Client {
	t.Helper()
	options = append([]client.Option{client.WithPlaintext(), client.WithBackoff(time.Millisecond, 2*time.Millisecond)}, options...)
	c, err := client.New(serve(t, s), "sk_test", options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func refusal(code codes.Code, details ...proto.Message) error {
	s := status.New(code, "no")
	for _, d := range details {
		var err error
		if s, err = s.WithDetails(protoadapt.MessageV1Of(d)); err != nil {
			panic(err)
		}
	}
	return s.Err()
}

func later(d time.Duration) proto.Message {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(d)}
}

func key(request proto.Message) string {
	return request.(*pushv1.PushRequest).GetPolicy().GetIdempotencyKey()
}

func TestRepeatsOfAPushCarryOneIdempotencyKey(t *testing.T) {
	t.Parallel()
	for name, failures := range map[string][]answer{
		"unavailable":  {{err: refusal(codes.Unavailable)}, {err: refusal(codes.Unavailable)}},
		"told to wait": {{err: refusal(codes.ResourceExhausted, later(time.Millisecond))}},
		"no answer":    {{hang: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &service{answers: append(failures, answer{reply: &pushv1.PushResponse{PushId: "1"}})}
			c := dial(t, s, client.WithAttemptTimeout(200*time.Millisecond))
			request := &pushv1.PushRequest{App: "demo"}
			response, err := c.Push(t.Context(), request)
			if err != nil || response.GetPushId() != "1" || len(s.requests) != len(failures)+1 {
				t.Fatalf("%v, %v after %d tries", response, err, len(s.requests))
			}
			for _, r := range s.requests {
				if len(key(r)) < 20 || key(r) != key(s.requests[0]) {
					t.Errorf("keys %q and %q", key(r), key(s.requests[0]))
				}
			}
			if request.GetPolicy() != nil {
				t.Error("the caller's request was changed")
			}
			if _, err := c.Push(t.Context(), request); err != nil || key(s.requests[len(s.requests)-1]) == key(s.requests[0]) {
				t.Errorf("another push: %v, its key is the first one's: %v", err, key(s.requests[0]))
			}
			for _, k := range s.keys {
				if k != "Bearer sk_test" {
					t.Errorf("shows %q", k)
				}
			}
		})
	}
}

func TestCallersKeyIsKept(t *testing.T) {
	t.Parallel()
	s := &service{answers: []answer{{reply: &pushv1.PushResponse{}}}}
	request := &pushv1.PushRequest{Policy: &pushv1.Policy{IdempotencyKey: "order-7"}}
	if _, err := dial(t, s).Push(t.Context(), request); err != nil || key(s.requests[0]) != "order-7" {
		t.Errorf("%v, key %q", err, key(s.requests[0]))
	}
}

func TestWhatIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	push := func(c *client.Client) error {
		_, err := c.Push(t.Context(), &pushv1.PushRequest{})
		return err
	}
	for name, tt := range map[string]struct {
		answer answer
		call   func(*client.Client) error
		tries  int
	}{
		"a refusal for good":       {answer{err: refusal(codes.InvalidArgument)}, push, 1},
		"exhausted without a wait": {answer{err: refusal(codes.ResourceExhausted)}, push, 1},
		"more than five times":     {answer{err: refusal(codes.Unavailable)}, push, 5},
		"a rotation that is lost": {answer{err: refusal(codes.Unavailable)}, func(c *client.Client) error {
			_, err := c.Devices().RotateSecret(t.Context(), &pushv1.RotateSecretRequest{})
			return err
		}, 1},
		"but a rotation that was refused": {
			answer{err: refusal(codes.ResourceExhausted, later(time.Millisecond))},
			func(c *client.Client) error {
				_, err := c.Devices().RotateSecret(t.Context(), &pushv1.RotateSecretRequest{})
				return err
			}, 5,
		},
		"and a bind that is lost": {answer{err: refusal(codes.Unavailable)}, func(c *client.Client) error {
			_, err := c.Users().Bind(t.Context(), &pushv1.BindRequest{})
			return err
		}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &service{answers: []answer{tt.answer}}
			err := tt.call(dial(t, s))
			if status.Code(err) != status.Code(tt.answer.err) || len(s.requests) != tt.tries {
				t.Errorf("%v after %d tries", err, len(s.requests))
			}
		})
	}
}

func TestServersPauseIsKept(t *testing.T) {
	t.Parallel()
	s := &service{answers: []answer{
		{err: refusal(codes.ResourceExhausted, later(150*time.Millisecond))}, {reply: &pushv1.PushResponse{}},
	}}
	if _, err := dial(t, s).Push(t.Context(), &pushv1.PushRequest{}); err != nil {
		t.Fatal(err)
	}
	if pause := s.at[1].Sub(s.at[0]); pause < 150*time.Millisecond {
		t.Errorf("tried again after %v", pause)
	}
}

func TestPauseBeyondTheDeadlineIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	s := &service{answers: []answer{{err: refusal(codes.ResourceExhausted, later(time.Hour))}}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begin := time.Now()
	_, err := dial(t, s).Push(ctx, &pushv1.PushRequest{})
	if status.Code(err) != codes.ResourceExhausted || time.Since(begin) > 30*time.Second {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
}

func TestBatchSendsAgainOnlyWhatWasRefusedForNow(t *testing.T) {
	t.Parallel()
	accepted := func(id string) *pushv1.PushBatchResponse_Result {
		return &pushv1.PushBatchResponse_Result{
			Outcome: &pushv1.PushBatchResponse_Result_Accepted{Accepted: &pushv1.PushResponse{PushId: id}},
		}
	}
	refused := func(err error) *pushv1.PushBatchResponse_Result {
		return &pushv1.PushBatchResponse_Result{
			Outcome: &pushv1.PushBatchResponse_Result_Error{Error: status.Convert(err).Proto()},
		}
	}
	bad, wait := refusal(codes.InvalidArgument), refusal(codes.ResourceExhausted, later(time.Millisecond))
	s := &service{answers: []answer{
		{err: refusal(codes.Unavailable)},
		{reply: &pushv1.PushBatchResponse{Results: []*pushv1.PushBatchResponse_Result{
			refused(bad), refused(wait), accepted("2"), refused(refusal(codes.Unavailable)),
		}}},
		{reply: &pushv1.PushBatchResponse{Results: []*pushv1.PushBatchResponse_Result{accepted("1"), refused(wait)}}},
		{reply: &pushv1.PushBatchResponse{Results: []*pushv1.PushBatchResponse_Result{accepted("3")}}},
	}}
	request := &pushv1.PushBatchRequest{App: "demo"}
	for _, title := range []string{"0", "1", "2", "3"} {
		request.Pushes = append(request.Pushes, &pushv1.PushRequest{Notification: &pushv1.Notification{Title: title}})
	}
	response, err := dial(t, s).PushBatch(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range response.GetResults() {
		got = append(got, r.GetAccepted().GetPushId())
	}
	if diff := cmp.Diff([]string{"", "1", "2", "3"}, got); diff != "" {
		t.Error(diff)
	}
	var sent [][]string
	keys := map[string]string{}
	for _, r := range s.requests {
		var titles []string
		for _, p := range r.(*pushv1.PushBatchRequest).GetPushes() {
			title := p.GetNotification().GetTitle()
			titles = append(titles, title)
			if keys[title] == "" {
				keys[title] = key(p)
			}
			if keys[title] != key(p) || len(key(p)) < 20 {
				t.Errorf("push %s goes with %q, then with %q", title, keys[title], key(p))
			}
		}
		sent = append(sent, titles)
	}
	all := []string{"0", "1", "2", "3"}
	if diff := cmp.Diff([][]string{all, all, {"1", "3"}, {"3"}}, sent); diff != "" {
		t.Error(diff)
	}
	if len(keys) != 4 || keys["0"] == keys["1"] {
		t.Errorf("keys %v", keys)
	}
}

func TestListsGoFromPageToPage(t *testing.T) {
	t.Parallel()
	s := &service{answers: []answer{
		{reply: &pushv1.ListDeliveriesResponse{Deliveries: []*pushv1.Delivery{{Device: "a"}, {Device: "b"}}, NextPageToken: "2"}},
		{reply: &pushv1.ListDeliveriesResponse{NextPageToken: "3"}},
		{reply: &pushv1.ListDeliveriesResponse{Deliveries: []*pushv1.Delivery{{Device: "c"}}, NextPageToken: "4"}},
		{err: refusal(codes.NotFound)},
	}}
	var devices []string
	var last error
	request := &pushv1.ListDeliveriesRequest{App: "demo", PushId: "p", PageSize: 2}
	for d, err := range dial(t, s).ListDeliveries(t.Context(), request) {
		if err != nil {
			last = err
			continue
		}
		devices = append(devices, d.GetDevice())
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, devices); diff != "" || status.Code(last) != codes.NotFound {
		t.Errorf("%s, %v", diff, last)
	}
	var tokens []string
	for _, r := range s.requests {
		r := r.(*pushv1.ListDeliveriesRequest)
		tokens = append(tokens, r.GetPageToken())
		if r.GetPageSize() != 2 || r.GetPushId() != "p" {
			t.Errorf("asked %v", r)
		}
	}
	if diff := cmp.Diff([]string{"", "2", "3", "4"}, tokens); diff != "" || request.GetPageToken() != "" {
		t.Error(diff)
	}
}

func TestListsCanBeLeft(t *testing.T) {
	t.Parallel()
	s := &service{answers: []answer{{reply: &pushv1.ListPushesResponse{Pushes: []*pushv1.Push{{PushId: "1"}, {}}, NextPageToken: "2"}}}}
	c := dial(t, s)
	for p, err := range c.ListPushes(t.Context(), &pushv1.ListPushesRequest{App: "demo"}) {
		if err != nil || p.GetPushId() != "1" {
			t.Errorf("%v, %v", p, err)
		}
		break
	}
	s.answers = []answer{{reply: &pushv1.ListDevicesResponse{Devices: []*pushv1.Device{{Token: "t"}}}}}
	for d, err := range c.ListDevices(t.Context(), &pushv1.ListDevicesRequest{App: "demo"}) {
		if err != nil || d.GetToken() != "t" {
			t.Errorf("%v, %v", d, err)
		}
	}
	s.answers = []answer{{reply: &pushv1.GetPushResponse{Push: &pushv1.Push{PushId: "7"}}}}
	if p, err := c.GetPush(t.Context(), "demo", "7"); err != nil || p.GetPushId() != "7" {
		t.Errorf("%v, %v", p, err)
	}
	if len(s.requests) != 3 {
		t.Errorf("%d calls", len(s.requests))
	}
}

func TestAdminShowsItsToken(t *testing.T) {
	t.Parallel()
	s := &service{answers: []answer{
		{reply: &adminv1.ListAppsResponse{Apps: []*adminv1.App{{App: "demo"}}}},
		{err: refusal(codes.Unavailable)},
	}}
	a, err := client.NewAdmin(serve(t, s), "ak_test", client.WithPlaintext())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	for app, err := range a.Apps(t.Context()) {
		if err != nil || app.GetApp() != "demo" {
			t.Errorf("%v, %v", app, err)
		}
	}
	if _, err := a.CreateApp(t.Context(), &adminv1.CreateAppRequest{}); status.Code(err) != codes.Unavailable || len(s.requests) != 2 {
		t.Errorf("%v after %d calls", err, len(s.requests))
	}
	if s.keys[0] != "Bearer ak_test" {
		t.Errorf("shows %q", s.keys[0])
	}
}

func TestErrorsTellReasonAndFields(t *testing.T) {
	t.Parallel()
	err := refusal(codes.InvalidArgument, &errdetails.ErrorInfo{Reason: "INVALID_FIELD", Domain: "halley"},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "policy.ttl", Description: "too long"}}})
	if got := client.Reason(err); got != "INVALID_FIELD" {
		t.Errorf("reason %q", got)
	}
	if diff := cmp.Diff([]client.Violation{{Field: "policy.ttl", Description: "too long"}}, client.Violations(err)); diff != "" {
		t.Error(diff)
	}
	for _, plain := range []error{nil, errors.New("x"), refusal(codes.Internal)} {
		if client.Reason(plain) != "" || client.Violations(plain) != nil {
			t.Errorf("%v has a reason or fields", plain)
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	site := httptest.NewUnstartedServer(nil) // for its certificate
	site.StartTLS()
	t.Cleanup(site.Close)
	s := &service{answers: []answer{{reply: &pushv1.PushResponse{PushId: "1"}}}}
	addr := serve(t, s, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: site.TLS.Certificates, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12,
	})))
	roots := x509.NewCertPool()
	roots.AddCert(site.Certificate())
	c, err := client.New(addr, "sk_test", client.WithTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.Push(t.Context(), &pushv1.PushRequest{}); err != nil || s.keys[0] != "Bearer sk_test" {
		t.Errorf("%v, shows %v", err, s.keys)
	}
	distrustful, err := client.New(addr, "sk_test", client.WithAttempts(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { distrustful.Close() })
	if _, err := distrustful.Push(t.Context(), &pushv1.PushRequest{}); status.Code(err) != codes.Unavailable || len(s.requests) != 1 {
		t.Errorf("an unknown authority: %v", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	if _, err := client.New("127.0.0.1:1", ""); err == nil {
		t.Error("took no key")
	}
	for name, o := range map[string]client.Option{
		"attempts": client.WithAttempts(0), "timeout": client.WithAttemptTimeout(0), "pauses": client.WithBackoff(2, 1),
	} {
		if _, err := client.New("127.0.0.1:1", "sk_test", o); err == nil {
			t.Errorf("took wrong %s", name)
		}
	}
}

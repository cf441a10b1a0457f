package gatewaytest

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/token"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
)

// What the scripted pushcore's only app is.
const (
	App       = "demo"
	AppNumber = 7
	ClientKey = "ck_test"
)

// Script is what a test puts in place of the pushcore's own answers. A nil field leaves the own answer. Functions run in a
// goroutine of their own for each call, so that they may block.
type Script struct {
	Lease    func(*gatewayv1.RenewLeaseRequest) (*gatewayv1.RenewLeaseResponse, error)
	App      func(*gatewayv1.GetAppRequest) (*gatewayv1.GetAppResponse, error)
	Register func(*gatewayv1.RegisterRequest) (*gatewayv1.RegisterResponse, error)
	// Batch answers a batch of sessions; nil: not at all. Core.Answer is the own answer.
	Batch func(*gatewayv1.SessionsRequest) *gatewayv1.SessionsResponse
	// Open says what an Open is answered.
	Open  func(*gatewayv1.Open) gatewayv1.Opened_Status
	Calls func(*gatewayv1.CallsRequest) (*gatewayv1.CallsResponse, error)
}

// Core is a scripted pushcore: a gRPC server, and the NATS user pushcore. By itself it grants leases, registers devices,
// opens every session, keeps pushes until their receipts come, and says ok to calls.
type Core struct {
	gatewayv1.UnimplementedGatewayServiceServer

	// Saw is what the gateway asked, and the receipts that it published.
	Saw struct {
		Leases    *Record[*gatewayv1.RenewLeaseRequest]
		Opens     *Record[*gatewayv1.Open]
		Pulls     *Record[*gatewayv1.Pull]
		Closes    *Record[*gatewayv1.Close]
		Calls     *Record[*gatewayv1.Call]
		Registers *Record[*gatewayv1.RegisterRequest]
		Receipts  *Record[Receipt]
	}

	codec  *token.Codec
	others map[string]other // further apps by id, before the gateway starts asking for them
	nats   *nats.Conn
	listen string

	mu       sync.Mutex
	script   Script                    // guarded by mu
	settings *gatewayv1.GetAppResponse // guarded by mu
	identity string                    // guarded by mu: of the database
	lapsed   map[uint32]bool           // guarded by mu: numbers of incarnations that are over
	last     uint64                    // guarded by mu: ordinal that was given
	installs map[string]uint64         // guarded by mu: ordinals by install_id
	routes   map[uint64]route          // guarded by mu: by ordinal
	kept     map[uint64][]kept         // guarded by mu: by ordinal, oldest first
	server   *grpc.Server              // guarded by mu: nil while it is away
	streams  map[*sessions]struct{}    // guarded by mu
	alive    *gatewayv1.Incarnation    // guarded by mu: the one with a lease
	serving  sync.WaitGroup
}

// lease is how long leases hold: long enough that they do not lapse by themselves on a busy machine. The gateway renews three
// times as often.
const lease = 3 * time.Second

func newCore(t testing.TB, n *NATS) *Core {
	t.Helper()
	c := &Core{
		identity: "first", lapsed: map[uint32]bool{}, installs: map[string]uint64{}, routes: map[uint64]route{},
		kept: map[uint64][]kept{}, streams: map[*sessions]struct{}{}, listen: "127.0.0.1:0",
	}
	c.Saw.Leases = newRecord[*gatewayv1.RenewLeaseRequest]()
	c.Saw.Opens = newRecord[*gatewayv1.Open]()
	c.Saw.Pulls = newRecord[*gatewayv1.Pull]()
	c.Saw.Closes = newRecord[*gatewayv1.Close]()
	c.Saw.Calls = newRecord[*gatewayv1.Call]()
	c.Saw.Registers = newRecord[*gatewayv1.RegisterRequest]()
	c.Saw.Receipts = newRecord[Receipt]()
	c.setUpApp(t)
	conn, err := natsbus.Connect("test-pushcore",
		natsbus.Config{URL: n.URL(), User: "pushcore", Password: passwords["pushcore"]}, slog.New(slog.DiscardHandler), natsbus.Events{})
	if err != nil {
		t.Fatal(err)
	}
	c.nats = conn
	t.Cleanup(conn.Close)
	c.takeReceipts(t)
	c.Come(t)
	t.Cleanup(c.Leave)
	return c
}

// other is a further app.
type other struct {
	codec    *token.Codec
	settings *gatewayv1.GetAppResponse
}

// AddApp adds an app. Devices must not have asked for it before.
func (c *Core) AddApp(t testing.TB, id string, number uint32) {
	t.Helper()
	codec, settings := newApp(t, number)
	c.others[id] = other{codec, settings}
}

// NewDeviceOf registers a device of a further app.
func (c *Core) NewDeviceOf(t testing.TB, app string) Device {
	t.Helper()
	d := c.NewDevice(t)
	o := c.others[app]
	var err error
	if d.Token, err = o.codec.Token('a', d.Ordinal); err == nil {
		d.Secret, err = o.codec.Secret(d.Token, d.Generation)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.App = o.settings.GetNumber()
	return d
}

func (c *Core) setUpApp(t testing.TB) {
	t.Helper()
	c.others = map[string]other{}
	c.codec, c.settings = newApp(t, AppNumber)
}

func newApp(t testing.TB, number uint32) (*token.Codec, *gatewayv1.GetAppResponse) {
	t.Helper()
	keys, err := token.Derive(make([]byte, token.MasterSize), 'a', number)
	if err != nil {
		t.Fatal(err)
	}
	codec, err := token.NewCodec(number, keys)
	if err != nil {
		t.Fatal(err)
	}
	return codec, &gatewayv1.GetAppResponse{
		Number:    number,
		Keys:      []*gatewayv1.GetAppResponse_Keys{{Letter: "a", TokenKey: keys.TokenKey[:], SecretKey: keys.SecretKey[:]}},
		KeepAlive: durationpb.New(270 * time.Second), KeepAliveMin: durationpb.New(30 * time.Second),
		KeepAliveMax: durationpb.New(600 * time.Second), AckTimeout: durationpb.New(10 * time.Second),
	}
}

// Address returns where the gRPC server is.
func (c *Core) Address() string { return c.listen }

// Come starts the gRPC server again after Leave, on the same port.
func (c *Core) Come(t testing.TB) {
	t.Helper()
	var listener net.Listener
	Eventually(t, "the port is free", func() bool {
		var err error
		listener, err = net.Listen("tcp", c.listen)
		return err == nil
	})
	c.listen = listener.Addr().String()
	server := grpc.NewServer()
	gatewayv1.RegisterGatewayServiceServer(server, c)
	c.mu.Lock()
	c.server = server
	c.mu.Unlock()
	c.serving.Go(func() { _ = server.Serve(listener) }) // it ends with Leave
}

// Leave stops the gRPC server: connections break, and nobody answers.
func (c *Core) Leave() {
	c.mu.Lock()
	server := c.server
	c.server = nil
	c.mu.Unlock()
	if server != nil {
		server.Stop()
		c.serving.Wait()
	}
}

// Script changes what the pushcore answers from now on.
func (c *Core) Script(change func(*Script)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.script)
}

func (c *Core) scripted() Script {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.script
}

// Settings changes what the pushcore says of its app. Gateways hear of it when they ask next, or from Changed.
func (c *Core) Settings(change func(*gatewayv1.GetAppResponse)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := proto.CloneOf(c.settings)
	change(changed)
	c.settings = changed
}

// SetDatabaseIdentity changes what leases say of the database.
func (c *Core) SetDatabaseIdentity(identity string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.identity = identity
}

// Lapse ends the gateway's incarnation: it is told so with its next renewal or batch.
func (c *Core) Lapse() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lapsed[c.alive.GetNumber()] = true
}

// Incarnation returns the gateway's incarnation that has a lease, nil if none has.
func (c *Core) Incarnation() *gatewayv1.Incarnation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alive
}

func authenticate(ctx context.Context) error {
	m, _ := metadata.FromIncomingContext(ctx)
	if values := m.Get("authorization"); len(values) != 1 || values[0] != "Bearer "+ServiceToken {
		return status.Error(codes.Unauthenticated, "no service token")
	}
	return nil
}

// RenewLease implements the contract.
func (c *Core) RenewLease(ctx context.Context, r *gatewayv1.RenewLeaseRequest) (*gatewayv1.RenewLeaseResponse, error) {
	if err := authenticate(ctx); err != nil {
		return nil, err
	}
	defer c.Saw.Leases.add(r)
	if answer := c.scripted().Lease; answer != nil {
		return answer(r)
	}
	return c.AnswerLease(r), nil
}

// AnswerLease is the pushcore's own answer to a renewal.
func (c *Core) AnswerLease(r *gatewayv1.RenewLeaseRequest) *gatewayv1.RenewLeaseResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	number := r.GetIncarnation().GetNumber()
	response := &gatewayv1.RenewLeaseResponse{Lease: durationpb.New(lease), DatabaseIdentity: c.identity}
	switch {
	case c.lapsed[number]:
		response.Status = gatewayv1.RenewLeaseResponse_LAPSED
	case r.GetEnding():
		c.lapsed[number] = true
		response.Status = gatewayv1.RenewLeaseResponse_LAPSED
	case r.GetNatsRoundTripAge().AsDuration() > 5*time.Second:
		response.Status = gatewayv1.RenewLeaseResponse_NO_PROOF
	default:
		c.alive = r.GetIncarnation()
		response.Status = gatewayv1.RenewLeaseResponse_LIVE
	}
	return response
}

// GetApp implements the contract.
func (c *Core) GetApp(ctx context.Context, r *gatewayv1.GetAppRequest) (*gatewayv1.GetAppResponse, error) {
	if err := authenticate(ctx); err != nil {
		return nil, err
	}
	if answer := c.scripted().App; answer != nil {
		return answer(r)
	}
	if o, ok := c.others[r.GetApp()]; ok {
		return o.settings, nil
	}
	if r.GetApp() != App {
		return nil, status.Error(codes.NotFound, "no such app")
	}
	return c.AnswerApp(), nil
}

// AnswerApp returns what the pushcore says of its app.
func (c *Core) AnswerApp() *gatewayv1.GetAppResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settings
}

// Calls implements the contract.
func (c *Core) Calls(ctx context.Context, r *gatewayv1.CallsRequest) (*gatewayv1.CallsResponse, error) {
	if err := authenticate(ctx); err != nil {
		return nil, err
	}
	c.Saw.Calls.add(r.GetCalls()...)
	if answer := c.scripted().Calls; answer != nil {
		return answer(r)
	}
	response := &gatewayv1.CallsResponse{}
	for range r.GetCalls() {
		response.Results = append(response.Results, &gatewayv1.CallsResponse_Result{Ok: true, Json: []byte(`{}`)})
	}
	return response, nil
}

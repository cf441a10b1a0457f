package api

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/pushcore/internal/dispatch"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/keep"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
	"github.com/halleypush/halley/services/pushcore/internal/route"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
)

var _ gatewayv1.GatewayServiceServer = (*Gateways)(nil)

const (
	// batchesAtOnce is how many batches of one stream are worked on at a time; further ones wait in the stream, which slows
	// the gateway down.
	batchesAtOnce = 8
	// answerBytes is how large one part of an answer gets.
	answerBytes = 1 << 20
	// callsAtOnce is how many calls of one batch run side by side.
	callsAtOnce = 16
)

// Gateways serves halley.gateway.v1.GatewayService.
type Gateways struct {
	gatewayv1.UnimplementedGatewayServiceServer

	apps     *registry.Apps
	devices  *registry.Devices
	leases   *route.Leases
	sessions *route.Sessions
	keeper   *keep.Keeper
	phones   *Phones
	poker    *dispatch.Poker
	pool     *pgxpool.Pool
	stopping <-chan struct{}
	log      *slog.Logger
}

// NewGateways returns the gateway service. pool is that of the open plane; stopping is closed when the process stops.
func NewGateways(
	apps *registry.Apps, devices *registry.Devices, leases *route.Leases, sessions *route.Sessions, keeper *keep.Keeper,
	phones *Phones, poker *dispatch.Poker, pool *pgxpool.Pool, stopping <-chan struct{}, log *slog.Logger,
) *Gateways {
	return &Gateways{
		apps: apps, devices: devices, leases: leases, sessions: sessions, keeper: keeper, phones: phones, poker: poker,
		pool: pool, stopping: stopping, log: log,
	}
}

// RenewLease keeps an incarnation alive, or ends it.
func (g *Gateways) RenewLease(
	ctx context.Context, r *gatewayv1.RenewLeaseRequest,
) (*gatewayv1.RenewLeaseResponse, error) {
	by := route.FromProto(r.GetIncarnation())
	if len(by.Gateway) != 16 || by.Number == 0 {
		return nil, fault.Invalid("incarnation", "must name a gateway by 16 characters and a number from 1 on")
	}
	if r.GetEnding() {
		return &gatewayv1.RenewLeaseResponse{Status: gatewayv1.RenewLeaseResponse_LAPSED}, g.leases.End(ctx, by)
	}
	if r.GetNatsRoundTripAge() == nil || r.GetNatsRoundTripAge().AsDuration() > route.Lease {
		return &gatewayv1.RenewLeaseResponse{
			Status: gatewayv1.RenewLeaseResponse_NO_PROOF, Lease: durationpb.New(route.Lease),
		}, nil
	}
	identity, err := g.leases.Renew(ctx, by, r)
	if errors.Is(err, route.ErrLapsed) {
		return &gatewayv1.RenewLeaseResponse{Status: gatewayv1.RenewLeaseResponse_LAPSED}, nil
	}
	if err != nil {
		return nil, err
	}
	response := &gatewayv1.RenewLeaseResponse{
		Status: gatewayv1.RenewLeaseResponse_LIVE, Lease: durationpb.New(route.Lease), DatabaseIdentity: identity,
	}
	if r.GetDraining() && r.GetRevision() != "" {
		if response.Behind, err = g.leases.Behind(ctx, r.GetRevision()); err != nil {
			return nil, err
		}
	}
	return response, nil
}

// GetApp returns an app's number, device keys and settings.
func (g *Gateways) GetApp(ctx context.Context, r *gatewayv1.GetAppRequest) (*gatewayv1.GetAppResponse, error) {
	app, err := g.apps.Get(ctx, r.GetApp())
	if err != nil {
		return nil, err
	}
	response := &gatewayv1.GetAppResponse{
		Number: app.No, KeepAlive: app.Settings.GetKeepAlive(), KeepAliveMin: app.Settings.GetKeepAliveMin(),
		KeepAliveMax: app.Settings.GetKeepAliveMax(), AckTimeout: app.Settings.GetAckTimeout(),
	}
	for _, k := range app.Keys {
		response.Keys = append(response.Keys, &gatewayv1.GetAppResponse_Keys{
			Letter: string(k.Letter), TokenKey: k.TokenKey[:], SecretKey: k.SecretKey[:],
		})
	}
	return response, nil
}

// Register makes a device.
func (g *Gateways) Register(ctx context.Context, r *gatewayv1.RegisterRequest) (*gatewayv1.RegisterResponse, error) {
	if err := validate(r.GetDevice()); err != nil {
		return nil, err
	}
	c, err := g.phones.Register(ctx, r.GetDevice(), r.GetRemoteIp())
	if err != nil {
		return nil, err
	}
	return &gatewayv1.RegisterResponse{Token: c.Token, Secret: c.Secret, Ordinal: c.Ordinal, Generation: c.Generation}, nil
}

// Calls runs what devices ask for, side by side.
func (g *Gateways) Calls(ctx context.Context, r *gatewayv1.CallsRequest) (*gatewayv1.CallsResponse, error) {
	results := make([]*gatewayv1.CallsResponse_Result, len(r.GetCalls()))
	slots := make(chan struct{}, callsAtOnce)
	var wg sync.WaitGroup
	for i, call := range r.GetCalls() {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			results[i] = g.call(ctx, call)
		})
	}
	wg.Wait()
	return &gatewayv1.CallsResponse{Results: results}, nil
}

func (g *Gateways) call(ctx context.Context, call *gatewayv1.Call) *gatewayv1.CallsResponse_Result {
	app, err := g.apps.ByNumber(ctx, call.GetApp())
	if err == nil {
		var answer []byte
		if answer, err = g.phones.Call(ctx, app, call.GetOrdinal(), call.GetMethod(), call.GetJson()); err == nil {
			return &gatewayv1.CallsResponse_Result{Ok: true, Json: answer}
		}
	}
	s := toStatus(ctx, g.log.With("call", call.GetMethod()), err)
	return &gatewayv1.CallsResponse_Result{Json: encodeError(s)}
}

// Sessions works on a gateway's batches until the gateway ends the stream, or the process stops: then what has begun is
// finished, and the gateway opens another stream elsewhere.
func (g *Gateways) Sessions(
	stream grpc.BidiStreamingServer[gatewayv1.SessionsRequest, gatewayv1.SessionsResponse],
) error {
	ctx := stream.Context()
	slots := make(chan struct{}, batchesAtOnce)
	var sending sync.Mutex
	send := func(part *gatewayv1.SessionsResponse) error {
		sending.Lock()
		defer sending.Unlock()
		return stream.Send(part)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	requests, ended := receive(stream)
	for {
		select {
		case <-g.stopping:
			return status.Error(codes.Unavailable, "this pushcore stops; open the stream again")
		case err := <-ended:
			return ignoreEnd(err)
		case request := <-requests:
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				for _, part := range g.batch(ctx, request) {
					if send(part) != nil {
						return // the gateway is gone; it opens the sessions again
					}
				}
			})
		}
	}
}

// receive takes requests off a stream until it ends: at the latest when its handler returns.
func receive(
	stream grpc.BidiStreamingServer[gatewayv1.SessionsRequest, gatewayv1.SessionsResponse],
) (<-chan *gatewayv1.SessionsRequest, <-chan error) {
	requests, ended := make(chan *gatewayv1.SessionsRequest), make(chan error, 1)
	go func() {
		for {
			request, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- request:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	return requests, ended
}

// ignoreEnd returns nil for the ways in which a stream ends that are no failure.
func ignoreEnd(err error) error {
	if status.Code(err) == codes.Canceled || status.Code(err) == codes.Unknown {
		return nil
	}
	return err
}

// batch does what one batch asks for, and returns the parts of its answer.
func (g *Gateways) batch(ctx context.Context, r *gatewayv1.SessionsRequest) []*gatewayv1.SessionsResponse {
	answer := &sessionsAnswer{batch: r.GetBatch(), bodies: map[uuid.UUID]uint32{}}
	answer.begin()
	by := route.FromProto(r.GetIncarnation())
	err := g.closes(ctx, by, r.GetCloses())
	if err == nil {
		err = g.opens(ctx, by, r.GetOpens(), answer)
	}
	if err == nil {
		err = g.pulls(ctx, by, r.GetPulls(), answer)
	}
	switch {
	case errors.Is(err, route.ErrLapsed):
		return answer.failed(gatewayv1.SessionsResponse_LAPSED, 0)
	case err != nil:
		if !storage.Unavailable(err) && ctx.Err() == nil {
			g.log.ErrorContext(ctx, "sessions batch failed", "error", err)
		}
		return answer.failed(gatewayv1.SessionsResponse_UNAVAILABLE, time.Second)
	}
	return answer.end()
}

func (g *Gateways) closes(ctx context.Context, by route.Incarnation, closes []*gatewayv1.Close) error {
	if len(closes) == 0 {
		return nil
	}
	devices, sessions := make([]route.Device, len(closes)), make([]uint64, len(closes))
	for i, c := range closes {
		devices[i], sessions[i] = route.Device{App: c.GetApp(), Ordinal: c.GetOrdinal()}, c.GetSession()
	}
	return g.sessions.Close(ctx, by.Gateway, devices, sessions)
}

// opens stores the routes, in one commit; only then it reads what is kept, in statements of their own (rule 2).
func (g *Gateways) opens(
	ctx context.Context, by route.Incarnation, opens []*gatewayv1.Open, answer *sessionsAnswer,
) error {
	if len(opens) == 0 {
		return nil
	}
	asked := make([]route.Open, len(opens))
	for i, o := range opens {
		asked[i] = route.Open{
			Device:  route.Device{App: o.GetApp(), Ordinal: o.GetOrdinal()},
			Session: o.GetSession(), Generation: o.GetGeneration(), Age: o.GetAge().AsDuration(),
			Receiving: o.GetReceiving(), Returned: o.GetReturned(),
		}
	}
	openings, err := g.sessions.Open(ctx, by, asked)
	if err != nil {
		return err
	}
	if err := g.afterOpen(ctx, opens, openings); err != nil {
		return err
	}
	if err := g.lookAgain(ctx, asked, openings); err != nil {
		return err
	}
	var wants []keep.Want
	var index []int
	for i, o := range openings {
		if o.Outcome == route.Opened && asked[i].Receiving {
			wants = append(wants, keep.Want{
				Device: asked[i].Device, Limit: int(opens[i].GetLimit()), PermissionOff: !o.Notifications,
			})
			index = append(index, i)
		}
	}
	answers, err := g.keeper.Read(ctx, g.pool, wants)
	if err != nil {
		return err
	}
	kept := make([]keep.Answer, len(opens))
	for n, i := range index {
		kept[i] = answers[n]
	}
	for i, o := range openings {
		answer.opened(asked[i], o, kept[i], g.opaque(ctx, asked[i].App))
	}
	return nil
}

// afterOpen does what an open brings with it: reports are stored, devices that came back become active, and sessions that
// were replaced on other gateways are told.
func (g *Gateways) afterOpen(ctx context.Context, opens []*gatewayv1.Open, openings []route.Opening) error {
	var apps, activeApps []uint32
	var ordinals, activeOrdinals []uint64
	var reports []*devicev1.Report
	replaced := map[route.Device]route.Session{}
	for i, o := range openings {
		if o.Outcome != route.Opened {
			continue
		}
		open := opens[i]
		if report := open.GetReport(); report != nil && validate(report) == nil {
			apps, ordinals, reports = append(apps, open.GetApp()), append(ordinals, open.GetOrdinal()), append(reports, report)
		}
		if o.Provisional {
			activeApps, activeOrdinals = append(activeApps, open.GetApp()), append(activeOrdinals, open.GetOrdinal())
		}
		if o.Before != nil {
			replaced[route.Device{App: open.GetApp(), Ordinal: open.GetOrdinal()}] = *o.Before
		}
	}
	if len(reports) > 0 {
		if err := g.devices.ReportAll(ctx, apps, ordinals, reports); err != nil {
			return err
		}
	}
	if len(activeApps) > 0 {
		if err := g.devices.Activate(ctx, activeApps, activeOrdinals); err != nil {
			return err
		}
	}
	if len(replaced) > 0 {
		g.poker.Replaced(ctx, replaced)
	}
	return nil
}

// lookAgain reads the devices anew, now that their routes are committed: whoever removes a device, revokes a secret or
// switches notifications commits that, and then tells the device's route. One of the two sees the other.
func (g *Gateways) lookAgain(ctx context.Context, asked []route.Open, openings []route.Opening) error {
	var devices []route.Device
	for i, o := range openings {
		if o.Outcome == route.Opened {
			devices = append(devices, asked[i].Device)
		}
	}
	standings, err := g.devices.Standings(ctx, g.pool, devices)
	if err != nil {
		return err
	}
	for i := range openings {
		if openings[i].Outcome != route.Opened {
			continue
		}
		standing, found := standings[asked[i].Device]
		if !found || standing.Generation != asked[i].Generation {
			openings[i].Outcome = route.Gone
		}
		openings[i].Notifications = standing.Notifications
	}
	return nil
}

// pulls reads what is kept for sessions that are still the routes.
func (g *Gateways) pulls(
	ctx context.Context, by route.Incarnation, pulls []*gatewayv1.Pull, answer *sessionsAnswer,
) error {
	if len(pulls) == 0 {
		return nil
	}
	devices := make([]route.Device, len(pulls))
	for i, p := range pulls {
		devices[i] = route.Device{App: p.GetApp(), Ordinal: p.GetOrdinal()}
	}
	routes, err := g.sessions.Find(ctx, g.pool, devices)
	if err != nil {
		return err
	}
	standings, err := g.devices.Standings(ctx, g.pool, devices)
	if err != nil {
		return err
	}
	var wants []keep.Want
	var index []int
	open := make([]bool, len(pulls))
	for i, p := range pulls {
		r, ok := routes[devices[i]]
		if _, found := standings[devices[i]]; !ok || !found || r.Incarnation != by || r.Number != p.GetSession() {
			continue
		}
		open[i] = true
		after, err := uuid.FromBytes(p.GetAfter())
		if err != nil {
			after = uuid.Nil // from the oldest
		}
		wants = append(wants, keep.Want{
			Device: devices[i], After: after, Limit: int(p.GetLimit()), PermissionOff: !standings[devices[i]].Notifications,
		})
		index = append(index, i)
	}
	answers, err := g.keeper.Read(ctx, g.pool, wants)
	if err != nil {
		return err
	}
	kept := make([]keep.Answer, len(pulls))
	for n, i := range index {
		kept[i] = answers[n]
	}
	for i, p := range pulls {
		answer.pulled(p.GetSession(), open[i], kept[i], g.opaque(ctx, p.GetApp()))
	}
	return nil
}

// opaque returns the function that names an app's users to phones.
func (g *Gateways) opaque(ctx context.Context, no uint32) func(user string) string {
	return func(user string) string {
		app, err := g.apps.ByNumber(ctx, no) // read a moment ago, so cached
		if user == "" || err != nil {
			return ""
		}
		return g.phones.users.OpaqueID(app, user)
	}
}

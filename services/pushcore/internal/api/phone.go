package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/ordinal"
	"github.com/halleypush/halley/pkg/phonejson"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	devicev1 "github.com/halleypush/halley/proto/halley/device/v1"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/pushcore/internal/dispatch"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/keep"
	"github.com/halleypush/halley/services/pushcore/internal/keyring"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
	"github.com/halleypush/halley/services/pushcore/internal/route"
)

// Receipts applies steps and returns once they are committed.
type Receipts interface {
	ApplyDirect(ctx context.Context, entries []ledger.Entry) error
	ApplySlices(ctx context.Context, changes []ledger.SliceChange) error
}

// Phones answers what phones ask for, the same over their connection and over HTTPS.
type Phones struct {
	apps     *registry.Apps
	keys     *registry.Keys
	locate   func(token string) (app uint32, err error)
	devices  *registry.Devices
	users    *registry.Users
	keeper   *keep.Keeper
	pushes   *message.Store
	receipts Receipts
	pool     *pgxpool.Pool
	pokes    pokes
	log      *slog.Logger
}

// NewPhones returns the phones' calls. pool is that of the open plane.
func NewPhones(
	apps *registry.Apps, keys *registry.Keys, ring *keyring.Ring, devices *registry.Devices, users *registry.Users, keeper *keep.Keeper, pushes *message.Store, receipts Receipts,
	poker *dispatch.Poker, pool *pgxpool.Pool, log *slog.Logger,
) *Phones {
	return &Phones{
		apps: apps, keys: keys, locate: ring.AppOf, devices: devices, users: users, keeper: keeper, pushes: pushes, receipts: receipts, pool: pool,
		pokes: pokes{poker, pool, log}, log: log,
	}
}

// Register makes a device, or finds the one with the same install_id, for a phone that shows a client key of the app. Its report must
// not have an empty channel token, which is what a vendor's library that is not ready yet gives: the phone would wait for pushes in vain.
func (p *Phones) Register(
	ctx context.Context, r *devicev1.RegisterRequest, remoteIP string,
) (registry.Credentials, error) {
	for i, t := range r.GetReport().GetChannelTokens() {
		if t.GetToken() == "" {
			return registry.Credentials{}, fault.Invalid(fmt.Sprintf("channel_tokens[%d].token", i),
				"must not be empty: only a report removes a channel's token; leave out the channel until its vendor gives a token")
		}
	}
	wrong := errCredential(codes.Unauthenticated, "WRONG_KEY", "the app or its client key is unknown or revoked")
	key, err := p.keys.Check(ctx, r.GetClientKey())
	if fault.Is(err, "WRONG_KEY") {
		return registry.Credentials{}, wrong
	}
	if err != nil {
		return registry.Credentials{}, err
	}
	app, err := p.apps.ByNumber(ctx, key.AppNo)
	if err != nil {
		return registry.Credentials{}, err
	}
	if key.Kind != adminv1.Key_CLIENT || app.ID != r.GetApp() {
		return registry.Credentials{}, wrong
	}
	return p.devices.Register(ctx, app, r.GetInstallId(), remoteIP, r.GetReport())
}

// Call runs one call of a device that has proved itself. Request and answer are phone JSON. Methods are report, bind,
// unbind, tags and events.
func (p *Phones) Call(ctx context.Context, app *registry.App, number uint64, method string, body []byte) ([]byte, error) {
	var answer proto.Message
	var err error
	switch method {
	case "report":
		answer, err = p.report(ctx, app, number, body)
	case "bind":
		answer, err = p.bind(ctx, app, number, body)
	case "unbind":
		answer, err = p.unbind(ctx, app, number, body)
	case "events":
		answer, err = p.events(ctx, app, number, body)
	case "tags":
		err = fault.Unimplemented("", "the call %s is not built yet", method)
	default:
		err = fault.NotFound("NO_SUCH_CALL", "there is no call %q", method)
	}
	if err != nil {
		return nil, err
	}
	return phonejson.Marshal(answer)
}

// decode reads a call's body and checks the rules on its fields. An empty body is an empty object.
func decode(body []byte, into proto.Message) error {
	if len(body) == 0 {
		body = []byte("{}")
	}
	if err := phonejson.Unmarshal(body, into); err != nil {
		return malformed(err)
	}
	return validate(into)
}

func malformed(err error) error {
	var bad *phonejson.Error
	if errors.As(err, &bad) {
		return &fault.Error{
			Code: codes.InvalidArgument, Reason: "MALFORMED_JSON", Field: bad.Field, Message: bad.Message,
		}
	}
	return &fault.Error{Code: codes.InvalidArgument, Reason: "MALFORMED_JSON", Message: err.Error()}
}

func (p *Phones) report(ctx context.Context, app *registry.App, number uint64, body []byte) (proto.Message, error) {
	var report devicev1.Report
	if err := decode(body, &report); err != nil {
		return nil, err
	}
	notifications, changed, err := p.devices.Report(ctx, app, number, &report)
	if err != nil {
		return nil, err
	}
	if changed {
		action := gatewayv1.PokeRequest_Poke_PERMISSION_OFF
		if notifications {
			action = gatewayv1.PokeRequest_Poke_PERMISSION_ON
		}
		p.pokes.device(ctx, app, number, action)
	}
	return &devicev1.ReportResponse{}, nil
}

func (p *Phones) bind(ctx context.Context, app *registry.App, number uint64, body []byte) (proto.Message, error) {
	var bind devicev1.BindRequest
	if err := decode(body, &bind); err != nil {
		return nil, err
	}
	if err := p.users.CheckProof(ctx, app, bind.GetUser(), bind.GetProof()); err != nil {
		return nil, err
	}
	_, kept, err := p.users.Bind(ctx, app, bind.GetUser(), number)
	if err != nil {
		return nil, err
	}
	if kept {
		p.pokes.device(ctx, app, number, gatewayv1.PokeRequest_Poke_PULL)
	}
	return &devicev1.BindResponse{User: p.users.OpaqueID(app, bind.GetUser())}, nil
}

func (p *Phones) unbind(ctx context.Context, app *registry.App, number uint64, body []byte) (proto.Message, error) {
	var unbind devicev1.UnbindRequest
	if err := decode(body, &unbind); err != nil {
		return nil, err
	}
	if err := p.users.Unbind(ctx, app, unbind.GetUser(), number); err != nil {
		return nil, err
	}
	return &devicev1.UnbindResponse{}, nil
}

// eventSteps are the steps that a phone can report.
var eventSteps = map[devicev1.Event_Type]ledgerv1.Step{
	devicev1.Event_ARRIVED:   ledgerv1.Step_STEP_ARRIVED,
	devicev1.Event_SHOWN:     ledgerv1.Step_STEP_SHOWN,
	devicev1.Event_CLICKED:   ledgerv1.Step_STEP_CLICKED,
	devicev1.Event_DISMISSED: ledgerv1.Step_STEP_DISMISSED,
}

// events commits what happened to messages on the phone. Events about pushes that are not there (any more) are passed over:
// the phone has nothing to gain from hearing of it.
func (p *Phones) events(ctx context.Context, app *registry.App, number uint64, body []byte) (proto.Message, error) {
	request, err := phonejson.UnmarshalEvents(body)
	if err != nil {
		return nil, malformed(err)
	}
	if err := validate(request); err != nil {
		return nil, err
	}
	ids := make([]uuid.UUID, len(request.GetEvents()))
	for i, e := range request.GetEvents() {
		if ids[i], err = uuid.Parse(e.GetPushId()); err != nil {
			return nil, fault.Invalid(fmt.Sprintf("events[%d].push_id", i), "must be a UUID")
		}
	}
	pushes, err := p.pushes.Get(ctx, p.pool, ids)
	if err != nil {
		return nil, err
	}
	var entries []ledger.Entry
	var changes []ledger.SliceChange
	for i, e := range request.GetEvents() {
		push := pushes[ids[i]]
		if push == nil || push.App != app.No {
			continue
		}
		step := eventSteps[e.GetType()]
		if push.Slices == 0 {
			entries = append(entries, ledger.Entry{
				Key: message.Key{App: app.No, Ordinal: number, Push: push.ID}, Step: step,
			})
			continue
		}
		changes = append(changes, ledger.SliceChange{
			SliceKey: ledger.SliceKey{App: app.No, Push: push.ID, Slice: ordinal.Slice(number)},
			Step:     step, Bits: roaring.BitmapOf(ordinal.Low(number)),
		})
	}
	if len(entries) > 0 {
		if err := p.receipts.ApplyDirect(ctx, entries); err != nil {
			return nil, err
		}
	}
	if len(changes) > 0 {
		if err := p.receipts.ApplySlices(ctx, changes); err != nil {
			return nil, err
		}
	}
	return &devicev1.EventsResponse{}, nil
}

// Pending returns what is kept for a device, for phones that hold no connection.
func (p *Phones) Pending(ctx context.Context, app *registry.App, number uint64, limit int) ([]keep.Kept, error) {
	device, err := p.devices.Get(ctx, app, number)
	if err != nil {
		return nil, err
	}
	answers, err := p.keeper.Read(ctx, p.pool, []keep.Want{{
		Device: route.Device{App: app.No, Ordinal: number}, Limit: limit, PermissionOff: !device.Notifications,
	}})
	if err != nil {
		return nil, err
	}
	return answers[0].Kept, nil
}

// phoneError returns an error as phones see it.
func phoneError(s *status.Status) *devicev1.Error {
	shown := &devicev1.Error{Code: codeName(s.Code()), Message: s.Message()}
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.BadRequest:
			if v := d.GetFieldViolations(); len(v) > 0 {
				shown.Field = v[0].GetField()
				shown.Message = v[0].GetDescription()
			}
		case *errdetails.RetryInfo:
			shown.RetryAfterMs = d.GetRetryDelay().AsDuration().Milliseconds()
		}
	}
	return shown
}

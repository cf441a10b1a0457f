package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/halleypush/halley/pkg/channel"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/accept"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/keyring"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
)

var _ pushv1.PushServiceServer = (*Pushes)(nil)

// Pushes serves halley.push.v1.PushService.
type Pushes struct {
	pushv1.UnimplementedPushServiceServer

	accepter *accept.Accepter
	devices  *registry.Devices
	pushes   *message.Store
	ledger   *ledger.Ledger
	cursors  cursors
	log      *slog.Logger
}

// NewPushes returns the push service.
func NewPushes(
	accepter *accept.Accepter, devices *registry.Devices, pushes *message.Store, l *ledger.Ledger, ring *keyring.Ring,
	log *slog.Logger,
) *Pushes {
	return &Pushes{
		accepter: accepter, devices: devices, pushes: pushes, ledger: l, cursors: cursors{ring}, log: log,
	}
}

// Push accepts one push.
func (p *Pushes) Push(ctx context.Context, r *pushv1.PushRequest) (*pushv1.PushResponse, error) {
	if err := message.Check(r); err != nil {
		return nil, err
	}
	id, err := p.accepter.Push(ctx, appOf(ctx), r, traceparent(ctx))
	if err != nil {
		return nil, err
	}
	return &pushv1.PushResponse{PushId: id.String(), State: pushv1.Push_ACCEPTED}, nil
}

// traceparent returns the W3C traceparent of a sampled call, or an empty string.
func traceparent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}

// PushBatch accepts pushes at once; each has a result of its own.
func (p *Pushes) PushBatch(ctx context.Context, r *pushv1.PushBatchRequest) (*pushv1.PushBatchResponse, error) {
	results := make([]*pushv1.PushBatchResponse_Result, len(r.GetPushes()))
	var wg sync.WaitGroup
	for i, push := range r.GetPushes() {
		// Each waits for the shared commit on its own, so they must wait side by side.
		wg.Go(func() {
			results[i] = &pushv1.PushBatchResponse_Result{}
			response, err := p.pushOfBatch(ctx, r.GetApp(), push)
			if err != nil {
				s := toStatus(ctx, p.log, err)
				results[i].Outcome = &pushv1.PushBatchResponse_Result_Error{Error: s.Proto()}
				return
			}
			results[i].Outcome = &pushv1.PushBatchResponse_Result_Accepted{Accepted: response}
		})
	}
	wg.Wait()
	return &pushv1.PushBatchResponse{Results: results}, nil
}

func (p *Pushes) pushOfBatch(ctx context.Context, app string, r *pushv1.PushRequest) (*pushv1.PushResponse, error) {
	if r.GetApp() != "" && r.GetApp() != app {
		return nil, fault.Invalid("app", "must be empty or the batch's app")
	}
	r.App = app
	if err := validate(r); err != nil {
		return nil, err
	}
	return p.Push(ctx, r)
}

// find returns a push of the calling app.
func (p *Pushes) find(ctx context.Context, id string) (*message.Push, error) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return nil, fault.Invalid("push_id", "must be a UUID")
	}
	push, err := p.pushes.Fresh(ctx, appOf(ctx).No, parsed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.NotFound("PUSH_NOT_FOUND", "the app has no push %s, or it is past retention", parsed)
	}
	return push, err
}

// GetPush returns a push and its counts.
func (p *Pushes) GetPush(ctx context.Context, r *pushv1.GetPushRequest) (*pushv1.GetPushResponse, error) {
	push, err := p.find(ctx, r.GetPushId())
	if err != nil {
		return nil, err
	}
	shown, err := p.show(ctx, push)
	if err != nil {
		return nil, err
	}
	shown.Audience = push.Request.GetAudience()
	return &pushv1.GetPushResponse{Push: shown}, nil
}

var pushStates = map[ledger.Progress]pushv1.Push_State{
	ledger.Accepted: pushv1.Push_ACCEPTED,
	ledger.Active:   pushv1.Push_ACTIVE,
	ledger.Ended:    pushv1.Push_ENDED,
}

func (p *Pushes) show(ctx context.Context, push *message.Push) (*pushv1.Push, error) {
	counts, progress, err := p.ledger.Counts(ctx, push)
	if err != nil {
		return nil, err
	}
	counts[pushv1.Delivery_FAILED] += uint32(len(unknownTokens(appOf(ctx), push)))
	r := push.Request
	return &pushv1.Push{
		PushId: push.ID.String(), App: r.GetApp(), State: pushStates[progress], Counts: counts.Proto(), Notification: r.GetNotification(),
		Data: r.GetData(), Payload: r.GetPayload(), Overrides: r.GetOverrides(), Policy: r.GetPolicy(),
		CreatedAt: timestamppb.New(push.Created), ExpiresAt: timestamppb.New(push.Expires),
	}, nil
}

// unknownTokens returns the tokens of a push to devices that are none of the app's: malformed, or another app's. Their
// deliveries failed when the push was accepted, and no row says so: the request does.
func unknownTokens(app *registry.App, push *message.Push) []string {
	var unknown []string
	seen := map[string]bool{}
	for _, tok := range push.Request.GetAudience().GetDevices().GetTokens() {
		if _, err := app.Codec.Ordinal(tok); err != nil && !seen[tok] {
			seen[tok] = true
			unknown = append(unknown, tok)
		}
	}
	return unknown
}

// ListPushes lists the app's pushes, newest first.
func (p *Pushes) ListPushes(ctx context.Context, r *pushv1.ListPushesRequest) (*pushv1.ListPushesResponse, error) {
	before := uuid.Max
	if err := p.cursors.open("pushes", r.GetApp(), r.GetPageToken(), &before); err != nil {
		return nil, err
	}
	size := pageSize(r.GetPageSize(), 20)
	pushes, err := p.pushes.List(ctx, appOf(ctx).No, before, size)
	if err != nil {
		return nil, err
	}
	response := &pushv1.ListPushesResponse{}
	for _, push := range pushes {
		shown, err := p.show(ctx, push)
		if err != nil {
			return nil, err
		}
		response.Pushes = append(response.Pushes, shown)
	}
	if len(pushes) == size {
		response.NextPageToken, err = p.cursors.seal("pushes", r.GetApp(), pushes[size-1].ID)
	}
	return response, err
}

// deliveriesPage is where a page of deliveries begins: among the unknown tokens, then in the ledger.
type deliveriesPage struct {
	Unknown int             `json:"u"`
	Ledger  ledger.Position `json:"l"`
}

// ListDeliveries lists what became of a push, device by device.
func (p *Pushes) ListDeliveries(
	ctx context.Context, r *pushv1.ListDeliveriesRequest,
) (*pushv1.ListDeliveriesResponse, error) {
	push, err := p.find(ctx, r.GetPushId())
	if err != nil {
		return nil, err
	}
	if r.GetDevice() != "" {
		return p.oneDelivery(ctx, push, r)
	}
	var at deliveriesPage
	listing := "deliveries " + push.ID.String()
	if err := p.cursors.open(listing, r.GetApp(), r.GetPageToken(), &at); err != nil {
		return nil, err
	}
	size := pageSize(r.GetPageSize(), 100)
	response := &pushv1.ListDeliveriesResponse{}
	for _, tok := range unknownTokens(appOf(ctx), push)[at.Unknown:] {
		if len(response.Deliveries) == size {
			break
		}
		at.Unknown++
		response.Deliveries = append(response.Deliveries, unknownDelivery(push, tok))
	}
	next := &at.Ledger
	if len(response.Deliveries) < size {
		var page []ledger.Delivery
		page, next, err = p.ledgerPage(ctx, push, at.Ledger, size-len(response.Deliveries))
		if err != nil {
			return nil, err
		}
		shown, err := p.showDeliveries(ctx, push, page)
		if err != nil {
			return nil, err
		}
		response.Deliveries = append(response.Deliveries, shown...)
	}
	if r.GetState() != pushv1.Delivery_STATE_UNSPECIFIED {
		response.Deliveries = inState(response.Deliveries, r.GetState())
	}
	if next != nil {
		at.Ledger = *next
		response.NextPageToken, err = p.cursors.seal(listing, r.GetApp(), at)
	}
	return response, err
}

// ledgerPage reads on from a position until the page is full or the ledger has no more.
func (p *Pushes) ledgerPage(
	ctx context.Context, push *message.Push, from ledger.Position, size int,
) ([]ledger.Delivery, *ledger.Position, error) {
	var all []ledger.Delivery
	next := &from
	for next != nil && len(all) < size {
		page, after, err := p.ledger.Deliveries(ctx, push, *next, size-len(all))
		if err != nil {
			return nil, nil, err
		}
		all, next = append(all, page...), after
	}
	return all, next, nil
}

func (p *Pushes) oneDelivery(
	ctx context.Context, push *message.Push, r *pushv1.ListDeliveriesRequest,
) (*pushv1.ListDeliveriesResponse, error) {
	response := &pushv1.ListDeliveriesResponse{}
	number, err := appOf(ctx).Codec.Ordinal(r.GetDevice())
	if err != nil {
		for _, tok := range unknownTokens(appOf(ctx), push) {
			if tok == r.GetDevice() {
				response.Deliveries = append(response.Deliveries, unknownDelivery(push, tok))
			}
		}
	} else {
		d, err := p.ledger.Delivery(ctx, push, number)
		if err != nil {
			return nil, err
		}
		if d != nil {
			if response.Deliveries, err = p.showDeliveries(ctx, push, []ledger.Delivery{*d}); err != nil {
				return nil, err
			}
		}
	}
	if r.GetState() != pushv1.Delivery_STATE_UNSPECIFIED {
		response.Deliveries = inState(response.Deliveries, r.GetState())
	}
	return response, nil
}

func unknownDelivery(push *message.Push, tok string) *pushv1.Delivery {
	return &pushv1.Delivery{
		Device: tok, State: pushv1.Delivery_FAILED, Reason: pushv1.Delivery_UNKNOWN_DEVICE,
		Times: &pushv1.Delivery_Times{Ended: timestamppb.New(push.Created)},
	}
}

func inState(all []*pushv1.Delivery, state pushv1.Delivery_State) []*pushv1.Delivery {
	var some []*pushv1.Delivery
	for _, d := range all {
		if d.GetState() == state {
			some = append(some, d)
		}
	}
	return some
}

func (p *Pushes) showDeliveries(
	ctx context.Context, push *message.Push, page []ledger.Delivery,
) ([]*pushv1.Delivery, error) {
	var numbers []uint64
	for _, d := range page {
		if d.Device {
			numbers = append(numbers, d.Ordinal)
		}
	}
	tokens, err := p.devices.Tokens(ctx, appOf(ctx), numbers)
	if err != nil {
		return nil, fmt.Errorf("find the devices' tokens: %w", err)
	}
	shown := make([]*pushv1.Delivery, len(page))
	for i, d := range page {
		shown[i] = &pushv1.Delivery{
			User: d.User, State: d.State, Reason: pushv1.Delivery_Reason(d.Reason), Times: times(d),
		}
		if d.Device {
			shown[i].Device = tokens[d.Ordinal]
		}
		shown[i].Attempts = attempts(d, shown[i].GetTimes().GetSent(), push.Slices > 0)
		if n := len(shown[i].Attempts); n > 0 {
			shown[i].Channel = shown[i].Attempts[n-1].Channel
		}
	}
	return shown, nil
}

// attempts returns the tries to reach a device in the order of their times; of an audience push the last one. sent is when
// the delivery was handed over, which is the own connection's doing if no vendor has it.
func attempts(d ledger.Delivery, sent *timestamppb.Timestamp, audience bool) []*pushv1.Delivery_Attempt {
	var all []*pushv1.Delivery_Attempt
	vendorHasIt := false
	for _, a := range d.Attempts {
		vendorHasIt = vendorHasIt || a.Outcome <= pushv1.Delivery_Attempt_ACCEPTED
		all = append(all, &pushv1.Delivery_Attempt{
			Channel: channel.Name(a.Channel), At: timestamppb.New(a.At), Outcome: a.Outcome, Code: a.Code,
		})
	}
	if own, ok := d.Times[ledgerv1.Step_STEP_SENT]; ok {
		sent = timestamppb.New(own)
	} else if vendorHasIt {
		sent = nil
	}
	if sent != nil {
		all = append(all, &pushv1.Delivery_Attempt{Channel: channel.Own, At: sent})
	}
	slices.SortStableFunc(all, func(a, b *pushv1.Delivery_Attempt) int { return a.GetAt().AsTime().Compare(b.GetAt().AsTime()) })
	switch {
	case !audience || len(all) < 2:
		return all
	case vendorHasIt: // the minutes may be the same, but the own connection does not get it again
		return slices.DeleteFunc(all, func(a *pushv1.Delivery_Attempt) bool { return a.GetChannel() == channel.Own })
	}
	return all[len(all)-1:]
}

func times(d ledger.Delivery) *pushv1.Delivery_Times {
	at := func(steps ...ledgerv1.Step) *timestamppb.Timestamp {
		for _, step := range steps {
			if t, ok := d.Times[step]; ok {
				return timestamppb.New(t)
			}
		}
		return nil
	}
	return &pushv1.Delivery_Times{
		// A hand-over that was confirmed at once is not written down by itself: it was then, at the latest.
		Sent: at(ledgerv1.Step_STEP_SENT, ledgerv1.Step_STEP_SENT_UNCONFIRMED, ledgerv1.Step_STEP_ARRIVED,
			ledgerv1.Step_STEP_SHOWN, ledgerv1.Step_STEP_CLICKED, ledgerv1.Step_STEP_DISMISSED),
		Arrived:   at(ledgerv1.Step_STEP_ARRIVED),
		Shown:     at(ledgerv1.Step_STEP_SHOWN),
		Clicked:   at(ledgerv1.Step_STEP_CLICKED),
		Dismissed: at(ledgerv1.Step_STEP_DISMISSED),
		Ended: at(ledgerv1.Step_STEP_FAILED, ledgerv1.Step_STEP_EXPIRED, ledgerv1.Step_STEP_EVICTED,
			ledgerv1.Step_STEP_COLLAPSED, ledgerv1.Step_STEP_REVOKED),
	}
}

// Package dispatch hands pushes to the gateways that hold the devices: direct ones at once, audience ones slice by slice,
// and pokes to single sessions.
package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/subject"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/internal/ledger"
	"github.com/halleypush/halley/services/pushcore/internal/message"
	"github.com/halleypush/halley/services/pushcore/internal/registry"
	"github.com/halleypush/halley/services/pushcore/internal/route"
	"github.com/halleypush/halley/services/pushcore/internal/vendor"
)

const (
	// answerWithin is how long a gateway may take to answer a direct hand-over before it is looked for again.
	answerWithin = time.Second
	// tries is how often a direct delivery is looked at before it is left to the sweeper.
	tries = 3
	// atOnce bounds the hand-overs under way; beyond it deliveries are left to the sweeper, which is safe but slower.
	atOnce = 256

	// maxTargets and maxBytes keep one request well below the megabyte that NATS lets through.
	maxTargets = 2048
	maxBytes   = 512 << 10
)

// Delivery is one push for one device, as accepted.
type Delivery struct {
	route.Device
	Push *message.Push
	// User is who it is for and Epoch the binding that made it; empty if it is not for a user. Opaque is what the phone
	// knows the user by.
	User   string
	Opaque string
	Epoch  int64
	// Released is true for what a vendor's channel had and did not take.
	Released bool
}

func (d *Delivery) key() message.Key {
	return message.Key{App: d.App, Ordinal: d.Ordinal, Push: d.Push.ID}
}

// Vendors claims deliveries for vendors' channels.
type Vendors interface {
	// Ways returns the channels that a push of an app may go by.
	Ways(ctx context.Context, app uint32, r *pushv1.PushRequest) ([]string, error)
	ClaimDirect(ctx context.Context, wanted []vendor.Wanted) (map[message.Key]vendor.Left, error)
}

// Direct hands direct pushes over.
type Direct struct {
	pool     *pgxpool.Pool
	conn     *nats.Conn
	sessions *route.Sessions
	users    *registry.Users
	vendors  Vendors
	metrics  *Metrics
	log      *slog.Logger
	slots    chan struct{}
	running  sync.WaitGroup
}

// NewDirect returns a dispatcher of direct pushes on the direct plane's pool and NATS connection.
func NewDirect(
	pool *pgxpool.Pool, conn *nats.Conn, sessions *route.Sessions, users *registry.Users, vendors Vendors, metrics *Metrics,
	log *slog.Logger,
) *Direct {
	return &Direct{
		pool: pool, conn: conn, sessions: sessions, users: users, vendors: vendors, metrics: metrics, log: log,
		slots: make(chan struct{}, atOnce),
	}
}

// Deliver hands over deliveries whose rows are committed, in the background. When too many hand-overs are under way, or
// the process ends, they stay with the sweeper.
func (d *Direct) Deliver(ctx context.Context, deliveries []Delivery) {
	select {
	case d.slots <- struct{}{}:
	default:
		d.metrics.spilled.Add(float64(len(deliveries)))
		return
	}
	d.running.Go(func() {
		defer func() { <-d.slots }()
		if err := d.deliver(ctx, deliveries); err != nil {
			d.log.WarnContext(ctx, "direct hand-over left to the sweeper", "deliveries", len(deliveries), "error", err)
		}
	})
}

// Wait waits for the hand-overs under way: a few seconds at the most, where gateways are silent.
func (d *Direct) Wait() { d.running.Wait() }

// outcome sorts deliveries by what became of their hand-over.
type outcome struct {
	taken, away, silent []Delivery
	ended               []ledger.Entry
}

func (o *outcome) end(d Delivery, step ledgerv1.Step, reason ledgerv1.Reason) {
	o.ended = append(o.ended, ledger.Entry{Key: d.key(), Step: step, Reason: reason})
}

// deliver looks and asks up to three times: those who do not answer are looked for again, since their session may be
// elsewhere by then. What is still without an answer after that is the sweeper's.
func (d *Direct) deliver(ctx context.Context, deliveries []Delivery) error {
	left, err := d.vendorsFirst(ctx, deliveries)
	if err != nil {
		return err
	}
	for range tries {
		if len(left) == 0 {
			return nil
		}
		var o outcome
		if err := d.try(ctx, left, &o); err != nil {
			return err
		}
		d.metrics.delivered("taken", len(o.taken))
		d.metrics.delivered("away", len(o.away))
		d.metrics.delivered("ended", len(o.ended))
		if err := d.settle(ctx, &o); err != nil {
			return err
		}
		left = o.silent
		d.metrics.delivered("silent", len(left))
	}
	return nil
}

// try looks for the routes of deliveries, now, and asks the gateways that have them.
func (d *Direct) try(ctx context.Context, deliveries []Delivery, o *outcome) error {
	bound, err := d.stillBound(ctx, deliveries, o)
	if err != nil {
		return err
	}
	devices := make([]route.Device, len(bound))
	for i := range bound {
		devices[i] = bound[i].Device
	}
	routes, err := d.sessions.Find(ctx, d.pool, devices)
	if err != nil {
		return err
	}
	groups := map[route.Incarnation]*group{}
	for _, delivery := range bound {
		r, ok := routes[delivery.Device]
		if !ok {
			o.away = append(o.away, delivery)
			continue
		}
		g := groups[r.Incarnation]
		if g == nil {
			g = &group{to: r.Incarnation}
			groups[r.Incarnation] = g
		}
		g.add(delivery, r.Number)
	}
	d.ask(ctx, groups, o)
	return nil
}

// stillBound passes on what may be handed over: a user's message only to a device that is bound to the user still.
func (d *Direct) stillBound(ctx context.Context, deliveries []Delivery, o *outcome) ([]Delivery, error) {
	var bindings []registry.DeviceBinding
	for _, delivery := range deliveries {
		if delivery.User != "" {
			bindings = append(bindings, registry.DeviceBinding{
				App: delivery.App, Ordinal: delivery.Ordinal, User: delivery.User, Epoch: delivery.Epoch,
			})
		}
	}
	if len(bindings) == 0 {
		return deliveries, nil
	}
	over, err := d.users.Over(ctx, d.pool, bindings)
	if err != nil || len(over) == 0 {
		return deliveries, err
	}
	var bound []Delivery
	for _, delivery := range deliveries {
		b := registry.DeviceBinding{
			App: delivery.App, Ordinal: delivery.Ordinal, User: delivery.User, Epoch: delivery.Epoch,
		}
		if delivery.User != "" && over[b] {
			o.end(delivery, ledgerv1.Step_STEP_FAILED, ledgerv1.Reason_REASON_UNBOUND)
		} else {
			bound = append(bound, delivery)
		}
	}
	return bound, nil
}

// settle writes what is known now: deliveries that ended, and those that rest until the device is back or they expire; of
// those that are away, vendors' channels get what they can. What was taken needs nothing: its receipt follows, or the sweeper
// looks after it.
func (d *Direct) settle(ctx context.Context, o *outcome) error {
	var rest []message.Key
	away, err := d.vendorsThen(ctx, o.away)
	if err != nil {
		return err
	}
	for _, delivery := range away {
		if delivery.Push.OnlineOnly() {
			o.end(delivery, ledgerv1.Step_STEP_EXPIRED, ledgerv1.Reason_REASON_NOT_ONLINE)
		} else {
			rest = append(rest, delivery.key())
		}
	}
	if len(rest) > 0 {
		if err := ledger.Rest(ctx, d.pool, rest); err != nil {
			return err
		}
	}
	if len(o.ended) > 0 {
		return ledger.ApplyDirect(ctx, d.pool, o.ended)
	}
	return nil
}

// group is what one gateway is asked to hand over.
type group struct {
	to       route.Incarnation
	requests []*gatewayv1.DeliverRequest
	asked    [][]Delivery

	bodies map[uuid.UUID]uint32 // of the last request
	bytes  int
}

func (g *group) add(d Delivery, session uint64) {
	if len(g.requests) == 0 || len(g.asked[len(g.asked)-1]) >= maxTargets || g.bytes >= maxBytes {
		g.requests = append(g.requests, &gatewayv1.DeliverRequest{})
		g.asked = append(g.asked, nil)
		g.bodies, g.bytes = map[uuid.UUID]uint32{}, 0
	}
	request := g.requests[len(g.requests)-1]
	body, ok := g.bodies[d.Push.ID]
	if !ok {
		body = uint32(len(request.Bodies))
		g.bodies[d.Push.ID] = body
		request.Bodies = append(request.Bodies, d.Push.Body())
		g.bytes += len(d.Push.Body().GetJson()) + 128
	}
	request.Targets = append(request.Targets, &gatewayv1.DeliverRequest_Target{
		App: d.App, Ordinal: d.Ordinal, Session: session, Body: body, User: d.Opaque,
	})
	g.asked[len(g.asked)-1] = append(g.asked[len(g.asked)-1], d)
	g.bytes += 64
}

// ask sends every group's requests at once and sorts the deliveries by the answers.
func (d *Direct) ask(ctx context.Context, groups map[route.Incarnation]*group, o *outcome) {
	type answer struct {
		asked   []Delivery
		results []gatewayv1.DeliverResponse_Result
		err     error
	}
	answers := make(chan answer)
	n := 0
	for _, g := range groups {
		for i, request := range g.requests {
			n++
			go func() {
				results, err := d.request(ctx, g.to, request)
				answers <- answer{g.asked[i], results, err}
			}()
		}
	}
	for range n {
		a := <-answers
		switch {
		case errors.Is(a.err, nats.ErrNoResponders):
			// The gateway is gone: its devices come back, and their Open finds the push.
			o.away = append(o.away, a.asked...)
			continue
		case a.err != nil || len(a.results) != len(a.asked):
			o.silent = append(o.silent, a.asked...)
			continue
		}
		for i, delivery := range a.asked {
			switch a.results[i] {
			case gatewayv1.DeliverResponse_TAKEN:
				o.taken = append(o.taken, delivery)
			case gatewayv1.DeliverResponse_PERMISSION_OFF:
				o.end(delivery, ledgerv1.Step_STEP_FAILED, ledgerv1.Reason_REASON_PERMISSION_OFF)
			default: // no such session, or a full one: its Open or its Pull finds the push
				o.away = append(o.away, delivery)
			}
		}
	}
}

func (d *Direct) request(
	ctx context.Context, to route.Incarnation, request *gatewayv1.DeliverRequest,
) ([]gatewayv1.DeliverResponse_Result, error) {
	data, err := proto.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("encode deliver request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	reply, err := d.conn.RequestWithContext(ctx, subject.Gateway(to.Proto(), "deliver"), data)
	if err != nil {
		return nil, fmt.Errorf("ask gateway to deliver: %w", err)
	}
	var response gatewayv1.DeliverResponse
	if err := proto.Unmarshal(reply.Data, &response); err != nil {
		return nil, fmt.Errorf("decode deliver response: %w", err)
	}
	return response.GetResults(), nil
}

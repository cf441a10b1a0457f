package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/subject"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/pushcore/internal/route"
)

// laterAtOnce bounds the pokes that nobody waits for.
const laterAtOnce = 64

// Poker tells single sessions that something happened to them.
type Poker struct {
	conn     *nats.Conn
	sessions *route.Sessions
	metrics  *Metrics
	log      *slog.Logger
	slots    chan struct{}
	running  sync.WaitGroup
}

// NewPoker returns a poker on the direct plane's NATS connection.
func NewPoker(conn *nats.Conn, sessions *route.Sessions, metrics *Metrics, log *slog.Logger) *Poker {
	return &Poker{
		conn: conn, sessions: sessions, metrics: metrics, log: log, slots: make(chan struct{}, laterAtOnce),
	}
}

// Replaced tells sessions, in the background, that newer ones are open elsewhere. Nobody depends on it: a gateway that does
// not hear keeps the old connection until its keep-alive ends. When too many such calls are under way it is left at that.
func (p *Poker) Replaced(ctx context.Context, sessions map[route.Device]route.Session) {
	select {
	case p.slots <- struct{}{}:
	default:
		p.metrics.untold.Add(float64(len(sessions)))
		return
	}
	ctx = context.WithoutCancel(ctx)
	p.running.Go(func() {
		defer func() { <-p.slots }()
		if err := p.Sessions(ctx, sessions, gatewayv1.PokeRequest_Poke_SUPERSEDED); err != nil {
			p.metrics.untold.Add(float64(len(sessions)))
			p.log.DebugContext(ctx, "replaced sessions were not told", "error", err)
		}
	})
}

// Wait waits for the pokes that nobody waits for.
func (p *Poker) Wait() { p.running.Wait() }

// Devices pokes the sessions of devices, if they have any; routes are looked up on the given pool. An answer is waited for
// up to three times, one second each; the error tells that one did not come.
func (p *Poker) Devices(
	ctx context.Context, pool *pgxpool.Pool, devices []route.Device, action gatewayv1.PokeRequest_Poke_Action,
) error {
	var err error
	for range tries {
		var routes map[route.Device]route.Session
		if routes, err = p.sessions.FindOpen(ctx, pool, devices); err != nil {
			return err
		}
		if err = p.Sessions(ctx, routes, action); err == nil {
			return nil
		}
	}
	return err
}

// Sessions pokes sessions, once. A gateway that is gone counts as poked: it has no sessions.
func (p *Poker) Sessions(
	ctx context.Context, sessions map[route.Device]route.Session, action gatewayv1.PokeRequest_Poke_Action,
) error {
	requests := map[route.Incarnation]*gatewayv1.PokeRequest{}
	for device, s := range sessions {
		if requests[s.Incarnation] == nil {
			requests[s.Incarnation] = &gatewayv1.PokeRequest{}
		}
		r := requests[s.Incarnation]
		r.Pokes = append(r.Pokes, &gatewayv1.PokeRequest_Poke{
			App: device.App, Ordinal: device.Ordinal, Session: s.Number, Action: action,
		})
	}
	var errs []error
	for to, request := range requests {
		if err := p.ask(ctx, to, request); err != nil && !errors.Is(err, nats.ErrNoResponders) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (p *Poker) ask(ctx context.Context, to route.Incarnation, request *gatewayv1.PokeRequest) error {
	data, err := proto.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode poke: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := p.conn.RequestWithContext(ctx, subject.Gateway(to.Proto(), "poke"), data); err != nil {
		return fmt.Errorf("poke %s: %w", subject.Gateway(to.Proto(), "poke"), err)
	}
	return nil
}

package dispatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/halleypush/halley/pkg/subject"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/pushcore/internal/route"
)

// Poker tells single sessions that something happened to them.
type Poker struct {
	conn     *nats.Conn
	sessions *route.Sessions
}

// NewPoker returns a poker on the direct plane's NATS connection.
func NewPoker(conn *nats.Conn, sessions *route.Sessions) *Poker {
	return &Poker{conn: conn, sessions: sessions}
}

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

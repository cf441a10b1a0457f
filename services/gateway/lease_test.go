package gateway_test

import (
	"context"
	"testing"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

func TestALapsedGatewayTakesTheNextIncarnationAndOpensEverySessionAgain(t *testing.T) {
	t.Parallel()
	for name, lapse := range map[string]func(*testing.T, *gatewaytest.Site){
		"told by a renewal": func(_ *testing.T, s *gatewaytest.Site) { s.Core.Lapse() },
		"told by a batch": func(t *testing.T, s *gatewaytest.Site) {
			t.Helper()
			renewed := make(chan struct{}, 100)
			s.Core.Script(func(script *gatewaytest.Script) { // for so long that no renewal says it
				script.Lease = func(r *gatewayv1.RenewLeaseRequest) (*gatewayv1.RenewLeaseResponse, error) {
					answer := s.Core.AnswerLease(r)
					answer.Lease = durationHour
					renewed <- struct{}{}
					return answer, nil
				}
			})
			next(t, "a renewal", renewed)
			s.Core.Lapse()
			s.Core.Script(func(script *gatewaytest.Script) { script.Lease = nil })
			wire := s.Dial(t, gatewaytest.V5)
			wire.Greet(t, wire.Connect(s.Core.NewDevice(t)))
			wire.Subscribe(t, 1, "push/demo")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := gatewaytest.Start(t, gatewaytest.Options{})
			phones := make([]gatewaytest.Device, 20)
			wires := make([]*gatewaytest.Wire, len(phones))
			for i := range phones {
				phones[i] = site.Core.NewDevice(t)
				wires[i] = site.Online(t, phones[i])
			}
			first := site.Core.Incarnation()
			site.Core.LoseRoutes()
			missed := gatewaytest.NewPush("missed")
			for _, p := range phones {
				site.Core.Keep(p, missed)
			}
			lapse(t, site)
			for i, p := range phones {
				wires[i].Ack(t, wires[i].NextPush(t, missed))
				site.Core.AwaitOnline(t, p)
			}
			second := site.Core.Incarnation()
			if second.GetNumber() != first.GetNumber()+1 || second.GetGateway() != first.GetGateway() {
				t.Errorf("incarnation %v after %v", second, first)
			}
			site.AwaitReady(t)
			live := gatewaytest.NewPush("live")
			wantDelivered(t, site, phones[7], taken, live) // on the new incarnation's subject
			wires[7].NextPush(t, live)
			slice := gatewaytest.NewAudiencePush("to all")
			wantSlice(t, site.Core.Slice(t, slice, phones...), gatewaytest.SliceAnswer{Sent: lows(phones...)})
		})
	}
}

func TestAfterALapseTheGatewayIsReadyWhileItsSessionsAreOpenedAgain(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone := site.Core.NewDevice(t)
	site.Online(t, phone)
	g := holdBatches(site.Core)
	site.Core.Lapse()
	for open := g.next(t).GetOpens(); len(open) == 0; {
		open = g.next(t).GetOpens()
	}
	if err := site.Ready(context.Background()); err != nil {
		t.Errorf("before the answer: %v", err)
	}
	if n := site.Metric(t, "halley_gateway_repair_asked_sessions", ""); n != 1 {
		t.Errorf("%v sessions wait for an answer", n)
	}
	g.lift(site.Core)
	gatewaytest.Eventually(t, "nothing is left to repair", func() bool { return site.Metric(t, "halley_gateway_repair_asked_sessions", "") == 0 })
}

func TestANewIncarnationHasNoLeaseBeforeNATSBringsItAMessage(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	site.Core.Lapse()
	all := site.Core.Saw.Leases.Await(t, "a live second incarnation", func([]*gatewayv1.RenewLeaseRequest) bool {
		return site.Core.Incarnation().GetNumber() == 2
	})
	for _, r := range all {
		if age := r.GetNatsRoundTripAge().AsDuration(); r.GetIncarnation().GetNumber() == 2 && age < gatewaytest.Patience {
			return // the first renewal with a proof is the new incarnation's own
		}
	}
	t.Error("no renewal with a proof")
}

func TestAnotherDatabaseHasSessionsOpenedAgain(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone, push := site.Core.NewDevice(t), gatewaytest.NewPush("kept")
	wire := site.Online(t, phone)
	site.Core.LoseRoutes() // as a restored database
	site.Core.Keep(phone, push)
	site.Core.SetDatabaseIdentity("another")
	wire.NextPush(t, push)
	if site.Core.Incarnation().GetNumber() != 1 {
		t.Error("it took another incarnation")
	}
	site.Core.AwaitOnline(t, phone)
}

func TestAnAppThatChangesIsReadAgain(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	greeted(t, site, gatewaytest.V5)
	site.Core.Settings(func(a *gatewayv1.GetAppResponse) { a.KeepAlive = durationMinute })
	site.Core.Changed(t)
	gatewaytest.Eventually(t, "the new keep-alive", func() bool {
		wire := site.Dial(t, gatewaytest.V5)
		connect := wire.Connect(site.Core.NewDevice(t))
		connect.Connect.Keepalive = 0
		return wire.Greet(t, connect).Properties.ServerKeepAlive == 60
	})
}

package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"google.golang.org/protobuf/types/known/durationpb"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

var (
	durationHour   = durationpb.New(time.Hour)
	durationMinute = durationpb.New(time.Minute)
)

func TestAfterAGapOnNATSEverySessionPullsAndTheGatewayIsReadyMeanwhile(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phones := make([]gatewaytest.Device, 20)
	wires := make([]*gatewaytest.Wire, len(phones))
	for i := range phones {
		phones[i] = site.Core.NewDevice(t)
		wires[i] = site.Online(t, phones[i])
	}
	// While NATS is away the lease stands: pushcore counts it as alive for its own reasons.
	site.Core.Script(func(s *gatewaytest.Script) {
		s.Lease = func(*gatewayv1.RenewLeaseRequest) (*gatewayv1.RenewLeaseResponse, error) {
			return &gatewayv1.RenewLeaseResponse{
				Status: gatewayv1.RenewLeaseResponse_LIVE, Lease: durationMinute, DatabaseIdentity: "first",
			}, nil
		}
	})
	site.NATS.Stop()
	gatewaytest.Eventually(t, "it is not ready", func() bool { return site.Ready(context.Background()) != nil })
	missed := gatewaytest.NewPush("missed")
	for _, p := range phones {
		site.Core.Keep(p, missed)
	}
	g := holdBatches(site.Core)
	site.NATS.Start(t)
	for n := 0; n == 0; {
		n = len(g.next(t).GetPulls())
	}
	site.AwaitReady(t)
	left := func() float64 {
		return site.Metric(t, "halley_gateway_repair_waiting_sessions", "") + site.Metric(t, "halley_gateway_repair_asked_sessions", "")
	}
	// Each of the two connections to NATS has a gap.
	gatewaytest.Eventually(t, "all sessions are left to repair", func() bool { return left() >= float64(len(phones)) })
	g.lift(site.Core)
	for i, p := range phones {
		wires[i].Ack(t, wires[i].NextPush(t, missed))
		site.Core.AwaitReceipt(t, p, missed, arrived)
	}
	gatewaytest.Eventually(t, "nothing is left to repair", func() bool { return left() == 0 })
	for _, wire := range wires {
		wire.Ping(t)
	}
}

func TestReceiptsWaitForNATS(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone, push, audience := site.Core.NewDevice(t), gatewaytest.NewPush("Hi"), gatewaytest.NewAudiencePush("all")
	wire := site.Online(t, phone)
	wantDelivered(t, site, phone, taken, push)
	wantSlice(t, site.Core.Slice(t, audience, phone), gatewaytest.SliceAnswer{Sent: lows(phone)})
	site.NATS.Stop()
	wire.Ack(t, wire.NextPush(t, push))
	wire.Ack(t, wire.NextPush(t, audience))
	wire.Ping(t)
	site.NATS.Start(t)
	site.Core.AwaitReceipt(t, phone, push, arrived)
	site.Core.AwaitReceipt(t, phone, audience, arrived)
}

func TestWithoutPushcoreDevicesStayAndComeBack(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	stays, returns := site.Core.NewDevice(t), site.Core.NewDevice(t)
	wire := site.Online(t, stays)
	first := site.Online(t, returns)
	site.Core.Leave()
	wire.Ping(t)
	first.Close()
	back := site.Dial(t, gatewaytest.V5)
	back.Greet(t, back.Connect(returns)) // at once, without anybody asked
	back.Subscribe(t, 1, "push/demo")
	event := back.Publish(t, 1, "event/demo", `{"push_id":"p","type":"shown"}`)
	back.Ping(t) // the event is not acknowledged: nobody has it
	newcomer := site.Dial(t, gatewaytest.V5)
	newcomer.Send(t, newcomer.ConnectAs("", gatewaytest.App, gatewaytest.ClientKey))
	ack := newcomer.Next(t, packets.Connack)
	if retry, _ := strconv.Atoi(userProperty(ack, "retry_after_ms")); ack.ReasonCode != 0x88 || retry < 1000 {
		t.Errorf("a new device is told 0x%02X, retry_after_ms %d", ack.ReasonCode, retry)
	}
	kept := gatewaytest.NewPush("kept meanwhile")
	site.Core.Keep(returns, kept)
	site.Core.Come(t)
	seen := map[byte]bool{}
	for range 2 { // in whatever order
		p, err := back.Read()
		if err != nil {
			t.Fatal(err)
		}
		seen[p.FixedHeader.Type] = true
		if p.FixedHeader.Type == packets.Puback && p.PacketID != event {
			t.Errorf("PUBACK for %d, want %d", p.PacketID, event)
		}
	}
	if !seen[packets.Publish] || !seen[packets.Puback] {
		t.Errorf("came: %v", seen)
	}
	site.Core.AwaitOnline(t, stays)
	wire.Ping(t)
}

func TestAStreamThatBreaksIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone, push := site.Core.NewDevice(t), gatewaytest.NewPush("kept")
	site.Core.Keep(phone, push)
	site.Core.Script(func(s *gatewaytest.Script) { // answers are lost
		s.Batch = func(*gatewayv1.SessionsRequest) *gatewayv1.SessionsResponse { return nil }
	})
	wire := site.Dial(t, gatewaytest.V5)
	wire.Greet(t, wire.Connect(phone))
	wire.Subscribe(t, 1, "push/demo")
	lost := site.Core.Saw.Opens.AwaitLen(t, "the open whose answer is lost", 1)[0]
	site.Core.Script(func(s *gatewaytest.Script) { s.Batch = nil })
	site.Core.BreakStreams()
	wire.NextPush(t, push)
	again := site.Core.Saw.Opens.AwaitLen(t, "the open that is repeated", 2)[1]
	if again.GetSession() != lost.GetSession() || again.GetAge().AsDuration() <= lost.GetAge().AsDuration() {
		t.Errorf("opened as %v, then as %v", lost, again)
	}
}

func TestASessionThatEndsBeforeItsOpenIsAnsweredIsClosed(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]func(*gatewaytest.Site, *gate){
		"the answer comes":   func(s *gatewaytest.Site, g *gate) { g.lift(s.Core) },
		"the answer is lost": func(s *gatewaytest.Site, g *gate) { s.Core.BreakStreams(); g.lift(s.Core) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := gatewaytest.Start(t, gatewaytest.Options{})
			phone := site.Core.NewDevice(t)
			g := holdBatches(site.Core)
			wire := site.Dial(t, gatewaytest.V5)
			wire.Greet(t, wire.Connect(phone))
			wire.Subscribe(t, 1, "push/demo")
			session := g.next(t).GetOpens()[0].GetSession()
			wire.Close()
			gatewaytest.Eventually(t, "the session has ended", func() bool {
				return site.Metric(t, "halley_gateway_sessions", "") == 0
			})
			how(site, g)
			site.Core.Saw.Closes.AwaitOne(t, "the close", func(c *gatewayv1.Close) bool { return c.GetSession() == session })
		})
	}
}

func TestABatchThatPushcoreCannotTakeNowIsSentAgain(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone, push := site.Core.NewDevice(t), gatewaytest.NewPush("kept")
	site.Core.Keep(phone, push)
	site.Core.Script(func(s *gatewaytest.Script) {
		s.Batch = func(*gatewayv1.SessionsRequest) *gatewayv1.SessionsResponse {
			site.Core.Script(func(s *gatewaytest.Script) { s.Batch = nil })
			return &gatewayv1.SessionsResponse{
				Status: gatewayv1.SessionsResponse_UNAVAILABLE, RetryAfter: durationpb.New(300 * time.Millisecond), Last: true,
			}
		}
	})
	wire := site.Dial(t, gatewaytest.V5)
	wire.Greet(t, wire.Connect(phone))
	begun := time.Now()
	wire.Subscribe(t, 1, "push/demo")
	wire.NextPush(t, push)
	if took := time.Since(begun); took < 300*time.Millisecond {
		t.Errorf("asked again after %v", took)
	}
}

func TestAStoppingGatewaySendsItsDevicesAway(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.DrainRate = 40 }})
	const n = 20
	phones := make([]gatewaytest.Device, n)
	wires := make([]*gatewaytest.Wire, n)
	for i := range phones {
		phones[i] = site.Core.NewDevice(t)
		wires[i] = site.Online(t, phones[i])
	}
	three := site.Core.NewDevice(t)
	wire3 := site.Online311(t, three)
	push := gatewaytest.NewPush("in flight")
	wantDelivered(t, site, phones[0], taken, push)
	wires[0].NextPush(t, push)
	begun := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- site.Stop() }()
	for _, wire := range wires {
		gone := wire.WantDisconnect(t, 0x8B)
		if retry, _ := strconv.Atoi(userProperty(gone, "retry_after_ms")); retry < 1000 {
			t.Errorf("retry_after_ms is %d", retry)
		}
		wire.Close()
	}
	wire3.WantClosed(t)
	wire3.Close()
	if err := next(t, "the stop", stopped); err != nil {
		t.Error(err)
	}
	// 21 connections at 40 a second.
	if took := time.Since(begun); took < 300*time.Millisecond {
		t.Errorf("gone within %v", took)
	}
	site.Core.AwaitReceipt(t, phones[0], push, sent)
	for _, p := range append(phones, three) {
		site.Core.Saw.Closes.AwaitOne(t, "the close", func(c *gatewayv1.Close) bool { return c.GetOrdinal() == p.Ordinal })
	}
	site.Core.Saw.Leases.AwaitOne(t, "the end of the lease", (*gatewayv1.RenewLeaseRequest).GetEnding)
}

func TestAGatewayOfARolloutKeepsItsDevicesUntilTheLastOneThatIsReplacedStops(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]time.Duration{"told": time.Hour, "out of patience": 100 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.Revision, c.RolloutWait = "old", wait }})
			var others atomic.Uint32
			others.Store(2)
			site.Core.Script(func(script *gatewaytest.Script) {
				script.Lease = func(r *gatewayv1.RenewLeaseRequest) (*gatewayv1.RenewLeaseResponse, error) {
					answer := site.Core.AnswerLease(r)
					answer.Behind = others.Load()
					return answer, nil
				}
			})
			phone := site.Core.NewDevice(t)
			wire := site.Online(t, phone)
			stopped := make(chan error, 1)
			go func() { stopped <- site.Stop() }()
			isDraining := func(r *gatewayv1.RenewLeaseRequest) bool { return r.GetDraining() && r.GetRevision() == "old" }
			site.Core.Saw.Leases.AwaitOne(t, "that it drains", isDraining)
			if wait == time.Hour {
				push := gatewaytest.NewPush("meanwhile")
				wantDelivered(t, site, phone, taken, push)
				wire.Ack(t, wire.NextPush(t, push))
				late := site.Online(t, site.Core.NewDevice(t)) // the balancer has not noticed yet
				others.Store(0)
				late.WantDisconnect(t, 0x8B)
				late.Close()
			}
			wire.WantDisconnect(t, 0x8B)
			wire.Close()
			if err := next(t, "the stop", stopped); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestADrainThatItsRateWouldNotEndIsFasterButNeverAllAtOnce(t *testing.T) {
	t.Parallel()
	const n = 100
	deadline := 3 * time.Second
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.DrainRate, c.DrainDeadline = 1, deadline // 97 would be left
	}})
	type word struct {
		at  time.Time
		err error
	}
	words := make(chan word, n)
	for i := range n {
		version := gatewaytest.V5
		if i%4 == 0 {
			version = gatewaytest.V311 // knows no such word
		}
		wire := greeted(t, site, version)
		go func() {
			p, err := wire.Read()
			w := word{at: time.Now()}
			if told := err == nil && p.FixedHeader.Type == packets.Disconnect && p.ReasonCode == 0x8B; told != (version == gatewaytest.V5) {
				w.err = fmt.Errorf("version %d is told 0x%02X: %w", version, p.ReasonCode, err)
			}
			words <- w
			wire.Close()
		}()
	}
	stopped := make(chan error, 1)
	go func() { stopped <- site.Stop() }()
	var times []time.Time
	for range n {
		w := next(t, "a last word", words)
		if w.err != nil {
			t.Error(w.err)
		}
		times = append(times, w.at)
	}
	if err := next(t, "the stop", stopped); err != nil {
		t.Error(err)
	}
	slices.SortFunc(times, time.Time.Compare)
	for i := n / 2; i < n; i++ {
		if took := times[i].Sub(times[i-n/2]); took < deadline/10 { // 1.35 s at an even pace
			t.Fatalf("%d connections go within %v", n/2, took)
		}
	}
}

func closeOf(session uint64) func(*gatewayv1.Close) bool {
	return func(c *gatewayv1.Close) bool { return c.GetSession() == session }
}

func TestAnOperatorHasAGatewayShedDevices(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.ServerReference = "push2.example.com:1883" }})
	var wires []*gatewaytest.Wire
	for range 10 {
		wires = append(wires, site.Online(t, site.Core.NewDevice(t)))
	}
	shed := func(token, query string) int {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+site.AdminAddr()+"/shed?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		return response.StatusCode
	}
	for _, c := range []struct {
		token, query string
		want         int
	}{
		{"wrong", "sessions=4", http.StatusUnauthorized},
		{gatewaytest.ServiceToken, "sessions=many", http.StatusBadRequest},
		{gatewaytest.ServiceToken, "sessions=4", http.StatusAccepted},
	} {
		if got := shed(c.token, c.query); got != c.want {
			t.Fatalf("?%s with token %q answers %d", c.query, c.token, got)
		}
	}
	gatewaytest.Eventually(t, "four have gone", func() bool {
		return site.Metric(t, "halley_gateway_closes_total", `reason="shed"`) == 4
	})
	left := 0
	for _, wire := range wires {
		wire.Send(t, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Pingreq}})
		p, err := wire.Read()
		if err != nil {
			t.Fatal(err)
		}
		if p.FixedHeader.Type == packets.Disconnect {
			if p.ReasonCode != 0x9C || p.Properties.ServerReference != "push2.example.com:1883" {
				t.Errorf("sent away with 0x%02X to %q", p.ReasonCode, p.Properties.ServerReference)
			}
			continue
		}
		left++
	}
	if left != 6 {
		t.Errorf("%d are left", left)
	}
}

func TestDevicesGoElsewhereAtTheEndOfTheirLifetime(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.MaxLifetime = 2 * time.Second }})
	begun := time.Now()
	phone, old := greeted(t, site, gatewaytest.V5), greeted(t, site, gatewaytest.V311)
	gone := phone.WantDisconnect(t, 0x9C)
	if took := time.Since(begun); took < time.Second {
		t.Errorf("sent away after %v", took)
	}
	if userProperty(gone, "retry_after_ms") == "" {
		t.Error("not told when to come back")
	}
	old.WantClosed(t)
}

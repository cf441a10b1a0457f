package e2e_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/halleypush/halley/e2e/rig"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

const (
	// withoutIt is how many pushes are accepted while a killed part is away, afterFault how many must have been accepted after a fault
	// before it is judged.
	withoutIt, afterFault = 20, 20
	// cutFor is how long a gateway is cut from NATS.
	cutFor = 30 * time.Second
	// settleWithin bounds how long the fleet may take after a fault until every steady phone has everything.
	settleWithin = 90 * time.Second
)

// TestFaults kills every part under load, cuts a gateway from NATS and deletes NATS's data. Every accepted push reaches every
// phone that is connected, once, without the phone having to reconnect if it never was disconnected; and the ledger's counts
// are what the phones saw. HALLEY_E2E_ROUNDS says how often each part is killed.
func TestFaults(t *testing.T) {
	t.Parallel()
	rounds, err := strconv.Atoi(os.Getenv("HALLEY_E2E_ROUNDS"))
	if err != nil || rounds < 1 {
		rounds = 1
	}
	cluster := rig.StartCluster(t, rig.Options{Gateways: 2, Links: true})
	begun := time.Now()
	f := startFleet(t, cluster)
	t.Logf("%d phones registered and online after %v", fleetSize, time.Since(begun).Round(time.Millisecond))
	f.begin(t)
	for round := range rounds {
		faults{t, cluster, f}.kills(round)
	}
	faults{t, cluster, f}.cut()
	faults{t, cluster, f}.deleteNATS()
	f.endLoad()
	f.load.Wait()
	f.endWalks()
	f.walks.Wait()
	f.checkLedger(t)
}

// faults are what can happen to a cluster.
type faults struct {
	t       *testing.T
	cluster *rig.Cluster
	fleet   *fleet
}

// nobody and everybody say which steady phones a fault may disconnect.
func nobody(int) bool    { return false }
func everybody(int) bool { return true }

// last lets a fault last for as long as the test is about: that is no waiting for something to happen.
func last(d time.Duration) { <-time.After(d) }

func (x faults) kills(round int) {
	x.t.Helper()
	killed := round % len(x.cluster.Gateways)
	elsewhere := func(i int) bool { return i%4 < 2 && i%2 != killed } // phones that know the other gateway alone
	gateway := x.cluster.Gateways[killed]
	x.survive("kill -9 of a gateway", func(i int) bool { return !elsewhere(i) }, func() {
		gateway.Kill(x.t)
		x.await(withoutIt, "are accepted without the gateway", x.fleet.acceptedCount)
		gateway.Start(x.t)
	})
	x.survive("kill -9 of pushcore", nobody, func() {
		x.cluster.Pushcore.Kill(x.t)
		x.await(1, "are refused without pushcore", x.fleet.refusedCount)
		x.cluster.Pushcore.Start(x.t)
	})
	x.survive("kill -9 of NATS", nobody, func() {
		x.cluster.NATS.Kill(x.t)
		x.await(withoutIt, "are accepted without NATS", x.fleet.acceptedCount)
		x.cluster.NATS.Start(x.t)
	})
	x.survive("kill -9 of PostgreSQL", nobody, func() {
		if err := x.cluster.Postgres.Kill(); err != nil {
			x.t.Fatalf("kill PostgreSQL: %v", err)
		}
	})
}

func (x faults) cut() {
	x.t.Helper()
	x.survive(fmt.Sprintf("a gateway cut from NATS for %v", cutFor), nobody, func() {
		x.cluster.Links[1].Cut()
		last(cutFor)
		if x.cluster.Gateways[1].Probe("/readyz") == nil {
			x.t.Error("a gateway that is cut from NATS says that it is ready")
		}
		x.cluster.Links[1].Mend()
	})
}

func (x faults) deleteNATS() {
	x.t.Helper()
	x.survive("stop of all, NATS's data deleted", everybody, func() {
		for _, gateway := range x.cluster.Gateways {
			gateway.Stop(x.t, time.Minute)
		}
		x.cluster.Pushcore.Stop(x.t, time.Minute)
		x.cluster.NATS.Stop(x.t, time.Minute)
		if err := os.RemoveAll(x.cluster.StoreDir()); err != nil {
			x.t.Fatal(err)
		}
		x.cluster.NATS.Start(x.t)
		x.cluster.Pushcore.Launch(x.t)
		for _, gateway := range x.cluster.Gateways {
			gateway.Launch(x.t)
		}
	})
}

// survive makes a fault happen, waits until all parts are ready again and every steady phone has what was accepted until then, and
// checks that only those lost their connection that may.
func (x faults) survive(fault string, mayLose func(i int) bool, happen func()) {
	x.t.Helper()
	var before [steadyPhones]int
	for i, p := range x.fleet.steady() {
		before[i] = p.losses()
	}
	accepted := x.fleet.acceptedCount()
	begun := time.Now()
	happen()
	x.cluster.AwaitReady(x.t)
	ready := time.Since(begun)
	x.await(afterFault, "are accepted after: "+fault, x.fleet.acceptedCount)
	pushes := x.fleet.accepted()
	rig.Until(x.t, settleWithin, fault+": the steady phones get what was accepted", func() error {
		return x.fleet.missing(x.t, pushes, func(i int) bool { return i < steadyPhones })
	})
	lost := 0
	for i, p := range x.fleet.steady() {
		if n := p.losses() - before[i]; n > 0 {
			lost++
			if !mayLose(i) {
				x.t.Errorf("%s: phone %d lost its connection %d times", fault, i, n)
			}
		}
	}
	x.t.Logf("%s: ready after %v, all delivered after %v; %d pushes accepted meanwhile; %d of %d steady phones were disconnected",
		fault, ready.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond), len(pushes)-accepted, lost, steadyPhones)
}

// await waits until there are so many more pushes of a kind than now.
func (x faults) await(more int, what string, count func() int) {
	x.t.Helper()
	now := count()
	rig.Until(x.t, settleWithin, "pushes "+what, func() error {
		if n := count() - now; n < more {
			return fmt.Errorf("%d of %d are", n, more)
		}
		return nil
	})
}

// checkLedger compares what the phones saw with what the ledger says, before and after the phones that are away come back.
func (f *fleet) checkLedger(t *testing.T) {
	t.Helper()
	pushes := f.accepted()
	rig.Until(t, settleWithin, "all phones but those away get everything", func() error {
		return f.missing(t, pushes, func(i int) bool { return !f.isAway(i) })
	})
	f.awaitCounts(t, pushes, true)
	f.checkDeliveries(t, pushes)
	for _, p := range f.away() {
		if err := p.connect(f.life); err != nil {
			t.Fatal(err)
		}
	}
	rig.Until(t, settleWithin, "phones that were away get everything", func() error {
		return f.missing(t, pushes, everybody)
	})
	f.awaitCounts(t, pushes, false)
	f.report(t, pushes)
}

// awaitCounts waits until the ledger says of every push what the phones saw.
func (f *fleet) awaitCounts(t *testing.T, pushes []sentPush, away bool) {
	t.Helper()
	deadline := time.Now().Add(settleWithin)
	for _, push := range pushes {
		f.app.AwaitCounts(t, push.id, time.Until(deadline), f.counts(push, away))
	}
}

// checkDeliveries checks that every push has one delivery for each of its phones, arrived or, where the phone is away, pending.
func (f *fleet) checkDeliveries(t *testing.T, pushes []sentPush) {
	t.Helper()
	index := map[string]int{}
	for i, p := range f.phones {
		index[p.token] = i
	}
	var checks errgroup.Group
	checks.SetLimit(4)
	for _, push := range pushes {
		checks.Go(func() error {
			seen := map[int]bool{}
			request := &pushv1.ListDeliveriesRequest{App: f.app.ID, PushId: push.id, PageSize: 1000}
			for delivery, err := range f.app.Client.ListDeliveries(f.life, request) {
				if err != nil {
					return err
				}
				i, known := index[delivery.GetDevice()]
				want := pushv1.Delivery_ARRIVED
				if f.isAway(i) {
					want = pushv1.Delivery_PENDING
				}
				if !known || seen[i] || delivery.GetState() != want {
					return fmt.Errorf("push %s: delivery %v, want one that is %v", push.id, delivery, want)
				}
				seen[i] = true
			}
			if want := len(push.targets()); len(seen) != want {
				return fmt.Errorf("push %s: %d deliveries, want %d", push.id, len(seen), want)
			}
			return nil
		})
	}
	if err := checks.Wait(); err != nil {
		t.Error(err)
	}
}

// report prints the figures, and checks that phones got nothing but what was pushed to them.
func (f *fleet) report(t *testing.T, pushes []sentPush) {
	t.Helper()
	everyone, deliveries := 0, 0
	for _, push := range pushes {
		if push.to == nil {
			everyone++
		}
		deliveries += len(push.targets())
	}
	handled := 0
	var repeats uint64
	for _, p := range f.phones {
		got, _ := p.received()
		handled += len(got)
		repeats += p.repeated()
	}
	if handled != deliveries {
		t.Errorf("the phones got %d messages, and %d were for them", handled, deliveries)
	}
	t.Logf("%d direct pushes, %d to everyone: %d deliveries, each at its phone once and ARRIVED; the SDK dropped %d repeats",
		len(pushes)-everyone, everyone, deliveries, repeats)
}

package e2e_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
)

const (
	// crowdSize is how many phones weather the storms, unless HALLEY_E2E_PHONES says otherwise (`make e2e-storms`). One process has files
	// for 19,000.
	crowdSize = 1500
	// mostRate is the connect rate of each gateway that two cores bear with all that they run, of which the phones are the most: beyond
	// it they are late to say CONNECT on connections that the gateway has long taken.
	mostRate = 1000
	// pushcoreAway is how long pushcore stays away, leaseLasts is longer than a gateway's lease.
	pushcoreAway, leaseLasts = 60 * time.Second, 12 * time.Second
	// renewalsPerLease is how often a gateway renews its lease while it lasts.
	renewalsPerLease = 3
)

// TestStorms has a crowd of phones meet what brings all of them at once: a rolling restart, a gateway that is killed, pushcore
// away while they come back, PostgreSQL away for longer than a lease. Every push that was accepted meanwhile reaches every phone once,
// and no gateway lets more phones in than it says.
func TestStorms(t *testing.T) {
	t.Parallel()
	size, err := strconv.Atoi(os.Getenv("HALLEY_E2E_PHONES"))
	if err != nil || size < 10 {
		size = crowdSize
	}
	limit := pace{rate: min(float64(size)/10, mostRate), burst: float64(size) / 25}
	cluster := rig.StartCluster(t, rig.Options{Gateways: 3, Env: []string{
		fmt.Sprintf("HALLEY_CONNECT_RATE=%.0f", limit.rate), fmt.Sprintf("HALLEY_CONNECT_BURST=%.0f", limit.burst),
	}})
	heard := newAnswers(cluster.MQTTs)
	c := gather(t, cluster.CreateApp(t, "crowd"), size, func(i int, p *phone) {
		first := [...]int{0, 0, 1, 0, 0, 0, 0, 2, 0, 0}[i%10] // four phones of five prefer the first: 15,200 of 19,000
		p.dial = heard.dialFirst(slices.Concat(cluster.MQTTs[first:], cluster.MQTTs[:first]))
	})
	c.answers = heard
	c.load(t)
	storms{t, cluster, c, limit}.all()
	c.end(t)
}

// storms are what can happen to a crowd on a cluster.
type storms struct {
	*testing.T
	cluster *rig.Cluster
	crowd   *crowd
	limit   pace
}

func (s storms) all() {
	s.Helper()
	for _, storm := range []struct {
		name   string
		happen func()
		// loses says how many phones it may disconnect, given how many each gateway has.
		loses func(held []int) int
	}{
		{"rolling restart of three gateways", s.restart, func([]int) int { return len(s.crowd.phones) }},
		{"kill -9 of a gateway", s.kill, func(held []int) int { return held[0] }},
		{"pushcore away while a gateway's phones come back", s.withoutPushcore, func(held []int) int { return held[1] }},
		{"PostgreSQL away for longer than a lease", s.withoutPostgres, func([]int) int { return 0 }},
	} {
		held := s.held()
		stop := s.limit.watch(s.T, s.cluster, s.crowd.answers)
		lost := s.crowd.weather(storm.name, storm.happen)
		stop()
		if most := storm.loses(held); lost > most {
			s.Errorf("%s: %d phones lost their connection, not %d; the gateways had %v", storm.name, lost, most, held)
		}
	}
}

// held returns how many phones each gateway has.
func (s storms) held() []int {
	s.Helper()
	return s.count("halley_gateway_sessions", "")
}

func (s storms) count(metric, label string) []int {
	s.Helper()
	counts := make([]int, len(s.cluster.Gateways))
	for i, g := range s.cluster.Gateways {
		n, err := g.Metric(metric, label)
		if err != nil {
			s.Fatal(err)
		}
		counts[i] = int(n)
	}
	return counts
}

func (s storms) restart() {
	for _, g := range s.cluster.Gateways {
		s.Logf("%s drained in %v", g.Name, g.Stop(s.T, 2*time.Minute).Round(time.Millisecond))
		g.Start(s.T)
	}
}

// kill kills the gateway with the most phones, and starts it again when all are back elsewhere: within the time that the other gateways
// need for them at the rate that they state, with what the SDK adds to it at random and its longest pause of its own.
func (s storms) kill() {
	s.Helper()
	phones := s.held()[0]
	window := s.window(phones)
	before, begun := s.crowd.losses(), time.Now()
	s.cluster.Gateways[0].Kill(s.T)
	s.crowd.awaitLost(before, phones)
	s.crowd.awaitOnline(window - time.Since(begun))
	told := time.Duration(0)
	for _, p := range s.crowd.phones {
		told = max(told, p.longestTold())
	}
	s.Logf("%d phones of a gateway that was killed were back elsewhere after %v; %v are allowed, and %v was the longest time to come back that any was told",
		phones, time.Since(begun).Round(time.Millisecond), window.Round(time.Millisecond), told)
	s.cluster.Gateways[0].Start(s.T)
}

// window is how long so many phones may take until one gateway has let them all in.
func (s storms) window(phones int) time.Duration {
	queue := time.Duration(float64(phones) / s.limit.rate * float64(time.Second))
	return queue + queue/10 + backoff.Max + slack
}

// withoutPushcore has a gateway's phones come back while no pushcore is there, which they are not to notice. For that the other gateways
// must have met their app before.
func (s storms) withoutPushcore() {
	s.Helper()
	for _, address := range s.cluster.MQTTs {
		visitor := newPhone(s.crowd.app, dialFirst([]string{address}))
		if err := visitor.connect(s.crowd.life); err != nil {
			s.Fatal(err)
		}
		visitor.leave()
	}
	phones, lapses := s.held()[1], s.lapses()
	before, begun := s.crowd.losses(), time.Now()
	s.cluster.Pushcore.Kill(s.T)
	s.cluster.Gateways[1].Kill(s.T)
	s.crowd.awaitLost(before, phones)
	s.crowd.awaitOnline(s.window(phones) - time.Since(begun))
	s.Logf("%d phones of a gateway that was killed were answered elsewhere without pushcore after %v", phones, time.Since(begun).Round(time.Millisecond))
	last(pushcoreAway - time.Since(begun))
	s.cluster.Pushcore.Start(s.T)
	s.cluster.Gateways[1].Start(s.T)
	s.awaitRenewals(1)
	// The others have found it before it judged their leases.
	if after := s.lapses(); after[0] != lapses[0] || after[2] != lapses[2] {
		s.Errorf("leases lapsed: %v before pushcore was away, %v after it", lapses, after)
	}
}

// withoutPostgres has PostgreSQL away for longer than leases last, which nobody's lease is to lapse for.
func (s storms) withoutPostgres() {
	s.Helper()
	before := s.lapses()
	s.cluster.RestartPostgres(s.T, func() { last(leaseLasts) })
	s.awaitRenewals(renewalsPerLease + 1) // as long as none is judged after PostgreSQL is back
	if after := s.lapses(); !slices.Equal(before, after) {
		s.Errorf("leases lapsed: %v before PostgreSQL was away, %v after it", before, after)
	}
}

// awaitRenewals waits until every gateway has renewed its lease so many times from now on.
func (s storms) awaitRenewals(times int) {
	s.Helper()
	renewals := func() []int { return s.count("halley_gateway_lease_renewals_total", `"LIVE"`) }
	before := renewals()
	rig.Until(s.T, backWithin, "every gateway renews its lease", func() error {
		now := renewals()
		for i, n := range now {
			if n < before[i]+times {
				return fmt.Errorf("renewals are %v, and were %v", now, before)
			}
		}
		return nil
	})
}

// lapses returns how often each gateway has lost its lease.
func (s storms) lapses() []int {
	s.Helper()
	return s.count("halley_gateway_lapses_total", "")
}

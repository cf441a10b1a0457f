package e2e_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/halleypush/halley/e2e/rig"
)

const (
	// crowdSize is how many phones weather the storms, unless HALLEY_E2E_PHONES says otherwise. One process has files for 19,000.
	crowdSize = 1500
	// backWithin bounds how long phones may take until all are back.
	backWithin = 2 * time.Minute
	// crowdEveryone is how often everyone of a crowd is pushed to.
	crowdEveryone = 5 * time.Second
	// leaseLasts is longer than a gateway's lease.
	leaseLasts = 12 * time.Second
)

// TestStorms has a crowd of phones meet what brings all of them at once: a rolling restart, a gateway that is killed, pushcore
// away while they come back, PostgreSQL away for longer than a lease, a network that goes away without a word. Every push that
// was accepted meanwhile reaches every phone once, and no gateway lets more phones in than it says.
func TestStorms(t *testing.T) {
	t.Parallel()
	size, err := strconv.Atoi(os.Getenv("HALLEY_E2E_PHONES"))
	if err != nil || size < 10 {
		size = crowdSize
	}
	limit := pace{rate: float64(size) / 5, burst: float64(size) / 25}
	cluster := rig.StartCluster(t, rig.Options{Gateways: 3, Env: []string{
		fmt.Sprintf("HALLEY_CONNECT_RATE=%.0f", limit.rate), fmt.Sprintf("HALLEY_CONNECT_BURST=%.0f", limit.burst),
		"HALLEY_FLAP_PER_MINUTE=0", // the test restarts more often than an operator would
	}})
	c := gather(t, cluster.CreateApp(t, "crowd"), size, func(i int, p *phone) {
		first := [...]int{0, 2, 0, 1, 0}[i%5] // after a rolling restart, the first gateway has four phones of five
		p.dial = dialFirst(slices.Concat(cluster.MQTTs[first:], cluster.MQTTs[:first]))
	})
	c.load(t)
	c.weather("rolling restart of three gateways", func() {
		stop := limit.watch(t, cluster.Gateways)
		defer stop()
		for _, g := range cluster.Gateways {
			t.Logf("%s drained in %v", g.Name, g.Stop(t, 2*time.Minute).Round(time.Millisecond))
			g.Start(t)
		}
		c.awaitOnline()
	})
	c.weather("kill -9 of a gateway", func() {
		stop := limit.watch(t, cluster.Gateways)
		defer stop()
		cluster.Gateways[0].Kill(t)
		last(downFor)
		cluster.Gateways[0].Start(t)
		c.awaitOnline()
	})
	c.weather("pushcore away while a gateway's phones come back", func() {
		cluster.Pushcore.Kill(t)
		cluster.Gateways[1].Kill(t)
		last(time.Duration(min(60, size/100)) * time.Second)
		cluster.Pushcore.Start(t)
		cluster.Gateways[1].Start(t)
	})
	c.weather("PostgreSQL away for longer than a lease", func() {
		cluster.RestartPostgres(t, func() { last(leaseLasts) })
	})
	c.end(t)
}

// crowd is a number of phones of an app, under a load of pushes.
type crowd struct {
	t      *testing.T
	app    *rig.App
	phones []*phone
	life   context.Context //nolint:containedctx // the phones' life is the test's
	stop   context.CancelFunc
	loads  sync.WaitGroup

	mu   sync.Mutex
	sent []sentPush // guarded by mu
}

// gather brings phones online that differ in what set sets.
func gather(t *testing.T, app *rig.App, size int, set func(i int, p *phone)) *crowd {
	t.Helper()
	life, end := context.WithCancel(context.Background())
	c := &crowd{t: t, app: app, life: life}
	t.Cleanup(func() {
		end()
		for _, p := range c.phones {
			<-p.done
		}
	})
	begun := time.Now()
	var connecting errgroup.Group
	connecting.SetLimit(200)
	for i := range size {
		p := newPhone(c.app, nil)
		set(i, p)
		c.phones = append(c.phones, p)
		connecting.Go(func() error {
			timeout, cancel := context.WithTimeout(life, 5*time.Minute)
			defer cancel()
			return p.connectWithin(timeout, life)
		})
	}
	if err := connecting.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d phones registered and online after %v", size, time.Since(begun).Round(time.Millisecond))
	return c
}

// load pushes to ten phones every 100 ms, and to everyone every crowdEveryone, until end.
func (c *crowd) load(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(c.life)
	c.stop = stop
	t.Cleanup(stop)
	c.loads.Go(func() {
		c.pushEvery(ctx, 100*time.Millisecond, func() []int { return mathrand.Perm(len(c.phones))[:10] })
	})
	c.loads.Go(func() { c.pushEvery(ctx, crowdEveryone, func() []int { return nil }) })
}

// pushEvery pushes until ctx ends. A push whose call failed is repeated with its idempotency key until it is accepted.
func (c *crowd) pushEvery(ctx context.Context, pause time.Duration, choose func() []int) {
	for wait(ctx, pause) {
		to := choose()
		var tokens []string
		for _, i := range to {
			tokens = append(tokens, c.phones[i].token)
		}
		request := c.app.Request(tokens...)
		request.Policy.IdempotencyKey = rand.Text()
		for {
			response, err := c.app.Client.Push(c.life, request)
			if err == nil {
				c.mu.Lock()
				c.sent = append(c.sent, sentPush{response.GetPushId(), to})
				c.mu.Unlock()
				break
			}
			if !wait(c.life, 100*time.Millisecond) {
				return
			}
		}
	}
}

func (c *crowd) accepted() []sentPush {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent[:len(c.sent):len(c.sent)]
}

// weather makes something happen, and waits until every phone has what was accepted until it was over.
func (c *crowd) weather(storm string, happen func()) {
	c.t.Helper()
	before, accepted := make([]int, len(c.phones)), len(c.accepted())
	for i, p := range c.phones {
		before[i] = p.losses()
	}
	begun := time.Now()
	happen()
	over := time.Since(begun)
	c.awaitOnline()
	online := time.Since(begun)
	now := len(c.accepted())
	rig.Until(c.t, backWithin, storm+": pushes are accepted again, to everyone, too", func() error {
		for _, push := range c.accepted()[now:] {
			if push.to == nil {
				return nil
			}
		}
		return errors.New("none is")
	})
	pushes := c.accepted()
	c.await(storm, pushes)
	most, disconnected := 0, 0
	for i, p := range c.phones {
		n := p.losses() - before[i]
		most = max(most, n)
		disconnected += min(n, 1)
	}
	c.t.Logf("%s: over after %v, all %d phones online after %v, all delivered after %v; %d pushes accepted meanwhile; %d phones were disconnected, %d times at most",
		storm, over.Round(time.Millisecond), len(c.phones), online.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond),
		len(pushes)-accepted, disconnected, most)
}

func (c *crowd) awaitOnline() {
	c.t.Helper()
	rig.Until(c.t, backWithin, "all phones are online", func() error {
		away := 0
		for _, p := range c.phones {
			if !p.online() {
				away++
			}
		}
		if away > 0 {
			return fmt.Errorf("%d are not", away)
		}
		return nil
	})
}

// await waits until the phones have these pushes. One that came twice fails the test.
func (c *crowd) await(storm string, pushes []sentPush) {
	c.t.Helper()
	rig.Until(c.t, backWithin, storm+": the phones get what was accepted", func() error {
		lacking := 0
		for i, p := range c.phones {
			got, _ := p.received()
			for _, push := range pushes {
				if n := got[push.id]; n > 1 {
					c.t.Fatalf("push %s came %d times to phone %d", push.id, n, i)
				} else if n == 0 && push.to == nil {
					lacking++
				}
			}
		}
		for _, push := range pushes {
			for _, i := range push.to {
				if got, _ := c.phones[i].received(); got[push.id] == 0 {
					lacking++
				}
			}
		}
		if lacking > 0 {
			return fmt.Errorf("%d deliveries are missing", lacking)
		}
		return nil
	})
}

// awaitAll waits until each phone has each of these pushes. One that came twice fails the test.
func (c *crowd) awaitAll(pushIDs ...string) {
	c.t.Helper()
	var pushes []sentPush
	for _, id := range pushIDs {
		pushes = append(pushes, sentPush{id: id})
	}
	c.await("all phones", pushes)
}

// tokens returns the phones' names.
func (c *crowd) tokens() []string {
	var tokens []string
	for _, p := range c.phones {
		tokens = append(tokens, p.token)
	}
	return tokens
}

// end stops the load and checks that the phones got what was pushed to them and nothing else.
func (c *crowd) end(t *testing.T) {
	t.Helper()
	c.stop()
	c.loads.Wait()
	pushes := c.accepted()
	c.await("the end", pushes)
	deliveries, handled := 0, 0
	for _, push := range pushes {
		if deliveries += len(push.to); push.to == nil {
			deliveries += len(c.phones)
		}
	}
	for _, p := range c.phones {
		got, _ := p.received()
		handled += len(got)
	}
	if handled != deliveries {
		t.Errorf("the phones got %d messages, and %d were for them", handled, deliveries)
	}
	t.Logf("%d pushes, %d deliveries, each at its phone once", len(pushes), deliveries)
}

// pace is what a gateway says of how many phones it lets in.
type pace struct{ rate, burst float64 }

// let is how many phones a gateway had let in at some time between two moments.
type let struct {
	asked, told time.Time
	in          float64
}

// watch looks at the gateways every 100 ms until stop is called, which checks that none has let in more than its pace allows
// over any stretch of time, and reports the most in 100 ms.
func (p pace) watch(t *testing.T, gateways []*rig.Process) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	seen := make([][]let, len(gateways))
	var looking sync.WaitGroup
	for n, g := range gateways {
		looking.Go(func() {
			for wait(ctx, 100*time.Millisecond) {
				asked := time.Now()
				if in, err := g.Metric("halley_gateway_connects_total", `outcome="accepted"`); err == nil { // it may be away
					seen[n] = append(seen[n], let{asked, time.Now(), in})
				}
			}
		})
	}
	return func() {
		cancel()
		looking.Wait()
		looks := 0
		for n, g := range gateways {
			looks += len(seen[n])
			t.Logf("%s let in %.0f phones in 100 ms at the most; its limit is %.0f/s and %.0f at once", g.Name, p.check(t, g.Name, seen[n]), p.rate, p.burst)
		}
		if looks < 10 {
			t.Errorf("the gateways were seen %d times only", looks)
		}
	}
}

func (p pace) check(t *testing.T, gateway string, seen []let) (most float64) {
	t.Helper()
	for i, a := range seen {
		for _, b := range seen[i+1:] {
			if b.in < a.in {
				break // it was started again
			}
			allowed := p.burst + p.rate*b.told.Sub(a.asked).Seconds()
			if b.in-a.in > allowed {
				t.Errorf("%s let in %.0f phones within %v, %.0f are allowed", gateway, b.in-a.in, b.told.Sub(a.asked), allowed)
				return most
			}
		}
		if i > 0 && a.in >= seen[i-1].in {
			most = max(most, (a.in-seen[i-1].in)/a.told.Sub(seen[i-1].told).Seconds()/10)
		}
	}
	return most
}

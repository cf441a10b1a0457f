//go:build k8s

package k8s_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/halleypush/halley/e2e/rig"
	"github.com/halleypush/halley/pkg/device"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// How often pushes go to ten phones, and to everyone.
const (
	directEvery   = 100 * time.Millisecond
	everyoneEvery = 5 * time.Second
	// backWithin bounds how long phones may take until all are back and have everything.
	backWithin = 3 * time.Minute
)

// phone is a device with our SDK that remembers what it got, and knows what it has to get.
type phone struct {
	fleet  *fleet
	store  device.Store
	device *device.Device
	stop   context.CancelFunc
	done   chan struct{} // closed when the device has ended

	mu       sync.Mutex
	token    string         // guarded by mu: what it was registered as
	got      map[string]int // guarded by mu: how often each push came
	expected []string       // guarded by mu: pushes that were accepted for it
	have     int            // guarded by mu: so many of expected are known to have come
	losses   int            // guarded by mu: connections that ended
	online   bool           // guarded by mu
}

// connect starts the device and waits until it is online.
func (p *phone) connect(ctx context.Context) error {
	life, stop := context.WithCancel(p.fleet.life)
	d, err := device.New(ctx, device.Options{
		App: p.fleet.app.ID, ClientKey: p.fleet.app.ClientKey, Server: "mqtt://" + p.fleet.app.MQTT, Store: p.store,
		Backoff: device.Backoff{Min: 200 * time.Millisecond, Max: 5 * time.Second}, OnMessage: p.take, OnState: p.state,
	})
	if err != nil {
		stop()
		return fmt.Errorf("a phone: %w", err)
	}
	p.device, p.stop, p.done = d, stop, make(chan struct{})
	go func() {
		defer close(p.done)
		_ = d.Run(life) // ends with life; a phone that ended otherwise is missed by what waits for it
	}()
	if err := d.Wait(ctx); err != nil {
		return fmt.Errorf("a phone connects: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.token != "" && p.token != d.Token() {
		return fmt.Errorf("phone %s has become %s", p.token, d.Token())
	}
	p.token = d.Token()
	return nil
}

// leave ends the connection and returns when it is closed.
func (p *phone) leave() {
	p.stop()
	<-p.done
}

func (p *phone) take(_ context.Context, m device.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.got[m.PushID]++; p.got[m.PushID] > 1 {
		p.fleet.twice.Add(1)
	}
	return nil
}

func (p *phone) state(s device.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.online && s.Phase != device.Online {
		p.losses++
	}
	p.online = s.Phase == device.Online
}

func (p *phone) expect(push string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = append(p.expected, push)
}

// missing returns how many of the first n pushes have not come yet.
func (p *phone) missing(n int) (missing int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.have < len(p.expected) && p.got[p.expected[p.have]] > 0 {
		p.have++
	}
	for i := p.have; i < n; i++ {
		if p.got[p.expected[i]] == 0 {
			missing++
		}
	}
	return missing
}

func (p *phone) name() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.token
}

func (p *phone) lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.losses
}

func (p *phone) isOnline() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.online
}

// sentPush is a push that was accepted.
type sentPush struct {
	id      string
	targets int
}

// fleet is a number of phones outside the cluster, and the pushes to them.
type fleet struct {
	app    *rig.App
	phones []*phone
	life   context.Context //nolint:containedctx // the phones' life is the test's
	loads  sync.WaitGroup
	end    context.CancelFunc // of the load
	twice  atomic.Int64       // messages that came to the app again

	mu       sync.Mutex
	accepted []sentPush // guarded by mu
	everyone int        // guarded by mu: how many of them were to everyone
}

// gather registers and connects phones, which live until the test ends.
func gather(t *testing.T, app *rig.App, size int) *fleet {
	t.Helper()
	life, end := context.WithCancel(context.Background())
	f := &fleet{app: app, life: life}
	t.Cleanup(func() {
		end()
		for _, p := range f.phones {
			<-p.done
		}
	})
	begun := time.Now()
	never := make(chan struct{}) // of those that never were connected
	close(never)
	for range size {
		f.phones = append(f.phones, &phone{fleet: f, store: device.MemoryStore(), got: map[string]int{}, done: never})
	}
	if err := f.connect(f.phones); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d phones registered and online after %v", size, time.Since(begun).Round(time.Millisecond))
	return f
}

// connect connects phones, 100 at a time.
func (f *fleet) connect(phones []*phone) error {
	var connecting errgroup.Group
	connecting.SetLimit(100)
	for _, p := range phones {
		connecting.Go(func() error {
			ctx, cancel := context.WithTimeout(f.life, backWithin)
			defer cancel()
			return p.connect(ctx)
		})
	}
	return connecting.Wait()
}

// begin starts the load, which goes on until stop.
func (f *fleet) begin(t *testing.T) {
	t.Helper()
	var ctx context.Context
	ctx, f.end = context.WithCancel(f.life)
	t.Cleanup(f.end)
	some := func() (some []*phone) {
		for _, i := range mathrand.Perm(len(f.phones))[:10] {
			some = append(some, f.phones[i])
		}
		return some
	}
	f.loads.Go(func() { f.pushEvery(ctx, directEvery, some) })
	f.loads.Go(func() { f.pushEvery(ctx, everyoneEvery, func() []*phone { return nil }) })
}

// stop ends the load, after the pushes that are under way.
func (f *fleet) stop() {
	f.end()
	f.loads.Wait()
}

// pushEvery pushes to chosen phones, to everyone if there are none, until ctx ends. A push whose call failed is repeated with its
// idempotency key until it is accepted, so that it is known afterwards which ones were.
func (f *fleet) pushEvery(ctx context.Context, pause time.Duration, choose func() []*phone) {
	for wait(ctx, pause) {
		chosen := choose()
		var tokens []string
		for _, p := range chosen {
			tokens = append(tokens, p.name())
		}
		request := f.app.Request(tokens...)
		request.Policy.IdempotencyKey = rand.Text()
		for {
			response, err := f.app.Client.Push(f.life, request)
			if err == nil {
				f.note(response.GetPushId(), chosen)
				break
			}
			if !wait(f.life, 100*time.Millisecond) {
				return
			}
		}
	}
}

func (f *fleet) note(push string, chosen []*phone) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if chosen == nil {
		chosen = f.phones
		f.everyone++
	}
	f.accepted = append(f.accepted, sentPush{push, len(chosen)})
	for _, p := range chosen {
		p.expect(push)
	}
}

// wait pauses, and says whether ctx goes on.
func wait(ctx context.Context, pause time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}

func (f *fleet) sent() (pushes []sentPush, everyone int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.accepted[:len(f.accepted):len(f.accepted)], f.everyone
}

// during makes something happen under load, waits until the phones are all online and have all that was accepted until then, and
// returns how often each was disconnected at the most.
func (f *fleet) during(t *testing.T, what string, happen func()) (most int) {
	t.Helper()
	before := make([]int, len(f.phones))
	for i, p := range f.phones {
		before[i] = p.lost()
	}
	pushes, _ := f.sent()
	begun := time.Now()
	happen()
	over := time.Since(begun)
	f.awaitOnline(t)
	online := time.Since(begun)
	_, everyone := f.sent()
	rig.Until(t, backWithin, what+": pushes to everyone are accepted", func() error {
		if _, now := f.sent(); now == everyone {
			return errors.New("none is")
		}
		return nil
	})
	after, _ := f.sent()
	f.awaitDelivered(t, what)
	often := map[int]int{}
	for i, p := range f.phones {
		lost := p.lost() - before[i]
		often[lost]++
		most = max(most, lost)
	}
	t.Logf("%s: over after %v, all %d phones online after %v, all delivered after %v; %d pushes accepted meanwhile; phones by how often they were disconnected: %v",
		what, over.Round(time.Millisecond), len(f.phones), online.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond),
		len(after)-len(pushes), often)
	return most
}

func (f *fleet) awaitOnline(t *testing.T) {
	t.Helper()
	rig.Until(t, backWithin, "all phones are online", func() error {
		away := 0
		for _, p := range f.phones {
			if !p.isOnline() {
				away++
			}
		}
		if away > 0 {
			return fmt.Errorf("%d are not", away)
		}
		return nil
	})
}

// awaitDelivered waits until the phones have all that is accepted now. What came twice fails the test.
func (f *fleet) awaitDelivered(t *testing.T, what string) {
	t.Helper()
	marks := f.marks()
	rig.Until(t, backWithin, what+": the phones get what was accepted", func() error {
		missing := 0
		for i, p := range f.phones {
			missing += p.missing(marks[i])
		}
		if missing > 0 {
			return fmt.Errorf("%d deliveries are missing", missing)
		}
		return nil
	})
	if n := f.twice.Load(); n > 0 {
		t.Fatalf("%s: %d messages came to the app twice", what, n)
	}
}

// marks returns how many pushes each phone has to have by now.
func (f *fleet) marks() []int {
	marks := make([]int, len(f.phones))
	for i, p := range f.phones {
		p.mu.Lock()
		marks[i] = len(p.expected)
		p.mu.Unlock()
	}
	return marks
}

// check checks, after stop, that the phones got what was for them and nothing else, and that the ledger says so of each push.
func (f *fleet) check(t *testing.T) {
	t.Helper()
	f.awaitDelivered(t, "the end")
	pushes, everyone := f.sent()
	deliveries, handled, repeats := 0, 0, uint64(0)
	for _, push := range pushes {
		deliveries += push.targets
	}
	for _, p := range f.phones {
		repeats += p.device.Counts().Repeats
		p.mu.Lock()
		handled += len(p.got)
		p.mu.Unlock()
	}
	if handled != deliveries {
		t.Errorf("the phones got %d messages, and %d were for them", handled, deliveries)
	}
	for _, push := range pushes {
		n := uint32(push.targets)
		f.app.AwaitCounts(t, push.id, time.Minute, &pushv1.Counts{Targeted: n, Arrived: n})
	}
	t.Logf("%d pushes (%d to everyone), %d deliveries, each at its phone once and arrived in the ledger; the SDKs dropped %d repeats",
		len(pushes), everyone, deliveries, repeats)
}

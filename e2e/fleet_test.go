package e2e_test

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/halleypush/halley/e2e/rig"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// What the fleet is made of, and what is pushed to it.
const (
	steadyPhones    = 800 // stay connected as long as they are let
	wanderingPhones = 180 // leave and come back all the time
	awayPhones      = 20  // leave before the first push
	fleetSize       = steadyPhones + wanderingPhones + awayPhones

	directEvery   = 50 * time.Millisecond
	directDevices = 5
	everyoneEvery = 2 * time.Second
)

// sentPush is a push that was accepted.
type sentPush struct {
	id string
	to []int // phones; nil: all
}

// fleet is a thousand phones under a running load of pushes.
type fleet struct {
	app    *rig.App
	phones []*phone
	life   context.Context //nolint:containedctx // the phones' life is the test's

	load, walks sync.WaitGroup
	endLoad     context.CancelFunc
	endWalks    context.CancelFunc

	mu      sync.Mutex
	sent    []sentPush // guarded by mu
	refused int        // guarded by mu: calls that failed
}

// homes says which gateways a phone tries, in order: half of the phones have one alone.
func homes(i int, gateways []string) []string {
	first, second := gateways[i%2], gateways[(i+1)%2]
	if i%4 < 2 {
		return []string{first}
	}
	return []string{first, second}
}

// dialFirst returns a dialer that connects to the first of these addresses that accepts.
func dialFirst(addresses []string) dialer {
	return func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
		for _, address := range addresses {
			if conn, err = (&net.Dialer{}).DialContext(ctx, network, address); err == nil {
				return conn, nil
			}
		}
		return nil, err
	}
}

func startFleet(t *testing.T, cluster *rig.Cluster) *fleet {
	t.Helper()
	life, end := context.WithCancel(context.Background())
	f := &fleet{app: cluster.CreateApp(t, "fleet"), life: life}
	t.Cleanup(func() {
		end()
		for _, p := range f.phones {
			<-p.done
		}
	})
	var connecting errgroup.Group
	connecting.SetLimit(50)
	for i := range fleetSize {
		p := newPhone(f.app, dialFirst(homes(i, cluster.MQTTs)))
		f.phones = append(f.phones, p)
		connecting.Go(func() error {
			timeout, cancel := context.WithTimeout(life, time.Minute)
			defer cancel()
			return p.connectWithin(timeout, life)
		})
	}
	if err := connecting.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, p := range f.away() {
		p.leave()
	}
	return f
}

func (f *fleet) steady() []*phone    { return f.phones[:steadyPhones] }
func (f *fleet) wandering() []*phone { return f.phones[steadyPhones : steadyPhones+wanderingPhones] }
func (f *fleet) away() []*phone      { return f.phones[steadyPhones+wanderingPhones:] }
func (f *fleet) isAway(i int) bool   { return i >= steadyPhones+wanderingPhones }

// begin starts the load and the walks. They end with the test, if not before.
func (f *fleet) begin(t *testing.T) {
	t.Helper()
	var load, walks context.Context
	load, f.endLoad = context.WithCancel(f.life)
	walks, f.endWalks = context.WithCancel(f.life)
	t.Cleanup(func() {
		f.endLoad()
		f.endWalks()
	})
	f.load.Go(func() {
		f.pushEvery(load, directEvery, func() []int { return mathrand.Perm(fleetSize)[:directDevices] })
	})
	f.load.Go(func() { f.pushEvery(load, everyoneEvery, func() []int { return nil }) })
	for group := range slices.Chunk(f.wandering(), 30) {
		f.walks.Go(func() { wander(walks, f.life, group) })
	}
}

// pushEvery pushes until ctx ends. A push whose call failed is repeated with its idempotency key until it is accepted, so that it
// is known afterwards which ones were.
func (f *fleet) pushEvery(ctx context.Context, pause time.Duration, choose func() []int) {
	for wait(ctx, pause) {
		to := choose()
		var tokens []string
		for _, i := range to {
			tokens = append(tokens, f.phones[i].token)
		}
		request := f.app.Request(tokens...)
		request.Policy.IdempotencyKey = rand.Text()
		for {
			response, err := f.app.Client.Push(f.life, request)
			if err == nil {
				f.mu.Lock()
				f.sent = append(f.sent, sentPush{response.GetPushId(), to})
				f.mu.Unlock()
				break
			}
			f.mu.Lock()
			f.refused++
			f.mu.Unlock()
			if !wait(f.life, 100*time.Millisecond) {
				return
			}
		}
	}
}

// wander lets one phone of a group after another leave, and come back within a second.
func wander(ctx, life context.Context, group []*phone) {
	for ctx.Err() == nil {
		p := group[mathrand.IntN(len(group))]
		p.leave()
		wait(ctx, time.Duration(mathrand.IntN(1000))*time.Millisecond)
		if p.connect(life) != nil {
			return // life is over
		}
		wait(ctx, 200*time.Millisecond)
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

// accepted returns the pushes that were accepted so far.
func (f *fleet) accepted() []sentPush {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sent)
}

func (f *fleet) acceptedCount() int { return len(f.accepted()) }

// refusedCount returns how many calls of pushes have failed so far.
func (f *fleet) refusedCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refused
}

// targets says which phones a push is for.
func (s sentPush) targets() []int {
	if s.to != nil {
		return s.to
	}
	all := make([]int, fleetSize)
	for i := range all {
		all[i] = i
	}
	return all
}

// missing says what these pushes still lack at the phones for which counted holds. A push that came twice fails the test.
func (f *fleet) missing(t *testing.T, pushes []sentPush, counted func(i int) bool) error {
	t.Helper()
	got := make([]map[string]int, fleetSize)
	for i, p := range f.phones {
		got[i], _ = p.received()
	}
	lacking, example := 0, ""
	for _, push := range pushes {
		for _, i := range push.targets() {
			n := got[i][push.id]
			if n > 1 {
				t.Fatalf("push %s came %d times to phone %d", push.id, n, i)
			}
			if n == 0 && counted(i) {
				lacking++
				example = fmt.Sprintf("push %s (to everyone: %v) at phone %d (%s, online: %v)",
					push.id, push.to == nil, i, f.phones[i].token, f.phones[i].online())
			}
		}
	}
	if lacking > 0 {
		return fmt.Errorf("%d deliveries are missing, such as %s", lacking, example)
	}
	return nil
}

// counts is what the ledger must say of a push while the phones that are away are, or are not, still away.
func (f *fleet) counts(push sentPush, away bool) *pushv1.Counts {
	c := &pushv1.Counts{Targeted: uint32(len(push.targets()))}
	for _, i := range push.targets() {
		if away && f.isAway(i) {
			c.Pending++
		} else {
			c.Arrived++
		}
	}
	return c
}

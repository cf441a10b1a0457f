package e2e_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/halleypush/halley/e2e/rig"
)

const (
	// backWithin bounds how long phones may take until all are back.
	backWithin = 2 * time.Minute
	// answerWithin is how long a phone that connects may be without an answer, whatever goes on.
	answerWithin = 10 * time.Second
	// crowdEveryone is how often everyone of a crowd is pushed to.
	crowdEveryone = 5 * time.Second
)

// crowd is a number of phones of an app, under a load of pushes.
type crowd struct {
	t      *testing.T
	app    *rig.App
	phones []*phone
	// answers are what the phones hear when they connect, where the test asks for it.
	answers *answers
	life    context.Context //nolint:containedctx // the phones' life is the test's
	stop    context.CancelFunc
	loads   sync.WaitGroup

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

// weather makes something happen, waits until every phone has what was accepted until it was over, and returns how many phones it
// has disconnected. However bad it is, no phone waits in vain for a gateway's answer.
func (c *crowd) weather(storm string, happen func()) int {
	c.t.Helper()
	c.answers.longest.Store(0)
	c.answers.refused.Store(0)
	before, accepted := c.losses(), len(c.accepted())
	begun := time.Now()
	happen()
	over := time.Since(begun)
	c.awaitOnline(backWithin)
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
	disconnected, most := c.lost(before)
	longest := time.Duration(c.answers.longest.Load())
	if longest > answerWithin {
		c.t.Errorf("%s: a phone waited %v for a gateway's answer", storm, longest)
	}
	c.t.Logf("%s: over after %v, all %d phones online after %v, all delivered after %v; %d pushes accepted meanwhile; %d phones were disconnected, %d times at most; "+
		"%d times a phone was told to come back, and none waited longer than %v for an answer",
		storm, over.Round(time.Millisecond), len(c.phones), online.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond),
		len(pushes)-accepted, disconnected, most, c.answers.refused.Load(), longest.Round(time.Millisecond))
	return disconnected
}

// losses returns how often each phone has lost its connection.
func (c *crowd) losses() []int {
	losses := make([]int, len(c.phones))
	for i, p := range c.phones {
		losses[i] = p.losses()
	}
	return losses
}

// lost returns how many phones have lost their connection since, and how often at the most.
func (c *crowd) lost(since []int) (phones, most int) {
	for i, n := range c.losses() {
		phones += min(n-since[i], 1)
		most = max(most, n-since[i])
	}
	return phones, most
}

// awaitLost waits until so many phones have lost their connection since.
func (c *crowd) awaitLost(since []int, n int) {
	c.t.Helper()
	rig.Until(c.t, backWithin, "phones lose their connection", func() error {
		if lost, _ := c.lost(since); lost < n {
			return fmt.Errorf("%d of %d have", lost, n)
		}
		return nil
	})
}

func (c *crowd) awaitOnline(within time.Duration) {
	c.t.Helper()
	rig.Until(c.t, within, "all phones are online", func() error {
		away, one := 0, ""
		for _, p := range c.phones {
			if !p.online() {
				away++
				one = p.tried()
			}
		}
		if away > 0 {
			return fmt.Errorf("%d are not; at %s one has tried: %s", away, time.Now().Format("05.000"), one)
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

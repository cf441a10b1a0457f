//go:build k8s

package k8s_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// rate is how many phones a second each gateway lets in, burst how many at once (values.yaml).
const (
	rate  = 300
	burst = 150
)

// look is how many phones a gateway had let in at some time between two moments.
type look struct {
	asked, told time.Time
	in          float64
}

// watchPace looks at every gateway there is, twice a second, until stop is called, which checks that none has let in more phones than its
// pace allows over any stretch of time.
func (c *cluster) watchPace(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	seen := map[string][]look{} // by pod and container
	var looking sync.WaitGroup
	looking.Go(func() {
		for wait(ctx, 500*time.Millisecond) {
			for name, seenNow := range c.lookAtGateways(ctx) {
				seen[name] = append(seen[name], seenNow)
			}
		}
	})
	return func() {
		t.Helper()
		cancel()
		looking.Wait()
		for name, looks := range seen {
			most := checkPace(t, name, looks)
			t.Logf("%s let in %.0f phones, %.0f a second at the most, seen %d times", name, looks[len(looks)-1].in-looks[0].in, most, len(looks))
		}
		if len(seen) == 0 {
			t.Error("no gateway was seen")
		}
	}
}

// lookAtGateways looks at the gateways that answer within two seconds: one may not have begun, or be gone.
func (c *cluster) lookAtGateways(ctx context.Context) map[string]look {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	pods, err := c.pods(ctx, "gateway")
	if err != nil {
		return nil
	}
	var mu sync.Mutex
	seen := map[string]look{}
	var looking sync.WaitGroup
	for _, p := range pods {
		looking.Go(func() {
			asked := time.Now()
			in, err := c.metric(ctx, p.Metadata.Name, "halley_gateway_connects_total", `outcome="accepted"`)
			if err != nil {
				return
			}
			container, _ := p.container()
			mu.Lock()
			defer mu.Unlock()
			seen[fmt.Sprintf("%s (%.8s)", p.Metadata.Name, container)] = look{asked, time.Now(), in}
		})
	}
	looking.Wait()
	return seen
}

// checkPace returns the most phones in a second between two looks.
func checkPace(t *testing.T, name string, looks []look) (most float64) {
	t.Helper()
	for i, a := range looks {
		for _, b := range looks[i+1:] {
			if allowed := burst + rate*b.told.Sub(a.asked).Seconds(); b.in-a.in > allowed {
				t.Errorf("%s let in %.0f phones within %v, %.0f are allowed", name, b.in-a.in, b.told.Sub(a.asked), allowed)
				return most
			}
		}
		if i > 0 {
			most = max(most, (a.in-looks[i-1].in)/a.told.Sub(looks[i-1].told).Seconds())
		}
	}
	return most
}

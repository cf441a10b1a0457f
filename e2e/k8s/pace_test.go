//go:build k8s

package k8s_test

import (
	"context"
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
			pods, err := c.pods(ctx, "gateway")
			if err != nil {
				continue
			}
			for _, p := range pods {
				container, _ := p.container()
				asked := time.Now()
				in, err := c.metric(ctx, p.Metadata.Name, "halley_gateway_connects_total", `outcome="accepted"`)
				if err == nil { // it may not have begun, or be gone
					key := p.Metadata.Name + " " + container
					seen[key] = append(seen[key], look{asked, time.Now(), in})
				}
			}
		}
	})
	return func() {
		t.Helper()
		cancel()
		looking.Wait()
		for name, looks := range seen {
			most := checkPace(t, name, looks)
			t.Logf("gateway %.40s let in %.0f phones, %.0f a second at the most", name, looks[len(looks)-1].in-looks[0].in, most)
		}
		if len(seen) == 0 {
			t.Error("no gateway was seen")
		}
	}
}

// checkPace returns the most phones in a second between two looks.
func checkPace(t *testing.T, name string, looks []look) (most float64) {
	t.Helper()
	for i, a := range looks {
		for _, b := range looks[i+1:] {
			if allowed := burst + rate*b.told.Sub(a.asked).Seconds(); b.in-a.in > allowed {
				t.Errorf("gateway %s let in %.0f phones within %v, %.0f are allowed", name, b.in-a.in, b.told.Sub(a.asked), allowed)
				return most
			}
		}
		if i > 0 {
			most = max(most, (a.in-looks[i-1].in)/a.told.Sub(looks[i-1].told).Seconds())
		}
	}
	return most
}

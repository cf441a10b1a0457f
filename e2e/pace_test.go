package e2e_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
)

// answers are what a crowd's phones hear when they connect, read from the wire.
type answers struct {
	accepted map[string]*atomic.Int64 // how often each gateway has let one in, by its address
	refused  atomic.Int64             // how often one was sent away
	longest  atomic.Int64             // how long one had to wait for an answer or for the connection's end, in ns
}

func newAnswers(gateways []string) *answers {
	a := &answers{accepted: map[string]*atomic.Int64{}}
	for _, address := range gateways {
		a.accepted[address] = &atomic.Int64{}
	}
	return a
}

// dialFirst returns a dialer that connects to the first of these gateways that accepts.
func (a *answers) dialFirst(gateways []string) dialer {
	return func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
		for _, address := range gateways {
			begun := time.Now()
			if conn, err = (&net.Dialer{}).DialContext(ctx, network, address); err == nil {
				return &answeredConn{Conn: conn, note: func(code byte, err error) { a.note(address, begun, code, err) }}, nil
			}
			a.waited(begun)
		}
		return nil, err
	}
}

func (a *answers) note(address string, begun time.Time, code byte, err error) {
	a.waited(begun)
	switch {
	case err != nil: // the gateway died, or nobody was there
	case code == 0:
		a.accepted[address].Add(1)
	default:
		a.refused.Add(1)
	}
}

func (a *answers) waited(since time.Time) {
	waited := int64(time.Since(since))
	for longest := a.longest.Load(); waited > longest && !a.longest.CompareAndSwap(longest, waited); longest = a.longest.Load() {
	}
}

// answeredConn notes the code of the CONNACK, with which a gateway begins: type, length, flags, code. The length has one byte or two.
type answeredConn struct {
	net.Conn
	note func(code byte, err error) // nil once it was called
	head []byte
}

func (c *answeredConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.note == nil {
		return n, err
	}
	c.head = append(c.head, b[:n]...)
	at := 3
	if len(c.head) > 1 && c.head[1] >= 0x80 {
		at = 4
	}
	switch {
	case len(c.head) > at:
		c.note(c.head[at], nil)
		c.note, c.head = nil, nil
	case err != nil:
		c.note(0, err)
		c.note, c.head = nil, nil
	}
	return n, err
}

// pace is what a gateway says of how many phones it lets in.
type pace struct{ rate, burst float64 }

// let is how many phones a gateway had let in at some time between two moments.
type let struct {
	asked, told time.Time
	in          float64
}

// watch looks every 100 ms, until stop is called, at how many phones each gateway says that it has let in, and at how many phones say
// that it has let them in. stop checks that neither is more than the gateway's pace allows over any stretch of time, and reports the
// most in 100 ms.
func (p pace) watch(t *testing.T, cluster *rig.Cluster, a *answers) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	says, heard := make([][][]let, len(cluster.Gateways)), make([][][]let, len(cluster.Gateways))
	var looking sync.WaitGroup
	for n, g := range cluster.Gateways {
		looking.Go(func() { says[n], heard[n] = look(ctx, g, a.accepted[cluster.MQTTs[n]]) })
	}
	return func() {
		cancel()
		looking.Wait()
		looks, late := 0, time.Duration(a.longest.Load())
		for n, g := range cluster.Gateways {
			t.Logf("%s let in %.0f phones in 100 ms at the most by its own word, %.0f by theirs; its limit is %.0f/s and %.0f at once", g.Name,
				p.check(t, g.Name+" says that it", says[n], 0), p.check(t, "phones say that "+g.Name, heard[n], late), p.rate, p.burst)
			for _, run := range says[n] {
				looks += len(run)
			}
		}
		if looks < 10 {
			t.Errorf("the gateways were seen %d times only", looks)
		}
	}
}

// look follows a gateway's count and the phones' until ctx ends. A gateway that is started again counts anew, and so does its limit:
// there is a list for each run.
func look(ctx context.Context, g *rig.Process, phones *atomic.Int64) (says, heard [][]let) {
	away := true
	for wait(ctx, 100*time.Millisecond) {
		asked := time.Now()
		in, err := g.Metric("halley_gateway_connects_total", `outcome="accepted"`)
		if err != nil {
			away = true
			continue
		}
		told := time.Now()
		if last := len(says) - 1; away || in < says[last][len(says[last])-1].in {
			says, heard = append(says, nil), append(heard, nil)
			away = false
		}
		run := len(says) - 1
		says[run] = append(says[run], let{asked, told, in})
		heard[run] = append(heard[run], let{told, told, float64(phones.Load())})
	}
	return says, heard
}

// check returns the most phones in 100 ms. late is how much earlier they may have been let in than they were counted: a phone that shares
// a busy machine with all others reads its answer late, though not by more than it has waited for it.
func (p pace) check(t *testing.T, who string, runs [][]let, late time.Duration) (most float64) {
	t.Helper()
	for _, seen := range runs {
		for i, a := range seen {
			for _, b := range seen[i+1:] {
				allowed := p.burst + p.rate*(b.told.Sub(a.asked)+late).Seconds()
				if b.in-a.in > allowed {
					t.Errorf("%s let in %.0f phones within %v, %.0f are allowed", who, b.in-a.in, b.told.Sub(a.asked), allowed)
					return most
				}
			}
			if i > 0 {
				most = max(most, (a.in-seen[i-1].in)/a.told.Sub(seen[i-1].told).Seconds()/10)
			}
		}
	}
	return most
}

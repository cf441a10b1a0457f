package gate

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// crowd is a number of devices with a clock of their own. Each comes when it is due, and comes back when it is told to.
type crowd struct {
	gate    *Gate
	now     time.Time
	due     map[int64][]uint64 // devices by tick
	visits  map[Reason]int
	perTick map[int64]int // visits
	left    int           // who is not in yet
	inside  func(device uint64)
}

const crowdTick = 10 * time.Millisecond

func newCrowd(l Limits, keepsOut func() Pause) *crowd {
	c := &crowd{
		now: time.Unix(1e9, 0), due: map[int64][]uint64{}, visits: map[Reason]int{}, perTick: map[int64]int{}, inside: func(uint64) {},
	}
	c.gate = newGate(l, keepsOut, func() time.Time { return c.now })
	return c
}

func (c *crowd) come(in time.Duration, device uint64) {
	tick := c.now.Add(in).UnixNano()/int64(crowdTick) + 1
	c.due[tick] = append(c.due[tick], device)
	c.left++
}

// live has the devices come until all are in, or a time is over.
func (c *crowd) live(within time.Duration) {
	for end := c.now.Add(within); c.left > 0 && c.now.Before(end); c.now = c.now.Add(crowdTick) {
		tick := c.now.UnixNano() / int64(crowdTick)
		for _, device := range c.due[tick] {
			c.left--
			c.perTick[tick]++
			_, r := c.gate.Enter(netip.Addr{}, 1, device)
			if r == nil {
				c.visits[""]++
				c.inside(device)
				continue
			}
			c.visits[r.Reason]++
			c.come(r.RetryAfter, device)
		}
		delete(c.due, tick)
	}
}

// busiest returns the most visits in a second.
func (c *crowd) busiest() int {
	seconds, most := map[int64]int{}, 0
	for tick, n := range c.perTick {
		seconds[tick/100] += n
		most = max(most, seconds[tick/100])
	}
	return most
}

func TestAStormOfAMillionDevicesKeepsNobodyOutButWhoFlaps(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{0, 5000} {
		t.Run(fmt.Sprintf("connect rate %v", rate), func(t *testing.T) {
			t.Parallel()
			const size, perSecond, flapper = 1_000_000, 20_000, 1 << 40
			c := newCrowd(Limits{ConnectRate: rate, ConnectBurst: 10_000, FlapPerMinute: 20, FlapBan: 2 * time.Minute}, nil)
			for n := range uint64(size) {
				c.come(time.Duration(n)*time.Second/perSecond, n)
			}
			c.come(0, flapper)
			flaps := 0
			c.inside = func(device uint64) {
				if device == flapper && flaps < 40 {
					flaps++
					c.come(500*time.Millisecond, flapper)
				}
			}
			c.live(time.Hour)
			if c.left > 0 || c.visits[""] != size+1+40 {
				t.Errorf("%d came in, %d are left", c.visits[""], c.left)
			}
			// The one that comes twice a second is the only one that is told off; it is, whenever its minute's worth is used up.
			if n := c.visits[Flapping]; n < 2 || n > 40 {
				t.Errorf("%d refusals for flapping", n)
			}
			t.Logf("took %v, visits: %v", c.now.Sub(time.Unix(1e9, 0)), c.visits)
		})
	}
}

func TestTheTableForgetsAndStaysBounded(t *testing.T) {
	t.Parallel()
	const generation = 1000
	table := newTable[bucket](time.Minute, generation)
	for n := range uint32(3 * generation) {
		table.put(n, time.Second, bucket{level: 1})
	}
	if n := len(table.young) + len(table.old); n > 2*generation {
		t.Errorf("it holds %d", n)
	}
	if table.get(3*generation-1, time.Second).level != 1 || table.get(3*generation-generation, time.Second).level != 1 {
		t.Error("the youngest are forgotten")
	}
	if table.get(3*generation-1, 70*time.Second); len(table.young) != 0 || len(table.old) != generation {
		t.Errorf("after a minute it holds %d and %d", len(table.young), len(table.old))
	}
	if table.get(3*generation-1, 3*time.Minute); len(table.young)+len(table.old) != 0 {
		t.Errorf("after three minutes it holds %d and %d", len(table.young), len(table.old))
	}
}

func TestADeviceThatFlapsIsSlowedAndThenStaysOutForAWhile(t *testing.T) {
	t.Parallel()
	c := newCrowd(Limits{FlapPerMinute: 6, FlapBan: 2 * time.Minute}, nil)
	var told []time.Duration
	for range 200 { // it comes at once when it may
		_, r := c.gate.Enter(home, 1, 7)
		if r == nil {
			c.now = c.now.Add(100 * time.Millisecond)
			continue
		}
		if told = append(told, r.RetryAfter); r.RetryAfter >= 2*time.Minute {
			break
		}
		wantRefusal(t, c.gate, home, 1, 7, Flapping) // to come early helps nothing, and costs nothing
		c.now = c.now.Add(r.RetryAfter)
	}
	if len(told) != slowSteps+1 {
		t.Fatalf("told to stay away for %v", told)
	}
	for n := range told[1:] {
		if told[n+1] < told[n] {
			t.Errorf("told to stay away for %v", told)
		}
	}
	wantEntry(t, c.gate, home, 1, 8) // another one
	c.now = c.now.Add(time.Minute)
	wantRefusal(t, c.gate, home, 1, 7, Flapping)
	c.now = c.now.Add(time.Minute + time.Second)
	wantEntry(t, c.gate, home, 1, 7)
}

func TestThoseWhoAreKeptOutTogetherComeBackOneAfterTheOther(t *testing.T) {
	t.Parallel()
	const size, arrive = 250_000, 20_000
	for name, test := range map[string]struct {
		pause  Pause
		limits Limits
		most   int // visits a second once all have come
	}{
		"pushcore is slow":   {Pause{Opens, 5 * time.Second, 1000}, Limits{ConnectRate: 5000}, 1001},
		"overload":           {Pause{Overload, 10 * time.Second, 0}, Limits{ConnectRate: 5000}, 2501},
		"no room":            {Pause{}, Limits{ConnectRate: 5000, Connections: 1}, 1000},
		"no rate is set":     {Pause{Overload, 10 * time.Second, 0}, Limits{}, 2501},
		"no room for an app": {Pause{}, Limits{AppConnections: 1}, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.limits.ConnectBurst, test.limits.MaxBackOff = 10_000, 5*time.Minute
			c := newCrowd(test.limits, func() Pause { return test.pause })
			if test.pause.Reason == "" {
				wantEntry(t, c.gate, home, 1, 1<<40) // takes the room that there is
			}
			for n := range uint64(size) {
				c.come(time.Duration(n)*time.Second/arrive, n)
			}
			c.live(time.Second * (size/arrive + 5))
			clear(c.perTick)
			c.live(5 * time.Minute)
			if c.left != size {
				t.Fatalf("%d still want to come in", c.left)
			}
			if most := c.busiest(); most > 2*test.most || most == 0 {
				t.Errorf("%d came within a second", most)
			}
			t.Logf("busiest second: %d", c.busiest())
		})
	}
}

func TestAnAddressWhoseConnectionsFailIsSlowedAndThenStaysOut(t *testing.T) {
	t.Parallel()
	c := newCrowd(Limits{AddressFailures: 60, FlapBan: 2 * time.Minute}, nil)
	knock := func(failed bool) Reason {
		if why := c.gate.Arrive(false); why != "" {
			t.Fatal(why)
		}
		pass, why := c.gate.Introduce(home)
		if why == "" && c.gate.Slowed(pass) != nil {
			why, failed = AddressFailing, false
		}
		c.gate.Depart(pass, failed)
		return why
	}
	for n := range 60 {
		if why := knock(true); why != "" {
			t.Fatalf("refused for %s after %d failures", why, n)
		}
	}
	met := map[Reason]int{}
	var order []Reason
	for range 10 * 240 { // ten failures a second for four minutes
		c.now = c.now.Add(100 * time.Millisecond)
		why := knock(true)
		if met[why]++; len(order) == 0 || order[len(order)-1] != why {
			order = append(order, why)
		}
	}
	if met[""] > 60+240 || met[AddressFailing] == 0 || met[AddressOut] < 10*115 {
		t.Errorf("%v", met)
	}
	if other, why := c.gate.Introduce(netip.MustParseAddr("192.0.2.8")); why != "" || c.gate.Slowed(other) != nil {
		t.Errorf("another address is refused: %s", why)
	}
	c.now = c.now.Add(2*time.Minute + time.Second)
	if why := knock(false); why != "" {
		t.Errorf("still refused for %s", why)
	}
	t.Logf("%v: %v", met, order)
}

func TestAnAddressWithManyGoodPhonesMayHaveFailuresInProportion(t *testing.T) {
	t.Parallel()
	c := newCrowd(Limits{AddressFailures: 60, FlapPerMinute: 20, FlapBan: time.Minute}, nil)
	for n := range uint64(100_000) { // 1,000 good ones a second, and 500 that fail
		c.now = c.now.Add(time.Millisecond)
		if why := c.gate.Arrive(false); why != "" {
			t.Fatal(why)
		}
		pass, why := c.gate.Introduce(home)
		if why != "" || c.gate.Slowed(pass) != nil {
			t.Fatalf("refused after %d: %s", n, why)
		}
		c.gate.Depart(pass, n%3 == 0)
		if n%3 != 0 {
			wantEntry(t, c.gate, home, 1, n)
		}
	}
}

func TestWhatHasNotSaidWhoItIsIsBounded(t *testing.T) {
	t.Parallel()
	other := netip.MustParseAddr("192.0.2.8")
	for name, test := range map[string]struct {
		limits  Limits
		want    Reason
		frees   bool // that one departs makes room
		another Reason
	}{
		"in all":          {Limits{Unidentified: 3}, Unidentified, true, Unidentified},
		"of an address":   {Limits{AddressUnidentified: 3}, AddressUnknowns, true, ""},
		"by the second":   {Limits{AcceptRate: 3}, AcceptRate, false, AcceptRate},
		"handshakes":      {Limits{HandshakeRate: 3}, HandshakeRate, false, HandshakeRate},
		"nothing is full": {Limits{}, "", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCrowd(test.limits, nil)
			knock := func(a netip.Addr) (Pass, Reason) {
				if why := c.gate.Arrive(true); why != "" {
					return 0, why
				}
				pass, why := c.gate.Introduce(a)
				if why != "" {
					c.gate.Depart(0, false)
				}
				return pass, why
			}
			var pass Pass
			for range 3 {
				var why Reason
				if pass, why = knock(home); why != "" {
					t.Fatal(why)
				}
			}
			if _, why := knock(home); why != test.want {
				t.Errorf("the fourth: %q, not %q", why, test.want)
			}
			if p, why := knock(other); why != test.another {
				t.Errorf("another address: %q, not %q", why, test.another)
			} else if why == "" {
				c.gate.Depart(p, false)
			}
			if test.frees {
				c.gate.Depart(pass, false)
			} else {
				c.now = c.now.Add(time.Second)
			}
			if _, why := knock(home); why != "" {
				t.Errorf("afterwards: %q", why)
			}
		})
	}
}

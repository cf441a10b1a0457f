package gate

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

var home = netip.MustParseAddr("192.0.2.7")

func wantRefusal(t *testing.T, g *Gate, address netip.Addr, app uint32, device uint64, want Reason) (back time.Duration) {
	t.Helper()
	_, got := g.Enter(address, app, device)
	if got == nil || got.Reason != want {
		t.Fatalf("%v, not refused for %s", got, want)
	}
	return got.RetryAfter
}

func wantEntry(t *testing.T, g *Gate, address netip.Addr, app uint32, device uint64) Pass {
	t.Helper()
	pass, refusal := g.Enter(address, app, device)
	if refusal != nil {
		t.Fatal(refusal)
	}
	return pass
}

func TestAStormIsSpreadOverTheTimeThatItTakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := New(Limits{ConnectRate: 100, ConnectBurst: 100}, nil)
		// 3,000 devices come at once; each comes back when it was told to.
		waiting := map[uint64]time.Time{}
		for n := range uint64(3000) {
			waiting[n] = time.Now()
		}
		perSecond := map[int]int{}
		begin := time.Now()
		for len(waiting) > 0 {
			for n, at := range waiting {
				if time.Now().Before(at) {
					continue
				}
				if _, r := g.Enter(netip.Addr{}, 1, n); r != nil {
					waiting[n] = time.Now().Add(r.RetryAfter)
					continue
				}
				delete(waiting, n)
				perSecond[int(time.Since(begin)/time.Second)]++
			}
			time.Sleep(100 * time.Millisecond) //nolint:forbidigo // fake time
		}
		if took := time.Since(begin); took > 60*time.Second {
			t.Errorf("a storm of 30 s lasted %v", took)
		}
		for second, n := range perSecond {
			if n > 200 || second > 0 && n > 101 {
				t.Errorf("in second %d there came %d", second, n)
			}
		}
	})
}

func TestNobodyIsToldToStayAwayForLongerThanTheLimit(t *testing.T) {
	t.Parallel()
	g := New(Limits{ConnectRate: 1, ConnectBurst: 1, MaxBackOff: 20 * time.Second}, nil)
	for n := range uint64(1000) {
		if _, r := g.Enter(netip.Addr{}, 1, n); r != nil && r.RetryAfter > 20*time.Second {
			t.Fatal(r)
		}
	}
}

func TestRoomIsLimitedAndComesBack(t *testing.T) {
	t.Parallel()
	other := netip.MustParseAddr("2001:db8::1")
	for name, c := range map[string]struct {
		limits Limits
		why    Reason
		others func(*testing.T, *Gate) // are not concerned
	}{
		"of the gateway": {Limits{Connections: 3}, Full, nil},
		"of an address": {Limits{AddressConnections: 3}, AddressFull, func(t *testing.T, g *Gate) {
			t.Helper()
			wantEntry(t, g, other, 1, 9)
		}},
		"of an app": {Limits{AppConnections: 3}, AppFull, func(t *testing.T, g *Gate) {
			t.Helper()
			wantEntry(t, g, home, 2, 9)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := New(c.limits, nil)
			var pass Pass
			for n := range uint64(3) {
				pass = wantEntry(t, g, home, 1, n)
			}
			wantRefusal(t, g, home, 1, 3, c.why)
			if c.others != nil {
				c.others(t, g)
			}
			g.Leave(pass, 1)
			wantEntry(t, g, home, 1, 3)
			wantRefusal(t, g, home, 1, 4, c.why)
		})
	}
}

func TestASubscribersV6AddressesAreOne(t *testing.T) {
	t.Parallel()
	g := New(Limits{AddressConnections: 1}, nil)
	wantEntry(t, g, netip.MustParseAddr("2001:db8:1:2::1"), 1, 1)
	wantRefusal(t, g, netip.MustParseAddr("2001:db8:1:2:ffff::1"), 1, 2, AddressFull)
	wantEntry(t, g, netip.MustParseAddr("2001:db8:1:3::1"), 1, 3)
	wantEntry(t, g, netip.MustParseAddr("192.0.2.1"), 1, 4)
	wantRefusal(t, g, netip.MustParseAddr("::ffff:192.0.2.1"), 1, 5, AddressFull)
}

func TestRatesOfAnAddressAndOfAnApp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limits Limits
		why    Reason
	}{
		"address": {Limits{AddressRate: 2}, AddressRate},
		"app":     {Limits{AppRate: 2}, AppRate},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := New(c.limits, nil)
				for n := range uint64(20) { // ten seconds' worth
					wantEntry(t, g, home, 1, n)
				}
				back := wantRefusal(t, g, home, 1, 20, c.why)
				time.Sleep(back) //nolint:forbidigo // fake time
				wantEntry(t, g, home, 1, 20)
			})
		})
	}
}

func TestEnteringAllocatesNothing(t *testing.T) { //nolint:paralleltest // it counts the process's allocations
	g := New(Limits{
		ConnectRate: 1e9, ConnectBurst: 1e9, Connections: 1e9, AddressConnections: 1e9, AppConnections: 1e9, AddressRate: 1e9,
		AppRate: 1e9, FlapPerMinute: 1e9, AddressFailures: 1e9, AcceptRate: 1e9, HandshakeRate: 1e9, Unidentified: 1e9, AddressUnidentified: 1e9,
	}, nil)
	var n uint64
	allocated := testing.AllocsPerRun(1000, func() {
		n++
		if why := g.Arrive(true); why != "" {
			t.Fatal(why)
		}
		knock, why := g.Introduce(home)
		if why != "" {
			t.Fatal(why)
		}
		g.Depart(knock, false)
		pass, r := g.Enter(home, 1, n)
		if r != nil {
			t.Fatal(r)
		}
		g.Leave(pass, 1)
	})
	if allocated != 0 {
		t.Errorf("%v allocations", allocated)
	}
}

// BenchmarkAGoodConnect is what the gate costs a connection that comes in, with what gateways bound by default and a million
// devices in the tables.
func BenchmarkAGoodConnect(b *testing.B) {
	g := New(Limits{
		ConnectRate: 1e9, ConnectBurst: 1e9, FlapPerMinute: 20, FlapBan: 2 * time.Minute, AddressFailures: 120, AcceptRate: 1e9, Unidentified: 20_000,
	}, nil)
	device := uint64(0)
	connect := func() {
		device++
		_ = g.Arrive(false)
		pass, _ := g.Introduce(home)
		_ = g.Slowed(pass)
		g.Depart(pass, false)
		if _, r := g.Enter(home, 1, device%5_000_000); r != nil {
			b.Fatal(r)
		}
	}
	for range 1_000_000 {
		connect()
	}
	for b.Loop() {
		connect()
	}
}

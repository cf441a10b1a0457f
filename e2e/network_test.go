package e2e_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
	"github.com/halleypush/halley/pkg/device"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

const (
	// userTimeout is the gateways' user_timeout where phones vanish: well before three ack timeouts, so that it is seen to work.
	userTimeout = 15 * time.Second
	// slack is what a busy machine may add to a time that a setting promises.
	slack = 5 * time.Second
	// longBeat is a keep-alive that never tells in time that a phone is gone, shortBeat the shortest.
	longBeat, shortBeat = 5 * time.Minute, 5 * time.Second
)

// vanished are the phones of TestPhonesThatVanish: a thousand, in apps by how the gateway can find out that they are gone.
type vanished struct {
	t       *testing.T
	network *rig.Network
	gateway *rig.Process
	// pushed are under load all the time, with the kernel's own word for it that what is sent to them is not acknowledged.
	pushed *crowd
	// vendored have a vendor's token, too.
	vendored *crowd
	vendor   *vendorApp
	// holding have a message that their kernel has acknowledged and their app has not: nothing is sent that the kernel could miss.
	holding *crowd
	held    string // that message
	taken   chan struct{}
	// idle have a heartbeat, and nothing else.
	idle *crowd
}

// TestPhonesThatVanish takes a thousand phones' network away without a word: no packet comes from them any more, none of the
// gateway's reaches them. The gateway finds out in the time that its settings say, by whatever means there is for each; pushes go on, by
// the vendor where there is one, and once the network is back each has come to each phone once.
func TestPhonesThatVanish(t *testing.T) {
	t.Parallel()
	v := gatherVanishing(t)
	before, err := v.closes()
	if err != nil {
		t.Fatal(err)
	}
	v.network.Cut(t)
	begun := time.Now()
	kept := v.vendor.Push(t, v.vendor.phones...)
	v.awaitFound(begun, before, kept)
	for _, c := range v.crowds() {
		awaitOnline(t, c.app, 0)
	}
	late := [...]string{v.vendor.Push(t, v.vendor.phones...), v.holding.app.Push(t), v.idle.app.Push(t)}
	// A phone that comes back while the claim for its vendor is being committed may get the push both ways (docs/concepts.md).
	v.vendor.awaitDelivered(t, late[0], len(v.vendor.phones))

	v.network.Mend(t)
	mended := time.Now()
	close(v.taken)
	for _, c := range v.crowds() {
		for _, p := range c.phones {
			p.device.NetworkChanged("back again") // phones with short beats have found out, and try all the time
		}
	}
	for _, c := range v.crowds() {
		c.awaitOnline(backWithin)
	}
	t.Logf("all phones were back %v after their network", time.Since(mended).Round(time.Millisecond))
	v.pushed.end(t)
	v.holding.awaitAll(v.held, late[1])
	v.idle.awaitAll(late[2])
	v.checkVendored(kept, late[0])
}

func gatherVanishing(t *testing.T) *vanished {
	t.Helper()
	v := &vanished{t: t, network: rig.NewNetwork(t), taken: make(chan struct{})}
	cluster := rig.StartCluster(t, rig.Options{Host: v.network.Host, Env: []string{"HALLEY_USER_TIMEOUT=" + userTimeout.String()}})
	v.gateway = cluster.Gateways[0]
	v.vendor = startVendored(t, cluster, "vanished")
	v.vendor.register(t, 250)
	away := func(beat time.Duration, holds chan struct{}) func(int, *phone) {
		return func(_ int, p *phone) { p.dial, p.keepAlive, p.holds = v.network.Dial, beat, holds }
	}
	v.pushed = gather(t, cluster.CreateApp(t, "pushed"), 450, away(longBeat, nil))
	v.holding = gather(t, cluster.CreateApp(t, "holding"), 50, away(longBeat, v.taken))
	v.idle = gather(t, cluster.CreateApp(t, "idle"), 250, away(shortBeat, nil))
	v.vendored = gather(t, v.vendor.App, len(v.vendor.phones), func(i int, p *phone) {
		away(longBeat, nil)(i, p)
		id := device.Identity{App: v.vendor.ID, InstallID: rand.Text(), Token: v.vendor.phones[i], Secret: v.vendor.secrets[i]}
		if err := p.store.SaveIdentity(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	})
	v.held = v.holding.app.Push(t)
	rig.Until(t, backWithin, "the apps have a message in their hands", func() error {
		for i, p := range v.holding.phones {
			if p.holding() == 0 {
				return fmt.Errorf("phone %d does not", i)
			}
		}
		return nil
	})
	v.pushed.load(t)
	everywhere := v.vendor.Push(t)
	v.vendored.awaitAll(everywhere)
	v.vendor.AwaitCounts(t, everywhere, time.Minute, &pushv1.Counts{Targeted: 250, Arrived: 250})
	return v
}

func (v *vanished) crowds() []*crowd { return []*crowd{v.pushed, v.vendored, v.holding, v.idle} }

// found is how many connections a gateway has closed: because the kernel has given the peer up, because nothing was heard for one and
// a half keep-alives, because a message was not confirmed.
type found struct{ peer, keepAlive, noAck float64 }

func (v *vanished) closes() (f found, err error) {
	for reason, n := range map[string]*float64{"peer": &f.peer, "keep_alive": &f.keepAlive, "no_ack": &f.noAck} {
		if *n, err = v.gateway.Metric("halley_gateway_closes_total", fmt.Sprintf("reason=%q", reason)); err != nil {
			return f, err
		}
	}
	return f, nil
}

// awaitFound waits until the gateway has closed all connections, and checks that it was by the means that each kind has, in its time,
// and that the vendor has what was pushed to its phones in the meantime.
func (v *vanished) awaitFound(cut time.Time, before found, kept string) {
	v.t.Helper()
	noticed := float64(len(v.pushed.phones) + len(v.vendored.phones) + len(v.holding.phones))
	within := func(d time.Duration) time.Duration { return d + slack - time.Since(cut) }
	var now found
	rig.Until(v.t, within(shortBeat*3/2), "heartbeats are missed", func() (err error) {
		if now, err = v.closes(); err == nil && now.keepAlive-before.keepAlive < float64(len(v.idle.phones)) {
			err = fmt.Errorf("%.0f are", now.keepAlive-before.keepAlive)
		}
		return err
	})
	v.t.Logf("%d phones with a heartbeat were missed within %v", len(v.idle.phones), time.Since(cut).Round(time.Millisecond))
	rig.Until(v.t, within(ackTimeout), "the vendor has the push for the phones that do not confirm it", func() error {
		if n := len(v.vendor.vendors.Accepted(v.t, v.vendor.name, kept)); n < len(v.vendor.phones) {
			return fmt.Errorf("it has it for %d", n)
		}
		return nil
	})
	v.t.Logf("the vendor had the push for %d phones within %v", len(v.vendor.phones), time.Since(cut).Round(time.Millisecond))
	// The load gives everyone something to acknowledge.
	rig.Until(v.t, within(userTimeout+crowdEveryone), "the kernel gives up who does not acknowledge", func() (err error) {
		if now, err = v.closes(); err == nil && now.peer-before.peer < noticed {
			err = fmt.Errorf("%.0f are given up, %.0f have not confirmed", now.peer-before.peer, now.noAck-before.noAck)
		}
		return err
	})
	v.t.Logf("%.0f phones with something to acknowledge were given up within %v", noticed, time.Since(cut).Round(time.Millisecond))
	if now.noAck != before.noAck {
		v.t.Errorf("%.0f connections lasted until the last time limit", now.noAck-before.noAck)
	}
}

// checkVendored checks that each push came to each phone once, either by the vendor or by the phone's own connection.
func (v *vanished) checkVendored(pushIDs ...string) {
	v.t.Helper()
	for _, id := range pushIDs {
		v.vendor.awaitDelivered(v.t, id, len(v.vendor.phones))
		taken := map[string]int{}
		for channelToken, times := range v.vendor.vendors.Accepted(v.t, v.vendor.name, id) {
			taken[v.vendor.devices[channelToken]] = times
		}
		for _, p := range v.vendored.phones {
			if own, _ := p.received(); own[id]+taken[p.token] != 1 {
				v.t.Errorf("push %s came to phone %s %d times by the vendor, %d times by its connection", id, p.token, taken[p.token], own[id])
			}
		}
	}
}

// movers is how many phones change networks, half of which hear of it from their system.
const movers = 40

// TestPhonesThatChangeNetworks has phones go from one network to another, with the connection of before still open at the gateway. Those
// that hear of it from their system are back at once, and supersede it; the others when a heartbeat is not answered. Either way they
// get what was pushed meanwhile, once, also when the network of before brings what it still had.
func TestPhonesThatChangeNetworks(t *testing.T) {
	t.Parallel()
	wifi, mobile := rig.NewNetwork(t), rig.NewNetwork(t)
	cluster := rig.StartCluster(t, rig.Options{Host: wifi.Host})
	var moved atomic.Bool
	c := gather(t, cluster.CreateApp(t, "travel"), movers, func(_ int, p *phone) {
		p.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if moved.Load() {
				return mobile.Dial(ctx, network, address)
			}
			return wifi.Dial(ctx, network, address)
		}
	})
	told := &crowd{t: t, app: c.app, phones: c.phones[:movers/2]}
	var pushes []string
	push := func() { pushes = append(pushes, c.app.Push(t, c.tokens()...), c.app.Push(t)) }
	push()
	c.awaitAll(pushes...)
	wifi.Cut(t)
	push() // on their way into nowhere
	superseded := func() float64 {
		n, err := cluster.Gateways[0].Metric("halley_gateway_closes_total", `reason="taken_over"`)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := superseded()
	moved.Store(true)
	begun := time.Now()
	for _, p := range told.phones {
		p.device.NetworkChanged("mobile")
	}
	told.awaitAll(pushes...)
	t.Logf("%d phones that were told had everything after %v", len(told.phones), time.Since(begun).Round(time.Millisecond))
	if n := superseded() - before; n != float64(len(told.phones)) {
		t.Errorf("%.0f connections were superseded, not those of %d phones", n, len(told.phones))
	}
	push()
	c.awaitAll(pushes...)
	c.awaitOnline(backWithin)
	t.Logf("all %d phones had everything after %v", movers, time.Since(begun).Round(time.Millisecond))
	wifi.Mend(t)
	push()
	c.awaitAll(pushes...)
	for i, p := range c.phones {
		if got, _ := p.received(); len(got) != len(pushes) {
			t.Errorf("phone %d got %d messages, %d were for it", i, len(got), len(pushes))
		}
		if n := p.losses(); n != 1 {
			t.Errorf("phone %d lost its connection %d times", i, n)
		}
	}
}

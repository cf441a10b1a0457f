package e2e_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
	"github.com/halleypush/halley/pkg/device"
)

// Two apps of a phone on one connection: each gets its own messages, once, also what came while the connection was cut.
func TestTwoAppsShareAConnection(t *testing.T) {
	t.Parallel()
	up := rig.StartUp(t)
	up.Demo(t) // for the admin token
	mail, shop := up.CreateApp(t, "mail"), up.CreateApp(t, "shop")
	guest := newPhone(shop, nil)
	if err := guest.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	guest.leave() // it is registered now

	link := rig.NewLink(t, mail.MQTT)
	host := newPhone(mail, func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, link.Addr())
	})
	if err := host.connectWithin(t.Context(), context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.leave)
	riding, err := host.device.Attach(t.Context(), device.Guest{App: shop.ID, Store: guest.store, OnMessage: guest.take})
	if err != nil {
		t.Fatal(err)
	}
	both := func() {
		t.Helper()
		host.awaitOnce(t, mail.Push(t, host.token))
		guest.awaitOnce(t, shop.Push(t, guest.token))
	}
	both()

	link.Cut()
	mail.AwaitOnline(t, host.token, false, 30*time.Second)
	shop.AwaitOnline(t, guest.token, false, 30*time.Second)
	forHost, forGuest := mail.Push(t, host.token), shop.Push(t, guest.token)
	link.Mend()
	host.awaitOnce(t, forHost)
	guest.awaitOnce(t, forGuest)
	both()

	if err := riding.Detach(t.Context()); err != nil || !errors.Is(riding.Err(), device.ErrDetached) {
		t.Errorf("detach: %v, then %v", err, riding.Err())
	}
	shop.AwaitOnline(t, guest.token, false, 30*time.Second)
	kept := shop.Push(t, guest.token)
	link.Cut()
	mail.AwaitOnline(t, host.token, false, 30*time.Second)
	link.Mend()
	host.awaitOnce(t, mail.Push(t, host.token))
	if got, _ := guest.received(); got[kept] != 0 {
		t.Error("what is detached has got a message")
	}
	if err := guest.connect(t.Context()); err != nil { // by a connection of its own
		t.Fatal(err)
	}
	guest.awaitOnce(t, kept)
	guest.leave()
	for name, p := range map[string]*phone{"host": host, "guest": guest} {
		got, _ := p.received()
		for id, n := range got {
			if n != 1 {
				t.Errorf("the %s got %s %d times", name, id, n)
			}
		}
	}
}

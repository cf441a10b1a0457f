package device_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/halleypush/halley/pkg/device"
)

func shop(got chan<- device.Message) device.Guest {
	return device.Guest{
		App: "shop", Token: "guest", Secret: "hidden", Store: device.MemoryStore(),
		OnMessage: func(_ context.Context, m device.Message) error {
			got <- m
			return nil
		},
	}
}

// attach begins to attach a guest; what comes of it is sent to the channel.
func (r *run) attach(t *testing.T, g device.Guest) <-chan error {
	t.Helper()
	attached := make(chan error, 1)
	go func() {
		_, err := r.Attach(t.Context(), g)
		attached <- err
	}()
	return attached
}

// attaching waits for the call that attaches the guest.
func (p *peer) attaching() map[string]any {
	p.t.Helper()
	p.subscribed() // to the answers
	body := p.call("attach")
	if body["app"] != "shop" || body["token"] != "guest" || body["secret"] != "hidden" {
		p.t.Fatalf("attaches %v", body)
	}
	return body
}

func TestAGuestIsAttachedWhenThereIsAConnectionAndAfterEachReconnect(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		got := make(chan device.Message, 10)
		attached := r.attach(t, shop(got))
		for n, p := range []*peer{r.online(t), nil} {
			if p == nil {
				p = r.again(t)
			}
			p.reply("attach", p.attaching(), "ok", map[string]any{})
			if s := p.subscribed(); s.Subscriptions[len(s.Subscriptions)-1].Topic != "push/shop" {
				t.Errorf("subscribes to %v", s.Subscriptions)
			}
			p.publish("push/shop", 1<<13|1, message(pushID(n)))
			p.acked(1<<13 | 1)
			if m := <-got; m.PushID != pushID(n) {
				t.Errorf("%s came", m.PushID)
			}
			p.conn.Close()
		}
		if err := <-attached; err != nil {
			t.Error(err)
		}
	})
}

func TestAnAttachIsTriedAgainUnlessItIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		p := r.online(t)
		attached := r.attach(t, shop(nil))
		begin := time.Now()
		p.reply("attach", p.attaching(), "error", map[string]any{"code": "UNAVAILABLE"})
		p.reply("attach", p.attaching(), "error", map[string]any{"code": "RESOURCE_EXHAUSTED", "retry_after_ms": 60_000})
		p.attaching() // its answer is lost
		if took := time.Since(begin); took < time.Minute || took > 2*time.Minute {
			t.Errorf("the third try comes after %v", took)
		}
		p.reply("attach", p.attaching(), "error", map[string]any{"code": "ALREADY_EXISTS"})
		p.subscribed()
		if err := <-attached; err != nil {
			t.Fatal(err)
		}
		p.conn.Close()
		p = r.again(t)
		p.reply("attach", p.attaching(), "error", map[string]any{"code": "UNAUTHENTICATED", "field": "secret"})
		synctest.Wait()
		p.conn.Close()
		p = r.again(t)
		p.quiet() // it does not come again
	})
}

func TestDetachNeedsNoConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		p := r.online(t)
		attachments := make(chan *device.Attachment, 1)
		go func() {
			a, err := r.Attach(t.Context(), shop(nil))
			if err != nil {
				t.Error(err)
			}
			attachments <- a
		}()
		p.reply("attach", p.attaching(), "ok", map[string]any{})
		p.subscribed()
		a := <-attachments
		p.conn.Close()
		synctest.Wait()
		if err := a.Detach(t.Context()); err != nil || !errors.Is(a.Err(), device.ErrDetached) {
			t.Errorf("detach: %v, then %v", err, a.Err())
		}
		if err := a.Shown(t.Context(), pushID(1)); !errors.Is(err, device.ErrDetached) {
			t.Errorf("an event of one that is detached: %v", err)
		}
		r.again(t).quiet()
	})
}

func TestAnAttachThatIsGivenUpIsTakenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		p := r.online(t)
		ctx, cancel := context.WithCancel(t.Context())
		attached := make(chan error, 1)
		go func() {
			_, err := r.Attach(ctx, shop(nil))
			attached <- err
		}()
		p.attaching()
		cancel()
		if err := <-attached; !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
		if body := p.call("detach"); body["app"] != "shop" {
			t.Errorf("detaches %v", body)
		}
	})
}

func TestAnAttachmentEndsWithRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		p := r.online(t)
		attached := r.attach(t, shop(nil))
		p.attaching()
		r.stop(t)
		if err := <-attached; !errors.Is(err, device.ErrStopped) {
			t.Errorf("Run's end: %v", err)
		}
		if _, err := r.Attach(t.Context(), shop(nil)); !errors.Is(err, device.ErrStopped) {
			t.Errorf("after Run's end: %v", err)
		}
		for packet := range p.in {
			if _, ok := packet.(*packets.Disconnect); !ok {
				t.Errorf("the device sent %T", packet)
			}
		}
	})
}

func TestAGuestMustBeComplete(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		for want, change := range map[string]func(*device.Guest){
			"attach: guest: App is missing":       func(g *device.Guest) { g.App = "" },
			"attach: guest: Token is missing":     func(g *device.Guest) { g.Token = "" },
			"attach: guest: Secret is missing":    func(g *device.Guest) { g.Secret = "" },
			"attach: guest: OnMessage is missing": func(g *device.Guest) { g.OnMessage = nil },
		} {
			g := shop(nil)
			change(&g)
			if _, err := r.Attach(t.Context(), g); err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
	})
}

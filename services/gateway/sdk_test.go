package gateway_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/device"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

// sdk is a device of the app demo with our SDK.
type sdk struct {
	*device.Device
	phone  gatewaytest.Device
	got    chan device.Message
	states chan device.State
	ended  chan error

	mu   sync.Mutex
	conn net.Conn // guarded by mu: the last one
}

// newSDK runs a device; change may set further options.
func newSDK(t *testing.T, site *gatewaytest.Site, change func(*device.Options)) *sdk {
	t.Helper()
	phone := site.Core.NewDevice(t)
	s := &sdk{got: make(chan device.Message, 100), states: make(chan device.State, 1000), ended: make(chan error, 1)}
	store := device.MemoryStore()
	err := store.SaveIdentity(t.Context(), device.Identity{
		App: gatewaytest.App, InstallID: "install-" + phone.Token, Token: phone.Token, Secret: phone.Secret,
	})
	if err != nil {
		t.Fatal(err)
	}
	o := device.Options{
		App: gatewaytest.App, ClientKey: gatewaytest.ClientKey, Server: "mqtt://" + site.MQTTAddr(), Store: store,
		Backoff:   device.Backoff{Min: 10 * time.Millisecond, Max: 100 * time.Millisecond},
		OnMessage: into(s.got), OnState: func(state device.State) { s.states <- state },
		Dial: s.dial,
	}
	if change != nil {
		change(&o)
	}
	d, err := device.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	s.Device, s.phone = d, phone
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	go func() { s.ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := next(t, "the device's end", s.ended); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	s.awaitOnline(t)
	return s
}

func into(got chan<- device.Message) func(context.Context, device.Message) error {
	return func(_ context.Context, m device.Message) error {
		got <- m
		return nil
	}
}

func (s *sdk) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
	return conn, err
}

// cut cuts the connection, and waits until there is another one, with new sessions of all that it shall carry.
func (s *sdk) cut(t *testing.T, site *gatewaytest.Site, carried ...gatewaytest.Device) {
	t.Helper()
	before := map[uint64]bool{}
	for _, d := range carried {
		before[site.Core.AwaitOnline(t, d)] = true
	}
	s.mu.Lock()
	s.conn.Close()
	s.mu.Unlock()
	for next(t, "the end of the connection", s.states).Phase != device.Waiting {
	}
	s.awaitOnline(t)
	for _, d := range carried {
		gatewaytest.Eventually(t, "a device is online again", func() bool { return !before[site.Core.AwaitOnline(t, d)] })
	}
}

func (s *sdk) awaitOnline(t *testing.T) (state device.State) {
	t.Helper()
	for state.Phase != device.Online {
		state = next(t, "the device is online", s.states)
	}
	return state
}

// guest is a device of another app with our SDK.
type guest struct {
	*device.Attachment
	phone gatewaytest.Device
	got   chan device.Message
}

func (s *sdk) attach(t *testing.T, app string, phone gatewaytest.Device) *guest {
	t.Helper()
	g := &guest{phone: phone, got: make(chan device.Message, 100)}
	var err error
	g.Attachment, err = s.Attach(t.Context(), device.Guest{App: app, Token: phone.Token, Secret: phone.Secret, OnMessage: into(g.got)})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// wantPush pushes to a device and checks that the push comes once, to whom it is for.
func wantPush(t *testing.T, site *gatewaytest.Site, phone gatewaytest.Device, got <-chan device.Message) {
	t.Helper()
	site.Core.AwaitOnline(t, phone)
	p := gatewaytest.NewPush("Hi")
	wantDelivered(t, site, phone, taken, p)
	if m := next(t, "the message", got); m.PushID != p.ID.String() || m.To != phone.Token {
		t.Errorf("%s came, to %q", m.PushID, m.To)
	}
	site.Core.AwaitReceipt(t, phone, p, arrived)
}

func wantNothing(t *testing.T, got ...<-chan device.Message) {
	t.Helper()
	for _, messages := range got {
		select {
		case m := <-messages:
			t.Errorf("%s came, to %q", m.PushID, m.To)
		default:
		}
	}
}

func TestTheSDKSharesAConnection(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	site.Core.AddApp(t, "a", 100)
	site.Core.AddApp(t, "b", 101)
	host := newSDK(t, site, nil)
	a, b := host.attach(t, "a", site.Core.NewDeviceOf(t, "a")), host.attach(t, "b", site.Core.NewDeviceOf(t, "b"))
	everybody := func() {
		t.Helper()
		wantPush(t, site, host.phone, host.got)
		wantPush(t, site, a.phone, a.got)
		wantPush(t, site, b.phone, b.got)
	}
	everybody()
	if _, err := a.Bind(t.Context(), "alice", ""); err != nil {
		t.Errorf("bind: %v", err)
	}
	if err := a.Shown(t.Context(), gatewaytest.NewPush("").ID.String()); err != nil {
		t.Errorf("an event: %v", err)
	}
	asked := site.Core.Saw.Calls.All()
	for _, call := range asked[len(asked)-2:] {
		if call.GetApp() != a.phone.App || call.GetOrdinal() != a.phone.Ordinal {
			t.Errorf("pushcore is asked for %v", call)
		}
	}
	host.cut(t, site, host.phone, a.phone, b.phone)
	everybody()

	// What a guest has had comes again if its acknowledgement was lost; what it is told twice, it is given once.
	p := gatewaytest.NewPush("twice")
	site.Core.Keep(a.phone, p)
	wantDelivered(t, site, a.phone, taken, p)
	next(t, "the message", a.got)
	site.Core.AwaitReceipt(t, a.phone, p, arrived)
	site.Core.Keep(a.phone, p)
	host.cut(t, site, host.phone, a.phone, b.phone)
	gatewaytest.Eventually(t, "the repeat is acknowledged", func() bool { return site.Core.Kept(a.phone) == 0 })
	wantNothing(t, a.got)
	if repeats := a.Counts().Repeats; repeats != 1 {
		t.Errorf("%d repeats", repeats)
	}

	session := site.Core.AwaitOnline(t, a.phone)
	if err := a.Detach(t.Context()); err != nil || !errors.Is(a.Err(), device.ErrDetached) {
		t.Errorf("detach: %v, then %v", err, a.Err())
	}
	site.Core.Saw.Closes.AwaitOne(t, "the end of the guest's session", func(c *gatewayv1.Close) bool { return c.GetSession() == session })
	wantPush(t, site, b.phone, b.got)
	opens := len(opensOf(site, a.phone))
	host.cut(t, site, host.phone, b.phone)
	wantPush(t, site, host.phone, host.got)
	wantPush(t, site, b.phone, b.got)
	if now := len(opensOf(site, a.phone)); now != opens {
		t.Error("what was detached is attached again")
	}
	wantNothing(t, host.got, a.got, b.got)
}

func opensOf(site *gatewaytest.Site, d gatewaytest.Device) []*gatewayv1.Open {
	return slices.DeleteFunc(slices.Clone(site.Core.Saw.Opens.All()), func(o *gatewayv1.Open) bool { return o.GetOrdinal() != d.Ordinal })
}

func TestTheSDKSaysWhyADeviceCannotBeAttached(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	for n, app := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		site.Core.AddApp(t, app, uint32(100+n))
	}
	host := newSDK(t, site, nil)
	a := host.attach(t, "a", site.Core.NewDeviceOf(t, "a"))
	other := site.Core.NewDeviceOf(t, "b")
	refused := func(app string, phone gatewaytest.Device, code, field string) {
		t.Helper()
		_, err := host.Attach(t.Context(), device.Guest{
			App: app, Token: phone.Token, Secret: phone.Secret, OnMessage: into(make(chan device.Message)),
		})
		var e *device.Error
		if !errors.As(err, &e) || e.Code != code || e.Field != field {
			t.Errorf("%s: %v, want %s of %q", app, err, code, field)
		}
	}
	refused("a", a.phone, "ALREADY_EXISTS", "app")
	refused("nobody", other, "UNAUTHENTICATED", "app")
	wrong := other
	wrong.Secret = other.Secret[:len(other.Secret)-1] + "x"
	refused("b", wrong, "UNAUTHENTICATED", "secret")
	wrong.Token = "no token"
	refused("b", wrong, "UNAUTHENTICATED", "token")
	for _, app := range []string{"b", "c", "d", "e", "f", "g"} {
		host.attach(t, app, site.Core.NewDeviceOf(t, app))
	}
	refused("h", other, "RESOURCE_EXHAUSTED", "")
	wantPush(t, site, a.phone, a.got)
}

func TestAGuestIsLeftAloneThatIsGoneOrElsewhere(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	site.Core.AddApp(t, "a", 100)
	site.Core.AddApp(t, "b", 101)
	host := newSDK(t, site, nil)
	a, b := host.attach(t, "a", site.Core.NewDeviceOf(t, "a")), host.attach(t, "b", site.Core.NewDeviceOf(t, "b"))
	wantPush(t, site, a.phone, a.got)
	newer := site.Dial(t, gatewaytest.V5)
	newer.Greet(t, newer.ConnectAs(a.phone.Token, "a", a.phone.Secret))
	next(t, "the end of the attachment", a.Done())
	if err := a.Err(); !errors.Is(err, device.ErrTakenOver) {
		t.Errorf("elsewhere: %v", err)
	}
	site.Core.AwaitOnline(t, b.phone)
	site.Core.Poke(t, b.phone, gatewayv1.PokeRequest_Poke_GONE)
	next(t, "the end of the other attachment", b.Done())
	var e *device.Error
	if err := b.Err(); !errors.As(err, &e) || e.Field != "token" {
		t.Errorf("gone: %v", err)
	}
	if _, err := b.Bind(t.Context(), "alice", ""); !errors.As(err, &e) {
		t.Errorf("a call of one that is gone: %v", err)
	}
	wantPush(t, site, host.phone, host.got)
	newer.Ping(t) // the guest did not take its place again
}

// Package device is Halley's device SDK: it makes a program a device of an app, keeps it connected and hands it its messages.
//
//	device, err := device.New(ctx, device.Options{
//		Server: "mqtts://push.example.com:8883", App: "demo", ClientKey: "ck_…",
//		Store:     device.FileStore("/var/lib/myapp/halley"),
//		OnMessage: func(ctx context.Context, m device.Message) error { return show(m) },
//	})
//	err = device.Run(ctx)
//
// A message is acknowledged only after OnMessage has returned nil and its push id has been stored, so a crash at any point
// leads to a repeat at most, never to a loss. Repeats are acknowledged without being handed over again.
package device

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// sdkVersion is what a report says that does not name another one.
const sdkVersion = "go 0.1"

var (
	// ErrTakenOver ends Run: another process has connected with this device's identity. Going on would take the connection
	// from it, and so in turn for ever.
	ErrTakenOver = errors.New("another connection uses this device's identity")
	// ErrStopped is returned by calls that wait for a connection when Run has ended.
	ErrStopped = errors.New("the device is not running any more")
)

// Device is one installation of an app. Its methods are safe for concurrent use, from within OnMessage, too.
type Device struct {
	// Fixed after New.
	options Options
	home    target
	allowed map[string]bool
	log     *slog.Logger
	heart   *heart
	hurry   chan struct{} // has room for one: the pause before the next try is pointless

	running atomic.Bool
	counts  counters
	// workers are the goroutines of connections, also of ended ones whose last message is still being handled.
	workers sync.WaitGroup
	// handling holds one element while a message is handled: one at a time, also where an old connection's last message meets a
	// new one's first.
	handling chan struct{}
	seen     *seen // guarded by handling

	mu       sync.Mutex
	identity Identity      // guarded by mu; as it is in the store
	report   Report        // guarded by mu: what the server is to know
	online   *session      // guarded by mu; nil while there is no connection that is subscribed
	changed  chan struct{} // guarded by mu: closed and replaced when online or stopped changes
	stopped  bool          // guarded by mu
	binding  chan struct{} // guarded by mu: closed when the Bind under way ends; nil if there is none

	// turn admits one Bind or Unbind at a time, so that they take effect in order. It holds one element while it is taken.
	turn chan struct{}
}

// New returns a device with the identity that the store keeps, or with a new one. It does not connect: Run does.
func New(ctx context.Context, o Options) (*Device, error) {
	home, allowed, err := o.complete()
	if err != nil {
		return nil, err
	}
	identity, ids, err := o.Store.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the device's identity: %w", err)
	}
	if identity.App != "" && identity.App != o.App {
		return nil, fmt.Errorf("the store holds a device of app %q, not of %q", identity.App, o.App)
	}
	d := &Device{
		options: o, home: home, allowed: allowed, log: o.Log, identity: identity, seen: newSeen(ids),
		changed: make(chan struct{}), handling: make(chan struct{}, 1), turn: make(chan struct{}, 1),
		heart: newHeart(o.heartbeat()), hurry: make(chan struct{}, 1),
	}
	if o.Report != nil {
		d.report = *o.Report
		d.report.SDKVersion = cmp.Or(d.report.SDKVersion, sdkVersion)
	}
	if identity.InstallID == "" {
		random := make([]byte, 24)
		_, _ = rand.Read(random) // never fails
		err := d.update(ctx, func(i *Identity) {
			i.App, i.InstallID = o.App, base64.RawURLEncoding.EncodeToString(random)
		})
		if err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Token returns the device's public name, which business servers push to. It is empty until the first registration.
func (d *Device) Token() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.identity.Token
}

// Wait blocks until the device is connected and subscribed. It returns ctx's error, or ErrStopped when Run has ended.
func (d *Device) Wait(ctx context.Context) error {
	_, err := d.connected(ctx)
	return err
}

// connected waits for a connection that is subscribed.
func (d *Device) connected(ctx context.Context) (*session, error) {
	for {
		d.mu.Lock()
		online, stopped, changed := d.online, d.stopped, d.changed
		d.mu.Unlock()
		switch {
		case online != nil:
			return online, nil
		case stopped:
			return nil, ErrStopped
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-changed:
		}
	}
}

func (d *Device) setOnline(s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.online = s
	d.signalLocked()
}

func (d *Device) setStopped() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	d.signalLocked()
}

// signalLocked wakes who waits for a change; mu is held.
func (d *Device) signalLocked() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// update changes the identity and stores it. If that fails, the identity stays as it was.
func (d *Device) update(ctx context.Context, change func(*Identity)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := d.identity.clone()
	change(&next)
	if err := d.options.Store.SaveIdentity(ctx, next); err != nil {
		return fmt.Errorf("store the device's identity: %w", err)
	}
	d.identity = next
	return nil
}

// setState tells the app what the device does.
func (d *Device) setState(s State) {
	if d.options.OnState != nil {
		d.options.OnState(s)
	}
}

// Phase is what a device does at the moment.
type Phase string

// The phases of a device.
const (
	Connecting Phase = "connecting"
	// Online: connected and subscribed; messages come.
	Online Phase = "online"
	// Waiting: there is no connection, and the next try is due after State.Wait.
	Waiting Phase = "waiting"
	// Stopped: Run has ended.
	Stopped Phase = "stopped"
)

// State is told to OnState at each change.
type State struct {
	Phase Phase
	// Server is the host:port that is being, or is, connected to.
	Server string
	// Registered is true with Online if the device has just got a new token: bindings of an earlier one are gone.
	Registered bool
	// Wait is the time to the next try.
	Wait time.Duration
	// Err is why there is no connection; a *ServerError if the server said it.
	Err error
}

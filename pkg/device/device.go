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
//
// Apps of one phone can share a connection: the one that opens it carries the devices of the others (Device.Attach).
package device

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
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

// Device is one installation of an app, and its connection. Its methods are safe for concurrent use, from within OnMessage, too.
type Device struct {
	*member

	// Fixed after New.
	options Options
	home    target
	allowed map[string]bool
	tls     *tls.Config // with the sessions of the servers
	heart   *heart
	beats   chan chan<- error // takes what Beat asks of the connection's pinger
	hurry   chan struct{}     // has room for one: the pause before the next try is pointless

	running atomic.Bool
	// workers are the goroutines of connections, also of ended ones whose last message is still being handled.
	workers sync.WaitGroup

	guests []*Attachment // guarded by mu
}

// New returns a device with the identity that the store keeps, or with a new one. It does not connect: Run does.
func New(ctx context.Context, o Options) (*Device, error) {
	home, allowed, err := o.complete()
	if err != nil {
		return nil, err
	}
	m := &member{app: o.App, store: o.Store, onMessage: o.OnMessage, backoff: o.Backoff, log: o.Log}
	if err := m.load(ctx, o.Report); err != nil {
		return nil, err
	}
	d := &Device{
		member: m, options: o, home: home, allowed: allowed, tls: resumable(o.TLS), heart: newHeart(o.heartbeat()), hurry: make(chan struct{}, 1),
		beats: make(chan chan<- error),
	}
	d.loadRhythms(ctx)
	if m.identity.InstallID == "" {
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

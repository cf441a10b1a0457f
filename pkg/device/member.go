package device

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
)

// member is a device of one app: the one that opens the connection, or a guest on it.
type member struct {
	// Fixed once it is loaded.
	app       string
	store     Store
	onMessage func(context.Context, Message) error
	backoff   Backoff
	log       *slog.Logger
	// life ends when the device is not connected any more for good; its cause is why.
	life context.Context //nolint:containedctx // it is the device's lifetime
	end  context.CancelCauseFunc

	counts counters
	// handling holds one element while a message is handled: one at a time, also where an old connection's last message meets a
	// new one's first.
	handling chan struct{}
	seen     *seen // guarded by handling
	// turn admits one Bind or Unbind at a time, so that they take effect in order. It holds one element while it is taken.
	turn chan struct{}

	mu       sync.Mutex
	identity Identity      // guarded by mu; as it is in the store
	report   Report        // guarded by mu: what the server is to know
	online   *session      // guarded by mu; nil while there is no connection on which the device is subscribed
	changed  chan struct{} // guarded by mu: closed and replaced when online changes, or guests
	binding  chan struct{} // guarded by mu: closed when the Bind under way ends; nil if there is none
}

// load reads what the store keeps of the device; report is what the server is to know, or nil.
func (d *member) load(ctx context.Context, report *Report) error {
	identity, ids, err := d.store.Load(ctx)
	if err != nil {
		return fmt.Errorf("load the device's identity: %w", err)
	}
	if identity.App != "" && identity.App != d.app {
		return fmt.Errorf("the store holds a device of app %q, not of %q", identity.App, d.app)
	}
	d.identity, d.seen = identity, newSeen(ids)
	d.changed, d.handling, d.turn = make(chan struct{}), make(chan struct{}, 1), make(chan struct{}, 1)
	d.life, d.end = context.WithCancelCause(context.WithoutCancel(ctx))
	if report != nil {
		d.report = *report
		d.report.SDKVersion = cmp.Or(d.report.SDKVersion, sdkVersion)
	}
	return nil
}

// Token returns the device's public name, which business servers push to. It is empty until the first registration.
func (d *member) Token() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.identity.Token
}

// Wait blocks until the device is connected and subscribed. It returns ctx's error, or why that will not be any more:
// ErrStopped when Run has ended.
func (d *member) Wait(ctx context.Context) error {
	_, err := d.connected(ctx)
	return err
}

// connected waits for a connection on which the device is subscribed.
func (d *member) connected(ctx context.Context) (*session, error) {
	for {
		d.mu.Lock()
		online, changed := d.online, d.changed
		d.mu.Unlock()
		if online != nil {
			return online, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-d.life.Done():
			return nil, context.Cause(d.life)
		case <-changed:
		}
	}
}

func (d *member) setOnline(s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.online = s
	d.signalLocked()
}

// signalLocked wakes who waits for a change; mu is held.
func (d *member) signalLocked() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// update changes the identity and stores it. If that fails, the identity stays as it was.
func (d *member) update(ctx context.Context, change func(*Identity)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := d.identity.clone()
	change(&next)
	if err := d.store.SaveIdentity(ctx, next); err != nil {
		return fmt.Errorf("store the device's identity: %w", err)
	}
	d.identity = next
	return nil
}

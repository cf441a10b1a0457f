package device

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// maxIdentities is how many devices a connection may carry, the one that opens it included.
const maxIdentities = 8

// ErrDetached is why an Attachment is over that Detach was called for.
var ErrDetached = errors.New("the device was detached")

// Guest is a device of another app of the same phone, which is to share a connection. App and OnMessage are needed, and Token
// and Secret if the Store does not hold them.
type Guest struct {
	App string
	// Token and Secret are what the registration of the guest returned, over HTTPS or to a Device of its own that does not run
	// any more.
	Token, Secret string
	// Store keeps what the guest must not forget, as Options.Store does; the store of a Device of this app holds its token and
	// secret, too. nil forgets with the process: then a message whose acknowledgement was lost comes twice after a restart.
	Store Store
	// Report is what the guest says of itself. It is sent when it differs from what was sent last.
	Report *Report
	// OnMessage takes the guest's messages, as Options.OnMessage does. Guests do not wait for one another.
	OnMessage func(ctx context.Context, m Message) error
}

// Attachment is a guest on a connection. Its methods are safe for concurrent use, from within OnMessage, too.
type Attachment struct {
	*member

	host  *Device
	first chan struct{} // closed when it is attached for the first time

	aboard bool // guarded by mu: a goroutine serves it on a connection
}

// Attach has the connection carry the device of another app: from now on the guest gets its messages, and what is told of it
// goes, over this device's connection. After each reconnect it is attached again. Attach waits for a connection, and tries
// again while the server is not available, until ctx ends; then the guest is not attached. A refusal is an *Error, whose Field
// says what is wrong where that is one field. The app that a connection was opened for can carry seven others, one device of
// each app.
//
// What is attached is not kept: after a restart of the process Attach is called again.
func (d *Device) Attach(ctx context.Context, g Guest) (*Attachment, error) {
	a, err := d.welcome(ctx, g)
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	select {
	case <-a.first:
		return a, nil
	case <-a.life.Done():
	case <-ctx.Done():
		d.dismiss(a, context.Cause(ctx))
	}
	return nil, fmt.Errorf("attach: %w", context.Cause(a.life))
}

// welcome checks a guest and adds it to those that each connection shall carry.
func (d *Device) welcome(ctx context.Context, g Guest) (*Attachment, error) {
	switch {
	case g.App == "":
		return nil, errors.New("guest: App is missing")
	case g.OnMessage == nil:
		return nil, errors.New("guest: OnMessage is missing")
	}
	if g.Store == nil {
		g.Store = MemoryStore()
	}
	m := &member{app: g.App, store: g.Store, onMessage: g.OnMessage, backoff: d.backoff, log: d.log.With("app", g.App)}
	if err := m.load(ctx, g.Report); err != nil {
		return nil, err
	}
	token, secret := cmp.Or(g.Token, m.identity.Token), cmp.Or(g.Secret, m.identity.Secret)
	switch {
	case token == "":
		return nil, errors.New("guest: Token is missing")
	case secret == "":
		return nil, errors.New("guest: Secret is missing")
	case token != m.identity.Token || secret != m.identity.Secret:
		if err := m.update(ctx, func(i *Identity) { i.App = g.App; i.become(token, secret) }); err != nil {
			return nil, err
		}
	}
	a := &Attachment{member: m, host: d, first: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.life.Err() != nil:
		return nil, context.Cause(d.life)
	case a.app == d.app, slices.ContainsFunc(d.guests, func(other *Attachment) bool { return other.app == a.app }):
		return nil, &Error{Code: "ALREADY_EXISTS", Field: "app", Message: "the connection carries a device of this app; detach it first"}
	case len(d.guests) == maxIdentities-1:
		return nil, &Error{Code: "RESOURCE_EXHAUSTED", Message: fmt.Sprintf("a connection carries %d devices at the most", maxIdentities)}
	}
	d.guests = append(d.guests, a)
	d.signalLocked()
	return a, nil
}

// dismiss ends an attachment for good.
func (d *Device) dismiss(a *Attachment, why error) {
	a.end(why)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.guests = slices.DeleteFunc(d.guests, func(other *Attachment) bool { return other == a })
}

func (d *Device) endGuests() {
	d.mu.Lock()
	guests := d.guests
	d.mu.Unlock()
	for _, a := range slices.Clone(guests) {
		d.dismiss(a, ErrStopped)
	}
}

// carryAll serves all guests on a connection until it ends; ctx is Run's.
func (d *Device) carryAll(ctx context.Context, s *session) {
	served := map[*Attachment]bool{}
	for s.ctx.Err() == nil {
		d.mu.Lock()
		guests, changed := slices.Clone(d.guests), d.changed
		d.mu.Unlock()
		for _, a := range guests {
			if !served[a] && a.setAboard(true) {
				served[a] = true
				d.workers.Go(func() { a.serve(ctx, s) })
			}
		}
		select {
		case <-s.ctx.Done():
		case <-changed:
		}
	}
}

// setAboard reports whether it is so now; one that is over does not get aboard any more.
func (a *Attachment) setAboard(on bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if on && a.life.Err() != nil {
		return false
	}
	a.aboard = on
	a.signalLocked()
	return true
}

// serve keeps a guest attached until the connection or the attachment ends.
func (a *Attachment) serve(ctx context.Context, s *session) {
	defer a.setAboard(false)
	within, cancel := s.within(a.life)
	defer cancel()
	for attempt := 0; within.Err() == nil; attempt++ {
		begin := time.Now()
		err := a.ride(ctx, within, s)
		if within.Err() != nil {
			break
		}
		if final(err) {
			a.log.ErrorContext(ctx, "a device is not attached, and not tried again", "error", err)
			a.host.dismiss(a, err)
			return // the server knows
		}
		if time.Since(begin) >= steadyAfter {
			attempt = 0
		}
		pause := a.backoff.after(attempt)
		var refusal *Error
		if errors.As(err, &refusal) && refusal.RetryAfter > 0 {
			pause = spread(refusal.RetryAfter)
		}
		a.log.InfoContext(ctx, "a device is not attached", "error", err, "wait", pause)
		_ = sleep(within, pause) // its error is the loop's condition
	}
	if s.ctx.Err() == nil {
		a.alight(ctx, s)
	}
}

// final reports whether a guest cannot be attached again.
func final(err error) bool {
	var refusal *Error
	return errors.Is(err, ErrTakenOver) || errors.As(err, &refusal) && !refusal.temporary()
}

// ride attaches a guest and hands it its messages, until its session ends; within ends with the connection or the attachment.
func (a *Attachment) ride(ctx, within context.Context, s *session) error {
	place := s.sit(a.member)
	defer s.stand(a.member)
	if err := s.subscribe(within, a.host.replyTopics(methodAttach, methodDetach)); err != nil {
		return err
	}
	a.mu.Lock()
	token, secret := a.identity.Token, a.identity.Secret
	a.mu.Unlock()
	_, err := a.host.askOn(within, s, methodAttach, map[string]string{"app": a.app, "token": token, "secret": secret})
	var refusal *Error
	if errors.As(err, &refusal) && refusal.Code == "ALREADY_EXISTS" {
		err = nil // an attempt before, whose answer was lost: the connection carries what we attach, and nothing else
	}
	if err != nil {
		return err
	}
	up, leave := context.WithCancel(within)
	defer leave()
	a.host.workers.Go(func() { a.handleAll(ctx, s, place, up.Done()) })
	if err := a.subscribe(within, s, methodReport, methodBind, methodUnbind, methodDetach); err != nil {
		return err
	}
	a.setOnline(s)
	defer a.setOnline(nil)
	select {
	case <-a.first:
	default:
		close(a.first)
	}
	a.log.InfoContext(ctx, "a device is attached", "token", token)
	a.host.workers.Go(func() { a.sendReport(s) })
	select {
	case <-within.Done():
		return context.Cause(within)
	case notice := <-place.notice:
		return ended(notice)
	}
}

// ended reads the server's word that a guest's session has ended, but not the connection.
func ended(notice []byte) error {
	var n struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Reason  string `json:"reason"`
		} `json:"error"`
	}
	if err := json.Unmarshal(notice, &n); err != nil {
		return fmt.Errorf("the session ended: %w", err)
	}
	switch n.Error.Reason {
	case "taken_over":
		return ErrTakenOver
	case "gone":
		return &Error{Code: n.Error.Code, Field: "token", Message: "the device was removed, or its secret made void"}
	}
	return errors.New(n.Error.Message)
}

// alight tells the server that the connection does not carry a guest any more.
func (a *Attachment) alight(ctx context.Context, s *session) {
	within, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	_, err := a.host.askOn(within, s, methodDetach, map[string]string{"app": a.app})
	var refusal *Error
	if err != nil && !errors.As(err, &refusal) && s.ctx.Err() == nil { // refused: it had not been attached yet
		a.log.WarnContext(ctx, "the server may still hold a device attached", "error", err)
	}
}

// Detach ends the attachment for good: OnMessage is not called again once the message that it has is done with, and what is
// not acknowledged comes again wherever the guest connects next. Detach waits until the server knows, or ctx ends; without a
// connection there is nothing to wait for.
func (a *Attachment) Detach(ctx context.Context) error {
	a.host.dismiss(a, ErrDetached)
	for {
		a.mu.Lock()
		aboard, changed := a.aboard, a.changed
		a.mu.Unlock()
		if !aboard {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("detach: %w", context.Cause(ctx))
		case <-changed:
		}
	}
}

// Done returns a channel that is closed when the guest is not attached any more and will not be; Err says why.
func (a *Attachment) Done() <-chan struct{} { return a.life.Done() }

// Err returns nil while the guest is attached, or is going to be again, and then why it is not: ErrDetached, ErrTakenOver
// (its device connects elsewhere), ErrStopped, or the server's refusal, an *Error.
func (a *Attachment) Err() error { return context.Cause(a.life) }

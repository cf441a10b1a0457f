package device

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	// steadyAfter is how long a connection must have held for the next pause to be the shortest again.
	steadyAfter = 10 * time.Second
	// maxHops is how many times in a row the server may send the device elsewhere.
	maxHops = 2
	// maxRetryAfter bounds the pause that a server may ask for.
	maxRetryAfter = time.Hour
)

// MQTT 5 reason codes that decide what comes next.
const (
	badClientID     = 0x85
	badPassword     = 0x86
	notAuthorized   = 0x87
	takenOver       = 0x8E
	administrative  = 0x98
	useAnother      = 0x9C
	serverMoved     = 0x9D
	firstErrorCode  = 0x80
	backoffDoubling = 30 // beyond this many doublings no duration is longer
)

// after returns the pause after the n-th failure in a row, counted from 0.
func (b Backoff) after(n int) time.Duration {
	longest := b.Min << min(n, backoffDoubling)
	if longest <= 0 || longest > b.Max {
		longest = b.Max
	}
	return longest/2 + rand.N(longest/2+1)
}

// spread adds up to a tenth to a pause that many devices may have been given alike.
func spread(d time.Duration) time.Duration { return d + rand.N(d/10+1) }

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// plan decides where to connect next, as whom, and when.
type plan struct {
	home    target
	allowed map[string]bool
	backoff Backoff

	at       target // the next connection's server
	register bool   // the next connection registers
	known    bool   // there are a token and a secret
	failures int    // in a row
	hops     int    // in a row
}

// next takes why the last connection ended and how long it had held, 0 if it did not come about, and returns the pause before
// the next one.
func (p *plan) next(why error, held time.Duration) (time.Duration, error) {
	if held >= steadyAfter {
		p.failures, p.hops = 0, 0
	}
	if errors.Is(why, errNetworkChanged) {
		p.at = p.home
		return 0, nil
	}
	var e *ServerError
	if !errors.As(why, &e) {
		e = &ServerError{}
	}
	p.at = p.home
	switch e.Code {
	case takenOver:
		return 0, ErrTakenOver
	case useAnother, serverMoved:
		if p.redirect(e.Reference) {
			return e.RetryAfter, nil
		}
	case administrative:
		p.register = true
	case badClientID, badPassword, notAuthorized:
		// Refused with what is stored: register. Refused at that: perhaps it was the server's mistake, and the stored
		// ones are good after all.
		p.register = e.Refused && !p.register || !p.known
	}
	pause := p.backoff.after(p.failures)
	p.failures++
	if e.RetryAfter > 0 {
		pause = spread(e.RetryAfter)
	}
	return pause, nil
}

// redirect follows a Server Reference if it may, and reports whether it does.
func (p *plan) redirect(reference string) bool {
	to, err := p.home.at(reference)
	if err != nil || p.hops >= maxHops || !p.allowed[to.address] && !p.allowed[to.host()] {
		p.hops = 0
		return false
	}
	p.at = to
	p.hops++
	return true
}

// registered notes that the last connection registered.
func (p *plan) registered() { p.register, p.known = false, true }

// Run keeps the device connected until ctx ends, and returns nil then. It returns ErrTakenOver when another process uses the
// device's identity; nothing else ends it. It waits for OnMessage to return before it does. A device runs once.
func (d *Device) Run(ctx context.Context) error {
	if d.running.Swap(true) {
		return errors.New("the device runs already, or has run")
	}
	known := d.Token() != ""
	p := &plan{home: d.home, allowed: d.allowed, backoff: d.options.Backoff, at: d.home, known: known, register: !known}
	err := d.keepConnected(ctx, p)
	d.end(ErrStopped)
	d.endGuests()
	d.workers.Wait()
	d.setState(State{Phase: Stopped, Err: err})
	return err
}

func (d *Device) keepConnected(ctx context.Context, p *plan) error {
	for ctx.Err() == nil {
		at := p.at
		d.setState(State{Phase: Connecting, Server: at.address})
		held, why := d.hold(ctx, p)
		if ctx.Err() != nil {
			return nil
		}
		pause, err := p.next(why, held)
		if err != nil {
			d.log.ErrorContext(ctx, "the device stops", "error", err)
			return err
		}
		d.log.InfoContext(ctx, "no connection", "server", at.address, "error", why, "wait", pause)
		d.setState(State{Phase: Waiting, Server: at.address, Wait: pause, Err: why})
		d.rest(ctx, pause)
	}
	return nil
}

// rest waits for a time, or until there is a reason not to, or ctx ends.
func (d *Device) rest(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-d.hurry:
	}
}

// hold connects and stays until the connection ends. It returns how long it held, and why it ended.
func (d *Device) hold(ctx context.Context, p *plan) (time.Duration, error) {
	s, err := d.connect(ctx, p)
	if d.Token() != "" {
		p.known = true
	}
	if err != nil {
		return 0, err
	}
	defer s.close()
	p.registered()
	begin := time.Now()
	d.setOnline(s)
	defer d.setOnline(nil)
	d.log.InfoContext(ctx, "connected", "server", p.at.address, "token", d.Token())
	d.setState(State{Phase: Online, Server: p.at.address, Registered: s.registered})
	d.workers.Go(func() { d.sendReport(s) })
	d.workers.Go(func() { d.carryAll(ctx, s) })
	<-s.ctx.Done()
	return time.Since(begin), context.Cause(s.ctx)
}

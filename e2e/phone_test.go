package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
	"github.com/halleypush/halley/pkg/device"
)

// dialer opens a TCP connection.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// backoff is how long phones pause between tries when no server says how long.
var backoff = device.Backoff{Min: 200 * time.Millisecond, Max: 2 * time.Second}

// phone is a device with our SDK that can go away and come back, and remembers what it got.
type phone struct {
	app   *rig.App
	store device.Store
	dial  dialer
	token string
	// What a test may set before the phone connects. 0: the server's keep-alive. nil: no TLS. holds: messages are taken once it is closed.
	keepAlive time.Duration
	tls       *tls.Config
	holds     chan struct{}

	device *device.Device
	stop   context.CancelFunc
	done   chan struct{} // closed when Run has ended

	mu       sync.Mutex
	got      map[string]int // guarded by mu: how often each push came
	order    []string       // guarded by mu: push ids as they came
	held     int            // guarded by mu: how many messages have come to be taken
	dropped  int            // guarded by mu: how often a connection was lost
	isOnline bool           // guarded by mu
	told     time.Duration  // guarded by mu: the longest time to come back that a server named who did not let it in
	tries    []string       // guarded by mu: when it has changed its state since it was online, and why
	repeats  uint64         // guarded by mu: what the SDK dropped on connections that are over
}

// newPhone returns a phone that is away.
func newPhone(app *rig.App, dial dialer) *phone {
	return &phone{app: app, store: device.MemoryStore(), dial: dial, got: map[string]int{}}
}

// connect starts the phone, which lives until ctx ends or it leaves, and waits until it is online.
func (p *phone) connect(ctx context.Context) error { return p.connectWithin(ctx, ctx) }

// connectWithin is connect with a context of its own for the waiting.
func (p *phone) connectWithin(ctx, life context.Context) error {
	life, p.stop = context.WithCancel(life)
	p.done = make(chan struct{})
	scheme := "mqtt://"
	if p.tls != nil {
		scheme = "mqtts://"
	}
	d, err := device.New(ctx, device.Options{
		App: p.app.ID, ClientKey: p.app.ClientKey, Server: scheme + p.app.MQTT, TLS: p.tls, Store: p.store, Dial: p.dial, KeepAlive: p.keepAlive,
		Backoff:   backoff,
		OnMessage: p.take, OnState: p.state,
	})
	if err != nil {
		close(p.done)
		return err
	}
	p.device = d
	go func() {
		defer close(p.done)
		_ = d.Run(life) // ends with life; a phone that ended otherwise is missed by what waits for it
	}()
	if err := d.Wait(ctx); err != nil {
		return fmt.Errorf("a phone connects: %w", err)
	}
	p.token = d.Token()
	return nil
}

// leave ends the connection and returns when it is closed.
func (p *phone) leave() {
	p.stop()
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	p.repeats += p.device.Counts().Repeats
}

// repeated returns how many repeats the SDK has dropped. The phone is online.
func (p *phone) repeated() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.repeats + p.device.Counts().Repeats
}

func (p *phone) take(ctx context.Context, m device.Message) error {
	if p.holds != nil {
		p.mu.Lock()
		p.held++
		p.mu.Unlock()
		select {
		case <-p.holds:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got[m.PushID]++
	p.order = append(p.order, m.PushID)
	return nil
}

func (p *phone) state(s device.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isOnline && s.Phase != device.Online {
		p.dropped++
	}
	if p.isOnline = s.Phase == device.Online; p.isOnline {
		p.tries = nil
	} else {
		p.tries = append(p.tries, fmt.Sprintf("%s %v: %v", time.Now().Format("05.000"), s.Phase, s.Err))
	}
	var said *device.ServerError
	if errors.As(s.Err, &said) && said.Refused {
		p.told = max(p.told, said.RetryAfter)
	}
}

// longestTold returns the longest time to come back that a server named who did not let the phone in.
func (p *phone) longestTold() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.told
}

// losses returns how often the phone's connection ended.
func (p *phone) losses() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dropped
}

func (p *phone) online() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.isOnline
}

// tried returns what has happened to the phone since it was online.
func (p *phone) tried() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.tries, "; ")
}

// received returns how often each push came, and the order in which they did.
func (p *phone) received() (map[string]int, []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.got), slices.Clone(p.order)
}

// holding returns how many messages the app has had in its hands so far, also those that it has not taken yet.
func (p *phone) holding() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}

// awaitOnce waits until the phone has a push, and checks that it came once.
func (p *phone) awaitOnce(t *testing.T, pushID string) {
	t.Helper()
	rig.Until(t, 20*time.Second, "push "+pushID+" comes", func() error {
		got, order := p.received()
		if got[pushID] != 1 {
			return fmt.Errorf("it came %d times; what came: %v", got[pushID], order)
		}
		return nil
	})
}

// connected returns a phone that is online, until the test ends.
func connected(t *testing.T, app *rig.App) *phone {
	t.Helper()
	p := newPhone(app, nil)
	life, end := context.WithCancel(context.Background())
	t.Cleanup(func() {
		end()
		<-p.done
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := p.connectWithin(ctx, life); err != nil {
		t.Fatal(err)
	}
	return p
}

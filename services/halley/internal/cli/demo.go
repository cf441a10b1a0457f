package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/halleypush/halley/pkg/client"
	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/device"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/halley"
	"github.com/halleypush/halley/services/halley/internal/site"
)

const (
	// demoDevices is how many phones the demonstration connects; the last one is away at first.
	demoDevices = 20
	// demoWithin bounds the demonstration.
	demoWithin = 2 * time.Minute
)

func newDemo(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show everything once, in a temporary folder",
		Long: `Starts Halley in a temporary folder, connects 20 simulated phones, pushes to one device, to a user with three devices, to
everyone, to a device that is away and comes back, and to phones of all makers, whose services are simulated; and prints how
far each push got. It fails if anything is missing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runDemo(cmd.Context(), g.out) },
	}
}

func runDemo(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "halley-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL's own user walks through it
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, demoWithin)
	defer cancel()
	var c halley.Config
	if err := config.Load("", &c); err != nil {
		return err
	}
	anyPort := "127.0.0.1:0"
	c.Data, c.HTTP, c.GRPC, c.Internal, c.MQTT, c.MQTTS, c.Telemetry.Listen = dir, anyPort, anyPort, anyPort, anyPort, "", anyPort
	c.Telemetry.LogLevel = "error"
	c.Channels, c.VendorSimulators, c.SimulatorControl = []string{"all"}, true, anyPort
	ready := make(chan site.Demo, 1)
	c.Ready = func(d site.Demo) { ready <- d }
	c.Out = io.Discard
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan error, 1)
	go func() { stopped <- halley.Up(running, c) }()
	begun := time.Now()
	select {
	case d := <-ready:
		fmt.Fprintf(out, "Halley is up after %v\n", time.Since(begun).Round(time.Millisecond))
		err = show(ctx, d, out)
	case err = <-stopped:
		stop()
		return errors.Join(errors.New("halley did not start"), err)
	case <-ctx.Done():
		err = ctx.Err()
	}
	stop()
	err = errors.Join(err, <-stopped)
	if err == nil {
		fmt.Fprintf(out, "\nAll of it worked, in %v.\n", time.Since(begun).Round(time.Millisecond))
	}
	return err
}

// demonstration is a running Halley with its phones.
type demonstration struct {
	site     site.Demo
	business *client.Client
	out      io.Writer
	phones   []*demoPhone
	running  sync.WaitGroup
}

// demoPhone counts what it got.
type demoPhone struct {
	device *device.Device
	store  device.Store
	stop   context.CancelFunc
	done   chan struct{}

	mu  sync.Mutex
	got map[string]int // guarded by mu: by push id
}

func show(ctx context.Context, d site.Demo, out io.Writer) error {
	business, err := client.New(d.GRPC, d.ServerKey, client.WithPlaintext())
	if err != nil {
		return err
	}
	defer business.Close()
	x := &demonstration{site: d, business: business, out: out}
	devices, end := context.WithCancel(ctx)
	defer x.running.Wait()
	defer end()
	begun := time.Now()
	for range demoDevices {
		p := &demoPhone{store: device.MemoryStore(), got: map[string]int{}}
		if err := x.start(devices, p); err != nil {
			return err
		}
		x.phones = append(x.phones, p)
	}
	for _, p := range x.phones {
		if err := p.device.Wait(ctx); err != nil {
			return fmt.Errorf("connect a phone: %w", err)
		}
	}
	fmt.Fprintf(out, "%d phones are registered and online after %v\n", demoDevices, time.Since(begun).Round(time.Millisecond))
	if err := x.pushes(ctx, devices); err != nil {
		return err
	}
	return x.vendors(ctx)
}

// start connects a phone with the identity in its store.
func (x *demonstration) start(ctx context.Context, p *demoPhone) error {
	ctx, p.stop = context.WithCancel(ctx)
	p.done = make(chan struct{})
	var err error
	p.device, err = device.New(ctx, device.Options{
		App: x.site.App, ClientKey: x.site.ClientKey, Server: serverURL(x.site.MQTT), Store: p.store,
		OnMessage: func(_ context.Context, m device.Message) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.got[m.PushID]++
			return nil
		},
	})
	if err != nil {
		return err
	}
	x.running.Go(func() {
		defer close(p.done)
		_ = p.device.Run(ctx) // ends with ctx; what it missed the counts show
	})
	return nil
}

func (x *demonstration) pushes(ctx, devices context.Context) error {
	for _, p := range x.phones[:3] {
		if _, err := p.device.Bind(ctx, "alice", ""); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
	}
	away := x.phones[demoDevices-1]
	token := away.device.Token()
	away.stop()
	<-away.done
	fmt.Fprintln(x.out, "3 of them are bound to the user alice; the last one has gone away")
	one := x.phones[5].device.Token()
	kept, err := x.push(ctx, "a device that is away", 0, devicesAudience(token))
	if err != nil {
		return err
	}
	for _, push := range []struct {
		to       string
		arrives  uint32
		audience *pushv1.Audience
	}{
		{"one device", 1, devicesAudience(one)},
		{"the user alice, with three devices", 3, &pushv1.Audience{Target: &pushv1.Audience_Users_{Users: &pushv1.Audience_Users{Ids: []string{"alice"}}}}},
		{"everyone", demoDevices - 1, &pushv1.Audience{Target: &pushv1.Audience_All_{All: &pushv1.Audience_All{}}}},
	} {
		if _, err := x.push(ctx, push.to, push.arrives, push.audience); err != nil {
			return err
		}
	}
	fmt.Fprintln(x.out, "\nthe phone that was away comes back")
	if err := x.start(devices, away); err != nil {
		return err
	}
	return x.expect(ctx, kept, 1)
}

func devicesAudience(tokens ...string) *pushv1.Audience {
	return &pushv1.Audience{Target: &pushv1.Audience_Devices_{Devices: &pushv1.Audience_Devices{Tokens: tokens}}}
}

// push pushes and waits until so many devices have confirmed it; 0: until it is kept.
func (x *demonstration) push(ctx context.Context, to string, arrives uint32, audience *pushv1.Audience) (string, error) {
	response, err := x.business.Push(ctx, &pushv1.PushRequest{
		App: x.site.App, Audience: audience, Notification: &pushv1.Notification{Title: "Hello", Body: "to " + to},
	})
	if err != nil {
		return "", fmt.Errorf("push to %s: %w", to, err)
	}
	fmt.Fprintf(x.out, "\npush to %s\n", to)
	return response.GetPushId(), x.expect(ctx, response.GetPushId(), arrives)
}

// expect waits until a push has arrived at so many devices, prints its funnel, and checks that each got it once.
func (x *demonstration) expect(ctx context.Context, id string, arrives uint32) error {
	err := x.await(ctx, id, func(c *pushv1.Counts) bool {
		return c.GetArrived() == arrives && c.GetArrived()+c.GetPending() == c.GetTargeted() && c.GetTargeted() > 0
	})
	if err != nil {
		return err
	}
	var got uint32
	for _, p := range x.phones {
		p.mu.Lock()
		n := p.got[id]
		p.mu.Unlock()
		if n > 1 {
			return fmt.Errorf("push %s came %d times to one phone", id, n)
		}
		got += uint32(n)
	}
	if got != arrives {
		return fmt.Errorf("push %s: the ledger counts %d arrived, the phones %d", id, arrives, got)
	}
	return nil
}

// await waits until a push's counts are as wanted, and prints its funnel.
func (x *demonstration) await(ctx context.Context, id string, wanted func(*pushv1.Counts) bool) error {
	for {
		push, err := x.business.GetPush(ctx, x.site.App, id)
		if err != nil {
			return fmt.Errorf("get push: %w", err)
		}
		if wanted(push.GetCounts()) {
			fmt.Fprintf(x.out, "  %s\n", funnel(push.GetCounts()))
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("push %s has got no further than: %s", id, funnel(push.GetCounts()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

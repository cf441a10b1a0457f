package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/halleypush/halley/pkg/device"
)

// maxSimulated bounds the simulated devices of one command: each has a few goroutines and a connection.
const maxSimulated = 10_000

func newDevice(g *globals) *cobra.Command {
	var n int
	var user, proof, store string
	var quiet, heartbeat bool
	c := &cobra.Command{
		Use:   "device",
		Short: "Simulate phones: register, connect, print what arrives",
		Long: `Runs simulated phones on the device SDK. Each registers, connects, binds itself to a user if one is given, prints what
arrives, and confirms it. Ctrl-C ends them. With --store they keep their identity for the next time.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := g.settle(); err != nil {
				return err
			}
			switch {
			case g.app == "" || g.clientKey == "":
				return usageError{errors.New("an app and its client key are needed: --app and --client-key, HALLEY_APP and HALLEY_CLIENT_KEY, or the data folder of a halley up")}
			case n < 1 || n > maxSimulated:
				return usageError{fmt.Errorf("-n must be between 1 and %d", maxSimulated)}
			}
			return g.simulate(cmd.Context(), n, func(p *phone) {
				p.user, p.proof, p.quiet = user, proof, quiet
				if heartbeat {
					p.heartbeat = &device.Heartbeat{}
				}
				if store != "" {
					p.store = device.FileStore(filepath.Join(store, strconv.Itoa(p.number)))
				}
			})
		},
	}
	f := c.Flags()
	f.IntVarP(&n, "number", "n", 1, "how many")
	f.StringVar(&user, "user", "", "bind each to this user")
	f.StringVar(&proof, "proof", "", "proof for the bind, where the app wants one")
	f.StringVar(&store, "store", "", "folder to keep identities in (default: new devices each time)")
	f.BoolVar(&heartbeat, "heartbeat", false, "adapt the heartbeat to the network, as phones do")
	f.BoolVar(&quiet, "quiet", false, "print only messages")
	return c
}

// phone is one simulated phone.
type phone struct {
	number      int
	user, proof string
	quiet       bool
	store       device.Store
	heartbeat   *device.Heartbeat
	// say prints a line, complain one about what goes wrong.
	say, complain func(format string, args ...any)
	complained    string // the last complaint: the same is not said again and again
}

// tell says why a phone is not online.
func (p *phone) tell(s device.State) {
	switch {
	case s.Phase == device.Online:
		p.complained = ""
	case s.Phase == device.Waiting && s.Err != nil && s.Err.Error() != p.complained:
		p.complained = s.Err.Error()
		p.complain("not online, trying again: %v", s.Err)
	}
}

// simulate runs phones until ctx ends.
func (g *globals) simulate(ctx context.Context, n int, configure func(*phone)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var printing sync.Mutex
	say := func(to io.Writer, p *phone, format string, args ...any) {
		printing.Lock()
		defer printing.Unlock()
		prefix := ""
		if n > 1 {
			prefix = fmt.Sprintf("[%d] ", p.number)
		}
		fmt.Fprintf(to, "%s%s\n", prefix, fmt.Sprintf(format, args...))
	}
	for i := range n {
		p := &phone{number: i + 1, store: device.MemoryStore()}
		configure(p)
		p.say = func(format string, args ...any) { say(g.out, p, format, args...) }
		p.complain = func(format string, args ...any) { say(g.errOut, p, format, args...) }
		wg.Go(func() {
			if err := g.runPhone(ctx, p); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("device %d: %w", p.number, err))
			}
		})
	}
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

func (g *globals) runPhone(ctx context.Context, p *phone) error {
	d, err := device.New(ctx, device.Options{
		App: g.app, ClientKey: g.clientKey, Server: serverURL(g.mqtt), Store: p.store, Heartbeat: p.heartbeat,
		Report:  &device.Report{Platform: "linux", AppVersion: "1.0.0"},
		OnState: p.tell,
		OnMessage: func(_ context.Context, m device.Message) error {
			p.say("%s", g.showMessage(m))
			return nil
		},
	})
	if err != nil {
		return err
	}
	running := make(chan error, 1)
	go func() { running <- d.Run(ctx) }()
	if err := d.Wait(ctx); err == nil && !p.quiet {
		p.say("device %s is online", d.Token())
	}
	if p.user != "" && ctx.Err() == nil {
		if _, err := d.Bind(ctx, p.user, p.proof); err != nil {
			return fmt.Errorf("bind to %s: %w", p.user, err)
		}
		if !p.quiet {
			p.say("device %s is bound to %s", d.Token(), p.user)
		}
	}
	err = <-running
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// serverURL makes an address of one without a scheme.
func serverURL(address string) string {
	if strings.Contains(address, "://") {
		return address
	}
	return "mqtt://" + address
}

func (g *globals) showMessage(m device.Message) string {
	if g.output == "json" {
		data, err := json.Marshal(m)
		if err != nil { // a message came from JSON
			return err.Error()
		}
		return string(data)
	}
	text := time.Now().Format("15:04:05.000") + "  " + m.PushID
	for _, part := range []struct{ name, value string }{
		{"title", m.Title}, {"body", m.Body}, {"payload", m.Payload}, {"user", m.User},
	} {
		if part.value != "" {
			text += fmt.Sprintf("  %s=%q", part.name, part.value)
		}
	}
	for k, v := range m.Data {
		text += fmt.Sprintf("  %s=%q", k, v)
	}
	return text
}

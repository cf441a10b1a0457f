// Package gateway measures the gateway at its limits, beside a bare epoll loop and its peers in the same run.
package gateway

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/halleypush/halley/bench/internal/report"
	"github.com/halleypush/halley/bench/internal/sink"
	"github.com/halleypush/halley/bench/internal/site"
	"github.com/halleypush/halley/bench/internal/suite"
	"github.com/halleypush/halley/bench/internal/swarm"
)

// sizes are how much a run does.
type sizes struct {
	sessions   int // of one server: a process may have 20,000 files
	pairs      int // of the bare loop and the gateway, by turns
	peers      int // starts of each peer
	broadcasts int // of each start, of each kind
	idle       int // rounds
	settle     time.Duration
	handshakes int // of each round
	tables     int // sessions without sockets
	fleet      int // gateways
	small      int // sessions that the fleet's growth is measured from
	direct     time.Duration
}

func sizesOf(quick bool) sizes {
	if quick {
		return sizes{
			sessions: 4_000, pairs: 2, peers: 1, broadcasts: 2, idle: 1, settle: 3 * time.Second, handshakes: 500, tables: 100_000,
			fleet: 3, small: 500, direct: 2 * time.Second,
		}
	}
	return sizes{
		sessions: 19_000, pairs: 7, peers: 3, broadcasts: 4, idle: 3, settle: time.Minute, handshakes: 6_000, tables: 1_000_000,
		fleet: 10, small: 2_000, direct: 10 * time.Second,
	}
}

const (
	// startWithin bounds a server's start, connectWithin the connects of its clients, messageWithin a broadcast.
	startWithin   = time.Minute
	connectWithin = 2 * time.Minute
	messageWithin = time.Minute
	// rest lets servers come to rest before and after what is measured.
	rest = 300 * time.Millisecond
)

// bench is one run.
type bench struct {
	sizes
	suite.Options
	dir         string
	nats        *site.NATS
	sink        *sink.Sink
	certificate certificate
	frame       []byte // a PUBLISH of the gateway's
	welcome     []byte // as long as what the gateway answers to CONNECT and SUBSCRIBE
	started     int    // gateways
	figures     []report.Figure
}

// Run measures.
func Run(ctx context.Context, o suite.Options) (_ []report.Figure, err error) {
	b := &bench{sizes: sizesOf(o.Quick), Options: o}
	if b.dir, err = os.MkdirTemp("", "halley-bench-*"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.dir)
	if b.certificate, err = newCertificate(b.dir); err != nil {
		return nil, err
	}
	starting, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if b.nats, err = site.StartNATS(starting, o.Bin, b.dir); err != nil {
		return nil, err
	}
	defer b.nats.Stop()
	if b.sink, err = sink.Start(starting, b.nats.URL); err != nil {
		return nil, err
	}
	defer b.sink.Close()
	b.say("%+v", b.sizes)
	b.say("%s", site.GatewayConfig)
	b.say("%s", sink.Config)
	b.say("gateway: spans go to the sink over OTLP, telemetry.trace_ratio and all else as it is by default")
	if err := b.learn(ctx); err != nil {
		return nil, fmt.Errorf("first start: %w", err)
	}
	for _, step := range []struct {
		figures []string
		run     func(context.Context) error
	}{
		{[]string{"idle.plain_rss_bytes", "idle.tls_rss_bytes", "idle.process_rss_mb"}, b.idleMemory},
		{[]string{"broadcast.cpu_ratio", "acked.cpu_ratio", "connect.ratio"}, b.pairwise},
		{[]string{"connect.pushcore_ratio"}, b.connectReal},
		{[]string{"tls.full_ratio", "tls.resumed_ratio"}, b.shakeHands},
		{[]string{"gc.cpu_ms", "gc.pause_ms"}, b.collect},
		{[]string{"slow.p99_ratio"}, b.slow},
		{[]string{"mixed.p99_ratio"}, b.mixed},
		{[]string{"fleet.rate_ratio", "fleet.cost_growth"}, b.fleetwise},
	} {
		if !b.Wanted(step.figures...) {
			continue
		}
		begin := time.Now()
		if err := step.run(ctx); err != nil {
			return b.figures, fmt.Errorf("%s: %w", strings.Join(step.figures, ", "), err)
		}
		b.say("%s: %.0f s", strings.Join(step.figures, ", "), time.Since(begin).Seconds())
	}
	return b.figures, nil
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.Out, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}

func (b *bench) add(f report.Figure) { b.figures = append(b.figures, f) }

// startGateway starts a gateway on the sink. Devices connect to an address of this host; empty: the usual one.
func (b *bench) startGateway(ctx context.Context, host string) (*site.Gateway, error) {
	b.started++
	return site.StartGateway(ctx, site.GatewayOptions{
		Bin: b.Bin, Dir: b.dir, Name: fmt.Sprintf("gateway-%d", b.started), NATS: b.nats.URL, Pushcore: b.sink.Address,
		Certificate: filepath.Join(b.dir, certFile), Key: filepath.Join(b.dir, keyFile), Spans: "http://" + b.sink.Address,
		Host: host,
	})
}

// learn takes from a gateway what its answer and its PUBLISH look like, so that others can send the same bytes.
func (b *bench) learn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	s, err := b.startHalley(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	c, err := b.connect(ctx, s, 1)
	if err != nil {
		return err
	}
	defer c.stop()
	if err := s.opened(ctx, 1); err != nil {
		return err
	}
	if _, err := c.broadcast(ctx, s); err != nil {
		return err
	}
	if err := c.member.Ask(ctx, "First", struct{}{}, &b.frame); err != nil {
		return err
	}
	if b.welcome, err = greeting(ctx, s); err != nil {
		return err
	}
	b.say("a PUBLISH has %d B, CONNACK with SUBACK %d B", len(b.frame), len(b.welcome))
	return nil
}

// greeting returns what a gateway answers to CONNECT and SUBSCRIBE of its second device.
func greeting(ctx context.Context, s server) (answer []byte, err error) {
	plan, err := s.clients(2)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	protocol := plan.Protocol()
	if _, err := conn.Write(protocol.Hello(1)); err != nil {
		return nil, err
	}
	for at, buf := 0, make([]byte, 1024); ; {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, fmt.Errorf("no answer: %w", err)
		}
		answer = append(answer, buf[:n]...)
		for {
			packet, err := protocol.Take(answer[at:])
			if err != nil || packet.Kind == swarm.Ready {
				return answer, err
			}
			if packet.Used == 0 {
				break
			}
			at += packet.Used
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

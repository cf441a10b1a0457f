// Package vendorsim simulates the phone makers' push services: real servers that authenticate, check, limit and answer as
// the vendors document. They are written from fact sheets, apart from the senders that talk to them.
package vendorsim

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/pkg/tlsconfig"
	"github.com/halleypush/halley/services/vendorsim/internal/authority"
	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// receiptWithin bounds a call that carries receipts.
const receiptWithin = 10 * time.Second

// Run runs the simulators until ctx ends.
func Run(ctx context.Context, c Config) error {
	s, err := New(ctx, c)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// Simulators have their listeners, and can be run once.
type Simulators struct {
	config    Config
	telemetry *telemetry.Telemetry
	health    *telemetry.Health
	log       *slog.Logger
	authority *authority.Authority
	admin     net.Listener
	control   net.Listener
	channels  map[string]*channel
}

// channel is one simulator.
type channel struct {
	frame    *frame.Frame
	vendor   frame.Vendor
	listener net.Listener
	tls      *tls.Config // nil: plain

	file string // of the registered apps
	mu   sync.Mutex
	apps map[string]json.RawMessage // what Register returned
}

// New checks the configuration, opens the listeners, and registers the apps of the run before.
func New(ctx context.Context, c Config) (_ *Simulators, err error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	s := &Simulators{config: c, health: c.Health, channels: make(map[string]*channel)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if c.Shared != nil {
		s.telemetry = c.Shared.Share("vendorsim")
	} else if s.telemetry, err = telemetry.New(ctx, "vendorsim", c.Telemetry, c.TelemetryOptions...); err != nil {
		return nil, err
	}
	if s.health == nil {
		s.health = telemetry.NewHealth()
	}
	s.log = s.telemetry.Log
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder: %w", err)
	}
	if s.authority, err = authority.Open(c.Dir); err != nil {
		return nil, err
	}
	receipts, err := s.receiptClient()
	if err != nil {
		return nil, err
	}
	for _, entry := range c.Channels {
		name, address, _ := strings.Cut(entry, "=")
		if err := s.open(name, address, receipts); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return s, s.listen()
}

func (s *Simulators) receiptClient() (*http.Client, error) {
	config, err := tlsconfig.Client(s.config.ReceiptCA, "", "")
	if err != nil {
		return nil, fmt.Errorf("receipts: %w", err)
	}
	return &http.Client{Timeout: receiptWithin, Transport: &http.Transport{
		TLSClientConfig: config, MaxIdleConnsPerHost: 8, ForceAttemptHTTP2: true,
	}}, nil
}

// open opens a channel's listener and makes its simulator.
func (s *Simulators) open(name, address string, receipts *http.Client) (err error) {
	c := &channel{file: filepath.Join(s.config.Dir, name+".apps.json"), apps: make(map[string]json.RawMessage)}
	if c.listener, err = config.Listen("channels", "VENDORSIM_CHANNELS", address); err != nil {
		return err
	}
	s.channels[name] = c
	v, url := vendors()[name], "http://"+c.listener.Addr().String()
	switch {
	case v.tls:
		c.tls, err = s.authority.Server(s.config.Hosts, "h2")
	case slices.Contains(s.config.TLS, name):
		c.tls, err = s.authority.Server(s.config.Hosts, "h2", "http/1.1")
	}
	if err != nil {
		return err
	}
	if c.tls != nil {
		url = "https://" + c.listener.Addr().String()
	}
	c.frame = frame.New(frame.Options{
		Channel: name, URL: url, Log: s.log.With("channel", name), Receipts: receipts, Authority: s.authority,
		Record: frame.RecorderConfig{Bytes: s.config.RecordBytes, Pairs: s.config.RecordPairs},
	})
	c.vendor = v.make(c.frame)
	return c.load()
}

func (s *Simulators) listen() (err error) {
	if s.control, err = config.Listen("control", "VENDORSIM_CONTROL", s.config.Control); err != nil {
		return err
	}
	if s.config.Shared == nil {
		s.admin, err = config.Listen("telemetry.listen", "TELEMETRY_LISTEN", s.config.Telemetry.Listen)
	}
	return err
}

func (s *Simulators) close() {
	for _, c := range s.channels {
		_ = c.listener.Close()
	}
	for _, l := range []net.Listener{s.control, s.admin} {
		if l != nil {
			_ = l.Close()
		}
	}
}

// Run serves until ctx ends.
func (s *Simulators) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	ended := make(chan error, len(s.channels)+2)
	start := func(f func() error) {
		running.Go(func() {
			err := f()
			cancel() // one that ends takes the others along
			ended <- err
		})
	}
	for name, c := range s.channels {
		s.log.Info("simulating", "channel", name, "url", c.frame.URL)
		running.Go(func() { c.frame.Run(ctx) })
		start(func() error { return c.frame.Serve(ctx, c.listener, c.tls, c.vendor) })
	}
	s.log.Info("control API", "url", s.ControlURL())
	start(func() error { return telemetry.ServeHTTP(ctx, s.control, s.handler(ctx)) })
	if s.admin != nil {
		start(func() error { return s.telemetry.Serve(ctx, s.admin, s.health) })
	}
	running.Wait()
	close(ended)
	var errs []error
	for err := range ended {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// URL returns where a channel is served, or an empty text.
func (s *Simulators) URL(channel string) string {
	if c := s.channels[channel]; c != nil {
		return c.frame.URL
	}
	return ""
}

// ControlURL returns where the control API is served.
func (s *Simulators) ControlURL() string { return "http://" + s.control.Addr().String() }

// CAFile returns the file with the certificate that signs those of the servers.
func (s *Simulators) CAFile() string { return filepath.Join(s.config.Dir, authority.CertificateFile) }

// Frame returns a channel's record, switches and counters; nil if it is not simulated.
func (s *Simulators) Frame(channel string) *Frame {
	if c := s.channels[channel]; c != nil {
		return c.frame
	}
	return nil
}

// Register makes an app and its credentials known to a channel, and returns the credentials as the control API does.
func (s *Simulators) Register(channel string, app json.RawMessage) (json.RawMessage, error) {
	c := s.channels[channel]
	if c == nil {
		return nil, fmt.Errorf("channel %q is not simulated", channel)
	}
	return c.register(app)
}

// Tokens makes the tokens of n new devices of a registered app.
func (s *Simulators) Tokens(channel, app string, n int) ([]any, error) {
	c := s.channels[channel]
	if c == nil {
		return nil, fmt.Errorf("channel %q is not simulated", channel)
	}
	return c.vendor.Tokens(app, n)
}

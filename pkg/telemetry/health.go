package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// checkWithin bounds how long the readiness checks may take.
	checkWithin = 2 * time.Second
	// graceWithin bounds how long running requests may take when a server stops.
	graceWithin = 10 * time.Second
)

// Health says whether a service can take work.
type Health struct {
	prefix string
	*checks
}

// checks are shared by the services of a process.
type checks struct {
	mu  sync.Mutex
	all map[string]func(context.Context) error // guarded by mu
}

var errDraining = errors.New("draining")

// NewHealth returns a health without checks: it is ready.
func NewHealth() *Health {
	return &Health{checks: &checks{all: map[string]func(context.Context) error{}}}
}

// Part returns the health of one service of a process: its checks carry its name, and count for the process's health, too.
func (h *Health) Part(service string) *Health {
	return &Health{prefix: service + ".", checks: h.checks}
}

// Register adds a check that must pass for the service to be ready, or replaces the one of that name. Its context ends
// after 2 s; checks run beside each other.
func (h *Health) Register(name string, check func(context.Context) error) {
	h.mu.Lock()
	h.all[h.prefix+name] = check
	h.mu.Unlock()
}

// Drain makes the service not ready from now on.
func (h *Health) Drain() { h.Register("drain", func(context.Context) error { return errDraining }) }

// Failing runs the checks, all at the same time, and returns the errors of those that fail, by name. One that has not ended
// after 2 s fails.
func (h *Health) Failing(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	failing := map[string]string{}
	h.mu.Lock()
	checks := maps.Clone(h.all)
	h.mu.Unlock()
	maps.DeleteFunc(checks, func(name string, _ func(context.Context) error) bool { return !strings.HasPrefix(name, h.prefix) })

	type result struct {
		name string
		err  error
	}
	results := make(chan result, len(checks))
	for name, check := range checks {
		go func() { results <- result{name, check(ctx)} }()
	}
	for len(checks) > 0 {
		select {
		case r := <-results:
			delete(checks, r.name)
			if r.err != nil {
				failing[r.name] = r.err.Error()
			}
		case <-ctx.Done():
			for name := range checks {
				failing[name] = "the check has not ended: " + ctx.Err().Error()
			}
			return failing
		}
	}
	return failing
}

// Serve answers /healthz (the process lives), /readyz (200, or 503 with the failing checks), /metrics and, if configured,
// /debug/pprof on a listener until ctx ends. It closes the listener. Without a listener it only waits: another service of the
// process serves. routes are what the service has for its operators beside that.
func (t *Telemetry) Serve(ctx context.Context, listener net.Listener, h *Health, routes ...Route) error {
	if listener == nil {
		<-ctx.Done()
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		failing := h.Failing(r.Context())
		w.Header().Set("Content-Type", "application/json")
		if len(failing) > 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"ready": len(failing) == 0, "failing": failing})
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{}))
	if t.config.Profiles {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	for _, r := range routes {
		mux.Handle(r.Pattern, r.Handler)
	}
	return ServeHTTP(ctx, listener, mux)
}

// Route is a further path on the operators' port. Whatever changes something checks by itself who asks.
type Route struct {
	Pattern string // as http.ServeMux takes it
	Handler http.Handler
}

// ServeHTTP serves a handler on a listener until ctx ends, then waits up to 10 s for running requests and cuts what still
// runs. It closes the listener.
func ServeHTTP(ctx context.Context, listener net.Listener, handler http.Handler) error {
	return serveHTTP(ctx, listener, handler, graceWithin)
}

func serveHTTP(ctx context.Context, listener net.Listener, handler http.Handler, within time.Duration) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
		defer cancel()
		err := server.Shutdown(grace)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close()
		}
		stopped <- err
	})
	err := server.Serve(listener)
	if stop() { // the server failed by itself
		return fmt.Errorf("serve http: %w", err)
	}
	if err := <-stopped; err != nil {
		return fmt.Errorf("stop http server: %w", err)
	}
	return nil
}

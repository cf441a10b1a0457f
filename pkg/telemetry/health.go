package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// checkWithin bounds how long one readiness check may take.
const checkWithin = 2 * time.Second

// Health says whether a service can take work.
type Health struct {
	mu       sync.Mutex
	names    []string                               // guarded by mu
	checks   map[string]func(context.Context) error // guarded by mu
	draining bool                                   // guarded by mu
}

// NewHealth returns a health without checks: it is ready.
func NewHealth() *Health { return &Health{checks: map[string]func(context.Context) error{}} }

// Register adds a check that must pass for the service to be ready, or replaces the one of that name.
func (h *Health) Register(name string, check func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.checks[name] == nil {
		h.names = append(h.names, name)
	}
	h.checks[name] = check
}

// Drain makes the service not ready from now on.
func (h *Health) Drain() {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
}

// Failing runs the checks and returns the errors of those that fail, by name.
func (h *Health) Failing(ctx context.Context) map[string]string {
	h.mu.Lock()
	names := h.names[:len(h.names):len(h.names)]
	failing := map[string]string{}
	if h.draining {
		failing["drain"] = "draining"
	}
	h.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	for _, name := range names {
		h.mu.Lock()
		check := h.checks[name]
		h.mu.Unlock()
		if err := check(ctx); err != nil {
			failing[name] = err.Error()
		}
	}
	return failing
}

// Serve answers /healthz (the process lives), /readyz (200, or 503 with the failing checks), /metrics and, if configured,
// /debug/pprof on a listener until ctx ends. It closes the listener.
func (t *Telemetry) Serve(ctx context.Context, listener net.Listener, h *Health) error {
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
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.Metrics, promhttp.HandlerOpts{}))
	if t.config.Profiles {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return ServeHTTP(ctx, listener, mux)
}

// ServeHTTP serves a handler on a listener until ctx ends, then waits up to 10 s for running requests.
func ServeHTTP(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		stopped <- server.Shutdown(grace)
	})
	err := server.Serve(listener)
	if stop() { // the server failed by itself
		return err
	}
	if err := <-stopped; err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("stop http server: %w", err)
	}
	return nil
}

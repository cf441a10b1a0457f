package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/telemetry"
)

func settings(t *testing.T) telemetry.Config {
	t.Helper()
	var c telemetry.Config
	if err := config.Defaults(&c); err != nil {
		t.Fatal(err)
	}
	return c
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestServeTellsHealthAndMetrics(t *testing.T) {
	t.Parallel()
	tel, err := telemetry.New(t.Context(), "test", settings(t), telemetry.WithLogs(io.Discard))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	health, served := telemetry.NewHealth(), make(chan error, 1)
	go func() { served <- tel.Serve(ctx, listener, health) }()
	base := "http://" + listener.Addr().String()

	if code, body := get(t, base+"/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("/healthz: %d %q", code, body)
	}
	if code, body := get(t, base+"/readyz"); code != 200 {
		t.Errorf("/readyz without checks: %d %q", code, body)
	}
	var failure error = errors.New("database away")
	health.Register("postgres", func(context.Context) error { return failure })
	if code, body := get(t, base+"/readyz"); code != 503 || !strings.Contains(body, `"postgres":"database away"`) {
		t.Errorf("/readyz with a failing check: %d %q", code, body)
	}
	failure = nil
	if code, body := get(t, base+"/readyz"); code != 200 {
		t.Errorf("/readyz again: %d %q", code, body)
	}
	health.Drain()
	if code, body := get(t, base+"/readyz"); code != 503 || !strings.Contains(body, "draining") {
		t.Errorf("/readyz while draining: %d %q", code, body)
	}
	if code, body := get(t, base+"/metrics"); code != 200 || !strings.Contains(body, `halley_build_info{service="test"`) {
		t.Errorf("/metrics: %d %q", code, body[:min(200, len(body))])
	}
	if code, _ := get(t, base+"/debug/pprof/"); code != 404 {
		t.Errorf("profiles are served without being asked for: %d", code)
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestSpansReachTheExporterAtTheRatio(t *testing.T) {
	t.Parallel()
	for ratio, want := range map[float64]int{0: 0, 1: 1} {
		c := settings(t)
		c.TraceRatio = ratio
		exporter := tracetest.NewInMemoryExporter()
		tel, err := telemetry.New(t.Context(), "test", c, telemetry.WithSpanExporter(exporter), telemetry.WithLogs(io.Discard))
		if err != nil {
			t.Fatal(err)
		}
		_, span := tel.Traces.Tracer("test").Start(t.Context(), "call")
		span.End()
		if got := len(exporter.GetSpans()); got != want {
			t.Errorf("ratio %v: %d spans, want %d", ratio, got, want)
		}
		if err := tel.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestLogsHaveTheConfiguredLevelAndFormat(t *testing.T) {
	t.Parallel()
	c := settings(t)
	c.LogLevel, c.LogFormat = "warn", "json"
	var out bytes.Buffer
	tel, err := telemetry.New(t.Context(), "test", c, telemetry.WithLogs(&out))
	if err != nil {
		t.Fatal(err)
	}
	tel.Log.Info("quiet")
	tel.Log.Warn("loud", "password", config.Secret("hunter2"))
	if got := out.String(); strings.Contains(got, "quiet") || !strings.Contains(got, `"msg":"loud"`) || strings.Contains(got, "hunter2") {
		t.Errorf("got %s", got)
	}
}

func TestAWrongConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	for _, change := range []func(*telemetry.Config){
		func(c *telemetry.Config) { c.LogLevel = "loud" },
		func(c *telemetry.Config) { c.LogFormat = "xml" },
		func(c *telemetry.Config) { c.TraceRatio = 2 },
	} {
		c := settings(t)
		change(&c)
		if _, err := telemetry.New(t.Context(), "test", c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

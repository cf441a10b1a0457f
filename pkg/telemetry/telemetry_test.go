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
	"go.opentelemetry.io/otel/trace"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

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

func TestTheCallerDecidesWhatIsTraced(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ratio float64
		flags trace.TraceFlags
		want  int
	}{
		"traced":     {0, trace.FlagsSampled, 1},
		"not traced": {1, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := settings(t)
			s.TraceRatio = c.ratio
			exporter := tracetest.NewInMemoryExporter()
			tel, err := telemetry.New(t.Context(), "test", s, telemetry.WithSpanExporter(exporter), telemetry.WithLogs(io.Discard))
			if err != nil {
				t.Fatal(err)
			}
			caller := trace.NewSpanContext(trace.SpanContextConfig{TraceID: [16]byte{1}, SpanID: [8]byte{1}, TraceFlags: c.flags, Remote: true})
			_, span := tel.Traces.Tracer("test").Start(trace.ContextWithRemoteSpanContext(t.Context(), caller), "call")
			span.End()
			if got := len(exporter.GetSpans()); got != c.want {
				t.Errorf("%d spans, want %d", got, c.want)
			}
		})
	}
}

// collector is an OTLP collector that keeps the names of the spans it gets.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	spans chan string
}

func (c *collector) Export(
	_ context.Context, r *collectorv1.ExportTraceServiceRequest,
) (*collectorv1.ExportTraceServiceResponse, error) {
	for _, resource := range r.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans <- span.GetName()
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func TestSpansGoOutOverOTLPWhereTheEnvironmentSaysSo(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, otlp := grpc.NewServer(), &collector{spans: make(chan string, 1)}
	collectorv1.RegisterTraceServiceServer(server, otlp)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://"+listener.Addr().String())

	c := settings(t)
	c.TraceRatio = 1
	tel, err := telemetry.New(t.Context(), "test", c, telemetry.WithLogs(io.Discard))
	if err != nil {
		t.Fatal(err)
	}
	_, span := tel.Traces.Tracer("test").Start(t.Context(), "call")
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case name := <-otlp.spans:
		if name != "call" {
			t.Errorf("span %q", name)
		}
	default:
		t.Error("Shutdown returned, and the span is not out")
	}
	server.Stop()
	if err := <-served; err != nil {
		t.Error(err)
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

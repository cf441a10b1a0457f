// Package telemetry gives every service its logs, metrics, traces and health, all the same way. Nothing is global: what a
// service needs is passed to it.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Config is how a service shows what it does.
type Config struct {
	Listen     string  `yaml:"listen" env:"LISTEN" default:"127.0.0.1:9100" doc:"address of /healthz, /readyz and /metrics"`
	LogLevel   string  `yaml:"log_level" env:"LOG_LEVEL" default:"info" doc:"debug, info, warn or error"`
	LogFormat  string  `yaml:"log_format" env:"LOG_FORMAT" default:"text" doc:"text or json"`
	TraceRatio float64 `yaml:"trace_ratio" env:"TRACE_RATIO" default:"0.01" doc:"share of calls that are traced, 0 to 1, where the caller does not decide"`
	Profiles   bool    `yaml:"profiles" env:"PROFILES" doc:"serve /debug/pprof, too"`
}

// Validate says what is wrong with the configuration.
func (c *Config) Validate() error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return fmt.Errorf("telemetry.log_level must be debug, info, warn or error, not %q", c.LogLevel)
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		return fmt.Errorf("telemetry.log_format must be text or json, not %q", c.LogFormat)
	}
	if c.TraceRatio < 0 || c.TraceRatio > 1 {
		return fmt.Errorf("telemetry.trace_ratio must be between 0 and 1, not %v", c.TraceRatio)
	}
	return nil
}

// Telemetry is what a service reports through.
type Telemetry struct {
	Log *slog.Logger
	// Metrics adds a label with the service's name to every metric.
	Metrics prometheus.Registerer
	Traces  trace.TracerProvider

	config   Config
	registry *prometheus.Registry
	logs     *slog.Logger // without the service's name
	shutdown func(context.Context) error
}

// Option changes what New makes.
type Option func(*options)

type options struct {
	exporter sdktrace.SpanExporter
	logs     io.Writer
}

// WithSpanExporter sends spans to an exporter as they end, instead of over OTLP.
func WithSpanExporter(e sdktrace.SpanExporter) Option { return func(o *options) { o.exporter = e } }

// WithLogs writes logs to w instead of standard error.
func WithLogs(w io.Writer) Option { return func(o *options) { o.logs = w } }

// New returns the telemetry of a service. Spans go out over OTLP (gRPC) if OTEL_EXPORTER_OTLP_ENDPOINT or
// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set, and nowhere otherwise.
func New(ctx context.Context, service string, c Config, opts ...Option) (*Telemetry, error) {
	o := options{logs: os.Stderr}
	for _, opt := range opts {
		opt(&o)
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	t := (&Telemetry{config: c, registry: registry, logs: newLogger(o.logs, c)}).Share(service)
	registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(service))
	var err error
	t.Traces, t.shutdown, err = newTraces(ctx, service, c, o.exporter)
	return t, err
}

// Share returns the telemetry of another service in the same process: its logs and metrics carry its own name and go where
// the others' go. Serve and Shutdown are for the one that New made.
func (t *Telemetry) Share(service string) *Telemetry {
	return &Telemetry{
		Log:     t.logs.With("service", service),
		Metrics: prometheus.WrapRegistererWith(prometheus.Labels{"service": service}, t.registry),
		Traces:  t.Traces,
		config:  t.config, registry: t.registry, logs: t.logs,
		shutdown: func(context.Context) error { return nil },
	}
}

// Shutdown sends the spans that wait.
func (t *Telemetry) Shutdown(ctx context.Context) error { return t.shutdown(ctx) }

func newLogger(w io.Writer, c Config) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // checked by Validate
	handler := slog.Handler(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
	if c.LogFormat == "json" {
		handler = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
	}
	return slog.New(handler)
}

// Version returns the version of this binary: its module's, or its commit.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return info.Main.Version
}

func buildInfo(service string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "halley_build_info", Help: "1, with what was built as labels.",
		ConstLabels: prometheus.Labels{"service": service, "version": Version()},
	}, func() float64 { return 1 })
}

func newTraces(
	ctx context.Context, service string, c Config, exporter sdktrace.SpanExporter,
) (trace.TracerProvider, func(context.Context) error, error) {
	settings := []sdktrace.TracerProviderOption{
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(c.TraceRatio))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "halley-"+service), attribute.String("service.version", Version()))),
	}
	switch {
	case exporter != nil:
		settings = append(settings, sdktrace.WithSyncer(exporter))
	case os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "":
		otlp, err := otlptracegrpc.New(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("trace exporter: %w", err)
		}
		settings = append(settings, sdktrace.WithBatcher(otlp))
	}
	provider := sdktrace.NewTracerProvider(settings...)
	return provider, func(ctx context.Context) error {
		return errors.Join(provider.ForceFlush(ctx), provider.Shutdown(ctx))
	}, nil
}

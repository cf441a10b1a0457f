package pushcore_test

import (
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestTraceOfACallGoesWithThePush(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSite(t)
	config, err := site.Config()
	if err != nil {
		t.Fatal(err)
	}
	spans := tracetest.NewInMemoryExporter()
	config.Telemetry.TraceRatio = 0 // the caller decides
	config.TelemetryOptions = append(config.TelemetryOptions, telemetry.WithSpanExporter(spans))
	core := site.StartWith(t, config)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	session := gateway.Open(t, app.Register(t))

	const traced = "4bf92f3577b34da6a3ce929d0e0e4736"
	answer := core.REST(t, "POST", "/v1/apps/"+app.ID+"/pushes",
		`{"audience":{"devices":{"tokens":["`+session.Device.Token+`"]}},"notification":{"title":"x"}}`, func(r *http.Request) {
			pushcoretest.Bearer(app.ServerKey)(r)
			r.Header.Set("Traceparent", "00-"+traced+"-00f067aa0ba902b7-01")
		})
	if answer.Code != http.StatusOK {
		t.Fatalf("%d %s", answer.Code, answer.Body)
	}
	first := gateway.NextDeliver(t)
	first.Take(t)
	if got := first.GetBodies()[0].GetTrace(); !strings.HasPrefix(got, "00-"+traced+"-") || !strings.HasSuffix(got, "-01") {
		t.Errorf("the body's trace is %q", got)
	}
	app.Push(t, pushcoretest.ToDevices(session.Device))
	second := gateway.NextDeliver(t)
	second.Take(t)
	if got := second.GetBodies()[0].GetTrace(); got != "" {
		t.Errorf("a push that nobody traces carries %q", got)
	}
	kept, _ := session.Pull(t, "", 10) // from storage as well
	if !strings.HasPrefix(kept[0].Body.GetTrace(), "00-"+traced) {
		t.Errorf("kept with %q", kept[0].Body.GetTrace())
	}
	names := map[string]bool{}
	for _, s := range spans.GetSpans() {
		if s.SpanContext.TraceID().String() != traced {
			t.Errorf("span %s is of another trace", s.Name)
		}
		names[s.Name] = true
	}
	if !names["halley.push.v1.PushService/Push"] {
		t.Errorf("spans: %v", names)
	}
}

package gateway_test

import (
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/services/gateway"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

func TestTheSpanOfASampledPushEndsWithThePuback(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewInMemoryExporter()
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.TelemetryOptions = append(c.TelemetryOptions, telemetry.WithSpanExporter(spans))
		c.Telemetry.TraceRatio = 0
	}})
	const traceID, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	ofPush := func() []sdktrace.ReadOnlySpan {
		var found []sdktrace.ReadOnlySpan
		for _, s := range spans.GetSpans().Snapshots() {
			if s.SpanContext().TraceID().String() == traceID {
				found = append(found, s)
			}
		}
		return found
	}
	phone, other := site.Core.NewDevice(t), site.Core.NewDevice(t)
	wire, otherWire := site.Online(t, phone), site.Online(t, other)
	direct, audience, plain := gatewaytest.NewPush("direct"), gatewaytest.NewAudiencePush("all"), gatewaytest.NewPush("not sampled")
	direct.Body.Trace = "00-" + traceID + "-" + parent + "-01"
	audience.Body.Trace = direct.Body.Trace
	wantDelivered(t, site, phone, taken, direct)
	wantDelivered(t, site, phone, taken, direct) // asked for again: still one span
	wantDelivered(t, site, phone, taken, plain)
	got := wire.NextPush(t, direct)
	if n := len(ofPush()); n > 0 {
		t.Errorf("%d spans have ended before the PUBACK", n)
	}
	wire.Ack(t, got)
	wire.Ack(t, wire.NextPush(t, plain))
	site.Core.AwaitReceipt(t, phone, plain, arrived)
	ended := ofPush()
	if len(ended) != 1 || ended[0].Parent().SpanID().String() != parent || len(ended[0].Events()) != 1 ||
		ended[0].Events()[0].Name != "device acknowledged" {
		t.Fatalf("spans %v", ended)
	}
	site.Core.Slice(t, audience, phone, other)
	wire.Ack(t, wire.NextPush(t, audience))
	otherWire.NextPush(t, audience)
	otherWire.Close()
	gatewaytest.Eventually(t, "the spans of the others end, too", func() bool { return len(ofPush()) == 3 })
}

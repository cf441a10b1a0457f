package loop

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// maxTraced bounds the deliveries of sampled pushes that wait for an acknowledgement; further ones are not traced.
const maxTraced = 10_000

// Traces follows the deliveries of sampled pushes from their hand-over to the device's acknowledgement: a span each. Pushes
// that are not sampled cost a comparison.
type Traces struct {
	tracer trace.Tracer

	mu    sync.Mutex
	spans map[traced]trace.Span // guarded by mu
	count atomic.Int32          // of spans, so that those without need no lock
}

type traced struct {
	session uint64
	push    uuid.UUID
}

// NewTraces returns traces that go to a provider.
func NewTraces(p trace.TracerProvider) *Traces {
	return &Traces{tracer: p.Tracer("github.com/halleypush/halley/services/gateway"), spans: map[traced]trace.Span{}}
}

// taken begins the span of a delivery that was handed over.
func (t *Traces) taken(number uint64, m *session.Message) {
	if m.Trace == "" {
		return
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": m.Trace})
	_, span := t.tracer.Start(ctx, "hand over to device", trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attribute.String("halley.push_id", m.ID.String())))
	key := traced{number, m.ID}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, again := t.spans[key]; again || len(t.spans) >= maxTraced {
		span.End()
		return
	}
	t.spans[key] = span
	t.count.Add(1)
}

// step ends the span of a delivery that was acknowledged.
func (t *Traces) step(number uint64, push uuid.UUID, step ledgerv1.Step) {
	if step != ledgerv1.Step_STEP_ARRIVED || t.count.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := traced{number, push}
	if span, ok := t.spans[key]; ok {
		span.AddEvent("device acknowledged")
		t.forget(key, span)
	}
}

func (t *Traces) forget(key traced, span trace.Span) {
	span.End()
	delete(t.spans, key)
	t.count.Add(-1)
}

// end ends the spans of a session that is over.
func (t *Traces) end(number uint64) {
	if t.count.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, span := range t.spans {
		if key.session == number {
			span.AddEvent("session ended")
			t.forget(key, span)
		}
	}
}

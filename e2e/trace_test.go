package e2e_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/halleypush/halley/e2e/rig"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// spanCollector receives what the services export over OTLP.
type spanCollector struct {
	collector.UnimplementedTraceServiceServer

	mu    sync.Mutex
	spans []namedSpan // guarded by mu
}

// namedSpan is a span with the service that it comes from.
type namedSpan struct {
	service string
	*v1.Span
}

// Export takes spans.
func (c *spanCollector) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.GetResourceSpans() {
		var service string
		for _, attribute := range resource.GetResource().GetAttributes() {
			if attribute.GetKey() == "service.name" {
				service = attribute.GetValue().GetStringValue()
			}
		}
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans = append(c.spans, namedSpan{service, span})
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// of returns the spans of a trace, by their start.
func (c *spanCollector) of(traceID string) []namedSpan {
	c.mu.Lock()
	defer c.mu.Unlock()
	var spans []namedSpan
	for _, span := range c.spans {
		if hex.EncodeToString(span.GetTraceId()) == traceID {
			spans = append(spans, span)
		}
	}
	slices.SortFunc(spans, func(a, b namedSpan) int { return int(a.GetStartTimeUnixNano()) - int(b.GetStartTimeUnixNano()) })
	return spans
}

// startCollector serves a collector and returns its address.
func startCollector(t *testing.T) (*spanCollector, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, server := &spanCollector{}, grpc.NewServer()
	collector.RegisterTraceServiceServer(server, c)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) }) // ends with Stop
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return c, listener.Addr().String()
}

// TestTrace follows one push, through the OTLP exports of two processes, from the REST call to the phone's PUBACK: all spans of one
// trace, each with its parent among them but for the caller's.
func TestTrace(t *testing.T) {
	t.Parallel()
	const traceID, callerSpan = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	spans, addr := startCollector(t)
	cluster := rig.StartCluster(t, rig.Options{Env: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + addr, "OTEL_BSP_SCHEDULE_DELAY=50"}})
	app := cluster.CreateApp(t, "traced")
	p := connected(t, app)
	p.awaitOnce(t, app.Push(t, p.token)) // its session is open: what comes now is live, not kept
	id := pushTraced(t, app, p.token, "00-"+traceID+"-"+callerSpan+"-01")
	p.awaitOnce(t, id)
	app.AwaitCounts(t, id, 10*time.Second, &pushv1.Counts{Targeted: 1, Arrived: 1})
	rig.Until(t, 20*time.Second, "the trace is whole", func() error {
		return wholeTrace(spans.of(traceID), callerSpan)
	})
	for _, span := range spans.of(traceID) {
		t.Logf("%-16s %-45s %8.3f ms %v", span.service, span.GetName(),
			float64(span.GetEndTimeUnixNano()-span.GetStartTimeUnixNano())/1e6, span.Kind)
	}
}

// wholeTrace says what a trace lacks.
func wholeTrace(spans []namedSpan, root string) error {
	known := map[string]bool{root: true}
	services := map[string]bool{}
	var names []string
	for _, span := range spans {
		known[hex.EncodeToString(span.GetSpanId())] = true
		services[span.service] = true
		names = append(names, span.service+" "+span.GetName())
	}
	for _, span := range spans {
		if !known[hex.EncodeToString(span.GetParentSpanId())] {
			return fmt.Errorf("%s has a parent that is not there", span.GetName())
		}
	}
	puback := slices.ContainsFunc(spans, func(span namedSpan) bool {
		return span.service == "halley-gateway" && slices.ContainsFunc(span.GetEvents(), func(e *v1.Span_Event) bool {
			return e.GetName() == "device acknowledged"
		})
	})
	if !services["halley-pushcore"] || !puback {
		return fmt.Errorf("not from the call to the acknowledgement: %q", names)
	}
	return nil
}

// pushTraced pushes over REST, as a caller that is traced itself.
func pushTraced(t *testing.T, app *rig.App, token, traceparent string) (pushID string) {
	t.Helper()
	body := fmt.Appendf(nil, `{"audience": {"devices": {"tokens": [%q]}}, "notification": {"title": "Hi"}}`, token)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, app.URL+"/v1/apps/"+app.ID+"/pushes", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+app.ServerKey)
	request.Header.Set("traceparent", traceparent)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var pushed struct {
		PushID string `json:"push_id"`
	}
	if err := json.NewDecoder(response.Body).Decode(&pushed); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("push: %s, %v", response.Status, err)
	}
	return pushed.PushID
}

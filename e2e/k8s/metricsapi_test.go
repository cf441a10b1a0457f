//go:build k8s

package k8s_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
)

// sessions is the metric that gateways are scaled by.
const sessions = "halley_gateway_sessions"

// metricsAPI is the part of the custom metrics API that a HorizontalPodAutoscaler on sessions needs, in place of Prometheus and its
// adapter: it asks the gateways themselves.
const metricsAPI = "/apis/custom.metrics.k8s.io/v1beta2"

// registration puts an address that serves the custom metrics API into the API server.
const registration = `
apiVersion: v1
kind: Service
metadata: {name: e2e-metrics, namespace: default}
spec:
  ports: [{name: https, port: 443, targetPort: %[2]d}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: e2e-metrics, namespace: default, labels: {kubernetes.io/service-name: e2e-metrics}}
addressType: IPv4
ports: [{name: https, port: %[2]d}]
endpoints: [{addresses: ["%[1]s"], conditions: {ready: true}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta2.custom.metrics.k8s.io}
spec:
  group: custom.metrics.k8s.io
  version: v1beta2
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {name: e2e-metrics, namespace: default, port: 443}
`

// serveMetrics serves the custom metrics API from here until the test ends. The API server has to reach this machine by the address
// that it reaches the node by.
func (c *cluster) serveMetrics(t *testing.T) {
	t.Helper()
	var dialer net.Dialer
	probe, err := dialer.DialContext(t.Context(), "udp", c.node+":9") // sends nothing: says which address is ours
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ := net.SplitHostPort(probe.LocalAddr().String())
	_ = probe.Close()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+metricsAPI, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{
			"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "custom.metrics.k8s.io/v1beta2",
			"resources": []map[string]any{{
				"name": "pods/" + sessions, "singularName": "", "namespaced": true, "kind": "MetricValueList", "verbs": []string{"get"},
			}},
		})
	})
	mux.HandleFunc("GET "+metricsAPI+"/namespaces/"+release+"/pods/{pods}/"+sessions, func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]any{
			"kind": "MetricValueList", "apiVersion": "custom.metrics.k8s.io/v1beta2", "metadata": map[string]any{}, "items": c.sessionsOfPods(r.Context()),
		})
	})
	server := httptest.NewUnstartedServer(mux)
	_ = server.Listener.Close()
	server.Listener = listener
	server.StartTLS()
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "registration.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, registration, host, listener.Addr().(*net.TCPAddr).Port), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, time.Minute, "kubectl", "apply", "-f", file)
	t.Cleanup(func() { // the API server asks for the metrics of a group that is registered
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := commandIn(ctx, "kubectl", "delete", "-f", file); err != nil {
			t.Errorf("take the metrics back: %v", err)
		}
	})
	rig.Until(t, time.Minute, "the API server has the custom metrics", func() error {
		_, err := c.get(t.Context(), metricsAPI+"/namespaces/"+release+"/pods/*/"+sessions)
		return err
	})
}

func answer(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body) // the API server has gone away
}

// sessionsOfPods returns the metric of the gateways that answer.
func (c *cluster) sessionsOfPods(ctx context.Context) []map[string]any {
	items := []map[string]any{}
	pods, err := c.pods(ctx, "gateway")
	if err != nil {
		return items
	}
	for _, p := range pods {
		value, err := c.metric(ctx, p.Metadata.Name, sessions, "")
		if err != nil {
			continue
		}
		items = append(items, map[string]any{
			"describedObject": map[string]any{"kind": "Pod", "apiVersion": "v1", "namespace": release, "name": p.Metadata.Name},
			"metric":          map[string]any{"name": sessions}, "timestamp": time.Now().UTC().Format(time.RFC3339),
			"value": strconv.FormatFloat(value, 'f', 0, 64),
		})
	}
	return items
}

package core

import (
	"github.com/prometheus/client_golang/prometheus"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
)

// Metrics are the metrics of the talk with pushcore.
type Metrics struct {
	renewals      *prometheus.CounterVec
	refusals      *prometheus.CounterVec
	calls         *prometheus.CounterVec
	lapses        prometheus.Counter
	batches       prometheus.Counter
	closesDropped prometheus.Counter
	repairs       prometheus.Gauge
	batchSeconds  prometheus.Histogram
	sessions      func() int
}

// NewMetrics registers the metrics. sessions returns how many sessions the gateway has.
func NewMetrics(registry prometheus.Registerer, sessions func() int) *Metrics {
	vec := func(name, help, label string, values ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "halley_gateway_" + name, Help: help}, []string{label})
		for _, value := range values {
			v.WithLabelValues(value)
		}
		registry.MustRegister(v)
		return v
	}
	m := &Metrics{
		renewals: vec("lease_renewals_total", "Renewals of the lease by what pushcore answered.", "status",
			gatewayv1.RenewLeaseResponse_LIVE.String(), gatewayv1.RenewLeaseResponse_LAPSED.String(),
			gatewayv1.RenewLeaseResponse_NO_PROOF.String(), "error"),
		refusals: vec("session_batches_refused_total", "Batches of sessions that pushcore could not work on.", "status",
			gatewayv1.SessionsResponse_UNAVAILABLE.String(), gatewayv1.SessionsResponse_LAPSED.String()),
		calls: vec("calls_total", "Calls and events of devices: answered, or asked again because pushcore was away.", "result",
			"answered", "again"),
		lapses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_gateway_lapses_total", Help: "Times the lease lapsed and every session was opened again.",
		}),
		batches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_gateway_session_batches_total", Help: "Batches of opens, pulls and closes sent to pushcore.",
		}),
		closesDropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_gateway_closes_dropped_total", Help: "Closes not sent because too many waited; stale routes that lead nowhere.",
		}),
		repairs: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "halley_gateway_repair_asked_sessions",
			Help: "Sessions that asked pushcore after a gap for what they missed, or to be opened again, and have no answer yet.",
		}),
		batchSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "halley_gateway_session_batch_seconds", Help: "How long pushcore took for a batch.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .5, 1, 5},
		}),
		sessions: sessions,
	}
	registry.MustRegister(m.lapses, m.batches, m.closesDropped, m.repairs, m.batchSeconds)
	return m
}

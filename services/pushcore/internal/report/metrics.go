package report

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halleypush/halley/pkg/channel"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

// Metrics are the metrics of reports.
type Metrics struct {
	results                    *prometheus.CounterVec
	malformed, failed, unknown prometheus.Counter
}

// NewMetrics registers the metrics of reports.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_pushcore_vendor_" + name, Help: help})
		registry.MustRegister(c)
		return c
	}
	m := &Metrics{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "halley_pushcore_vendor_results_total", Help: "Results and receipts of vendors applied; repeats count too.",
		}, []string{"channel", "outcome"}),
		malformed: counter("reports_malformed_total", "Reports that could not be decoded and were thrown away."),
		failed:    counter("reports_failed_batches_total", "Batches of reports that could not be applied and come again."),
		unknown:   counter("receipts_unknown_total", "Receipts of vendors for tokens that no device has any more."),
	}
	registry.MustRegister(m.results)
	for _, name := range channel.Vendors() {
		for number := range senderv1.Outcome_name {
			if number != 0 {
				m.results.WithLabelValues(name, outcomeName(senderv1.Outcome(number)))
			}
		}
	}
	return m
}

func (m *Metrics) result(name string, outcome senderv1.Outcome) {
	if outcome != senderv1.Outcome_OUTCOME_UNSPECIFIED {
		m.results.WithLabelValues(name, outcomeName(outcome)).Inc()
	}
}

func outcomeName(o senderv1.Outcome) string {
	return strings.ToLower(strings.TrimPrefix(o.String(), "OUTCOME_"))
}

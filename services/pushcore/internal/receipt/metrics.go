package receipt

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the metrics of the consumers of receipts.
type Metrics struct {
	applied, failed, dropped *prometheus.CounterVec
	malformed                prometheus.Counter
	partitions               prometheus.Gauge
	flushes                  prometheus.Histogram
}

// NewMetrics registers the metrics of the consumers of receipts.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	counter := func(name, help string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "halley_pushcore_receipts_" + name, Help: help}, []string{"plane"})
		for _, plane := range []string{"direct", "audience"} {
			c.WithLabelValues(plane)
		}
		registry.MustRegister(c)
		return c
	}
	m := &Metrics{
		applied: counter("applied_total", "Receipts applied; repeats count too."),
		failed:  counter("failed_batches_total", "Batches of receipts that could not be applied and come again."),
		dropped: counter("dropped_total", "Endings found by this process and dropped because its queue was full; they are found again."),
		malformed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_pushcore_receipts_malformed_total", Help: "Messages of receipts that could not be decoded and were thrown away.",
		}),
		partitions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "halley_pushcore_receipt_partitions", Help: "Partitions of audience receipts that this process owns.",
		}),
		flushes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "halley_pushcore_receipt_flush_seconds", Help: "How long applying the gathered audience receipts took.",
			Buckets: []float64{.001, .005, .02, .1, .5, 1, 5},
		}),
	}
	registry.MustRegister(m.malformed, m.partitions, m.flushes)
	return m
}

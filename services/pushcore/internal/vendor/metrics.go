package vendor

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/halleypush/halley/pkg/channel"
)

// Metrics are the metrics of claims and jobs.
type Metrics struct {
	claimed, published, again *prometheus.CounterVec
	spilled, failed           prometheus.Counter
	remade                    prometheus.Counter
}

// NewMetrics registers the metrics of claims and jobs.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	byChannel := func(name, help string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "halley_pushcore_vendor_" + name, Help: help}, []string{"channel"})
		for _, name := range channel.Vendors() {
			c.WithLabelValues(name)
		}
		registry.MustRegister(c)
		return c
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_pushcore_vendor_" + name, Help: help})
		registry.MustRegister(c)
		return c
	}
	return &Metrics{
		claimed:   byChannel("claimed_total", "Deliveries claimed for a vendor's channel."),
		published: byChannel("jobs_total", "Jobs published to senders; those of one row that are published again count again."),
		again:     byChannel("jobs_again_total", "Jobs published again because no results came, or NATS lost them."),
		spilled:   counter("jobs_spilled_total", "Jobs left to the sweeper because too many waited to be published."),
		failed:    counter("jobs_failed_total", "Jobs that could not be published; the sweeper tries again."),
		remade:    counter("streams_lost_total", "Times the stream of jobs was found to be another one than before."),
	}
}

package sender

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	results   map[Outcome]prometheus.Counter
	receipts  *prometheus.CounterVec
	parked    *prometheus.CounterVec
	retries   prometheus.Counter
	clamped   prometheus.Counter
	malformed prometheus.Counter
	unsettled prometheus.Counter
	seconds   prometheus.Histogram
}

func newMetrics(registry prometheus.Registerer, channel string) *metrics {
	labels := prometheus.Labels{"channel": channel}
	vector := func(name, help, label string, values ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "halley_sender_" + name, Help: help, ConstLabels: labels}, []string{label})
		for _, value := range values {
			v.WithLabelValues(value)
		}
		registry.MustRegister(v)
		return v
	}
	plain := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_sender_" + name, Help: help, ConstLabels: labels})
		registry.MustRegister(c)
		return c
	}
	m := &metrics{
		results: map[Outcome]prometheus.Counter{},
		receipts: vector("receipts_total", "The vendor's receipts by what they say.", "what",
			"arrived", "shown", "clicked", "token_gone", "dropped", "unknown", "forged", "malformed", "refused"),
		parked:    vector("parked_total", "Times that an app's job was put off, by why.", "why", "breaker", "quota", "share"),
		retries:   plain("retries_total", "Jobs that were stored to be tried again."),
		clamped:   plain("ttl_clamped_total", "Jobs whose time to live is longer than the vendor keeps messages."),
		malformed: plain("malformed_total", "Jobs that could not be read."),
		unsettled: plain("unsettled_total", "Jobs whose outcome could not be stored, so that they come again."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "halley_sender_request_seconds", Help: "How long the vendor took to answer.", ConstLabels: labels,
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
		}),
	}
	registry.MustRegister(m.seconds)
	results := vector("results_total", "Targets of requests by what the vendor answered.", "outcome")
	for outcome, name := range outcomeNames {
		m.results[outcome] = results.WithLabelValues(name)
	}
	return m
}

var outcomeNames = map[Outcome]string{
	Retry: "retry", Accepted: "accepted", TokenGone: "token_gone", Rejected: "rejected", CredentialBad: "credential_bad",
	QuotaSpent: "quota_spent",
}

// String returns the outcome as metrics and tables name it.
func (o Outcome) String() string { return outcomeNames[o] }

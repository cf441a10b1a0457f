package sender

import (
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
)

type metrics struct {
	results   map[Outcome]prometheus.Counter
	reported  map[senderv1.Outcome]prometheus.Counter
	receipts  *prometheus.CounterVec
	parked    *prometheus.CounterVec
	retries   prometheus.Counter
	clamped   prometheus.Counter
	malformed prometheus.Counter
	unsettled prometheus.Counter
	seconds   prometheus.Histogram
}

func newMetrics(registry prometheus.Registerer, channel string, room func() int) *metrics {
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
		results: map[Outcome]prometheus.Counter{}, reported: map[senderv1.Outcome]prometheus.Counter{},
		receipts: vector("receipts_total", "The vendor's receipts by what they say.", "what",
			"arrived", "shown", "clicked", "token_gone", "dropped", "unknown", "forged", "malformed", "refused"),
		parked: vector("parked_total", "Times that an app's job, or a part of it, was put off, by why.", "why",
			"breaker", "quota", "rate", "share", "credential"),
		retries:   plain("retries_total", "Jobs, or parts of them, that were stored to be tried again after an attempt."),
		clamped:   plain("ttl_clamped_total", "Jobs whose time to live is longer than the vendor keeps messages."),
		malformed: plain("malformed_total", "Jobs that could not be read."),
		unsettled: plain("unsettled_total", "Jobs whose outcome could not be stored, so that they come again."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "halley_sender_request_seconds", Help: "How long the vendor took to answer.", ConstLabels: labels,
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
		}),
	}
	registry.MustRegister(m.seconds, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "halley_sender_room_used", ConstLabels: labels,
		Help: fmt.Sprintf("What is taken and not settled: targets, and %d for each job. At %d no more is taken.", jobCost, roomFor),
	}, func() float64 { return float64(room()) }))
	results := vector("results_total", "Targets of requests by what the vendor answered.", "outcome")
	for outcome, name := range outcomeNames {
		m.results[outcome] = results.WithLabelValues(name)
	}
	reported := vector("reported_total", "Targets by what pushcore is told of them.", "outcome")
	for number, name := range senderv1.Outcome_name {
		m.reported[senderv1.Outcome(number)] = reported.WithLabelValues(strings.ToLower(strings.TrimPrefix(name, "OUTCOME_")))
	}
	return m
}

var outcomeNames = map[Outcome]string{
	Retry: "retry", Accepted: "accepted", TokenGone: "token_gone", Rejected: "rejected", CredentialBad: "credential_bad",
	QuotaSpent: "quota_spent",
}

// String returns the outcome as metrics and tables name it.
func (o Outcome) String() string { return outcomeNames[o] }

package loop

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/internal/gate"
	"github.com/halleypush/halley/services/gateway/internal/mqtt"
	"github.com/halleypush/halley/services/gateway/internal/session"
)

// Metrics are what the loops count.
type Metrics struct {
	connections       [transports]prometheus.Gauge
	sessions, repairs prometheus.Gauge
	count             atomic.Int64 // of sessions
	connects          *prometheus.CounterVec
	refusals          map[gate.Reason]prometheus.Counter
	closings          map[gate.Reason]prometheus.Counter
	closes            *prometheus.CounterVec
	opens             *prometheus.CounterVec
	direct            map[gatewayv1.DeliverResponse_Result]prometheus.Counter
	audience          map[session.Result]prometheus.Counter
	acks, probes      prometheus.Counter
	acceptErrors      prometheus.Counter
	handshakes        [shakeOutcomes]prometheus.Counter
	introductions     [introductionOutcomes]prometheus.Counter
	bytesIn, bytesOut prometheus.Counter
	slices            prometheus.Histogram
}

// tally is what a loop has counted since it flushed: the processors must not fight over counters at each message.
type tally struct {
	bytesIn, bytesOut, acks int
	audience                [session.Results]int
	direct                  [gatewayv1.DeliverResponse_PERMISSION_OFF + 1]int
}

func (t *tally) flush(m *Metrics) {
	if *t == (tally{}) {
		return
	}
	m.bytesIn.Add(float64(t.bytesIn))
	m.bytesOut.Add(float64(t.bytesOut))
	m.acks.Add(float64(t.acks))
	for result, n := range t.audience {
		if n > 0 {
			m.audience[session.Result(result)].Add(float64(n))
		}
	}
	for result, n := range t.direct {
		if n > 0 {
			m.direct[gatewayv1.DeliverResponse_Result(result)].Add(float64(n))
		}
	}
	*t = tally{}
}

// outcomes of a CONNECT, by the code that it is answered with.
var outcomes = map[mqtt.Code]string{
	mqtt.Success: "accepted", mqtt.NotAuthorized: "not_authorized", mqtt.InvalidClientID: "invalid_token",
	mqtt.QuotaExceeded: "too_many", mqtt.ConnectionRateExceeded: "too_fast", mqtt.ServerUnavailable: "unavailable",
	mqtt.BadAuthenticationMethod: "not_authorized", mqtt.UnsupportedVersion: "version",
}

func outcomeOf(c mqtt.Code) string {
	if name, ok := outcomes[c]; ok {
		return name
	}
	return "other"
}

// refusalOf returns the code of a call that fails as a CONNECT would.
func refusalOf(c mqtt.Code) string {
	switch c {
	case mqtt.ServerUnavailable:
		return "UNAVAILABLE"
	case mqtt.QuotaExceeded, mqtt.ConnectionRateExceeded:
		return "RESOURCE_EXHAUSTED"
	default:
		return "UNAUTHENTICATED"
	}
}

// Sessions returns how many sessions there are now.
func (m *Metrics) Sessions() int { return int(m.count.Load()) }

func (m *Metrics) addSession(n int64) {
	m.count.Add(n)
	m.sessions.Add(float64(n))
}

func byReason(v *prometheus.CounterVec, reasons []gate.Reason) map[gate.Reason]prometheus.Counter {
	all := map[gate.Reason]prometheus.Counter{}
	for _, reason := range reasons {
		all[reason] = v.WithLabelValues(string(reason))
	}
	return all
}

// NewMetrics registers the loops' metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	counter := func(name, help string, label string, values ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "halley_gateway_" + name, Help: help}, []string{label})
		for _, value := range values {
			v.WithLabelValues(value)
		}
		registry.MustRegister(v)
		return v
	}
	plain := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "halley_gateway_" + name, Help: help})
		registry.MustRegister(c)
		return c
	}
	var codes []string
	for _, name := range outcomes {
		codes = append(codes, name)
	}
	m := &Metrics{
		connects: counter("connects_total", "CONNECT packets by what they were answered.", "outcome", append(codes, "other")...),
		closes:   counter("closes_total", "Connections that ended, by reason.", "reason", session.Reasons()...),
		opens: counter("opens_total", "Sessions that pushcore answered to open, by its answer.", "status",
			gatewayv1.Opened_OPEN.String(), gatewayv1.Opened_SUPERSEDED.String(), gatewayv1.Opened_GONE.String()),
		direct:       map[gatewayv1.DeliverResponse_Result]prometheus.Counter{},
		acks:         plain("acks_total", "Messages that devices acknowledged."),
		probes:       plain("probes_total", "Connections that were probed because an acknowledgement was missing."),
		acceptErrors: plain("accept_errors_total", "Connections that could not be accepted."),
		bytesIn:      plain("received_bytes_total", "Bytes that came from connections, with TLS."),
		bytesOut:     plain("sent_bytes_total", "Bytes that were written to connections, before WebSocket and TLS."),
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "halley_gateway_sessions", Help: "Connections of devices that have proved themselves.",
		}),
		repairs: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "halley_gateway_repair_waiting_sessions",
			Help: "Sessions that have yet to ask pushcore after a gap for what they missed, or to be opened again; reopen_rate a second do.",
		}),
		slices: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "halley_gateway_slice_seconds", Help: "How long handing a slice of an audience push over took.",
			Buckets: []float64{.001, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		audience: map[session.Result]prometheus.Counter{},
		refusals: byReason(counter("refusals_total", "CONNECT packets that were refused to bound what comes in, by reason.", "reason"), gate.Reasons()),
		closings: byReason(counter("turned_away_total", "Connections that were closed without a word before they said who they are, by reason.", "reason"),
			gate.Closings()),
	}
	registry.MustRegister(m.sessions, m.repairs, m.slices)
	connections := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "halley_gateway_connections", Help: "Open connections by transport.",
	}, []string{"transport"})
	registry.MustRegister(connections)
	for t := range transports {
		m.connections[t] = connections.WithLabelValues(t.String())
	}
	handshakes := counter("handshakes_total", "TLS handshakes, by how they ended.", "outcome", shakeNames[:]...)
	for outcome, name := range shakeNames {
		m.handshakes[outcome] = handshakes.WithLabelValues(name)
	}
	introductions := counter("proxy_headers_total", "Headers of balancers (PROXY protocol), by what became of them.", "outcome", introductionNames[:]...)
	for outcome, name := range introductionNames {
		m.introductions[outcome] = introductions.WithLabelValues(name)
	}
	direct := counter("direct_total", "Direct deliveries by what became of them.", "result")
	for _, result := range []gatewayv1.DeliverResponse_Result{
		gatewayv1.DeliverResponse_TAKEN, gatewayv1.DeliverResponse_NO_SESSION, gatewayv1.DeliverResponse_FULL,
		gatewayv1.DeliverResponse_PERMISSION_OFF,
	} {
		m.direct[result] = direct.WithLabelValues(result.String())
	}
	audience := counter("audience_total", "Hand-overs of audience pushes to sessions, by what became of them.", "result")
	for result, name := range map[session.Result]string{
		session.Taken: "taken", session.TakenUnconfirmed: "taken_unconfirmed", session.Held: "held", session.Full: "full", session.Off: "permission_off",
		session.NotReceiving: "not_receiving", session.Over: "expired",
	} {
		m.audience[result] = audience.WithLabelValues(name)
	}
	return m
}

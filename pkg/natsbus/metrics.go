package natsbus

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// What is counted of a connection.
const (
	lost   = "lost"
	back   = "back"
	slow   = "slow_consumer"
	failed = "error"
)

// Metrics counts what happens to the connections of a process. A nil one counts nothing.
type Metrics struct{ events *prometheus.CounterVec }

// NewMetrics registers the metrics, which the services of a process share. Each connection stands in them at zero from its
// Connect on.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{events: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "halley_nats_connection_events_total",
		Help: "What happened to a NATS connection: lost, back, slow_consumer (a subscription dropped messages), error (such as" +
			" a permission violation).",
	}, []string{"connection", "event"})}
	err := r.Register(m.events)
	var shared prometheus.AlreadyRegisteredError
	if errors.As(err, &shared) {
		m.events = shared.ExistingCollector.(*prometheus.CounterVec)
	} else if err != nil {
		panic(err)
	}
	return m
}

func (m *Metrics) start(connection string) {
	if m == nil {
		return
	}
	for _, event := range []string{lost, back, slow, failed} {
		m.events.WithLabelValues(connection, event)
	}
}

func (m *Metrics) count(connection, event string) {
	if m != nil {
		m.events.WithLabelValues(connection, event).Inc()
	}
}

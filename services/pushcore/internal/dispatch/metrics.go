package dispatch

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the dispatchers' metrics.
type Metrics struct {
	direct     *prometheus.CounterVec
	spilled    prometheus.Counter
	untold     prometheus.Counter
	askedAgain prometheus.Counter
	slices     *prometheus.HistogramVec
}

// NewMetrics registers the dispatchers' metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		direct: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "halley_pushcore_direct_deliveries_total",
			Help: "Direct deliveries by what the gateway answered: taken, away, ended, silent (asked again); or vendor: a vendor's channel has it.",
		}, []string{"result"}),
		spilled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_pushcore_direct_spilled_total",
			Help: "Direct deliveries left to the sweeper because too many hand-overs were under way.",
		}),
		untold: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_pushcore_replaced_untold_total",
			Help: "Replaced sessions whose gateway was not told, because it was silent or too many were to be told.",
		}),
		askedAgain: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "halley_pushcore_slice_asked_again_total",
			Help: "Times a gateway was asked again about an audience slice.",
		}),
		slices: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "halley_pushcore_slice_seconds",
			Help:    "How long a slice of an audience push took from its worker to the last gateway's answer.",
			Buckets: []float64{.005, .02, .1, .5, 1, 2, 5, 10, 30, 60},
		}, []string{"result"}),
	}
	registry.MustRegister(m.direct, m.spilled, m.untold, m.askedAgain, m.slices)
	for _, r := range []string{"taken", "away", "vendor", "ended", "silent"} {
		m.direct.WithLabelValues(r)
	}
	for _, r := range []string{"ok", "error"} {
		m.slices.WithLabelValues(r)
	}
	return m
}

func (m *Metrics) delivered(result string, n int) { m.direct.WithLabelValues(result).Add(float64(n)) }

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}

package gateway

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/halleypush/halley/pkg/tlsconfig"
)

// ticketsEvery is how often the keys of TLS sessions are set anew: they change with the day, and with the secret's file.
const ticketsEvery = 5 * time.Second

// secure prepares TLS, if there is a certificate.
func (g *Gateway) secure() error {
	expiries := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "halley_gateway_certificate_not_after_seconds", Help: "When each certificate that phones see ends, in Unix time.",
	}, []string{"certificate"})
	reloads := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "halley_gateway_certificate_loads_total", Help: "Certificates that were read when the gateway started or their files changed, by how it went.",
	}, []string{"result"})
	read, failed := reloads.WithLabelValues("ok"), reloads.WithLabelValues("failed")
	g.telemetry.Metrics.MustRegister(expiries, reloads)
	pairs := g.config.certificates()
	if len(pairs) == 0 {
		return nil
	}
	var err error
	g.tls, err = tlsconfig.ServerNames(tlsconfig.Events{
		Loaded: func(p tlsconfig.Pair, expires time.Time) {
			read.Inc()
			expiries.WithLabelValues(p.Cert).Set(float64(expires.Unix()))
			g.log.Info("certificate read", "file", p.Cert, "not_after", expires)
		},
		Failed: func(p tlsconfig.Pair, err error) {
			failed.Inc()
			g.log.Error("certificate cannot be read: phones see the one before", "file", p.Cert, "key", p.Key, "error", err)
		},
	}, pairs...)
	if err != nil {
		return err
	}
	return g.setTicketKeys()
}

// setTicketKeys sets today's keys of TLS sessions, by the secret's file if there is one. Without a secret to derive them from,
// they are this process's own.
func (g *Gateway) setTicketKeys() error {
	if g.tls == nil || g.config.TicketSecret == "" {
		return nil
	}
	secret := g.config.TicketSecret.Reveal()
	if path := g.config.TicketSecretFile; path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("ticket_secret_file: %w", err)
		}
		secret = string(bytes.TrimSpace(text))
	}
	return tlsconfig.SetTicketKeys(g.tls, secret, time.Now())
}

// turnTicketKeys sets the keys of TLS sessions anew from time to time. If that fails the ones before stay.
func (g *Gateway) turnTicketKeys(ctx context.Context) {
	ticker := time.NewTicker(ticketsEvery)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			err := g.setTicketKeys()
			if err != nil && !failing {
				g.log.ErrorContext(ctx, "cannot turn the ticket keys", "error", err)
			}
			failing = err != nil
		}
	}
}

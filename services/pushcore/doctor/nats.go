package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/subject"
)

const (
	// minPayload is what a slice's request, the largest message, needs.
	minPayload = 1 << 20
	// waited is how old the oldest message of a stream may be before somebody should look.
	waited = 5 * time.Minute
)

// nats connects as pushcore does, and looks at the streams.
func (e *examination) nats(ctx context.Context) {
	const check = "nats"
	options := append([]nats.Option{}, e.config.NATSOptions...)
	options = append(options, nats.RetryOnFailedConnect(false), nats.MaxReconnects(0), nats.Timeout(patience))
	conn, err := natsbus.Connect("halley-doctor", e.config.NATS, slog.New(slog.DiscardHandler), natsbus.Events{}, options...)
	if err != nil {
		do := "start NATS at " + e.config.NATS.URL + ", or correct nats.url"
		if errors.Is(err, nats.ErrAuthorization) {
			do = "give the user " + e.config.NATS.User + " this password in the server's configuration (halley nats-config), or put the server's into " +
				cmp.Or(e.config.NATS.PasswordFile, "nats.password (HALLEY_NATS_PASSWORD)")
		}
		e.failed(check, err.Error(), do)
		return
	}
	defer conn.Close()
	rtt, err := conn.RTT()
	if err != nil {
		e.failed(check, fmt.Sprintf("no answer: %v", err), "look at the server's log")
		return
	}
	e.ok(check, "nats-server %s, %v away", conn.ConnectedServerVersion(), rtt.Round(10*time.Microsecond))
	if n := conn.MaxPayload(); n < minPayload {
		e.failed(check, fmt.Sprintf("max_payload is %d B", n), fmt.Sprintf("set it to %d or more in the server's configuration", minPayload))
	}
	js, err := jetstream.New(conn)
	if err != nil {
		e.failed(check, err.Error(), "")
		return
	}
	for _, name := range []string{
		subject.StreamReceiptsDirect, subject.StreamReceiptsAudience, subject.StreamSlices, subject.StreamSend, subject.StreamReports, subject.StreamRetries,
	} {
		if !e.stream(ctx, js, name) {
			return
		}
	}
}

// stream looks at a stream and reports whether it is worthwhile to look at another.
func (e *examination) stream(ctx context.Context, js jetstream.JetStream, name string) bool {
	check := "stream " + name
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s, err := js.Stream(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		e.warn(check, "is not there", "nothing, if no pushcore has run yet: it makes the stream")
		return true
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		e.failed("nats", "JetStream is not enabled", "enable it in the server's configuration (halley nats-config)")
		return false
	case err != nil:
		e.failed(check, err.Error(), "look at the server's log; a cluster needs most of its servers")
		return false
	}
	info := s.CachedInfo()
	if want := max(e.config.StreamReplicas, 1); info.Config.Replicas != want {
		e.warn(check, fmt.Sprintf("is kept on %d servers, stream_replicas is %d", info.Config.Replicas, want), "restart a pushcore: it changes the stream")
	}
	if c := info.Cluster; c != nil && c.Leader == "" {
		e.failed(check, "has no leader", "start the servers of the cluster that are missing")
		return true
	}
	// The stream of retries holds what is to be tried again later.
	if age := time.Since(info.State.FirstTime); info.State.Msgs > 0 && age > waited && name != subject.StreamRetries {
		e.warn(check, fmt.Sprintf("%d messages wait, the oldest for %v", info.State.Msgs, age.Round(time.Second)), waitsFor(name))
		return true
	}
	e.ok(check, "%d messages", info.State.Msgs)
	return true
}

// waitsFor says who takes a stream's messages.
func waitsFor(name string) string {
	if name == subject.StreamSend {
		return "see whether a sender of each channel runs, and its log; docs/runbooks/HalleySenderMissing.md"
	}
	return "see whether the pushcores keep up, and their logs; docs/runbooks/HalleyLedgerSlow.md"
}

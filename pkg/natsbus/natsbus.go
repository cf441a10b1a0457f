// Package natsbus connects services to NATS, all in the same way.
package natsbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/halleypush/halley/pkg/config"
)

// Config says where NATS is and who the service is there.
type Config struct {
	URL          string        `yaml:"url" env:"URL" default:"nats://127.0.0.1:4222" doc:"addresses of the NATS cluster, with commas"`
	User         string        `yaml:"user" env:"USER" doc:"user name: pushcore, gateway or sender"`
	Password     config.Secret `yaml:"password" env:"PASSWORD" doc:"password of the user"`
	PasswordFile string        `yaml:"password_file" env:"PASSWORD_FILE" doc:"a file with the password"`
	CA           string        `yaml:"ca" env:"CA" doc:"file with the certificates that sign the servers'; empty: the system's, if the address is tls://"`
	Cert         string        `yaml:"cert" env:"CERT" doc:"file with this client's certificate, for mutual TLS"`
	Key          string        `yaml:"key" env:"KEY" doc:"file with this client's key, for mutual TLS"`
}

const (
	// pingEvery and pingsLost notice a server that is gone within 6 s at the most.
	pingEvery = 2 * time.Second
	pingsLost = 2
	// reconnectWait and its jitter pace reconnects, so that a restarted server is not run over.
	reconnectWait = 250 * time.Millisecond
)

// Events are what happens to a connection. Each may be nil. They are called from the client's own goroutine, in order, and
// must not block.
type Events struct {
	// Gap is called when messages may have been missed: the connection is back after it was gone, or a subscription was too
	// slow and dropped some.
	Gap func(reason string)
	// Metrics counts all that and the errors.
	Metrics *Metrics
}

// Connect returns a connection that reconnects for ever, whatever the reason, and is usable, though not connected, while
// NATS is away: publishing fails at once then, nothing is held back. name shows up in the server's monitoring. The connection's inboxes are
// _INBOX_<user>.>, which is all that the user may subscribe to of its kind.
func Connect(name string, c Config, log *slog.Logger, events Events, opts ...nats.Option) (*nats.Conn, error) {
	log = log.With("connection", name)
	events.Metrics.start(name)
	level := slog.LevelWarn // owned by the client's goroutine for handlers
	settings := []nats.Option{
		nats.Name(name),
		nats.UserInfo(c.User, c.Password.Reveal()),
		nats.CustomInboxPrefix(Inbox(c.User)),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		// Without it the client gives up for good when it is refused twice, as while passwords are being changed.
		nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(func(int) time.Duration { return reconnectWait + rand.N(reconnectWait) }),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(pingEvery),
		nats.MaxPingsOutstanding(pingsLost),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			log.Log(context.Background(), level, "no connection to NATS, trying again", "error", err)
			level = slog.LevelDebug // the next tries come fast, and say the same
		}),
		nats.ConnectHandler(func(conn *nats.Conn) { log.Info("connected to NATS", "server", conn.ConnectedServerName()) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err == nil { // closed by us
				return
			}
			log.Warn("NATS connection lost", "error", err)
			events.Metrics.count(name, lost)
		}),
		nats.ReconnectHandler(func(conn *nats.Conn) {
			log.Info("NATS connection is back", "server", conn.ConnectedServerName())
			events.Metrics.count(name, back)
			if events.Gap != nil {
				events.Gap("reconnected")
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			on := ""
			if sub != nil {
				on = sub.Subject
			}
			log.Error("NATS error", "subject", on, "error", err)
			if !errors.Is(err, nats.ErrSlowConsumer) {
				events.Metrics.count(name, failed)
				return
			}
			events.Metrics.count(name, slow)
			if events.Gap != nil {
				events.Gap("slow consumer on " + on)
			}
		}),
	}
	if c.CA != "" {
		settings = append(settings, nats.RootCAs(c.CA))
	}
	if c.Cert != "" {
		settings = append(settings, nats.ClientCert(c.Cert, c.Key))
	}
	conn, err := nats.Connect(c.URL, append(settings, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return conn, nil
}

// Inbox returns the prefix of a user's reply subjects.
func Inbox(user string) string { return "_INBOX_" + user }

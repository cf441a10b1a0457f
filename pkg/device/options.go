package device

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"
)

// Options says who the device is and what it does with its messages. App, ClientKey, Server, Store and OnMessage are needed.
type Options struct {
	// App is the app's id, ClientKey its client key (ck_…).
	App       string
	ClientKey string
	// Server is mqtt://host:1883, mqtts://host:8883, ws://host:8080/mqtt or wss://host/mqtt; the ports here are the defaults but
	// for ws and wss, which have the web's.
	Server string
	// AllowedServers are hosts, or host:port, that the server may send the device to. Without any it stays where it is.
	AllowedServers []string
	// Store keeps the identity: FileStore or, for devices that end with the process, MemoryStore.
	Store Store
	// Report is what the device says of itself. It is sent at registration, and again when it differs from what was sent last.
	Report *Report
	// TLS is for mqtts and wss; nil means the system's roots. Sessions are resumed at reconnects; without a ClientSessionCache of
	// its own they are remembered for as long as the Device is there.
	TLS *tls.Config
	// KeepAlive is the heartbeat asked for, in whole seconds; the server's word counts. 0 leaves it to the server.
	KeepAlive time.Duration
	// Heartbeat makes the heartbeat adaptive, for phones: it is as seldom as the network allows. nil leaves it at the
	// server's keep-alive. KeepAlive is at least Heartbeat.Max then, so that the server waits as long.
	Heartbeat *Heartbeat
	Backoff   Backoff
	// Log gets what goes on; nil discards it. Secrets and messages are never logged.
	Log *slog.Logger
	// OnMessage takes a message. When it returns nil the message is acknowledged: the server counts it as arrived. When it returns
	// an error the message comes again with the next connection. It is called for one message at a time, in their order;
	// the server closes connections on which a message is not acknowledged within about 30 s. ctx is Run's.
	OnMessage func(ctx context.Context, m Message) error
	// OnState is told of changes, one at a time, from Run's goroutine; it must not block.
	OnState func(State)
	// Dial opens a TCP connection; nil means a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Backoff sets the pauses between tries to connect: they double from Min to Max, each shortened by up to a half at random.
// Where the server names a pause, that one counts, with up to a tenth more at random.
type Backoff struct {
	// Min is 1 s if it is 0, Max 5 min.
	Min, Max time.Duration
}

// complete checks the options and fills in what was left out.
func (o *Options) complete() (home target, allowed map[string]bool, err error) {
	switch {
	case o.App == "":
		return home, nil, errors.New("device options: App is missing")
	case o.ClientKey == "":
		return home, nil, errors.New("device options: ClientKey is missing")
	case o.Store == nil:
		return home, nil, errors.New("device options: Store is missing")
	case o.OnMessage == nil:
		return home, nil, errors.New("device options: OnMessage is missing")
	case o.KeepAlive < 0 || o.KeepAlive > maxKeepAlive:
		return home, nil, errors.New("device options: KeepAlive is not between 0 and 65535 s")
	}
	if o.Heartbeat != nil {
		set := *o.Heartbeat // the caller's stays as it is
		if err := set.complete(); err != nil {
			return home, nil, err
		}
		o.Heartbeat = &set
		o.KeepAlive = max(o.KeepAlive, set.Max)
	}
	if home, err = parseTarget(o.Server); err != nil {
		return home, nil, err
	}
	allowed = map[string]bool{home.address: true}
	for _, server := range o.AllowedServers {
		allowed[server] = true
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Backoff.Min <= 0 {
		o.Backoff.Min = time.Second
	}
	if o.Backoff.Max <= 0 {
		o.Backoff.Max = 5 * time.Minute
	}
	o.Backoff.Max = max(o.Backoff.Max, o.Backoff.Min)
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	return home, allowed, nil
}

// heartbeat returns the settings of the heart, which stands still without any.
func (o *Options) heartbeat() Heartbeat {
	if o.Heartbeat == nil {
		return Heartbeat{}
	}
	return *o.Heartbeat
}

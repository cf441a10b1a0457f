// Package listen takes connections that are not plain TCP, and gives them to the loops: MQTT over TLS and over WebSocket.
package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/halleypush/halley/services/gateway/internal/loop"
)

const (
	// handshakeWithin bounds a TLS handshake, handshakesAtOnce how many are under way: more wait in the kernel's queue.
	handshakeWithin  = 10 * time.Second
	handshakesAtOnce = 512
	// subprotocol is what MQTT over WebSocket must ask for (6.0 of the standard).
	subprotocol = "mqtt"
)

// Adopter takes connections.
type Adopter interface {
	Adopt(conn net.Conn, transport loop.Transport)
}

// acceptPause is how long nothing is accepted after that failed: out of descriptors, as a rule.
const acceptPause = 10 * time.Millisecond

// TLS accepts MQTT connections over TLS until the listener is closed, and returns when the last handshake has ended.
func TLS(listener net.Listener, config *tls.Config, to Adopter, log *slog.Logger) {
	slots := make(chan struct{}, handshakesAtOnce)
	var running sync.WaitGroup
	defer running.Wait()
	for {
		raw, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			log.Error("cannot accept a TLS connection", "error", err)
			time.Sleep(acceptPause)
			continue
		}
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			handshake(raw, config, to)
		})
	}
}

func handshake(raw net.Conn, config *tls.Config, to Adopter) {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeWithin)
	defer cancel()
	conn := tls.Server(raw, config)
	if conn.HandshakeContext(ctx) != nil {
		_ = raw.Close() // the peer is not one of ours, or gone
		return
	}
	to.Adopt(conn, loop.TLS)
}

// WebSocket returns a handler that takes MQTT connections over WebSocket. It answers any origin: what a device may do hangs on
// its token and secret, not on the page that it runs in.
func WebSocket(to Adopter) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
			Subprotocols: []string{subprotocol}, InsecureSkipVerify: true,
		})
		if err != nil {
			return // answered by Accept
		}
		if conn.Subprotocol() != subprotocol {
			_ = conn.Close(websocket.StatusPolicyViolation, "ask for the subprotocol mqtt") // the peer is not one of ours
			return
		}
		to.Adopt(websocket.NetConn(context.Background(), conn, websocket.MessageBinary), loop.WebSocket)
	})
}

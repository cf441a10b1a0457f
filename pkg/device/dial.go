package device

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"

	"github.com/coder/websocket"
)

// maxFrame bounds one WebSocket message of the server, which may hold many packets.
const maxFrame = 1 << 20

// target is a server's address.
type target struct {
	scheme  string // mqtt, mqtts, ws or wss
	address string // host:port
	path    string // of ws and wss
}

func parseTarget(server string) (target, error) {
	u, err := url.Parse(server)
	if err != nil {
		return target{}, fmt.Errorf("device options: Server: %w", err)
	}
	ports := map[string]string{"mqtt": "1883", "mqtts": "8883", "ws": "80", "wss": "443"}
	port, ok := ports[u.Scheme]
	if !ok || u.Hostname() == "" {
		return target{}, fmt.Errorf("device options: Server %q is not mqtt://, mqtts://, ws:// or wss:// and a host", server)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	return target{u.Scheme, net.JoinHostPort(u.Hostname(), port), u.RequestURI()}, nil
}

// at returns the target with another server's host:port, as a Server Reference names it; a port left out is the same one.
func (t target) at(reference string) (target, error) {
	host, port, err := net.SplitHostPort(reference)
	if err != nil {
		_, samePort, _ := net.SplitHostPort(t.address)
		host, port = reference, samePort
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil || host == "" {
		return t, fmt.Errorf("the server sent the device to %q, which is no host:port", reference)
	}
	t.address = net.JoinHostPort(host, port)
	return t, nil
}

func (t target) host() string {
	host, _, _ := net.SplitHostPort(t.address)
	return host
}

// dial opens a connection that MQTT packets can be written to.
func (d *Device) dial(ctx context.Context, t target) (net.Conn, error) {
	var (
		conn net.Conn
		err  error
	)
	switch t.scheme {
	case "mqtt":
		conn, err = d.options.Dial(ctx, "tcp", t.address)
	case "mqtts":
		conn, err = d.dialTLS(ctx, t)
	default:
		conn, err = d.dialWebSocket(ctx, t)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.address, err)
	}
	return &packetConn{Conn: conn}, nil
}

// tlsSessions is how many servers' TLS sessions are remembered, which spares certificates and half of the handshake's work.
const tlsSessions = 8

// resumable returns a configuration for all connections of a device.
func resumable(c *tls.Config) *tls.Config {
	if c = c.Clone(); c == nil {
		c = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if c.ClientSessionCache == nil {
		c.ClientSessionCache = tls.NewLRUClientSessionCache(tlsSessions)
	}
	return c
}

func (d *Device) tlsConfig(host string) *tls.Config {
	c := d.tls.Clone()
	if c.ServerName == "" {
		c.ServerName = host
	}
	return c
}

func (d *Device) dialTLS(ctx context.Context, t target) (net.Conn, error) {
	raw, err := d.options.Dial(ctx, "tcp", t.address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, d.tlsConfig(t.host()))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return conn, nil
}

func (d *Device) dialWebSocket(ctx context.Context, t target) (net.Conn, error) {
	transport := &http.Transport{DialContext: d.options.Dial, TLSClientConfig: d.tlsConfig(t.host())}
	ws, _, err := websocket.Dial( //nolint:bodyclose // the package closes it, or hands it over with the connection
		ctx, t.scheme+"://"+t.address+t.path,
		&websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}, Subprotocols: []string{"mqtt"}},
	)
	if err != nil {
		transport.CloseIdleConnections()
		return nil, err
	}
	if ws.Subprotocol() != "mqtt" {
		return nil, errors.Join(errors.New("the server does not speak MQTT over WebSocket here"), ws.CloseNow())
	}
	ws.SetReadLimit(maxFrame)
	return webSocketConn{websocket.NetConn(context.WithoutCancel(ctx), ws, websocket.MessageBinary), ws}, nil
}

// webSocketConn closes without the WebSocket's farewell: MQTT has its own, and a peer that is gone would hold it up.
type webSocketConn struct {
	net.Conn
	ws *websocket.Conn
}

func (c webSocketConn) Close() error { return c.ws.CloseNow() }

// packetConn makes each MQTT packet one write, and lets several goroutines write. The MQTT library writes a packet in parts,
// and holds the Locker meanwhile.
type packetConn struct {
	net.Conn
	mu     sync.Mutex
	packet bytes.Buffer // guarded by mu
	err    error        // guarded by mu: why the last write failed
}

var (
	_ net.Conn    = (*packetConn)(nil)
	_ sync.Locker = (*packetConn)(nil)
)

func (c *packetConn) Lock() { c.mu.Lock() }

// Unlock writes the packet. If that fails later writes fail, too; the reader finds out by itself, after it has read what the
// server had still to say.
func (c *packetConn) Unlock() {
	defer c.mu.Unlock()
	if c.err == nil {
		_, c.err = c.Conn.Write(c.packet.Bytes())
	}
	c.packet.Reset()
}

// Write takes a part of a packet; mu is held.
func (c *packetConn) Write(part []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	return c.packet.Write(part)
}

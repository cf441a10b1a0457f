package gateway_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/services/gateway"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

// dial opens a plain connection that ends with the test.
func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// trickle writes to a connection one byte at a time.
type trickle struct{ net.Conn }

func (c trickle) Write(b []byte) (int, error) {
	for n := range b {
		if _, err := c.Conn.Write(b[n : n+1]); err != nil {
			return n, err
		}
	}
	return len(b), nil
}

// MQTT 5: 4.2.0-1
func TestTLSTakesRecordsInAnyPieces(t *testing.T) {
	t.Parallel()
	site, client := startSecure(t)
	config := client.Clone()
	config.ServerName = "127.0.0.1"
	conn := tls.Client(trickle{dial(t, site.MQTTSAddr())}, config)
	wire := gatewaytest.NewWire(t, conn, gatewaytest.V5)
	wire.Greet(t, wire.Connect(site.Core.NewDevice(t)))
	wire.Ping(t)
}

// A device that does not wait for answers: its CONNECT and all that follows come in one write, for which its connection may
// have to move to another loop.
// MQTT 5: 3.2.0-1, 3.2.0-2
func TestWhatADeviceSendsAheadIsKeptOnEveryTransport(t *testing.T) {
	t.Parallel()
	site, client := startSecure(t)
	for name, connect := range map[string]func(*testing.T) net.Conn{
		"tcp": func(t *testing.T) net.Conn { t.Helper(); return dial(t, site.MQTTAddr()) },
		"tls": func(t *testing.T) net.Conn {
			t.Helper()
			conn, err := tls.Dial("tcp", site.MQTTSAddr(), client)
			if err != nil {
				t.Fatal(err)
			}
			return conn
		},
		"websocket": func(t *testing.T) net.Conn {
			t.Helper()
			_, conn := dialWebSocket(t, "wss://"+site.WebSocketAddr()+"/mqtt", client, "mqtt")
			return conn
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 8 { // devices whose home is this loop, and that one
				wire := gatewaytest.NewWire(t, connect(t), gatewaytest.V5)
				phone := site.Core.NewDevice(t)
				var ahead bytes.Buffer
				ahead.Write(wire.Encode(t, wire.Connect(phone)))
				const events = 8
				for id := range uint16(events) {
					ahead.Write(wire.Encode(t, packets.Packet{
						FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, TopicName: "event/demo",
						Payload: []byte(`{"pad":"` + strings.Repeat("x", 4000) + `"}`), PacketID: id + 1,
					}))
				}
				wire.Write(t, ahead.Bytes())
				wire.Next(t, packets.Connack)
				for range events {
					wire.Next(t, packets.Puback)
				}
			}
		})
	}
}

func TestSilentPeersKeepNoHandshakeWaiting(t *testing.T) {
	t.Parallel()
	cert, key, client := newCertificate(t)
	const most = 64
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.MQTTS, c.TLSCert, c.TLSKey, c.MaxHandshakes = "127.0.0.1:0", cert, key, most
	}})
	hello := clientHello(t, client)
	for range 2 * most {
		dial(t, site.MQTTSAddr()) // says nothing, which is no handshake yet
	}
	for range most - 1 {
		conn := dial(t, site.MQTTSAddr())
		if _, err := conn.Write(hello); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil { // it is answered, and waits for the client
			t.Fatal(err)
		}
	}
	conn, err := tls.Dial("tcp", site.MQTTSAddr(), client)
	if err != nil {
		t.Fatal(err)
	}
	wire := gatewaytest.NewWire(t, conn, gatewaytest.V5)
	wire.Greet(t, wire.Connect(site.Core.NewDevice(t)))

	last := dial(t, site.MQTTSAddr())
	if _, err := last.Write(hello); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(last, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	refused := dial(t, site.MQTTSAddr())
	if _, err := refused.Write(hello); err != nil {
		t.Fatal(err)
	}
	if n, err := refused.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes are answered to one handshake too many", n)
	}
	if got := site.Metric(t, "halley_gateway_handshakes_total", "too_many"); got != 1 {
		t.Errorf("%v handshakes are counted as too many", got)
	}
}

// clientHello returns what a client says first.
func clientHello(t *testing.T, config *tls.Config) []byte {
	t.Helper()
	near, far := net.Pipe()
	config = config.Clone()
	config.ServerName = "127.0.0.1"
	go func() {
		_ = tls.Client(near, config).Handshake() // fails: nobody answers
	}()
	header := make([]byte, 5)
	if _, err := io.ReadFull(far, header); err != nil {
		t.Fatal(err)
	}
	hello := make([]byte, int(header[3])<<8|int(header[4]))
	if _, err := io.ReadFull(far, hello); err != nil {
		t.Fatal(err)
	}
	_, _ = near.Close(), far.Close()
	return append(header, hello...)
}

func TestDevicesResumeTLSWithAnyGateway(t *testing.T) {
	t.Parallel()
	cert, key, client := newCertificate(t)
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	client.ServerName = "127.0.0.1"
	options := gatewaytest.Options{Config: func(c *gateway.Config) {
		c.MQTTS, c.TLSCert, c.TLSKey = "127.0.0.1:0", cert, key
		c.TicketSecret = config.Secret(strings.Repeat("s", 32))
	}}
	for n, want := range []string{"full", "resumed"} {
		site := gatewaytest.Start(t, options)
		conn, err := tls.Dial("tcp", site.MQTTSAddr(), client)
		if err != nil {
			t.Fatal(err)
		}
		wire := gatewaytest.NewWire(t, conn, gatewaytest.V5)
		wire.Greet(t, wire.Connect(site.Core.NewDevice(t))) // the ticket comes with it
		if got := conn.ConnectionState().DidResume; got != (n == 1) {
			t.Errorf("gateway %d: resumed is %v", n, got)
		}
		if got := site.Metric(t, "halley_gateway_handshakes_total", want); got != 1 {
			t.Errorf("gateway %d counts %v handshakes as %s", n, got, want)
		}
	}
}

func TestDevicesGetTheCertificateOfTheNameTheyAskFor(t *testing.T) {
	t.Parallel()
	cert, key, _ := newCertificate(t)
	other, otherKey, client := newCertificateFor(t, "push.example.com")
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.MQTTS, c.TLSCert, c.TLSKey, c.Certificates = "127.0.0.1:0", cert, key, []string{other + ":" + otherKey}
	}})
	client.ServerName = "push.example.com"
	conn, err := tls.Dial("tcp", site.MQTTSAddr(), client)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

// header is a PROXY header for 192.0.2.n.
func header(n byte) []byte {
	return []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0C\xC0\x00\x02" + string([]byte{n}) + "\x7F\x00\x00\x01\xD4\x31\x07\x5B")
}

// behind is a connection that begins with a balancer's header.
func behind(t *testing.T, address string, client byte) net.Conn {
	t.Helper()
	conn := dial(t, address)
	if _, err := conn.Write(header(client)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestBalancersSayWhoTheClientIsOnEveryTransport(t *testing.T) {
	t.Parallel()
	cert, key, client := newCertificate(t)
	client.ServerName = "127.0.0.1"
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.MQTTS, c.WebSocket, c.TLSCert, c.TLSKey = "127.0.0.1:0", "127.0.0.1:0", cert, key
		c.ProxyProtocol, c.AddressConnections = []string{"127.0.0.0/8"}, 1
	}})
	for n, connect := range map[byte]func(client byte) net.Conn{
		1: func(n byte) net.Conn { return behind(t, site.MQTTAddr(), n) },
		2: func(n byte) net.Conn { return tls.Client(behind(t, site.MQTTSAddr(), n), client) },
		3: func(n byte) net.Conn {
			conn := tls.Client(behind(t, site.WebSocketAddr(), n), client)
			return upgraded(t, conn)
		},
	} {
		// Limits by address show whose address it is.
		first := gatewaytest.NewWire(t, connect(n), gatewaytest.V5)
		first.Greet(t, first.Connect(site.Core.NewDevice(t)))
		second := gatewaytest.NewWire(t, connect(n), gatewaytest.V5)
		second.Send(t, second.Connect(site.Core.NewDevice(t)))
		if ack := second.Next(t, packets.Connack); ack.ReasonCode != 0x97 {
			t.Errorf("transport %d: a second connection of the address is answered %#x", n, ack.ReasonCode)
		}
	}
	wire := gatewaytest.NewWire(t, dial(t, site.MQTTAddr()), gatewaytest.V5)
	wire.Send(t, wire.Connect(site.Core.NewDevice(t)))
	wire.WantClosed(t)
	if got := site.Metric(t, "halley_gateway_proxy_headers_total", "malformed"); got != 1 {
		t.Errorf("%v headers are counted as malformed", got)
	}
}

// upgraded speaks WebSocket over a connection.
func upgraded(t *testing.T, conn net.Conn) net.Conn {
	t.Helper()
	ws, _, err := websocket.Dial(context.Background(), "ws://gateway/mqtt", &websocket.DialOptions{
		Subprotocols: []string{"mqtt"}, HTTPClient: clientOver(conn),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	return websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
}

func TestOnlyBalancersAreBelieved(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.ProxyProtocol = []string{"10.0.0.0/8"} }})
	wire := gatewaytest.NewWire(t, behind(t, site.MQTTAddr(), 1), gatewaytest.V5)
	wire.WantClosed(t)
	if got := site.Metric(t, "halley_gateway_proxy_headers_total", "stranger"); got != 1 {
		t.Errorf("%v strangers are counted", got)
	}
}

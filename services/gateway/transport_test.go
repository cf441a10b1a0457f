package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/halleypush/halley/services/gateway"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

// newCertificate writes a self-signed certificate for 127.0.0.1 and returns its files and a client that believes it.
func newCertificate(t *testing.T) (cert, key string, client *tls.Config) {
	t.Helper()
	return newCertificateFor(t)
}

// newCertificateFor writes a certificate for further names.
func newCertificateFor(t *testing.T, names ...string) (cert, key string, client *tls.Config) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: names,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key = write("cert.pem", "CERTIFICATE", der), write("key.pem", "EC PRIVATE KEY", keyDER)
	pool := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(parsed)
	return cert, key, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// startSecure starts a site with MQTT over TLS, and WebSocket over TLS.
func startSecure(t *testing.T) (*gatewaytest.Site, *tls.Config) {
	t.Helper()
	cert, key, client := newCertificate(t)
	return gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.MQTTS, c.WebSocket, c.TLSCert, c.TLSKey = "127.0.0.1:0", "127.0.0.1:0", cert, key
	}}), client
}

// useful checks that a device can do everything over a connection, and that its last words come.
func useful(t *testing.T, site *gatewaytest.Site, phone gatewaytest.Device, wire *gatewaytest.Wire) {
	t.Helper()
	wire.Greet(t, wire.Connect(phone))
	wire.Subscribe(t, 1, "push/demo", "reply/demo/+")
	site.Core.AwaitOnline(t, phone)
	pushes := newPushes(16)
	wantDelivered(t, site, phone, taken, pushes...)
	for _, p := range pushes {
		wire.Ack(t, wire.NextPush(t, p))
	}
	site.Core.AwaitReceipt(t, phone, pushes[15], arrived)
	event := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, TopicName: "event/demo", Payload: []byte("{}"), PacketID: 50,
	}
	for _, b := range wire.Encode(t, event) {
		wire.Write(t, []byte{b})
	}
	wire.Next(t, packets.Puback)
	newer := site.Dial(t, gatewaytest.V5)
	newer.Greet(t, newer.Connect(phone))
	wire.WantDisconnect(t, 0x8E)
}

func TestMQTTOverTLS(t *testing.T) {
	t.Parallel()
	site, client := startSecure(t)
	for name, version := range map[string]uint16{"TLS 1.3": tls.VersionTLS13, "TLS 1.2": tls.VersionTLS12} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := client.Clone()
			config.MaxVersion = version
			conn, err := tls.Dial("tcp", site.MQTTSAddr(), config)
			if err != nil {
				t.Fatal(err)
			}
			useful(t, site, site.Core.NewDevice(t), gatewaytest.NewWire(t, conn, gatewaytest.V5))
		})
	}
	t.Run("plain text is refused", func(t *testing.T) {
		t.Parallel()
		conn, err := net.Dial("tcp", site.MQTTSAddr())
		if err != nil {
			t.Fatal(err)
		}
		wire := gatewaytest.NewWire(t, conn, gatewaytest.V5)
		wire.Send(t, wire.Connect(site.Core.NewDevice(t)))
		wire.WantClosed(t)
	})
	t.Run("registration", func(t *testing.T) {
		t.Parallel()
		conn, err := tls.Dial("tcp", site.MQTTSAddr(), client)
		if err != nil {
			t.Fatal(err)
		}
		wire := gatewaytest.NewWire(t, conn, gatewaytest.V5)
		ack := wire.Greet(t, wire.ConnectAs("", gatewaytest.App, gatewaytest.ClientKey))
		if ack.Properties.AssignedClientID == "" {
			t.Error("no token")
		}
		wire.Ping(t)
	})
}

// clientOver is an HTTP client that has one connection.
func clientOver(conn net.Conn) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
}

// dialWebSocket returns a stream over WebSocket.
func dialWebSocket(t *testing.T, url string, config *tls.Config, protocols ...string) (*websocket.Conn, net.Conn) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	conn, _, err := websocket.Dial(context.Background(), url, &websocket.DialOptions{
		Subprotocols: protocols, HTTPClient: &http.Client{Transport: transport},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	return conn, websocket.NetConn(context.Background(), conn, websocket.MessageBinary)
}

// MQTT 5: 6.0.0-1, 6.0.0-3, 6.0.0-4
// MQTT 3.1.1: 6.0.0-1, 6.0.0-3, 6.0.0-4
func TestMQTTOverWebSocket(t *testing.T) {
	t.Parallel()
	plain := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.WebSocket = "127.0.0.1:0" }})
	secure, client := startSecure(t)
	for name, c := range map[string]struct {
		site    *gatewaytest.Site
		url     string
		config  *tls.Config
		version byte
	}{
		"ws":         {plain, "ws://" + plain.WebSocketAddr() + "/mqtt", nil, gatewaytest.V5},
		"ws, 3.1.1":  {plain, "ws://" + plain.WebSocketAddr() + "/mqtt", nil, gatewaytest.V311},
		"wss":        {secure, "wss://" + secure.WebSocketAddr() + "/mqtt", client, gatewaytest.V5},
		"wss, 3.1.1": {secure, "wss://" + secure.WebSocketAddr() + "/mqtt", client, gatewaytest.V311},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ws, conn := dialWebSocket(t, c.url, c.config, "other", "mqtt")
			if ws.Subprotocol() != "mqtt" {
				t.Errorf("the subprotocol is %q", ws.Subprotocol())
			}
			useful(t, c.site, c.site.Core.NewDevice(t), gatewaytest.NewWire(t, conn, c.version))
		})
	}
	t.Run("without the subprotocol", func(t *testing.T) {
		t.Parallel()
		_, response, err := websocket.Dial(context.Background(), "ws://"+plain.WebSocketAddr()+"/mqtt", nil)
		if err == nil || response.StatusCode != http.StatusBadRequest {
			t.Errorf("answered %v, %v", response, err)
		}
	})
	t.Run("text messages", func(t *testing.T) {
		t.Parallel()
		ws, _ := dialWebSocket(t, "ws://"+plain.WebSocketAddr()+"/mqtt", nil, "mqtt")
		if err := ws.Write(context.Background(), websocket.MessageText, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ws.Read(context.Background()); websocket.CloseStatus(err) != websocket.StatusUnsupportedData {
			t.Errorf("closed with %v", err)
		}
	})
	t.Run("another path", func(t *testing.T) {
		t.Parallel()
		response, err := http.Get("http://" + plain.WebSocketAddr() + "/other")
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusNotFound {
			t.Errorf("answered %d", response.StatusCode)
		}
	})
}

func TestAStoppingGatewaySendsItsDevicesAwayOverAllTransports(t *testing.T) {
	t.Parallel()
	site, client := startSecure(t)
	secured, err := tls.Dial("tcp", site.MQTTSAddr(), client)
	if err != nil {
		t.Fatal(err)
	}
	_, ws := dialWebSocket(t, "wss://"+site.WebSocketAddr()+"/mqtt", client, "mqtt")
	var wires []*gatewaytest.Wire
	for _, conn := range []net.Conn{secured, ws} {
		wire := gatewaytest.NewWire(t, conn, gatewaytest.V5)
		wire.Greet(t, wire.Connect(site.Core.NewDevice(t)))
		wires = append(wires, wire)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- site.Stop() }()
	for _, wire := range wires {
		wire.WantDisconnect(t, 0x8B)
	}
	if err := next(t, "the stop", stopped); err != nil {
		t.Error(err)
	}
}

// Half a handshake holds a connection no longer than half a CONNECT.
func TestPeersThatDoNotSayWhoTheyAreAreClosedOnEveryTransport(t *testing.T) {
	t.Parallel()
	site, client := startSecure(t)
	plain := func(address string) net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	shaken, err := tls.Dial("tcp", site.MQTTSAddr(), client)
	if err != nil {
		t.Fatal(err)
	}
	_, upgraded := dialWebSocket(t, "wss://"+site.WebSocketAddr()+"/mqtt", client, "mqtt")
	begun := time.Now()
	for name, conn := range map[string]net.Conn{
		"no TLS handshake": plain(site.MQTTSAddr()), "TLS, no CONNECT": shaken,
		"no HTTP": plain(site.WebSocketAddr()), "WebSocket, no CONNECT": upgraded,
	} {
		gatewaytest.NewWire(t, conn, gatewaytest.V5).WantClosed(t)
		if took := time.Since(begun); took < 8*time.Second {
			t.Errorf("%s: closed after %v", name, took)
		}
	}
}

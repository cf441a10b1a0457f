package device_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/halleypush/halley/pkg/device"
)

// Over real sockets: a device registers, gets a message and acknowledges it.
func TestTransports(t *testing.T) {
	t.Parallel()
	for name, listen := range map[string]func(*testing.T, chan<- net.Conn) (string, *tls.Config){
		"mqtt": listenTCP, "mqtts": listenTLS, "ws": listenWebSocket(false), "wss": listenWebSocket(true),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conns := make(chan net.Conn, 1)
			address, config := listen(t, conns)
			r := start(t, func(o *device.Options) {
				o.Server, o.TLS, o.Dial = address, config, nil
			})
			p := newPeer(t, receive(t, conns))
			p.register("token", "secret")
			p.subscribed()
			p.acked(p.push(message(pushID(1))))
			if m := <-r.messages; m.PushID != pushID(1) {
				t.Errorf("handed over %v", m)
			}
			r.stop(t)
		})
	}
}

func TestServerThatDoesNotSpeakMQTTIsLeft(t *testing.T) {
	t.Parallel()
	site := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(site.Close)
	r := start(t, func(o *device.Options) {
		o.Server, o.Dial = strings.Replace(site.URL, "http", "ws", 1), nil
	})
	for s := range r.states {
		if s.Phase == device.Waiting {
			if s.Err == nil || !strings.Contains(s.Err.Error(), "404") {
				t.Errorf("waits because of %v", s.Err)
			}
			return
		}
	}
}

func accept(t *testing.T, l net.Listener, conns chan<- net.Conn) {
	t.Helper()
	t.Cleanup(func() { l.Close() })
	go func() {
		if conn, err := l.Accept(); err == nil {
			conns <- conn
		}
	}()
}

func listenTCP(t *testing.T, conns chan<- net.Conn) (string, *tls.Config) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accept(t, l, conns)
	return "mqtt://" + l.Addr().String(), nil
}

func listenTLS(t *testing.T, conns chan<- net.Conn) (string, *tls.Config) {
	t.Helper()
	site := httptest.NewUnstartedServer(nil) // for its certificate
	site.StartTLS()
	t.Cleanup(site.Close)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: site.TLS.Certificates, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	accept(t, l, conns)
	return "mqtts://" + l.Addr().String(), trust(site)
}

func trust(site *httptest.Server) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(site.Certificate())
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

func listenWebSocket(secure bool) func(*testing.T, chan<- net.Conn) (string, *tls.Config) {
	return func(t *testing.T, conns chan<- net.Conn) (string, *tls.Config) {
		t.Helper()
		site := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/mqtt" {
				http.NotFound(w, r)
				return
			}
			ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"mqtt"}})
			if err != nil {
				return
			}
			conns <- websocket.NetConn(context.Background(), ws, websocket.MessageBinary)
		}))
		t.Cleanup(site.Close)
		if secure {
			site.StartTLS()
			return strings.Replace(site.URL, "https", "wss", 1) + "/mqtt", trust(site)
		}
		site.Start()
		return strings.Replace(site.URL, "http", "ws", 1) + "/mqtt", nil
	}
}

package gateway_test

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/halleypush/halley/services/gateway"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

// startBounded starts a site that has TLS, too.
func startBounded(t *testing.T, bound func(*gateway.Config)) (*gatewaytest.Site, *tls.Config) {
	t.Helper()
	cert, key, client := newCertificate(t)
	client.ServerName = "127.0.0.1"
	return gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.MQTTS, c.WebSocket, c.TLSCert, c.TLSKey = "127.0.0.1:0", "127.0.0.1:0", cert, key
		bound(c)
	}}), client
}

func TestConnectionsThatHaveNotSaidWhoTheyAreAreBounded(t *testing.T) {
	t.Parallel()
	plain := func(t *testing.T, s *gatewaytest.Site) net.Conn { t.Helper(); return dial(t, s.MQTTAddr()) }
	secure := func(t *testing.T, s *gatewaytest.Site) net.Conn { t.Helper(); return dial(t, s.MQTTSAddr()) }
	behindOne := func(t *testing.T, s *gatewaytest.Site) net.Conn { t.Helper(); return behind(t, s.MQTTAddr(), 1) }
	secureBehindOne := func(t *testing.T, s *gatewaytest.Site) net.Conn { t.Helper(); return behind(t, s.MQTTSAddr(), 1) }
	inAll := func(c *gateway.Config) { c.MaxUnidentified = 2 }
	ofAddress := func(c *gateway.Config) { c.AddressUnidentified = 2 }
	ofClient := func(c *gateway.Config) { c.ProxyProtocol, c.AddressUnidentified = []string{"127.0.0.0/8"}, 2 }
	for name, test := range map[string]struct {
		bound  func(*gateway.Config)
		dial   func(*testing.T, *gatewaytest.Site) net.Conn
		reason string
	}{
		"in all":                             {inAll, plain, "unidentified"},
		"in all, over TLS":                   {inAll, secure, "unidentified"},
		"of an address":                      {ofAddress, plain, "address_unidentified"},
		"of an address, over TLS":            {ofAddress, secure, "address_unidentified"},
		"of a balancer's client":             {ofClient, behindOne, "address_unidentified"},
		"of a balancer's client, over TLS":   {ofClient, secureBehindOne, "address_unidentified"},
		"at the rate of accepts":             {func(c *gateway.Config) { c.AcceptRate = 0.001 }, plain, "accept_rate"},
		"at the rate of accepts, over TLS":   {func(c *gateway.Config) { c.AcceptRate = 0.001 }, secure, "accept_rate"},
		"at the rate of handshakes over TLS": {func(c *gateway.Config) { c.HandshakeRate, c.ConnectBurst = 0.001, 1 }, secure, "handshake_rate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site, client := startBounded(t, test.bound)
			arrived := func(n float64) { // loops accept side by side, and whom they take last is one too many
				gatewaytest.Eventually(t, "those who came are counted", func() bool { return site.Metric(t, "halley_gateway_unidentified", "") == n })
			}
			first := test.dial(t, site)
			arrived(1)
			if test.reason == "unidentified" || test.reason == "address_unidentified" {
				test.dial(t, site)
				arrived(2)
			}
			turnedAway := func() float64 {
				return site.Metric(t, "halley_gateway_turned_away_total", `reason="`+test.reason+`"`)
			}
			gatewaytest.Eventually(t, "one too many is closed", func() bool { test.dial(t, site); return turnedAway() > 0 })
			if test.reason == "accept_rate" || test.reason == "handshake_rate" {
				return
			}
			// One that says who it is makes room, and so does one that goes.
			if site.MQTTSAddr() == first.RemoteAddr().String() {
				first = tls.Client(first, client)
			}
			wire := gatewaytest.NewWire(t, first, gatewaytest.V5)
			wire.Greet(t, wire.Connect(site.Core.NewDevice(t)))
			next := test.dial(t, site)
			if site.MQTTSAddr() == next.RemoteAddr().String() {
				next = tls.Client(next, client)
			}
			wire = gatewaytest.NewWire(t, next, gatewaytest.V5)
			wire.Greet(t, wire.Connect(site.Core.NewDevice(t)))
		})
	}
}

func TestAnAddressWhoseConnectionsFailIsSlowed(t *testing.T) {
	t.Parallel()
	garbage := func(t *testing.T, address string) {
		t.Helper()
		wire := gatewaytest.NewWire(t, dial(t, address), gatewaytest.V5)
		wire.Write(t, []byte("GET / HTTP/1.1\r\n\r\n"))
		for {
			if _, err := wire.Read(); err != nil { // TLS answers with an alert, which is no packet
				return
			}
		}
	}
	silent := func(t *testing.T, address string) {
		t.Helper()
		wires := make([]*gatewaytest.Wire, 6) // more than needed: one whose phone comes in meanwhile is made up for
		for i := range wires {
			wires[i] = gatewaytest.NewWire(t, dial(t, address), gatewaytest.V5)
		}
		for _, wire := range wires {
			wire.WantClosed(t)
		}
	}
	for name, test := range map[string]struct {
		fail   func(*testing.T, *gatewaytest.Site)
		slow   bool // it fails often enough by itself, after ten seconds
		honest bool
	}{
		"a wrong secret": {fail: func(t *testing.T, s *gatewaytest.Site) {
			t.Helper()
			wire := s.Dial(t, gatewaytest.V5)
			wire.Send(t, wire.ConnectAs(s.Core.NewDevice(t).Token, gatewaytest.App, "secret"))
			wire.Next(t, packets.Connack)
			wire.WantClosed(t)
		}},
		"a version that there is not": {fail: func(t *testing.T, s *gatewaytest.Site) {
			t.Helper()
			wire := s.Dial(t, gatewaytest.V5)
			data := wire.Encode(t, wire.Connect(s.Core.NewDevice(t)))
			data[8] = 6
			wire.Write(t, data)
			wire.Next(t, packets.Connack)
			wire.WantClosed(t)
		}},
		"no MQTT": {fail: func(t *testing.T, s *gatewaytest.Site) { t.Helper(); garbage(t, s.MQTTAddr()) }},
		"no TLS":  {fail: func(t *testing.T, s *gatewaytest.Site) { t.Helper(); garbage(t, s.MQTTSAddr()) }},
		"no CONNECT in time": {slow: true, fail: func(t *testing.T, s *gatewaytest.Site) {
			t.Helper()
			silent(t, s.MQTTAddr())
		}},
		"no handshake in time": {slow: true, fail: func(t *testing.T, s *gatewaytest.Site) {
			t.Helper()
			silent(t, s.MQTTSAddr())
		}},
		"not one that looks whether a port answers": {honest: true, fail: func(t *testing.T, s *gatewaytest.Site) {
			t.Helper()
			for _, address := range []string{s.MQTTAddr(), s.MQTTSAddr()} {
				wire := gatewaytest.NewWire(t, dial(t, address), gatewaytest.V5)
				wire.CloseWrite(t)
				wire.WantClosed(t)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site, _ := startBounded(t, func(c *gateway.Config) { c.AddressFailures = 2 })
			phone := site.Core.NewDevice(t)
			test.fail(t, site)
			for range 2 {
				if !test.slow {
					test.fail(t, site)
				}
			}
			if test.honest {
				site.Online(t, phone)
				return
			}
			gatewaytest.Eventually(t, "a CONNECT is refused", func() bool {
				wire := site.Dial(t, gatewaytest.V5)
				wire.Send(t, wire.Connect(site.Core.NewDevice(t)))
				return wire.Next(t, packets.Connack).ReasonCode == 0x9F
			})
			refused(t, site, phone, 0x9F)
			if n := site.Metric(t, "halley_gateway_refusals_total", `reason="address_failures"`); n < 2 {
				t.Errorf("%v refusals are counted", n)
			}
		})
	}
}

func TestEveryConnectionThatEndsMakesRoom(t *testing.T) {
	t.Parallel()
	site, client := startBounded(t, func(*gateway.Config) {})
	phone := site.Core.NewDevice(t)
	for _, connect := range []func() net.Conn{
		func() net.Conn { return dial(t, site.MQTTAddr()) },
		func() net.Conn { return tls.Client(dial(t, site.MQTTSAddr()), client) },
		func() net.Conn { return upgraded(t, tls.Client(dial(t, site.WebSocketAddr()), client)) },
	} {
		for _, secret := range []string{phone.Secret, "secret"} { // let in, and refused
			wire := gatewaytest.NewWire(t, connect(), gatewaytest.V5)
			wire.Send(t, wire.ConnectAs(phone.Token, gatewaytest.App, secret))
			wire.Next(t, packets.Connack)
		}
		_ = connect().Close() // leaves without a word
		gatewaytest.NewWire(t, connect(), gatewaytest.V5).Write(t, []byte("no MQTT"))
	}
	gatewaytest.NewWire(t, dial(t, site.MQTTSAddr()), gatewaytest.V5).Write(t, []byte("no TLS"))
	gatewaytest.Eventually(t, "none is left", func() bool { return site.Metric(t, "halley_gateway_unidentified", "") == 0 })
	site.Online(t, phone)
}

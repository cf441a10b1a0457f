package gateway_test

import (
	"net/http"
	"testing"

	"github.com/halleypush/halley/pkg/device"
	"github.com/halleypush/halley/services/gateway"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

// shedOne has a gateway send a device elsewhere.
func shedOne(t *testing.T, site *gatewaytest.Site) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+site.AdminAddr()+"/shed?sessions=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+gatewaytest.ServiceToken)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		t.Fatalf("shed answers %d", response.StatusCode)
	}
}

// Each transport has its own address: a phone that was sent from TLS to the port of plain TCP would never get through.
func TestAShedDeviceMovesToTheOtherGatewayByItsOwnTransport(t *testing.T) {
	t.Parallel()
	cert, key, client := newCertificate(t)
	secure := func(c *gateway.Config) {
		c.MQTTS, c.WebSocket, c.TLSCert, c.TLSKey, c.Loops = "127.0.0.1:0", "127.0.0.1:0", cert, key, 1
	}
	to := gatewaytest.Start(t, gatewaytest.Options{Config: secure})
	for name, c := range map[string]struct {
		address func(*gateway.Gateway) string
		server  func(address string) string
		allowed bool
	}{
		"TCP":             {(*gateway.Gateway).MQTTAddr, func(a string) string { return "mqtt://" + a }, true},
		"TLS":             {(*gateway.Gateway).MQTTSAddr, func(a string) string { return "mqtts://" + a }, true},
		"WebSocket":       {(*gateway.Gateway).WebSocketAddr, func(a string) string { return "wss://" + a + "/mqtt" }, true},
		"not in the list": {(*gateway.Gateway).MQTTSAddr, func(a string) string { return "mqtts://" + a }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) {
				secure(c)
				c.ServerReference, c.ServerReferenceTLS, c.ServerReferenceWebSocket = to.MQTTAddr(), to.MQTTSAddr(), to.WebSocketAddr()
			}})
			home, other := c.address(from.Gateway), c.address(to.Gateway)
			phone := newSDK(t, from, func(o *device.Options) {
				o.Server, o.TLS = c.server(home), client
				if c.allowed {
					o.AllowedServers = []string{other}
				}
			})
			from.Core.AwaitOnline(t, phone.phone)
			shedOne(t, from)
			for next(t, "the device is sent away", phone.states).Phase != device.Waiting {
			}
			want := home
			if c.allowed {
				want = other
			}
			if now := phone.awaitOnline(t); now.Server != want {
				t.Errorf("the device is at %s, want %s", now.Server, want)
			}
		})
	}
}

func TestTheSDKResumesTLS(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]func(*gatewaytest.Site) string{
		"mqtts": func(s *gatewaytest.Site) string { return "mqtts://" + s.MQTTSAddr() },
		"wss":   func(s *gatewaytest.Site) string { return "wss://" + s.WebSocketAddr() + "/mqtt" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site, client := startSecure(t)
			phone := newSDK(t, site, func(o *device.Options) { o.Server, o.TLS = server(site), client })
			if n := resumed(t, site); n != 0 {
				t.Errorf("%v handshakes of a new device are resumed", n)
			}
			phone.cut(t, site, phone.phone)
			if n := resumed(t, site); n != 1 {
				t.Errorf("%v handshakes of a reconnect are resumed", n)
			}
		})
	}
}

func resumed(t *testing.T, site *gatewaytest.Site) float64 {
	t.Helper()
	return site.Metric(t, "halley_gateway_handshakes_total", `outcome="resumed"`)
}

package gateway_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

// call makes a call and returns its answer.
func call(t *testing.T, wire *gatewaytest.Wire, topic, body string) string {
	t.Helper()
	wire.Publish(t, 1, "call/"+topic, body)
	wire.Next(t, packets.Puback)
	reply := wire.Next(t, packets.Publish)
	if reply.TopicName != "reply/"+topic {
		t.Fatalf("the answer came to %s", reply.TopicName)
	}
	if reply.FixedHeader.Qos > 0 {
		wire.Ack(t, reply)
	}
	return string(reply.Payload)
}

func attach(t *testing.T, wire *gatewaytest.Wire, app string, d gatewaytest.Device) {
	t.Helper()
	body := fmt.Sprintf(`{"app":%q,"token":%q,"secret":%q}`, app, d.Token, d.Secret)
	if answer := call(t, wire, "demo/attach", body); answer != `{"ok":{}}` {
		t.Fatalf("attach is answered %s", answer)
	}
}

// newTunnel returns the connection of a device of the app demo that takes replies, and a device for each further app.
func newTunnel(t *testing.T, version byte, apps ...string) (*gatewaytest.Site, *gatewaytest.Wire, []gatewaytest.Device) {
	t.Helper()
	return newTunnelOf(t, nil, version, apps...)
}

func newTunnelOf(
	t *testing.T, config func(*gateway.Config), version byte, apps ...string,
) (*gatewaytest.Site, *gatewaytest.Wire, []gatewaytest.Device) {
	t.Helper()
	site := gatewaytest.Start(t, gatewaytest.Options{Config: config})
	var devices []gatewaytest.Device
	for n, app := range apps {
		site.Core.AddApp(t, app, uint32(100+n))
		devices = append(devices, site.Core.NewDeviceOf(t, app))
	}
	online := site.Online
	if version == gatewaytest.V311 {
		online = site.Online311
	}
	wire := online(t, site.Core.NewDevice(t))
	wire.Subscribe(t, 0, "reply/demo/+")
	return site, wire, devices
}

func TestAConnectionCarriesSeveralApps(t *testing.T) {
	t.Parallel()
	for name, version := range map[string]byte{"MQTT 5": gatewaytest.V5, "MQTT 3.1.1": gatewaytest.V311} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			apps := []string{"a", "b", "c", "d", "e", "f", "g"}
			site, wire, devices := newTunnel(t, version, apps...)
			for n, app := range apps {
				attach(t, wire, app, devices[n])
			}
			for n, app := range apps {
				if codes := wire.Subscribe(t, 1, "push/"+app, "reply/"+app+"/+"); codes[0] != 1 || codes[1] != 1 {
					t.Errorf("%s: granted %v", app, codes)
				}
				site.Core.AwaitOnline(t, devices[n])
			}
			for n, app := range apps {
				var mine []packets.Packet
				var pushes []gatewaytest.Push
				for range 3 {
					p := gatewaytest.NewPush(app)
					pushes = append(pushes, p)
					wantDelivered(t, site, devices[n], taken, p)
					mine = append(mine, wire.NextPush(t, p))
				}
				for k, p := range mine {
					var message struct{ To string }
					if err := json.Unmarshal(p.Payload, &message); err != nil || message.To != devices[n].Token || p.TopicName != "push/"+app {
						t.Errorf("%s is to %q on %s, %v", p.Payload, message.To, p.TopicName, err)
					}
					wire.Ack(t, p)
					site.Core.AwaitReceipt(t, devices[n], pushes[k], arrived)
				}
				if answer := call(t, wire, app+"/report", `{"id":1}`); !strings.HasPrefix(answer, `{"id":1,"ok":`) {
					t.Errorf("a call of %s is answered %s", app, answer)
				}
				asked := site.Core.Saw.Calls.All()
				if last := asked[len(asked)-1]; last.GetApp() != devices[n].App || last.GetOrdinal() != devices[n].Ordinal {
					t.Errorf("pushcore was asked for %v", last)
				}
			}
			wire.Ping(t)
		})
	}
}

func TestWhatCannotBeAttachedIsSaid(t *testing.T) {
	t.Parallel()
	site, wire, devices := newTunnel(t, gatewaytest.V5, "a")
	attach(t, wire, "a", devices[0])
	own := site.Core.NewDevice(t)
	for _, c := range []struct{ code, body string }{
		{"UNAUTHENTICATED", fmt.Sprintf(`{"app":"nobody","token":%q,"secret":%q}`, devices[0].Token, devices[0].Secret)},
		{"ALREADY_EXISTS", fmt.Sprintf(`{"app":"a","token":%q,"secret":%q}`, devices[0].Token, devices[0].Secret)},
		{"ALREADY_EXISTS", fmt.Sprintf(`{"app":"demo","token":%q,"secret":%q}`, own.Token, own.Secret)},
		{"INVALID_ARGUMENT", fmt.Sprintf(`{"app":"b","token":%q}`, own.Token)},
		{"INVALID_ARGUMENT", `{"app":7}`},
	} {
		if answer := call(t, wire, "demo/attach", c.body); !strings.Contains(answer, `"code":"`+c.code+`"`) {
			t.Errorf("%s: %s", c.body, answer)
		}
	}
	site.Core.AddApp(t, "b", 101)
	other := site.Core.NewDeviceOf(t, "b")
	body := fmt.Sprintf(`{"app":"b","token":%q,"secret":%q}`, other.Token, other.Secret[:len(other.Secret)-1]+"x")
	if answer := call(t, wire, "demo/attach", body); !strings.Contains(answer, `"UNAUTHENTICATED"`) {
		t.Errorf("a wrong secret: %s", answer)
	}
	if codes := wire.Subscribe(t, 1, "push/b"); codes[0] != 0x87 {
		t.Errorf("granted 0x%02X", codes[0])
	}
	if answer := call(t, wire, "demo/detach", `{"app":"b"}`); !strings.Contains(answer, `"NOT_FOUND"`) {
		t.Errorf("detached: %s", answer)
	}
}

func TestDetachEndsTheSession(t *testing.T) {
	t.Parallel()
	site, wire, devices := newTunnel(t, gatewaytest.V5, "a")
	attach(t, wire, "a", devices[0])
	wire.Subscribe(t, 1, "push/a")
	session := site.Core.AwaitOnline(t, devices[0])
	if answer := call(t, wire, "demo/detach", `{"app":"a"}`); answer != `{"ok":{}}` {
		t.Errorf("answered %s", answer)
	}
	site.Core.Saw.Closes.AwaitOne(t, "the session's end", func(c *gatewayv1.Close) bool { return c.GetSession() == session })
	if codes := wire.Subscribe(t, 1, "push/a"); codes[0] != 0x87 {
		t.Errorf("granted 0x%02X", codes[0])
	}
	attach(t, wire, "a", devices[0])
}

func TestTheSessionsOfAConnectionEndWithIt(t *testing.T) {
	t.Parallel()
	site, wire, devices := newTunnel(t, gatewaytest.V5, "a", "b")
	sessions := map[uint64]bool{}
	for n, app := range []string{"a", "b"} {
		attach(t, wire, app, devices[n])
		wire.Subscribe(t, 1, "push/"+app)
		sessions[site.Core.AwaitOnline(t, devices[n])] = true
	}
	wire.Close()
	site.Core.Saw.Closes.Await(t, "the sessions' ends", func(closes []*gatewayv1.Close) bool {
		for _, c := range closes {
			delete(sessions, c.GetSession())
		}
		return len(sessions) == 0
	})
	gatewaytest.Eventually(t, "no connection is counted", func() bool { return site.Metric(t, "halley_gateway_connections", "tcp") == 0 })
}

// A device that comes by a connection of its own leaves the shared one, which stays for the others.
func TestATakeoverEndsOnlyTheIdentity(t *testing.T) {
	t.Parallel()
	site, wire, devices := newTunnel(t, gatewaytest.V5, "a")
	attach(t, wire, "a", devices[0])
	wire.Subscribe(t, 0, "push/a", "reply/a/+")
	site.Core.AwaitOnline(t, devices[0])
	newer := site.Dial(t, gatewaytest.V5)
	newer.Greet(t, newer.ConnectAs(devices[0].Token, "a", devices[0].Secret))
	notice := wire.Next(t, packets.Publish)
	if notice.TopicName != "reply/a/detach" || !strings.Contains(string(notice.Payload), `"reason":"taken_over"`) {
		t.Errorf("%s: %s", notice.TopicName, notice.Payload)
	}
	wire.Ping(t)
}

func TestWhatBreaksTheProtocolForOneEndsTheConnection(t *testing.T) {
	t.Parallel()
	_, wire, devices := newTunnel(t, gatewaytest.V5, "a")
	attach(t, wire, "a", devices[0])
	wire.Publish(t, 2, "event/a", "{}")
	wire.WantDisconnect(t, 0x82)
}

// The client's Receive Maximum holds for all that a connection carries.
func TestASmallReceiveMaximumIsNotShared(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	site.Core.AddApp(t, "a", 100)
	device := site.Core.NewDeviceOf(t, "a")
	wire := site.Dial(t, gatewaytest.V5)
	connect := wire.Connect(site.Core.NewDevice(t))
	connect.Properties.ReceiveMaximum = 22
	wire.Greet(t, connect)
	wire.Subscribe(t, 0, "reply/demo/+")
	body := fmt.Sprintf(`{"app":"a","token":%q,"secret":%q}`, device.Token, device.Secret)
	if answer := call(t, wire, "demo/attach", body); !strings.Contains(answer, `"FAILED_PRECONDITION"`) {
		t.Errorf("answered %s", answer)
	}
}

func TestAttachedDevicesCountAtTheAddressOfTheirConnection(t *testing.T) {
	t.Parallel()
	_, wire, devices := newTunnelOf(t, func(c *gateway.Config) { c.AddressConnections = 2 }, gatewaytest.V5, "a", "b")
	attach(t, wire, "a", devices[0])
	body := fmt.Sprintf(`{"app":"b","token":%q,"secret":%q}`, devices[1].Token, devices[1].Secret)
	answer := call(t, wire, "demo/attach", body)
	if !strings.Contains(answer, `"address_full"`) || !strings.Contains(answer, `"retry_after_ms"`) {
		t.Errorf("a third device of the address: %s", answer)
	}
	if answer := call(t, wire, "demo/detach", `{"app":"a"}`); answer != `{"ok":{}}` {
		t.Errorf("answered %s", answer)
	}
	attach(t, wire, "b", devices[1])
}

// What a device sends counts for its own app, whoever opened the connection.
func TestBytesOfAnAttachedDeviceAreItsApps(t *testing.T) {
	t.Parallel()
	const most = 2000 // at once, ten seconds' worth
	site, wire, devices := newTunnelOf(t, func(c *gateway.Config) { c.AppBytes = most / 10 }, gatewaytest.V5, "a")
	attach(t, wire, "a", devices[0])
	event := `{"action":"` + strings.Repeat("x", most/3) + `"}`
	for _, app := range []string{"a", "a", "demo", "demo"} { // more than one app may send, less than two may
		wire.Publish(t, 1, "event/"+app, event)
		wire.Next(t, packets.Puback)
	}
	if n := site.Metric(t, "halley_gateway_connections", "tcp"); n != 1 {
		t.Errorf("%v connections", n)
	}
	for range 2 {
		wire.Publish(t, 1, "event/a", event)
	}
	wire.WantDisconnect(t, 0x96)
}

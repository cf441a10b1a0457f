package e2e_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
)

// tlsPhones is how many phones have our SDK.
const tlsPhones = 300

// TestTLS has phones on TLS: our SDK's and mosquitto's over TCP, mqtt.js's over WebSocket. One of two gateways drains and starts again,
// the other is killed, under load: each phone gets each push once, and those of our SDK resume TLS with a gateway that they have never
// met, instead of a handshake in full.
func TestTLS(t *testing.T) {
	t.Parallel()
	cluster := rig.StartCluster(t, rig.Options{Gateways: 2, TLS: true})
	app := cluster.CreateApp(t, "tls")
	var others []*exampleClient
	for i, c := range tlsClients(t, cluster.CA) {
		at := *app
		at.MQTT, at.WebSocket = cluster.MQTTSs[i], "wss://"+cluster.WebSockets[i]+"/mqtt"
		others = append(others, startClient(t, &at, c))
	}
	c := gather(t, app, tlsPhones, func(i int, p *phone) {
		p.tls, p.dial = cluster.TLSConfig(t), dialFirst(homes(i|2, cluster.MQTTSs))
	})
	c.load(t)
	drained, killed := cluster.Gateways[0], cluster.Gateways[1]
	c.moveOver(drained, killed, tlsPhones/2, func() { drained.Stop(t, time.Minute) })
	c.moveOver(killed, drained, tlsPhones, func() { killed.Kill(t) })
	for _, x := range others {
		x.app.AwaitOnline(t, x.token, true, 20*time.Second)
		x.receives(t)
		x.checkOnce(t)
	}
	c.end(t)
}

// tlsClients are clients that nobody here wrote, one for each gateway.
func tlsClients(t *testing.T, ca string) []client {
	t.Helper()
	dir, err := filepath.Abs("../examples")
	if err != nil {
		t.Fatal(err)
	}
	return []client{
		{name: "mosquitto", command: []string{filepath.Join(dir, "mosquitto/phone.sh")}, env: []string{"HALLEY_CA=" + ca}},
		{name: "mqttjs", command: []string{"node", filepath.Join(dir, "mqttjs/phone.js")}, env: []string{"NODE_EXTRA_CA_CERTS=" + ca}, registers: true},
	}
}

// moveOver makes so many phones of a gateway go to another, waits until they are there, and starts the first one again.
func (c *crowd) moveOver(from, to *rig.Process, phones int, leave func()) {
	c.t.Helper()
	before, resumed, begun := c.losses(), c.resumed(to), time.Now()
	leave()
	c.awaitLost(before, phones)
	c.awaitOnline(backWithin)
	if n := c.resumed(to) - resumed; n != phones {
		c.t.Errorf("%d phones of %d resumed TLS with %s", n, phones, to.Name)
	}
	c.t.Logf("%d phones went from %s to %s within %v", phones, from.Name, to.Name, time.Since(begun).Round(time.Millisecond))
	from.Start(c.t)
}

// resumed returns how many phones have resumed TLS with a gateway.
func (c *crowd) resumed(g *rig.Process) int {
	c.t.Helper()
	n, err := g.Metric("halley_gateway_handshakes_total", `outcome="resumed"`)
	if err != nil {
		c.t.Fatal(err)
	}
	return int(n)
}

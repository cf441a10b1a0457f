package gateway_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	mqtt3 "github.com/eclipse/paho.mqtt.golang"

	"github.com/halleypush/halley/services/gateway"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), gatewaytest.Patience)
	t.Cleanup(cancel)
	return ctx
}

// eachVersion runs a test for MQTT 5 and for 3.1.1.
func eachVersion(t *testing.T, test func(t *testing.T, version byte)) {
	t.Helper()
	for name, version := range map[string]byte{"MQTT 5": gatewaytest.V5, "3.1.1": gatewaytest.V311} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, version)
		})
	}
}

// Clients that nobody here wrote.

func TestPahoOfMQTT5RegistersReceivesCallsAndComesBack(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	ctx := patient(t)
	came := make(chan *paho.Publish, 100)
	connect := func(c *paho.Connect) (*paho.Client, *paho.Connack) {
		conn, err := net.Dial("tcp", site.MQTTAddr())
		if err != nil {
			t.Fatal(err)
		}
		client := paho.NewClient(paho.ClientConfig{
			Conn: conn,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
				came <- p.Packet
				return true, nil
			}},
		})
		ack, err := client.Connect(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		return client, ack
	}
	subscribe := func(client *paho.Client) {
		ack, err := client.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{
			// It refuses reply/demo/+ by itself, because CONNACK says that there are no wildcards.
			{Topic: "push/demo", QoS: 1}, {Topic: "reply/demo/mine", QoS: 1},
		}})
		if err != nil || ack.Reasons[0] != 1 {
			t.Fatal(ack, err)
		}
	}
	client, ack := connect(&paho.Connect{
		Username: gatewaytest.App, UsernameFlag: true, Password: []byte(gatewaytest.ClientKey), PasswordFlag: true, KeepAlive: 60,
		CleanStart: true, Properties: &paho.ConnectProperties{User: paho.UserProperties{{Key: "install_id", Value: "0123456789012345678901"}}},
	})
	token, secret := ack.Properties.AssignedClientID, ack.Properties.User.Get("secret")
	subscribe(client)
	phone := gatewaytest.Device{Token: token, Secret: secret, Ordinal: 1}
	site.Core.AwaitOnline(t, phone)
	push := gatewaytest.NewPush("Hi")
	wantDelivered(t, site, phone, taken, push)
	if got := next(t, "the push", came); gatewaytest.PushID(t, got.Payload) != push.ID {
		t.Errorf("came: %s", got.Payload)
	}
	site.Core.AwaitReceipt(t, phone, push, arrived)

	if _, err := client.Publish(ctx, &paho.Publish{
		Topic: "call/demo/bind", QoS: 1, Payload: []byte(`{"user":"alice"}`),
		Properties: &paho.PublishProperties{ResponseTopic: "reply/demo/mine", CorrelationData: []byte("42")},
	}); err != nil {
		t.Fatal(err)
	}
	reply := next(t, "the reply", came)
	if reply.Topic != "reply/demo/mine" || string(reply.Properties.CorrelationData) != "42" || string(reply.Payload) != `{"ok":{}}` {
		t.Errorf("replied on %s: %s", reply.Topic, reply.Payload)
	}
	if _, err := client.Publish(ctx, &paho.Publish{Topic: "event/demo", QoS: 1, Payload: []byte(`{"type":"shown"}`)}); err != nil {
		t.Fatal(err)
	}
	if err := client.Disconnect(&paho.Disconnect{}); err != nil {
		t.Fatal(err)
	}

	kept := gatewaytest.NewPush("kept")
	site.Core.Keep(phone, kept)
	client, _ = connect(&paho.Connect{
		ClientID: token, Username: gatewaytest.App, UsernameFlag: true, Password: []byte(secret), PasswordFlag: true, KeepAlive: 60,
		CleanStart: false,
	})
	subscribe(client)
	if got := next(t, "what was kept", came); gatewaytest.PushID(t, got.Payload) != kept.ID {
		t.Errorf("came: %s", got.Payload)
	}
	site.Core.AwaitReceipt(t, phone, kept, arrived)
	if err := client.Disconnect(&paho.Disconnect{}); err != nil {
		t.Fatal(err)
	}
}

func TestAutopahoComesBackByItself(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	ctx, cancel := context.WithCancel(patient(t))
	phone := site.Core.NewDevice(t)
	address, err := url.Parse("mqtt://" + site.MQTTAddr())
	if err != nil {
		t.Fatal(err)
	}
	came := make(chan *paho.Publish, 100)
	manager, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls: []*url.URL{address}, KeepAlive: 60, ConnectUsername: gatewaytest.App, ConnectPassword: []byte(phone.Secret),
		ReconnectBackoff: func(int) time.Duration { return 10 * time.Millisecond },
		OnConnectionUp: func(m *autopaho.ConnectionManager, _ *paho.Connack) {
			// An error shows as a push that never comes.
			_, _ = m.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "push/demo", QoS: 1}}})
		},
		ClientConfig: paho.ClientConfig{
			ClientID: phone.Token,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
				came <- p.Packet
				return true, nil
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	site.Core.AwaitOnline(t, phone)
	push := gatewaytest.NewPush("kept")
	site.Core.Keep(phone, push)
	session := site.Core.AwaitOnline(t, phone)
	other := site.Dial(t, gatewaytest.V5) // somebody takes over, and goes
	other.Greet(t, other.Connect(phone))
	other.Close()
	if got := next(t, "the push", came); gatewaytest.PushID(t, got.Payload) != push.ID {
		t.Errorf("came: %s", got.Payload)
	}
	if again := site.Core.AwaitOnline(t, phone); again == session {
		t.Error("it never was away")
	}
	site.Core.AwaitReceipt(t, phone, push, arrived)
	cancel()
	<-manager.Done()
}

// MQTT 3.1.1: 7.0.0-2, 7.1.1-1
func TestPahoOf311ReceivesAndComesBackOverEveryTransport(t *testing.T) {
	t.Parallel()
	plain := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.WebSocket = "127.0.0.1:0" }})
	secure, config := startSecure(t)
	for name, c := range map[string]struct {
		site   *gatewaytest.Site
		url    string
		config *tls.Config
	}{
		"tcp": {plain, "tcp://" + plain.MQTTAddr(), nil},
		"ws":  {plain, "ws://" + plain.WebSocketAddr() + "/mqtt", nil},
		"tls": {secure, "tls://" + secure.MQTTSAddr(), config},
		"wss": {secure, "wss://" + secure.WebSocketAddr() + "/mqtt", config},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			phone := c.site.Core.NewDevice(t)
			came := make(chan mqtt3.Message, 100)
			options := mqtt3.NewClientOptions().AddBroker(c.url).SetClientID(phone.Token).SetUsername(gatewaytest.App).
				SetPassword(phone.Secret).SetProtocolVersion(4).SetCleanSession(false).SetAutoReconnect(false)
			if c.config != nil {
				options.SetTLSConfig(c.config)
			}
			for round := range 2 {
				push := gatewaytest.NewPush("Hi")
				if round == 1 {
					c.site.Core.Keep(phone, push)
				}
				client := mqtt3.NewClient(options)
				wait(t, client.Connect())
				wait(t, client.Subscribe("push/demo", 1, func(_ mqtt3.Client, m mqtt3.Message) { came <- m }))
				c.site.Core.AwaitOnline(t, phone)
				if round == 0 {
					wantDelivered(t, c.site, phone, taken, push)
				}
				got := next(t, "the push", came)
				if gatewaytest.PushID(t, got.Payload()) != push.ID || got.Qos() != 1 || got.Duplicate() {
					t.Errorf("came at QoS %d: %s", got.Qos(), got.Payload())
				}
				c.site.Core.AwaitReceipt(t, phone, push, arrived)
				wait(t, client.Publish("event/demo", 1, false, `{"type":"clicked"}`))
				client.Disconnect(100)
				closes := c.site.Core.Saw.Closes
				session := uint64(0)
				for _, o := range c.site.Core.Saw.Opens.All() {
					if o.GetOrdinal() == phone.Ordinal {
						session = o.GetSession()
					}
				}
				closes.AwaitOne(t, "the close", closeOf(session))
			}
		})
	}
}

func wait(t *testing.T, token mqtt3.Token) {
	t.Helper()
	if !token.WaitTimeout(gatewaytest.Patience) {
		t.Fatal("no answer")
	}
	if err := token.Error(); err != nil {
		t.Fatal(err)
	}
}

package gateway_test

import (
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

// userProperty returns the value of a user property, empty if there is none.
func userProperty(p packets.Packet, name string) string {
	for _, u := range p.Properties.User {
		if u.Key == name {
			return u.Val
		}
	}
	return ""
}

// MQTT 5: 3.1.3-6, 3.1.3-7, 3.2.2-16
func TestFirstConnectRegistersTheDevice(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	wire := site.Dial(t, gatewaytest.V5)
	connect := wire.ConnectAs("", gatewaytest.App, gatewaytest.ClientKey)
	connect.Properties.User = []packets.UserProperty{
		{Key: "install_id", Val: "0123456789012345678901"},
		{Key: "platform", Val: "android"},
		{Key: "notifications", Val: "false"},
		{Key: "unknown", Val: "is ignored"},
	}
	ack := wire.Greet(t, connect)
	secret := userProperty(ack, "secret")
	if ack.Properties.AssignedClientID == "" || secret == "" {
		t.Fatalf("assigned id %q, secret %q", ack.Properties.AssignedClientID, secret)
	}
	asked := site.Core.Saw.Registers.AwaitLen(t, "the registration", 1)[0]
	device := asked.GetDevice()
	if device.GetInstallId() != "0123456789012345678901" || device.GetReport().GetPlatform() != "android" ||
		device.GetReport().Notifications == nil || device.GetReport().GetNotifications() || asked.GetRemoteIp() != "127.0.0.1" {
		t.Errorf("pushcore was asked %v", asked)
	}
	wire.Subscribe(t, 1, "push/"+gatewaytest.App)
	if open := site.Core.Saw.Opens.AwaitLen(t, "the open", 1)[0]; open.GetReturned() || !open.GetReceiving() {
		t.Errorf("opened as %v", open)
	}
	wire.Close()

	again := site.Dial(t, gatewaytest.V5)
	ack = again.Greet(t, again.ConnectAs(ack.Properties.AssignedClientID, gatewaytest.App, secret))
	if ack.Properties.AssignedClientID != "" || userProperty(ack, "secret") != "" {
		t.Errorf("a device that returns is told %+v", ack.Properties)
	}
	again.Subscribe(t, 1, "push/"+gatewaytest.App)
	site.Core.Saw.Opens.AwaitOne(t, "the open of the device that returned", func(o *gatewayv1.Open) bool { return o.GetReturned() })
}

// MQTT 5: 3.1.2-28, 3.2.2-9, 3.2.2-21, 3.2.2-22, 4.12.0-6
func TestConnackSaysWhatTheServerDoes(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	want := packets.Properties{
		SessionExpiryIntervalFlag: true, ReceiveMaximum: 16, MaximumQosFlag: true, MaximumQos: 1,
		RetainAvailableFlag: true, WildcardSubAvailableFlag: true, SubIDAvailableFlag: true, SharedSubAvailableFlag: true,
		MaximumPacketSize: 16 << 10, ServerKeepAliveFlag: true,
	}
	for name, c := range map[string]struct {
		asked, told         uint16
		responseInformation byte // asked for
	}{
		"no keep-alive gets the app's":         {0, 270, 0},
		"one in the range stays":               {60, 60, 1},
		"one that is too long gets the most":   {3600, 600, 0},
		"one that is too short gets the least": {5, 30, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wire := site.Dial(t, gatewaytest.V5)
			connect := wire.Connect(site.Core.NewDevice(t))
			connect.Connect.Keepalive = c.asked
			connect.Properties.RequestResponseInfo = c.responseInformation
			want := want
			want.ServerKeepAlive = c.told
			if got := wire.Greet(t, connect).Properties; !reflect.DeepEqual(got, want) {
				t.Errorf("CONNACK says\n%+v, want\n%+v", got, want)
			}
		})
	}
}

// MQTT 5: 3.1.2-4, 3.1.2-5, 3.1.2-6, 3.1.4-4, 3.1.4-5, 3.2.2-1, 3.2.2-2, 3.2.2-3, 4.1.0-2
// MQTT 3.1.1: 3.1.2-6, 3.1.4-3, 3.1.4-4, 3.2.2-1, 3.2.2-3
func TestSessionPresentIsNeverSet(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	eachVersion(t, func(t *testing.T, version byte) {
		t.Helper()
		phone := site.Core.NewDevice(t)
		for _, clean := range []bool{false, false, true} { // new, known, and known but not wanted
			wire := site.Dial(t, version)
			connect := wire.Connect(phone)
			connect.Connect.Clean = clean
			wire.Write(t, wire.Encode(t, connect))
			ack := wire.ReadBytes(t, 4) // of the packet's first bytes, the third has the flags and the fourth the code
			if ack[0] != 0x20 || ack[2] != 0 || ack[3] != 0 {
				t.Errorf("CONNACK begins with % X", ack)
			}
			wire.Close()
		}
	})
}

// MQTT 5: 3.1.2-24
func TestAClientThatDoesNotTakeItsConnackIsClosed(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone := site.Core.NewDevice(t)
	wire := site.Dial(t, gatewaytest.V5)
	connect := wire.Connect(phone)
	connect.Properties.MaximumPacketSize = 20
	wire.Send(t, connect)
	wire.WantClosed(t)
	gatewaytest.Eventually(t, "it was closed for that", func() bool {
		return site.Metric(t, "halley_gateway_closes_total", `reason="too_large"`) == 1
	})
	live(t, site, site.Online(t, phone), phone) // nothing of it is left
}

// MQTT 5: 3.1.2-2, 3.1.3-8, 3.1.4-2, 3.1.4-6, 3.2.2-7, 3.2.2-12, 3.2.2-13, 4.12.0-1
// MQTT 3.1.1: 3.1.2-2, 3.1.3-8, 3.1.3-9, 3.1.4-5, 3.2.2-5
func TestRefusals(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	phone, other := site.Core.NewDevice(t), site.Core.NewDevice(t)
	t.Cleanup(func() { // when all cases are over
		if opens, calls := site.Core.Saw.Opens.Len(), site.Core.Saw.Calls.Len(); opens > 0 || calls > 0 {
			t.Errorf("%d sessions were opened and %d calls made for those who were refused", opens, calls)
		}
	})
	for name, c := range map[string]struct {
		id, app, password string
		change            func(*packets.Packet)
		five, three       byte
	}{
		"unknown app":               {phone.Token, "nosuch", phone.Secret, nil, 0x87, 5},
		"no app id":                 {phone.Token, "No such app", phone.Secret, nil, 0x87, 5},
		"malformed token":           {"phone-1", gatewaytest.App, phone.Secret, nil, 0x85, 2},
		"token of another key":      {"z" + phone.Token[1:], gatewaytest.App, phone.Secret, nil, 0x85, 2},
		"wrong secret":              {phone.Token, gatewaytest.App, "secret", nil, 0x87, 5},
		"secret of another device":  {phone.Token, gatewaytest.App, other.Secret, nil, 0x87, 5},
		"client key in its place":   {phone.Token, gatewaytest.App, gatewaytest.ClientKey, nil, 0x87, 5},
		"no password":               {phone.Token, gatewaytest.App, "", nil, 0x87, 5},
		"no credentials":            {phone.Token, "", "", nil, 0x87, 5},
		"wrong client key":          {"", gatewaytest.App, "ck_wrong", nil, 0x87, 2},
		"a will":                    {phone.Token, gatewaytest.App, phone.Secret, withWill, 0x87, 5},
		"enhanced authentication":   {phone.Token, gatewaytest.App, phone.Secret, withAuthentication, 0x8C, 0},
		"no id, no clean session":   {"", gatewaytest.App, "ck_wrong", withoutCleanSession, 0x87, 2},
		"an unknown protocol level": {phone.Token, gatewaytest.App, phone.Secret, nil, 0x84, 1},
	} {
		for version, want := range map[byte]byte{gatewaytest.V5: c.five, gatewaytest.V311: c.three} {
			if want == 0 {
				continue // that version has no such thing
			}
			t.Run(name+" "+strconv.Itoa(int(version)), func(t *testing.T) {
				t.Parallel()
				wire := site.Dial(t, version)
				connect := wire.ConnectAs(c.id, c.app, c.password)
				if c.change != nil {
					c.change(&connect)
				}
				data := wire.Encode(t, connect)
				if want == 0x84 || want == 1 {
					data[8] = map[byte]byte{gatewaytest.V5: 6, gatewaytest.V311: 3}[version]
				}
				event := packets.Packet{
					FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 1, TopicName: "event/demo", Payload: []byte("{}"),
				}
				wire.Write(t, slices.Concat(data, wire.Encode(t, event))) // nothing behind it counts
				if got := wire.Next(t, packets.Connack); got.ReasonCode != want {
					t.Errorf("refused with 0x%02X (%s), want 0x%02X", got.ReasonCode, got.Properties.ReasonString, want)
				}
				wire.WantClosed(t)
			})
		}
	}
}

func withAuthentication(p *packets.Packet) { p.Properties.AuthenticationMethod = "SCRAM-SHA-1" }

func withoutCleanSession(p *packets.Packet) { p.Connect.Clean = false }

func withWill(p *packets.Packet) {
	p.Connect.WillFlag, p.Connect.WillTopic, p.Connect.WillPayload = true, "gone", []byte("x")
}

// MQTT 5: 3.2.2-7
func TestRegistrationThatPushcoreRefuses(t *testing.T) {
	t.Parallel()
	limited, err := status.New(codes.ResourceExhausted, "too many from this address").
		WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		err   error
		code  byte
		least int // retry_after_ms
	}{
		"too many": {limited.Err(), 0x9F, 60_000},
		"away":     {status.Error(codes.Unavailable, "no database"), 0x88, 2_000},
		"invalid":  {status.Error(codes.InvalidArgument, "install_id is too short"), 0x99, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := gatewaytest.Start(t, gatewaytest.Options{})
			site.Core.Script(func(s *gatewaytest.Script) {
				s.Register = func(*gatewayv1.RegisterRequest) (*gatewayv1.RegisterResponse, error) { return nil, c.err }
			})
			wire := site.Dial(t, gatewaytest.V5)
			wire.Send(t, wire.ConnectAs("", gatewaytest.App, gatewaytest.ClientKey))
			ack := wire.Next(t, packets.Connack)
			retry, _ := strconv.Atoi(userProperty(ack, "retry_after_ms"))
			if ack.ReasonCode != c.code || retry < c.least {
				t.Errorf("refused with 0x%02X, retry_after_ms %d; want 0x%02X, at least %d", ack.ReasonCode, retry, c.code, c.least)
			}
			wire.WantClosed(t)
		})
	}
}

// MQTT 5: 3.1.0-1, 3.1.2-1, 3.1.2-3, 3.1.3-4, 3.1.3-12, 3.1.4-1, 3.14.0-1
// MQTT 3.1.1: 3.1.0-1, 3.1.2-1, 3.1.2-3, 3.1.2-22, 3.1.3-4, 3.1.3-11, 3.1.4-1, 3.2.2-6
func TestWhatIsNotMQTTIsClosedWithoutAWord(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	for name, data := range map[string]string{
		"http":                          "GET / HTTP/1.1\r\n\r\n",
		"a packet before CONNECT":       "\xc0\x00",
		"another protocol":              "\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x00",
		"reserved bits":                 "\x11\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
		"reserved connect flag":         "\x10\x0c\x00\x04MQTT\x04\x03\x00\x3c\x00\x00",
		"the same, MQTT 5":              "\x10\x0d\x00\x04MQTT\x05\x03\x00\x3c\x00\x00\x00",
		"will QoS without a will":       "\x10\x0c\x00\x04MQTT\x04\x0a\x00\x3c\x00\x00",
		"will QoS 3":                    "\x10\x12\x00\x04MQTT\x04\x1e\x00\x3c\x00\x00\x00\x01a\x00\x01b",
		"password, no user name":        "\x10\x0f\x00\x04MQTT\x04\x42\x00\x3c\x00\x00\x00\x01p",
		"a user name that is not there": "\x10\x0c\x00\x04MQTT\x04\x82\x00\x3c\x00\x00",
		"a client id that is no UTF-8":  "\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02\xff\xfe",
		"the same id, MQTT 5":           "\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02\xff\xfe",
		"the same user name, MQTT 5":    "\x10\x11\x00\x04MQTT\x05\x82\x00\x3c\x00\x00\x00\x00\x02\xff\xfe",
		"a user name that is no UTF-8":  "\x10\x10\x00\x04MQTT\x04\x82\x00\x3c\x00\x00\x00\x02\xff\xfe",
		"a length of five bytes":        "\x10\xff\xff\xff\xff\x01",
		"larger than is let through":    "\x10\xff\xff\x01",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wire := site.Dial(t, gatewaytest.V5)
			wire.Write(t, []byte(data))
			wire.WantClosed(t)
		})
	}
}

func TestAConnectionThatDoesNotSayWhoItIsIsClosed(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	silent, slow := site.Dial(t, gatewaytest.V5), site.Dial(t, gatewaytest.V5)
	begun := time.Now()
	slow.Write(t, []byte{0x10, 0x20, 0, 4, 'M'})
	silent.WantClosed(t)
	slow.WantClosed(t)
	if took := time.Since(begun); took < 9*time.Second || took > 20*time.Second {
		t.Errorf("closed after %v", took)
	}
}

// MQTT 5: 3.1.3-2, 3.1.4-3
// MQTT 3.1.1: 3.1.3-2, 3.1.4-2
func TestTheNewerConnectionOfADeviceTakesOver(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	for version, second := range map[byte]byte{gatewaytest.V5: gatewaytest.V311, gatewaytest.V311: gatewaytest.V5} {
		t.Run(strconv.Itoa(int(version)), func(t *testing.T) {
			t.Parallel()
			phone := site.Core.NewDevice(t)
			older := site.Dial(t, version)
			older.Greet(t, older.Connect(phone))
			older.Subscribe(t, 1, "push/"+gatewaytest.App)
			first := site.Core.AwaitOnline(t, phone)
			newer := site.Dial(t, second)
			newer.Greet(t, newer.Connect(phone))
			older.WantDisconnect(t, 0x8E)
			newer.Subscribe(t, 1, "push/"+gatewaytest.App)
			site.Core.Saw.Closes.AwaitOne(t, "the close of the older session",
				func(c *gatewayv1.Close) bool { return c.GetSession() == first })
			gatewaytest.Eventually(t, "the newer session is the route", func() bool { return site.Core.AwaitOnline(t, phone) > first })
			push := gatewaytest.NewPush("for the newer one")
			if got := site.Core.Deliver(t, gatewaytest.To(phone, push)); got[0] != gatewayv1.DeliverResponse_TAKEN {
				t.Errorf("the delivery is %s", got[0])
			}
			newer.NextPush(t, push)
		})
	}
}

func TestPushcoreEndsSessions(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	t.Run("superseded at the open", func(t *testing.T) {
		t.Parallel()
		endedAtOpen(t, gatewayv1.Opened_SUPERSEDED, 0x8E)
	})
	t.Run("gone at the open", func(t *testing.T) {
		t.Parallel()
		endedAtOpen(t, gatewayv1.Opened_GONE, 0x98)
	})
	for name, c := range map[string]struct {
		action gatewayv1.PokeRequest_Poke_Action
		code   byte
	}{
		"superseded later": {gatewayv1.PokeRequest_Poke_SUPERSEDED, 0x8E},
		"gone later":       {gatewayv1.PokeRequest_Poke_GONE, 0x98},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			phone := site.Core.NewDevice(t)
			wire := site.Online(t, phone)
			site.Core.Poke(t, phone, c.action)
			wire.WantDisconnect(t, c.code)
		})
	}
}

// endedAtOpen checks that a session whose open is answered no ends before it gets what is kept.
func endedAtOpen(t *testing.T, answer gatewayv1.Opened_Status, code byte) {
	t.Helper()
	site := gatewaytest.Start(t, gatewaytest.Options{})
	site.Core.Script(func(s *gatewaytest.Script) {
		s.Open = func(*gatewayv1.Open) gatewayv1.Opened_Status { return answer }
	})
	phone := site.Core.NewDevice(t)
	site.Core.Keep(phone, gatewaytest.NewPush("never handed over"))
	wire := site.Dial(t, gatewaytest.V5)
	wire.Greet(t, wire.Connect(phone))
	wire.Subscribe(t, 1, "push/"+gatewaytest.App)
	wire.WantDisconnect(t, code)
}

// MQTT 5: 3.1.2-22, 3.12.4-1
// MQTT 3.1.1: 3.1.2-24, 3.12.4-1
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{Core: func(c *gatewaytest.Core) {
		c.Settings(func(a *gatewayv1.GetAppResponse) { a.KeepAliveMin = durationpb.New(time.Second) })
	}})
	for _, version := range []byte{gatewaytest.V5, gatewaytest.V311} {
		t.Run(strconv.Itoa(int(version)), func(t *testing.T) {
			t.Parallel()
			phone := site.Core.NewDevice(t)
			wire := site.Dial(t, version)
			connect := wire.Connect(phone)
			connect.Connect.Keepalive = 1
			wire.Greet(t, connect)
			wire.Subscribe(t, 1, "push/"+gatewaytest.App)
			begun := time.Now()
			for time.Since(begun) < 2*time.Second {
				wire.Ping(t) // as fast as answers come: it lives past one and a half times the keep-alive
				<-time.After(500 * time.Millisecond)
			}
			silent := time.Now()
			wire.WantDisconnect(t, 0x8D)
			if took := time.Since(silent); took < 900*time.Millisecond {
				t.Errorf("closed %v after the last packet", took)
			}
			site.Core.Saw.Closes.AwaitOne(t, "the close", func(c *gatewayv1.Close) bool { return c.GetOrdinal() == phone.Ordinal })
		})
	}
}

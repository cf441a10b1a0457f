package gateway_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	"github.com/halleypush/halley/services/gateway"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

// refused connects a device that is told to stay away for now, and returns for how long.
func refused(t *testing.T, site *gatewaytest.Site, d gatewaytest.Device, code byte) time.Duration {
	t.Helper()
	w := site.Dial(t, gatewaytest.V5)
	w.Send(t, w.Connect(d))
	ack := w.Next(t, packets.Connack)
	if ack.ReasonCode != code {
		t.Fatalf("answered with 0x%02X, not 0x%02X", ack.ReasonCode, code)
	}
	ms, err := strconv.Atoi(userProperty(ack, "retry_after_ms"))
	if err != nil || ms <= 0 {
		t.Fatalf("retry_after_ms is %q", userProperty(ack, "retry_after_ms"))
	}
	w.WantClosed(t)
	return time.Duration(ms) * time.Millisecond
}

func TestWhoThereIsNoRoomForIsToldWhenToComeBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limit  func(*gateway.Config)
		code   byte
		reason string
		room   bool // when one has gone
	}{
		"too many connects": {
			func(c *gateway.Config) { c.ConnectRate, c.ConnectBurst = 0.01, 2 }, 0x9F, "rate", false,
		},
		"too many connects of an app": {
			func(c *gateway.Config) { c.AppRate = 0.2 }, 0x9F, "app_rate", false,
		},
		"too many connects of an address": {
			func(c *gateway.Config) { c.AddressRate = 0.2 }, 0x9F, "address_rate", false,
		},
		"too many devices": {
			func(c *gateway.Config) { c.MaxConnections = 2 }, 0x97, "full", true,
		},
		"too many devices of an app": {
			func(c *gateway.Config) { c.AppConnections = 2 }, 0x97, "app_full", true,
		},
		"too many devices of an address": {
			func(c *gateway.Config) { c.AddressConnections = 2 }, 0x97, "address_full", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := gatewaytest.Start(t, gatewaytest.Options{Config: c.limit})
			first := site.Online(t, site.Core.NewDevice(t))
			site.Online(t, site.Core.NewDevice(t))
			late := site.Core.NewDevice(t)
			refused(t, site, late, c.code)
			if n := site.Metric(t, "halley_gateway_refusals_total", `reason="`+c.reason+`"`); n != 1 {
				t.Errorf("%v refusals are counted", n)
			}
			if !c.room {
				return
			}
			first.Close()
			gatewaytest.Eventually(t, "one has gone", func() bool {
				return site.Metric(t, "halley_gateway_connections", `transport="tcp"`) == 1
			})
			site.Online(t, late)
		})
	}
}

func TestADeviceThatComesAllTheTimeIsSlowed(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.FlapPerMinute = 3 }})
	flapper := site.Core.NewDevice(t)
	for range 3 { // each takes the place of the one before
		site.Online(t, flapper)
	}
	if back := refused(t, site, flapper, 0x9F); back < 15*time.Second || back > 21*time.Second { // a third of a minute
		t.Errorf("told to come back after %v", back)
	}
	site.Online(t, site.Core.NewDevice(t))
	if n := site.Metric(t, "halley_gateway_refusals_total", `reason="flapping"`); n != 1 {
		t.Errorf("%v refusals are counted", n)
	}
}

func TestBeyondAWatermarkNewcomersStayAwayAndTheOthersStay(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("proc/self/cgroup", "0::/\n")
	write("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
	write("sys/fs/cgroup/memory.max", "1000000000000\n")
	write("sys/fs/cgroup/memory.current", "800000000000\n")
	for name, c := range map[string]struct {
		resource string
		config   func(*gateway.Config)
		reach    func()
		relieve  func()
	}{
		"memory": {
			"memory", func(c *gateway.Config) { c.Root = root },
			func() { write("sys/fs/cgroup/memory.current", "950000000000\n") },
			func() { write("sys/fs/cgroup/memory.current", "800000000000\n") },
		},
		// Anything is more than this share; it is known after ten seconds.
		"processors": {"cpu", func(c *gateway.Config) { c.CPUWatermark = 1e-9 }, func() {}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := gatewaytest.Start(t, gatewaytest.Options{Config: c.config})
			phone, push := site.Core.NewDevice(t), gatewaytest.NewPush("Hi")
			wire := site.Online(t, phone)
			c.reach()
			comesIn := func() bool {
				w := site.Dial(t, gatewaytest.V5)
				defer w.Close()
				w.Send(t, w.Connect(site.Core.NewDevice(t)))
				return w.Next(t, packets.Connack).ReasonCode == 0
			}
			gatewaytest.Eventually(t, "newcomers stay away", func() bool { return !comesIn() })
			if back := refused(t, site, site.Core.NewDevice(t), 0x97); back < time.Second {
				t.Errorf("told to come back after %v", back)
			}
			if site.Metric(t, "halley_gateway_refusals_total", `reason="overload"`) < 2 || site.Metric(t, "halley_gateway_pressure", c.resource) <= 0 {
				t.Error("the metrics do not tell")
			}
			wantDelivered(t, site, phone, taken, push)
			wire.Ack(t, wire.NextPush(t, push))
			site.Core.AwaitReceipt(t, phone, push, arrived)
			if c.relieve != nil {
				c.relieve()
				gatewaytest.Eventually(t, "newcomers come in again", comesIn)
			}
		})
	}
}

func TestNewcomersWaitWhileTooManySessionsWaitForPushcore(t *testing.T) {
	t.Parallel()
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.MaxOpens = 2 }})
	connect := func() {
		w := site.Dial(t, gatewaytest.V5)
		w.Greet(t, w.Connect(site.Core.NewDevice(t)))
		w.Subscribe(t, 1, "push/"+gatewaytest.App)
	}
	first := site.Core.NewDevice(t)
	site.Online(t, first).Close() // the app is known from now on
	site.Core.Saw.Closes.AwaitOne(t, "the close", func(c *gatewayv1.Close) bool { return c.GetOrdinal() == first.Ordinal })
	site.Core.Leave()
	connect()
	connect()
	late := site.Core.NewDevice(t)
	refused(t, site, late, 0x97)
	if n := site.Metric(t, "halley_gateway_refusals_total", `reason="opens"`); n != 1 {
		t.Errorf("%v refusals are counted", n)
	}
	site.Core.Come(t)
	gatewaytest.Eventually(t, "there is room again", func() bool {
		w := site.Dial(t, gatewaytest.V5)
		w.Send(t, w.Connect(late))
		return w.Next(t, packets.Connack).ReasonCode == 0
	})
}

func TestAnAppOrAddressThatSendsTooMuchIsClosed(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(*gateway.Config){
		"app":     func(c *gateway.Config) { c.AppBytes = 1000 },
		"address": func(c *gateway.Config) { c.AddressBytes = 1000 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			site := gatewaytest.Start(t, gatewaytest.Options{Config: limit})
			first, second := greeted(t, site, gatewaytest.V5), greeted(t, site, gatewaytest.V5)
			for _, wire := range []*gatewaytest.Wire{first, second} {
				wire.Publish(t, 1, "event/demo", strings.Repeat(" ", 4500)) // together within ten seconds' worth
				wire.Next(t, packets.Puback)
			}
			second.Publish(t, 1, "event/demo", strings.Repeat(" ", 4500))
			second.WantDisconnect(t, 0x96)
		})
	}
}

// spread has ten more devices be refused, and returns how far apart the first and the last of the times are that they are told.
func spread(t *testing.T, site *gatewaytest.Site, code byte, least time.Duration) time.Duration {
	t.Helper()
	var first, last time.Time
	for n := range 10 {
		back := refused(t, site, site.Core.NewDevice(t), code)
		if back < least {
			t.Errorf("told to come back after %v, not %v at the least", back, least)
		}
		if last = time.Now().Add(back); n == 0 {
			first = last
		}
	}
	return last.Sub(first)
}

func TestThoseWhoAreRefusedTogetherAreToldTimesOneAfterTheOther(t *testing.T) {
	t.Parallel()
	slow := func(c *gateway.Config) { c.ConnectRate, c.ConnectBurst = 1, 1000 }
	t.Run("without pushcore, as far apart as the gateway takes them", func(t *testing.T) {
		t.Parallel()
		site := gatewaytest.Start(t, gatewaytest.Options{Config: slow})
		site.Core.Leave()
		if span := spread(t, site, 0x88, 2*time.Second); span < 8*time.Second || span > 10*time.Second {
			t.Errorf("the times span %v", span)
		}
	})
	t.Run("with pushcore behind, as far apart as it opens sessions", func(t *testing.T) {
		t.Parallel()
		site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) {
			c.ConnectRate, c.ConnectBurst, c.MaxOpens = 10, 1000, 3 // 0.1 s apart if pushcore is fast, 10 s if it opens none
		}})
		for range 5 { // one in two seconds, over the last ten
			site.Online(t, site.Core.NewDevice(t))
		}
		gatewaytest.Eventually(t, "the gateway has the answers", func() bool { return site.Metric(t, "halley_gateway_opening_sessions", "") == 0 })
		site.Core.Leave()
		for range 3 {
			w := site.Dial(t, gatewaytest.V5)
			w.Greet(t, w.Connect(site.Core.NewDevice(t)))
			w.Subscribe(t, 1, "push/"+gatewaytest.App)
		}
		if span := spread(t, site, 0x97, 5*time.Second); span < 15*time.Second || span > 60*time.Second {
			t.Errorf("the times span %v", span)
		}
	})
}

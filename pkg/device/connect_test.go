package device_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/halleypush/halley/pkg/device"
)

func TestFirstConnectRegistersAndStoresBeforeItSubscribes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "halley")
		yes := true
		r := start(t, func(o *device.Options) {
			o.Store = device.FileStore(dir)
			o.Report = &device.Report{Platform: "linux", AppVersion: "4.2.0", Notifications: &yes}
		})
		before := readIdentity(t, dir)
		if len(before.InstallID) < 22 || before.Token != "" {
			t.Errorf("before the first connect %+v is stored", before)
		}
		p := r.server.accept().peer
		c := p.register("token", "secret")
		got := map[string]string{}
		for _, u := range c.Properties.User {
			got[u.Key] = u.Value
		}
		if got["install_id"] != before.InstallID || got["platform"] != "linux" || got["app_version"] != "4.2.0" || got["notifications"] != "true" {
			t.Errorf("registered with %v", got)
		}
		if *c.Properties.ReceiveMaximum != 128 || !c.CleanStart {
			t.Errorf("CONNECT is %v", c)
		}
		s := next[*packets.Subscribe](p)
		if after := readIdentity(t, dir); after.Token != "token" || after.Secret != "secret" || after.InstallID != before.InstallID {
			t.Errorf("when it subscribes %+v is stored", after)
		}
		var topics []string
		for _, sub := range s.Subscriptions {
			topics = append(topics, sub.Topic)
			if sub.QoS != 1 {
				t.Errorf("asks QoS %d for %s", sub.QoS, sub.Topic)
			}
		}
		if last := topics[len(topics)-1]; last != "push/demo" {
			t.Errorf("subscribes to %v", topics)
		}
		p.send(&packets.Suback{PacketID: s.PacketID, Reasons: []byte{1, 1, 1, 1}, Properties: &packets.Properties{}})
		if err := r.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r.Token() != "token" {
			t.Errorf("Token is %q", r.Token())
		}
		p.quiet() // the registration carried the report
		r.stop(t)
		if d := next[*packets.Disconnect](p); d.ReasonCode != 0 {
			t.Errorf("said farewell with 0x%02X", d.ReasonCode)
		}

		again := start(t, func(o *device.Options) { o.Store = device.FileStore(dir) })
		if again.Token() != "token" {
			t.Errorf("after a restart Token is %q", again.Token())
		}
		again.again(t)
	})
}

func readIdentity(t *testing.T, dir string) device.Identity {
	t.Helper()
	name := filepath.Join(dir, "identity.json")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
	var i device.Identity
	if err := json.Unmarshal(text, &i); err != nil {
		t.Fatal(err)
	}
	return i
}

func TestStatesAreTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		p := r.online(t)
		p.disconnect(0x8B, 3*time.Second, "")
		r.again(t)
		r.stop(t)
		var phases []device.Phase
		synctest.Wait()
		for len(r.states) > 0 {
			s := <-r.states
			phases = append(phases, s.Phase)
			var e *device.ServerError
			if s.Phase == device.Waiting && (!errors.As(s.Err, &e) || e.Code != 0x8B || s.Wait < 3*time.Second) {
				t.Errorf("waits with %+v", s)
			}
			if s.Phase == device.Online && s.Registered != (len(phases) == 2) {
				t.Errorf("online with %+v", s)
			}
		}
		want := []device.Phase{
			device.Connecting, device.Online, device.Waiting, device.Connecting, device.Online, device.Stopped,
		}
		if len(phases) != len(want) {
			t.Fatalf("phases %v", phases)
		}
		for i := range want {
			if phases[i] != want[i] {
				t.Errorf("phases %v", phases)
			}
		}
	})
}

func TestPausesDoubleWithJitterUpToTheLongest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("no route")
		s := newServer(t)
		s.down = down
		start(t, func(o *device.Options) { o.Dial = s.dial })
		last := s.accept().at
		for i := range 14 {
			d := s.accept()
			longest := min(time.Second<<i, 5*time.Minute)
			if pause := d.at.Sub(last); pause < longest/2 || pause > longest+time.Millisecond {
				t.Errorf("pause %d is %v, not between %v and %v", i, pause, longest/2, longest)
			}
			last = d.at
		}
	})
}

func TestConnectionsThatBreakAtOnceDoNotShortenThePauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		begin := time.Now()
		p := r.online(t)
		for range 5 {
			p.conn.Close()
			p = r.again(t)
		}
		if took := time.Since(begin); took < 15*time.Second {
			t.Errorf("six connections in %v", took)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // fake time
		begin = time.Now()
		p.conn.Close()
		r.again(t)
		if took := time.Since(begin); took > time.Second {
			t.Errorf("after a connection that held it took %v", took)
		}
	})
}

func TestServerNamesThePause(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(*peer){
		"in the CONNACK": func(p *peer) {
			next[*packets.Connect](p)
			p.refuse(0x9F, 42*time.Second, "")
		},
		"in the DISCONNECT": func(p *peer) {
			p.register("token", "secret")
			p.subscribed()
			p.disconnect(0x8B, 42*time.Second, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := start(t, nil)
				first := r.server.accept()
				refuse(first.peer)
				pause := r.server.accept().at.Sub(first.at)
				if pause < 42*time.Second || pause > 42*time.Second*11/10+time.Millisecond {
					t.Errorf("came back after %v", pause)
				}
			})
		})
	}
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	allow := func(o *device.Options) { o.AllowedServers = []string{"b.test", "c.test:99"} }

	t.Run("two hops at once, not a third", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			r := start(t, allow)
			first := r.server.accept()
			next[*packets.Connect](first.peer)
			first.peer.refuse(0x9C, 0, "b.test:1")
			second := r.server.accept()
			second.peer.register("token", "secret")
			second.peer.subscribed()
			second.peer.disconnect(0x9D, 0, "c.test:99")
			third := r.server.accept()
			third.peer.admit("token", "secret")
			third.peer.subscribed()
			if second.address != "b.test:1" || third.address != "c.test:99" || third.at != first.at {
				t.Errorf("went to %v and %v, after %v", second.address, third.address, third.at.Sub(first.at))
			}
			third.peer.disconnect(0x9C, 0, "b.test:1")
			fourth := r.server.accept()
			if fourth.address != "push.test:1883" || !fourth.at.After(third.at) {
				t.Errorf("went to %v after %v", fourth.address, fourth.at.Sub(third.at))
			}
		})
	})
	t.Run("not to a server that is not allowed", func(t *testing.T) {
		t.Parallel()
		for _, reference := range []string{"evil.test:1883", "c.test:98", "", "b.test:port", "evil.test"} {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, allow)
				first := r.server.accept()
				next[*packets.Connect](first.peer)
				first.peer.refuse(0x9C, 0, reference)
				if second := r.server.accept(); second.address != "push.test:1883" || !second.at.After(first.at) {
					t.Errorf("%q: went to %v after %v", reference, second.address, second.at.Sub(first.at))
				}
			})
		}
	})
	t.Run("home again when the other one is not there", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			r := start(t, allow)
			p := r.online(t)
			p.disconnect(0x9C, 0, "b.test:7")
			other := r.server.accept()
			other.peer.conn.Close()
			if home := r.server.accept(); other.address != "b.test:7" || home.address != "push.test:1883" {
				t.Errorf("went to %v, then to %v", other.address, home.address)
			}
		})
	})
}

func TestTakenOverEndsRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		r.online(t).disconnect(0x8E, 0, "")
		err := <-r.ended
		r.ended <- nil
		if !errors.Is(err, device.ErrTakenOver) {
			t.Errorf("Run returned %v", err)
		}
		if err := r.Wait(t.Context()); !errors.Is(err, device.ErrStopped) {
			t.Errorf("Wait returned %v", err)
		}
		if err := r.Shown(t.Context(), pushID(1)); !errors.Is(err, device.ErrStopped) {
			t.Errorf("Shown returned %v", err)
		}
		if err := r.Run(t.Context()); err == nil {
			t.Error("it ran again")
		}
	})
}

func TestRemovedDeviceRegistersAgain(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(*testing.T, *run, *peer){
		"DISCONNECT 0x98": func(_ *testing.T, _ *run, p *peer) { p.disconnect(0x98, 0, "") },
		"DISCONNECT 0x98 before the SUBACK": func(_ *testing.T, r *run, p *peer) {
			p.conn.Close()
			p = r.server.accept().peer
			p.admit("token", "secret")
			next[*packets.Subscribe](p)
			p.disconnect(0x98, 0, "")
		},
		"CONNACK 0x87": func(_ *testing.T, r *run, p *peer) {
			p.conn.Close()
			p = r.server.accept().peer
			next[*packets.Connect](p)
			p.refuse(0x87, 0, "")
		},
		"CONNACK 0x85": func(_ *testing.T, r *run, p *peer) {
			p.conn.Close()
			p = r.server.accept().peer
			next[*packets.Connect](p)
			p.refuse(0x85, 0, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := start(t, nil)
				p := r.server.accept().peer
				installID := p.register("token", "secret").Properties.User[0].Value
				p.subscribed()
				if err := r.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				remove(t, r, p)
				begin := time.Now()
				p = r.server.accept().peer
				again := p.register("token2", "secret2").Properties.User[0]
				if again.Key != "install_id" || again.Value != installID {
					t.Errorf("registers with %v", again)
				}
				if time.Since(begin) < 500*time.Millisecond {
					t.Error("registers without a pause")
				}
				p.subscribed()
				synctest.Wait()
				if r.Token() != "token2" {
					t.Errorf("Token is %q", r.Token())
				}
				p.conn.Close()
				r.server.accept().peer.admit("token2", "secret2")
			})
		})
	}
}

func TestRefusedRegistrationsKeepTheIdentityAndPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		p := r.online(t)
		p.conn.Close()
		begin := time.Now()
		for i := range 10 { // a server that knows neither the device nor the app, for a while
			p := r.server.accept().peer
			c := next[*packets.Connect](p)
			if registers := c.ClientID == ""; registers != (i%2 == 1) {
				t.Errorf("try %d registers: %v", i, registers)
			}
			p.refuse(0x87, 0, "")
		}
		if took := time.Since(begin); took < 2*time.Minute {
			t.Errorf("ten tries in %v", took)
		}
		r.again(t)
	})
}

func TestHeartbeatFollowsTheServerAndFindsADeadConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(o *device.Options) { o.KeepAlive = time.Minute })
		p := r.online(t)
		time.Sleep(271 * 4 * time.Second) //nolint:forbidigo // fake time
		synctest.Wait()
		if p.pings < 4 || p.pings > 6 {
			t.Errorf("%d pings in four heartbeats", p.pings)
		}
		p.conn.Close()
		dead := r.server.accept()
		dead.peer.mute = true
		dead.peer.admit("token", "secret")
		dead.peer.subscribed()
		after := r.server.accept().at.Sub(dead.at)
		if after < 270*time.Second || after > 3*270*time.Second {
			t.Errorf("the dead connection was given up after %v", after)
		}
	})
}

func TestSilentServerDoesNotHoldTheDeviceUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		first := r.server.accept() // it never answers the CONNECT
		if took := r.server.accept().at.Sub(first.at); took < 30*time.Second || took > 32*time.Second {
			t.Errorf("gave up after %v", took)
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	good := device.Options{
		App: "demo", ClientKey: "ck_test", Server: "mqtt://h", Store: device.MemoryStore(),
		OnMessage: func(context.Context, device.Message) error { return nil },
	}
	for name, spoil := range map[string]func(*device.Options){
		"App":       func(o *device.Options) { o.App = "" },
		"ClientKey": func(o *device.Options) { o.ClientKey = "" },
		"Store":     func(o *device.Options) { o.Store = nil },
		"OnMessage": func(o *device.Options) { o.OnMessage = nil },
		"Server":    func(o *device.Options) { o.Server = "push.test:1883" },
		"KeepAlive": func(o *device.Options) { o.KeepAlive = 24 * time.Hour },
	} {
		o := good
		spoil(&o)
		if _, err := device.New(t.Context(), o); err == nil {
			t.Errorf("taken without a good %s", name)
		}
	}
	if _, err := device.New(t.Context(), good); err != nil {
		t.Error(err)
	}
	good.App = "other"
	if _, err := device.New(t.Context(), good); err == nil {
		t.Error("took the store of another app")
	}
}

func TestARegistrationHoldsThoughItsConnectionEndsBeforeTheSubscription(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		p := r.server.accept().peer
		p.register("token", "secret")
		next[*packets.Subscribe](p)
		p.conn.Close()
		r.server.accept().peer.admit("token", "secret")
	})
}

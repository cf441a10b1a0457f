package device_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/halleypush/halley/pkg/device"
)

// allow is how long the server's Keep Alive lets a device be silent.
func (p *peer) allow(t *testing.T, silence time.Duration) {
	t.Helper()
	c := next[*packets.Connect](p)
	if c.KeepAlive != 600 {
		t.Fatalf("the device asks for a keep-alive of %d s", c.KeepAlive)
	}
	keepAlive := uint16(silence / time.Second)
	p.connack(func(a *packets.Connack) {
		a.Properties.ServerKeepAlive = &keepAlive
		if c.ClientID == "" {
			a.Properties.AssignedClientID = "token"
			a.Properties.User = []packets.User{{Key: "secret", Value: "secret"}}
		}
	})
	p.subscribed()
}

func adaptive(o *device.Options) { o.Heartbeat = &device.Heartbeat{} }

func wantBeats(t *testing.T, p *peer, n int, silence time.Duration) {
	t.Helper()
	for i := range n {
		if got := receive(t, p.beats).Round(time.Second); got != silence {
			t.Fatalf("ping %d comes after %v of silence, not %v", i, got, silence)
		}
	}
}

func TestHeartbeatGrowsWhilePingsAreAnswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, adaptive)
		p := r.server.accept().peer
		p.allow(t, 10*time.Minute)
		pause := 210 * time.Second
		for pause < 10*time.Minute {
			wantBeats(t, p, 5, pause)
			pause = min(pause+time.Minute, 10*time.Minute)
		}
		wantBeats(t, p, 7, 10*time.Minute)
	})
}

func TestHeartbeatKeepsToTheServersKeepAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, adaptive)
		p := r.server.accept().peer
		p.allow(t, 4*time.Minute)
		wantBeats(t, p, 5, 210*time.Second)
		wantBeats(t, p, 10, 4*time.Minute)
	})
}

func TestHeartbeatStepsBackAfterTwoSilencesThatWereTooLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, adaptive)
		p := r.server.accept().peer
		p.allow(t, 10*time.Minute)
		wantBeats(t, p, 5, 210*time.Second)
		wantBeats(t, p, 4, 270*time.Second)
		synctest.Wait() // the last answer is there
		for range 2 {   // this network forgets a connection after 270 s, now
			p.conn.Close()
			p = r.server.accept().peer
			p.mute = true
			p.allow(t, 10*time.Minute)
			wantBeats(t, p, 1, 270*time.Second)
			if _, open := <-p.beats; open {
				t.Fatal("a second ping went into the void")
			}
		}
		p = r.server.accept().peer
		p.allow(t, 10*time.Minute)
		wantBeats(t, p, 12, 210*time.Second) // and it does not grow again
	})
}

func TestEachNetworkHasItsRhythm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, adaptive)
		p := r.server.accept().peer
		p.allow(t, 10*time.Minute)
		wantBeats(t, p, 5, 210*time.Second)
		synctest.Wait() // the last answer is there
		for _, move := range []struct {
			network string
			want    time.Duration
		}{{"wifi", 210 * time.Second}, {"", 270 * time.Second}} {
			before := time.Now()
			r.NetworkChanged(move.network)
			p = r.server.accept().peer
			p.allow(t, 10*time.Minute)
			if took := time.Since(before); took > time.Second {
				t.Errorf("on another network after %v", took)
			}
			wantBeats(t, p, 1, move.want)
		}
		r.NetworkChanged("") // the same
		wantBeats(t, p, 1, 270*time.Second)
	})
}

func TestInTheForegroundTheHeartbeatIsTheShortest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, adaptive)
		p := r.server.accept().peer
		p.allow(t, 10*time.Minute)
		wantBeats(t, p, 5, 210*time.Second)
		r.SetForeground(true)
		receive(t, p.beats) // its timer stood already
		wantBeats(t, p, 3, 210*time.Second)
		r.SetForeground(false)
		receive(t, p.beats)
		wantBeats(t, p, 1, 270*time.Second)
	})
}

func TestANetworkChangeEndsThePauseBetweenTries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		first := r.server.accept()
		next[*packets.Connect](first.peer)
		first.peer.refuse(0x9F, time.Hour/2, "")
		synctest.Wait()
		r.NetworkChanged("wifi")
		if pause := r.server.accept().at.Sub(first.at); pause > time.Second {
			t.Errorf("tried again after %v", pause)
		}
	})
}

func TestSettingsOfTheHeartbeatAreChecked(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]device.Heartbeat{
		"too short": {Min: time.Millisecond}, "below the least": {Max: time.Minute}, "negative": {Step: -1},
		"beyond MQTT": {Max: 20 * time.Hour},
	} {
		_, err := device.New(t.Context(), device.Options{
			App: "demo", ClientKey: "ck_test", Server: "mqtt://push.test", Store: device.MemoryStore(), Heartbeat: &h,
			OnMessage: func(context.Context, device.Message) error { return nil },
		})
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestWhatTheHeartbeatHasLearnedIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, store := range map[string]device.Store{"memory": device.MemoryStore(), "files": device.FileStore(t.TempDir())} {
			first := start(t, func(o *device.Options) { adaptive(o); o.Store = store })
			p := first.server.accept().peer
			p.allow(t, 10*time.Minute)
			wantBeats(t, p, 5, 210*time.Second)
			synctest.Wait() // the last answer is there
			first.stop(t)
			second := start(t, func(o *device.Options) { adaptive(o); o.Store = store })
			p = second.server.accept().peer
			p.allow(t, 10*time.Minute)
			if got := receive(t, p.beats).Round(time.Second); got != 270*time.Second {
				t.Errorf("%s: after a restart the first ping comes after %v", name, got)
			}
			second.stop(t)
		}
	})
}

func TestWhilePowerIsSavedTheHeartbeatTriesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, adaptive)
		p := r.server.accept().peer
		p.allow(t, 10*time.Minute)
		wantBeats(t, p, 5, 210*time.Second)
		synctest.Wait()
		r.SetPowerSave(true)
		r.SetForeground(true)
		wantBeats(t, p, 12, 270*time.Second)
		r.SetForeground(false)
		r.SetPowerSave(false)
		receive(t, p.beats) // its timer stood already; enough are good now
		wantBeats(t, p, 1, 330*time.Second)
	})
}

func TestTheHostAppCanBeatAtItsOwnTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, adaptive)
		p := r.server.accept().peer
		p.allow(t, 10*time.Minute)
		for range 3 { // an alarm each 100 s: no timer of the SDK strikes between
			<-time.After(100 * time.Second)
			if err := r.Beat(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantBeats(t, p, 1, 100*time.Second)
		}
		wantBeats(t, p, 1, 210*time.Second)
		plain := start(t, nil)
		if err := plain.Beat(t.Context()); !errors.Is(err, device.ErrNoHeartbeat) {
			t.Errorf("without a heartbeat: %v", err)
		}
	})
}

package device_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/halleypush/halley/pkg/device"
)

// bind binds a user with the server's help.
func bind(t *testing.T, r *run, p *peer, user, id string) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		got, err := r.Bind(t.Context(), user, "proof")
		if err == nil && got != id {
			err = errors.New("the id is " + got)
		}
		done <- err
	}()
	call := p.call("bind")
	if call["user"] != user || call["proof"] != "proof" {
		t.Errorf("the call is %v", call)
	}
	p.reply("bind", call, "ok", map[string]any{"user": id})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestOnlyBoundUsersHaveMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		file := func(o *device.Options) { o.Store = device.FileStore(dir) }
		r := start(t, file)
		p := r.online(t)
		p.acked(p.push(messageFor(pushID(1), "u_server"))) // bound by the business server: the device binds nobody itself
		bind(t, r, p, "alice", "u_alice")
		bind(t, r, p, "bob", "u_bob")
		p.acked(p.push(messageFor(pushID(2), "u_alice")))
		p.acked(p.push(messageFor(pushID(3), "u_carol")))
		p.acked(p.push(message(pushID(4))))
		if c := r.Counts(); c.OtherUser != 1 || c.Handled != 3 {
			t.Errorf("counted %v", c)
		}
		r.stop(t)

		r = start(t, file)
		p = r.again(t)
		p.acked(p.push(messageFor(pushID(5), "u_alice")))
		p.acked(p.push(messageFor(pushID(6), "u_carol")))
		if c := r.Counts(); c.OtherUser != 1 || c.Handled != 1 {
			t.Errorf("after a restart counted %v", c)
		}
		done := make(chan error, 1)
		go func() { done <- r.Unbind(t.Context(), "") }()
		call := p.call("unbind")
		if _, named := call["user"]; named {
			t.Errorf("the call is %v", call)
		}
		server, bob := p.push(messageFor(pushID(7), "u_server2")), p.push(messageFor(pushID(8), "u_bob"))
		p.quiet()
		p.reply("unbind", call, "ok", map[string]any{})
		p.acked(server)
		p.acked(bob)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if c := r.Counts(); c.OtherUser != 2 || c.Handled != 2 {
			t.Errorf("after Unbind counted %v", c)
		}
		bind(t, r, p, "bob", "u_bob")
		p.acked(p.push(messageFor(pushID(9), "u_bob")))
		if c := r.Counts(); c.Handled != 3 {
			t.Errorf("after another Bind counted %v", c)
		}
	})
}

func TestMessageThatOvertakesTheAnswerToBindWaitsForIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		p := r.online(t)
		bind(t, r, p, "alice", "u_alice")
		done := make(chan error, 1)
		go func() {
			_, err := r.Bind(t.Context(), "bob", "")
			done <- err
		}()
		call := p.call("bind")
		early := p.push(messageFor(pushID(1), "u_bob"))
		p.quiet()
		p.reply("bind", call, "ok", map[string]any{"user": "u_bob"})
		p.acked(early)
		if err := <-done; err != nil || r.Counts().Handled != 1 {
			t.Errorf("%v, %v", err, r.Counts())
		}
	})
}

func TestBindWithoutAnAnswerLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		p := r.online(t)
		bind(t, r, p, "alice", "u_alice")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := r.Bind(ctx, "bob", "")
			done <- err
		}()
		p.call("bind")
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Bind returned %v", err)
		}
		p.push(messageFor(pushID(1), "u_bob"))
		p.acked(p.push(messageFor(pushID(2), "u_alice")))
		p.quiet()
		if c := r.Counts(); c.Undecided != 1 || c.Handled != 1 {
			t.Errorf("counted %v", c)
		}
		p.conn.Close()
		p = r.again(t)
		bind(t, r, p, "bob", "u_bob")
		p.acked(p.push(messageFor(pushID(1), "u_bob")))
		if c := r.Counts(); c.Handled != 2 {
			t.Errorf("counted %v", c)
		}
	})
}

func TestRefusedCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		p := r.online(t)
		done := make(chan error, 1)
		go func() {
			_, err := r.Bind(t.Context(), "alice", "")
			done <- err
		}()
		begin := time.Now()
		p.reply("bind", p.call("bind"), "error", map[string]any{"code": "UNAVAILABLE"})
		p.reply("bind", p.call("bind"), "error", map[string]any{"code": "RESOURCE_EXHAUSTED", "retry_after_ms": 30000})
		call := p.call("bind")
		if took := time.Since(begin); took < 30500*time.Millisecond || took > 35*time.Second {
			t.Errorf("the third try came after %v", took)
		}
		p.reply("bind", call, "error", map[string]any{"code": "PERMISSION_DENIED", "message": "proof", "field": "proof"})
		err := <-done
		var e *device.Error
		if !errors.As(err, &e) || e.Code != "PERMISSION_DENIED" || e.Field != "proof" {
			t.Errorf("Bind returned %v", err)
		}
		p.acked(p.push(messageFor(pushID(1), "u_x"))) // nothing is in doubt

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() { done <- r.Unbind(ctx, "alice") }()
		p.reply("unbind", p.call("unbind"), "error", map[string]any{"code": "RESOURCE_EXHAUSTED", "retry_after_ms": 30000})
		if err := <-done; !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &e) {
			t.Errorf("Unbind returned %v", err)
		}
	})
}

func TestCallsGoOnAfterALostConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		done := make(chan error, 1)
		go func() { // before there is any connection
			_, err := r.Bind(t.Context(), "alice", "")
			done <- err
		}()
		p := r.online(t)
		next[*packets.Publish](p) // not even acknowledged
		p.conn.Close()
		p = r.again(t)
		p.call("bind") // acknowledged, but not answered
		p.conn.Close()
		p = r.again(t)
		p.call("bind") // never answered: sent again on the same connection
		call := p.call("bind")
		p.reply("bind", map[string]any{"id": "other"}, "ok", map[string]any{"user": "u_wrong"})
		p.reply("bind", call, "ok", map[string]any{"user": "u_alice"})
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestHandlerMayCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r *run
		ready := make(chan struct{})
		r = start(t, func(o *device.Options) {
			o.OnMessage = func(ctx context.Context, m device.Message) error {
				<-ready
				return r.Shown(ctx, m.PushID)
			}
		})
		close(ready)
		p := r.online(t)
		p.push(message(pushID(1)))
		next[*packets.Publish](p)
		p.conn.Close() // the event is sent again, by the same handler
		p = r.again(t)
		again := p.push(message(pushID(1)))
		p.puback(next[*packets.Publish](p), 0)
		p.acked(again)
		if c := r.Counts(); c.Handled != 1 || c.Repeats != 1 {
			t.Errorf("counted %v", c)
		}
	})
}

func TestReportIsSentWhenItDiffers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		with := func(version string) func(*device.Options) {
			return func(o *device.Options) {
				o.Store = device.FileStore(dir)
				o.Report = &device.Report{
					AppVersion: version, ChannelTokens: []device.ChannelToken{{Channel: "fcm", Token: "t"}},
				}
			}
		}
		r := start(t, with("1"))
		p := r.online(t)
		call := p.call("report") // channel tokens do not fit a CONNECT
		if text, _ := json.Marshal(call); !strings.Contains(string(text), `"channel_tokens":[{"channel":"fcm","token":"t"}]`) {
			t.Errorf("reported %s", text)
		}
		p.reply("report", call, "ok", map[string]any{})
		p.quiet()
		p.conn.Close()
		p = r.again(t)
		p.quiet()
		done := make(chan error, 1)
		no := false
		go func() { done <- r.Report(t.Context(), device.Report{Notifications: &no}) }()
		call = p.call("report")
		if call["notifications"] != false || call["app_version"] != nil {
			t.Errorf("reported %v", call)
		}
		p.reply("report", call, "ok", map[string]any{})
		if err := <-done; err != nil {
			t.Error(err)
		}
		p.conn.Close()
		r.again(t).quiet()
		r.stop(t)

		r = start(t, with("2"))
		p = r.again(t)
		call = p.call("report")
		if call["app_version"] != "2" {
			t.Errorf("reported %v", call)
		}
		p.reply("report", call, "ok", map[string]any{})
		p.quiet()
		r.stop(t)

		r = start(t, with("2"))
		r.again(t).quiet()
	})
}

func TestEventsReturnWhenTheyAreDurable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		p := r.online(t)
		done := make(chan error, 1)
		go func() { done <- r.Clicked(t.Context(), pushID(1)) }()
		sent := next[*packets.Publish](p)
		if sent.Topic != "event/demo" || sent.QoS != 1 {
			t.Errorf("published to %s with QoS %d", sent.Topic, sent.QoS)
		}
		synctest.Wait()
		select {
		case err := <-done:
			t.Errorf("returned %v before the PUBACK", err)
		default:
		}
		p.conn.Close()
		p = r.again(t)
		sent = next[*packets.Publish](p)
		p.puback(sent, 0)
		if err := <-done; err != nil {
			t.Error(err)
		}
		var events []map[string]any
		if err := json.Unmarshal(sent.Payload, &events); err != nil || len(events) != 1 ||
			events[0]["push_id"] != pushID(1) || events[0]["type"] != "clicked" || events[0]["at"] == nil {
			t.Errorf("sent %s, %v", sent.Payload, err)
		}

		go func() { done <- r.Dismissed(t.Context(), "no uuid") }()
		p.puback(next[*packets.Publish](p), 0x99)
		var e *device.Error
		if err := <-done; !errors.As(err, &e) || e.Code != "INVALID_ARGUMENT" {
			t.Errorf("refused events: %v", err)
		}
		go func() { done <- r.Dismissed(t.Context(), pushID(2)) }()
		p.puback(next[*packets.Publish](p), 0x97)
		p.puback(next[*packets.Publish](p), 0)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestManyEventsGoInSeveralPackets(t *testing.T) {
	t.Parallel()
	for name, action := range map[string]string{"short": "", "long": strings.Repeat("x", 128)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := start(t, nil)
				p := r.online(t)
				events := make([]device.Event, 250)
				for i := range events {
					events[i] = device.Event{PushID: pushID(i), Type: device.Shown, Action: action}
				}
				done := make(chan error, 1)
				go func() { done <- r.Events(t.Context(), events...) }()
				var got []device.Event
				for len(got) < len(events) {
					sent := next[*packets.Publish](p)
					p.puback(sent, 0)
					var part []device.Event
					if err := json.Unmarshal(sent.Payload, &part); err != nil {
						t.Fatal(err)
					}
					if len(part) > 100 || len(sent.Payload) > 12<<10 {
						t.Errorf("%d events in %d bytes", len(part), len(sent.Payload))
					}
					got = append(got, part...)
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
				for i := range got {
					if got[i].PushID != pushID(i) {
						t.Errorf("event %d is %v", i, got[i])
					}
				}
			})
		})
	}
}

func TestConnectionWithoutPubacksIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		p := r.online(t)
		begin := time.Now()
		done := make(chan error, 1)
		go func() { done <- r.Shown(t.Context(), pushID(1)) }()
		next[*packets.Publish](p)
		p = r.again(t)
		p.puback(next[*packets.Publish](p), 0)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took < 90*time.Second || took > 95*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

package device_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/eclipse/paho.golang/packets"

	"github.com/halleypush/halley/pkg/device"
)

func TestMessageIsAcknowledgedAfterTheHandlerReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		entered, leave := make(chan device.Message), make(chan struct{})
		r := start(t, func(o *device.Options) {
			o.OnMessage = func(_ context.Context, m device.Message) error {
				entered <- m
				<-leave
				return nil
			}
		})
		p := r.online(t)
		first, second := p.push(message(pushID(1))), p.push(message(pushID(2)))
		if m := <-entered; m.PushID != pushID(1) || m.Title != "Hi "+pushID(1) || m.Kind != device.Notification {
			t.Errorf("handed over %+v", m)
		}
		p.quiet()
		leave <- struct{}{}
		p.acked(first)
		if m := <-entered; m.PushID != pushID(2) {
			t.Errorf("handed over %+v", m)
		}
		p.quiet()
		leave <- struct{}{}
		p.acked(second)
	})
}

func TestRefusedMessageComesAgainAndHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fail := true
		var handled []string
		r := start(t, func(o *device.Options) {
			o.OnMessage = func(_ context.Context, m device.Message) error {
				handled = append(handled, m.PushID)
				if m.PushID == pushID(1) && fail {
					fail = false
					return errors.New("no room")
				}
				return nil
			}
		})
		p := r.online(t)
		p.push(message(pushID(1)))
		p.acked(p.push(message(pushID(2))))
		p.quiet()
		p.conn.Close()
		p = r.again(t)
		p.acked(p.push(message(pushID(1))))
		p.acked(p.push(message(pushID(2))))
		if len(handled) != 3 || handled[2] != pushID(1) {
			t.Errorf("handed over %v", handled)
		}
		synctest.Wait()
		if c := r.Counts(); c.Failed != 1 || c.Handled != 2 || c.Repeats != 1 {
			t.Errorf("counted %v", c)
		}
	})
}

func TestRepeatsAreKnownAfterARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		file := func(o *device.Options) { o.Store = device.FileStore(dir) }
		r := start(t, file)
		p := r.online(t)
		for i := range 1100 {
			p.acked(p.push(message(pushID(i))))
		}
		r.stop(t)

		r = start(t, file)
		p = r.again(t)
		p.acked(p.push(message(pushID(1099))))
		p.acked(p.push(message(pushID(100))))
		if got := r.Counts().Repeats; got != 2 || len(r.messages) != 0 {
			t.Errorf("%d repeats, %d messages", got, len(r.messages))
		}
		p.acked(p.push(message(pushID(99)))) // older than the last 1,000
		if m := <-r.messages; m.PushID != pushID(99) {
			t.Errorf("handed over %v", m)
		}
	})
}

// forgetful is a store whose process dies between handler and acknowledgement.
type forgetful struct {
	device.Store
	err error
}

func (f *forgetful) AddSeen(ctx context.Context, id string) error {
	if f.err != nil {
		return f.err
	}
	return f.Store.AddSeen(ctx, id)
}

func TestMessageWhosePushIDIsNotStoredIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &forgetful{device.FileStore(t.TempDir()), errors.New("disk full")}
		withStore := func(o *device.Options) { o.Store = s }
		r := start(t, withStore)
		p := r.online(t)
		p.push(message(pushID(1)))
		<-r.messages
		p.quiet()
		p.conn.Close()
		p = r.again(t) // the same process remembers
		p.acked(p.push(message(pushID(1))))
		if len(r.messages) != 0 {
			t.Error("handed over twice by one process")
		}
		r.stop(t)

		s.err = nil
		r = start(t, withStore) // another one does not: a repeat, but no loss
		p = r.again(t)
		p.acked(p.push(message(pushID(1))))
		if m := <-r.messages; m.PushID != pushID(1) {
			t.Errorf("handed over %v", m)
		}
	})
}

func TestRevocationIsHandedOverAlthoughItsPushIDIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		p := r.online(t)
		p.acked(p.push(message(pushID(1))))
		revocation := map[string]any{"push_id": pushID(1), "kind": "revoke"}
		p.acked(p.push(revocation))
		p.acked(p.push(revocation))
		<-r.messages
		if m := <-r.messages; m.Kind != device.Revoke || len(r.messages) != 0 {
			t.Errorf("handed over %v, and %d more", m, len(r.messages))
		}
	})
}

func TestUnknownMessagesAreAcknowledgedAndPassedOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		p := r.online(t)
		p.acked(p.push(map[string]any{"push_id": pushID(1), "kind": "hologram"}))
		p.acked(p.push(map[string]any{"kind": "data"}))
		p.acked(p.push(map[string]any{"push_id": 7}))
		p.publish("push/demo", 0, message(pushID(2))) // QoS 0: nothing to acknowledge
		if m := <-r.messages; m.PushID != pushID(2) {
			t.Errorf("handed over %v", m)
		}
		p.quiet()
		if c := r.Counts(); c.Unknown != 3 || c.Handled != 1 {
			t.Errorf("counted %v", c)
		}
	})
}

func TestSlowHandlerBoundsTheInbox(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leave := make(chan struct{})
		r := start(t, func(o *device.Options) {
			o.OnMessage = func(context.Context, device.Message) error {
				<-leave
				return nil
			}
		})
		p := r.online(t)
		for i := range 100 {
			p.publish("push/demo", 0, message(pushID(i)))
		}
		synctest.Wait()
		close(leave)
		synctest.Wait()
		if c := r.Counts(); c.Handled != 65 || c.Dropped != 35 {
			t.Errorf("counted %v", c)
		}
	})
}

func TestHandlerOutlivesItsConnectionAndIsAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		entered, leave := make(chan string), make(chan struct{})
		r := start(t, func(o *device.Options) {
			o.OnMessage = func(_ context.Context, m device.Message) error {
				entered <- m.PushID
				<-leave
				return nil
			}
		})
		p := r.online(t)
		p.push(message(pushID(1)))
		<-entered
		p.conn.Close()
		p = r.again(t) // although the handler has not returned
		first, second := p.push(message(pushID(1))), p.push(message(pushID(2)))
		p.quiet()
		leave <- struct{}{}
		p.acked(first) // a repeat of what has just been handled
		if id := <-entered; id != pushID(2) {
			t.Errorf("handed over %s", id)
		}
		close(leave)
		p.acked(second)
	})
}

func TestRunWaitsForTheHandler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		entered, leave := make(chan struct{}), make(chan struct{})
		r := start(t, func(o *device.Options) {
			o.OnMessage = func(ctx context.Context, _ device.Message) error {
				close(entered)
				<-ctx.Done()
				<-leave
				return ctx.Err()
			}
		})
		p := r.online(t)
		p.push(message(pushID(1)))
		<-entered
		r.cancel()
		synctest.Wait()
		select {
		case err := <-r.ended:
			t.Errorf("Run returned %v before the handler", err)
			r.ended <- nil
		default:
		}
		close(leave)
	})
}

func TestFilesOfPushIDsSurviveATornLine(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	s := device.FileStore(dir)
	if i, ids, err := s.Load(t.Context()); err != nil || i.InstallID != "" || len(ids) != 0 {
		t.Fatalf("an empty store has %v, %v, %v", i, ids, err)
	}
	for i := range 2500 {
		if err := s.AddSeen(t.Context(), pushID(i)); err != nil {
			t.Fatal(err)
		}
	}
	tear(t, filepath.Join(dir, "seen"))
	_, ids, err := device.FileStore(dir).Load(t.Context())
	if err != nil || len(ids) != 1000 || ids[999] != pushID(2498) || ids[0] != pushID(1499) {
		t.Fatalf("%d ids are left: %v", len(ids), err)
	}
	again := device.FileStore(dir)
	if err := again.AddSeen(t.Context(), "next"); err != nil {
		t.Fatal(err)
	}
	if _, ids, err = device.FileStore(dir).Load(t.Context()); err != nil || ids[len(ids)-1] != "next" {
		t.Errorf("the last id is %v, %v", ids[len(ids)-1], err)
	}
}

// The reply of a call does not take the place of a message, and an answer at QoS 1 is acknowledged at once.
func TestRepliesAreAcknowledgedWhileAHandlerRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		entered, leave := make(chan struct{}), make(chan struct{})
		r := start(t, func(o *device.Options) {
			o.OnMessage = func(context.Context, device.Message) error {
				close(entered)
				<-leave
				return nil
			}
		})
		p := r.online(t)
		pushed := p.push(message(pushID(1)))
		<-entered
		p.publish("reply/demo/bind", 77, json.RawMessage(`{"id":"late","ok":{}}`))
		p.acked(77)
		close(leave)
		if a := next[*packets.Puback](p); a.PacketID != pushed {
			t.Errorf("acknowledged %d", a.PacketID)
		}
	})
}

package pushcore_test

import (
	"testing"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

// A push and an open of its device cross. Whichever side stops at whichever point while the other side runs through, the
// device has the push in the end: as a request to its gateway, or among what was kept. Sides are stopped by locks of
// PostgreSQL, held by the test.

// crossing is one device whose earlier session is closed, and what the two sides do.
type crossing struct {
	core    *pushcoretest.Core
	app     *pushcoretest.App
	gateway *pushcoretest.Gateway
	phone   *pushcoretest.Device
	session *pushcoretest.Session
}

func newCrossing(t *testing.T) *crossing {
	t.Helper()
	core := pushcoretest.Start(t)
	c := &crossing{core: core, app: core.NewApp(t, nil), gateway: core.Gateway(t)}
	c.phone = c.app.Register(t)
	c.gateway.Open(t, c.phone).Close(t)
	c.session = c.gateway.Connect(t, c.phone)
	return c
}

// push sends a push in the background.
func (c *crossing) push(t *testing.T, options ...pushcoretest.PushOption) <-chan string {
	t.Helper()
	accepted := make(chan string, 1)
	go func() {
		id, err := c.app.TryPush(t, options...)
		if err != nil {
			t.Error(err)
		}
		accepted <- id
	}()
	return accepted
}

// open opens the session in the background.
func (c *crossing) open(t *testing.T) *pushcoretest.Batch {
	t.Helper()
	return c.gateway.Send(t, &gatewayv1.SessionsRequest{Opens: []*gatewayv1.Open{c.session.OpenRequest()}})
}

// handedOver waits for the request to hand the push over to the session.
func (c *crossing) handedOver(t *testing.T, id string) {
	t.Helper()
	request := c.gateway.NextDeliver(t)
	if request.PushIDs()[0] != id || request.GetTargets()[0].GetSession() != c.session.Number {
		t.Errorf("asked for %v, want %s", request, id)
	}
	request.Take(t)
}

// sliceHandedOver waits for the request to hand the audience push over to the session.
func (c *crossing) sliceHandedOver(t *testing.T, id string) {
	t.Helper()
	request := c.gateway.NextSlice(t, c.app)
	if pushcoretest.PushID(request.GetBody()) != id || !request.Has(c.session) {
		t.Errorf("asked for %s, want %s", pushcoretest.PushID(request.GetBody()), id)
	}
	request.Answer(t, c.session)
}

func (c *crossing) kept(t *testing.T, opening *pushcoretest.Batch, want ...string) {
	t.Helper()
	wantIDs(t, opening.Wait(t).Kept[c.session.Number], want...)
}

func TestRule2StoreThenLookDirectPushStopped(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(t *testing.T, c *crossing) (release func()){
		"before it writes": func(t *testing.T, c *crossing) func() {
			t.Helper()
			// The same idempotency key in a transaction that is under way.
			return c.core.Hold(t, "INSERT INTO idempotency VALUES (1, 'k', '\\x00', gen_random_uuid(), now())")
		},
		"at its commit": func(t *testing.T, c *crossing) func() {
			t.Helper()
			return c.core.StopAtCommit(t, "inbox")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCrossing(t)
			release := stop(t, c)
			accepted := c.push(t, pushcoretest.ToDevices(c.phone), pushcoretest.Once("k"))
			c.core.WaitBlocked(t, "direct", 1)
			c.kept(t, c.open(t)) // the open runs through and finds nothing
			release()
			c.handedOver(t, <-accepted) // so the push must look after it has stored
		})
	}
}

func TestRule2StoreThenLookOpenStoppedDirectPush(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(t *testing.T, c *crossing) (release func()){
		"before it writes": func(t *testing.T, c *crossing) func() {
			t.Helper()
			return c.core.Hold(t, "SELECT FROM session FOR UPDATE")
		},
		"at its commit": func(t *testing.T, c *crossing) func() {
			t.Helper()
			return c.core.StopAtCommit(t, "session")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCrossing(t)
			release := stop(t, c)
			opening := c.open(t)
			c.core.WaitBlocked(t, "open", 1)
			id := c.app.Push(t, pushcoretest.ToDevices(c.phone)) // finds no route
			waitResting(t, c.core, id)
			release()
			c.kept(t, opening, id) // so the open must look after it has stored
		})
	}
}

// waitResting waits until the hand-over of a direct push has ended without a route: the sweeper rests until it expires.
func waitResting(t *testing.T, core *pushcoretest.Core, id string) {
	t.Helper()
	sql := core.SQL(t)
	pushcoretest.Eventually(t, "the push rests", func() bool {
		var rests bool
		err := sql.QueryRow(t.Context(), "SELECT next_try = expires_at FROM inbox WHERE push_id = $1", id).Scan(&rests)
		if err != nil {
			t.Fatal(err)
		}
		return rests
	})
}

func TestRule2StoreThenLookBothStopBetween(t *testing.T) {
	t.Parallel()
	c := newCrossing(t)
	c.app.Bind(t, "alice", c.phone)
	// Both sides look at bindings after their commit, and wait there.
	release := c.core.Hold(t, "LOCK TABLE device_user IN ACCESS EXCLUSIVE MODE")
	opening := c.open(t)
	c.core.WaitBlocked(t, "open", 1)
	id := <-c.push(t, pushcoretest.ToUsers("alice"))
	c.core.WaitBlocked(t, "direct", 1)
	release()
	c.handedOver(t, id)
	c.kept(t, opening, id)
}

func TestRule2StoreThenLookAudiencePushStopped(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(t *testing.T, c *crossing) (release func()){
		"before it writes": func(t *testing.T, c *crossing) func() {
			t.Helper()
			return c.core.Hold(t, "INSERT INTO live SELECT bucket, app_no, slice, 0, '{}' FROM slice_active")
		},
		"at its commit": func(t *testing.T, c *crossing) func() {
			t.Helper()
			return c.core.StopAtCommit(t, "live")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCrossing(t)
			release := stop(t, c)
			id := c.app.Push(t, pushcoretest.ToAll())
			c.core.WaitBlocked(t, "bulk", 1)
			c.kept(t, c.open(t))
			release()
			c.sliceHandedOver(t, id)
		})
	}
}

func TestRule2StoreThenLookOpenStoppedAudiencePush(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(t *testing.T, c *crossing) (release func()){
		"before it writes": func(t *testing.T, c *crossing) func() {
			t.Helper()
			return c.core.Hold(t, "SELECT FROM session FOR UPDATE")
		},
		"at its commit": func(t *testing.T, c *crossing) func() {
			t.Helper()
			return c.core.StopAtCommit(t, "session")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCrossing(t)
			// A gateway that has had no session of the app: nobody asks it.
			c.gateway = c.core.Gateway(t)
			c.session = c.gateway.Connect(t, c.phone)
			endOthers(t, c)
			release := stop(t, c)
			opening := c.open(t)
			c.core.WaitBlocked(t, "open", 1)
			id := c.app.Push(t, pushcoretest.ToAll())
			waitTargeted(t, c.app, id)
			release()
			c.kept(t, opening, id)
		})
	}
}

// endOthers makes every gateway but the crossing's forget the app.
func endOthers(t *testing.T, c *crossing) {
	t.Helper()
	_, err := c.core.SQL(t).Exec(t.Context(), "DELETE FROM gateway_app WHERE gateway <> $1", c.gateway.Incarnation().GetGateway())
	if err != nil {
		t.Fatal(err)
	}
}

func TestRule3WhatIsHandedOverBeforeTheOpensAnswerIsInTheAnswer(t *testing.T) {
	t.Parallel()
	c := newCrossing(t)
	// The open has its route, and waits before it reads what is kept.
	release := c.core.Hold(t, "LOCK TABLE device_user IN ACCESS EXCLUSIVE MODE")
	opening := c.open(t)
	c.core.WaitBlocked(t, "open", 1)
	direct := c.app.Push(t, pushcoretest.ToDevices(c.phone))
	c.handedOver(t, direct) // the gateway holds it back until the answer
	everyone := c.app.Push(t, pushcoretest.ToAll())
	c.sliceHandedOver(t, everyone)
	if opening.Answered() {
		t.Fatal("the open was answered")
	}
	release()
	c.kept(t, opening, direct, everyone)
}

func TestRule2WhatRevokesADeviceIsFoundByAnOpenThatCrossesIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		revoke func(t *testing.T, c *crossing)
		want   gatewayv1.Opened_Status
		off    bool
	}{
		"removed": {func(t *testing.T, c *crossing) {
			t.Helper()
			_, err := c.core.Devices.DeleteDevice(c.app.Key(t.Context()), &pushv1.DeleteDeviceRequest{App: c.app.ID, Device: c.phone.Token})
			if err != nil {
				t.Error(err)
			}
		}, gatewayv1.Opened_GONE, true},
		"secret revoked": {func(t *testing.T, c *crossing) {
			t.Helper()
			_, err := c.core.Devices.RotateSecret(c.app.Key(t.Context()), &pushv1.RotateSecretRequest{App: c.app.ID, Device: c.phone.Token})
			if err != nil {
				t.Error(err)
			}
		}, gatewayv1.Opened_GONE, false},
		"notifications off": {func(t *testing.T, c *crossing) {
			t.Helper()
			c.phone.Call(t, "report", `{"notifications":false}`)
		}, gatewayv1.Opened_OPEN, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newCrossing(t)
			x.app.Push(t, pushcoretest.ToDevices(x.phone))
			release := x.core.StopAtCommit(t, "session")
			opening := x.open(t)
			x.core.WaitBlocked(t, "open", 1)
			c.revoke(t, x) // finds no session to tell
			release()
			result := opening.Wait(t)
			if o := result.Opened[0]; o.GetStatus() != c.want || o.GetPermissionOff() != c.off || len(o.GetKept()) != 0 {
				t.Errorf("the session is %v", o)
			}
		})
	}
}

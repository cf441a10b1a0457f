package pushcore_test

import (
	"fmt"
	"sync"
	"testing"

	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestRule7BindingIsCheckedAtEveryHandOver(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	phone := app.Register(t)
	app.Bind(t, "alice", phone)
	session := gateway.Open(t, phone)
	id := app.Push(t, pushcoretest.ToUsers("alice"))
	gateway.NextDeliver(t) // no answer: it is tried again
	app.Unbind(t, "alice", phone)
	wantDelivery(t, app.Delivery(t, id, phone), pushv1.Delivery_FAILED, pushv1.Delivery_UNBOUND)
	kept, _ := session.Pull(t, "", 10)
	wantIDs(t, kept)
	other := app.Push(t, pushcoretest.ToDevices(phone))
	for {
		request := gateway.NextDeliver(t)
		if request.PushIDs()[0] == other {
			break
		}
		t.Errorf("asked to hand over %v after the unbind", request.PushIDs())
	}
	wantCounts(t, app.Get(t, id), &pushv1.Counts{Failed: 1})
}

func TestRule7HandOverOfAnOldBindingLeavesTheNewOne(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	phone := app.Register(t)
	app.Bind(t, "alice", phone)
	session := gateway.Open(t, phone)
	id := app.Push(t, pushcoretest.ToUsers("alice"))
	gateway.NextDeliver(t) // silent: the next try looks at the binding that the push was accepted with
	app.Unbind(t, "alice", phone)
	bound := make(chan struct{})
	go func() {
		defer close(bound)
		app.Bind(t, "alice", phone)
	}()
	gateway.NextPoke(t).Answer(t)
	<-bound
	// The tries with the old binding end, without a hand-over and without ending what the new one brought.
	waitMetric(t, core, 1, "halley_pushcore_direct_deliveries_total", "result", "ended")
	wantDelivery(t, app.Delivery(t, id, phone), pushv1.Delivery_PENDING, 0)
	kept, _ := session.Pull(t, "", 10)
	wantIDs(t, kept, id)
	wantCounts(t, app.Get(t, id), &pushv1.Counts{Pending: 1})
}

func TestRule7PushAndBindThatCrossMissNobody(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	t.Run("bind stopped at its commit", func(t *testing.T) {
		t.Parallel()
		core := pushcoretest.Start(t)
		app := core.NewApp(t, nil)
		phone := app.Register(t)
		release := core.StopAtCommit(t, "user_device")
		done := make(chan struct{})
		go func() { defer close(done); app.Bind(t, "alice", phone) }()
		core.WaitBlocked(t, "bulk", 1)
		accepted := make(chan string, 1)
		go func() { accepted <- app.Push(t, pushcoretest.ToUsers("alice")) }()
		core.WaitBlocked(t, "direct", 1) // it waits for the bind
		release()
		<-done
		wantIDs(t, core.Gateway(t).Connect(t, phone).Open(t), <-accepted)
	})
	t.Run("push stopped at its commit", func(t *testing.T) {
		t.Parallel()
		core := pushcoretest.Start(t)
		app := core.NewApp(t, nil)
		phone := app.Register(t)
		release := core.StopAtCommit(t, "user_inbox")
		accepted := make(chan string, 1)
		go func() { accepted <- app.Push(t, pushcoretest.ToUsers("alice")) }()
		core.WaitBlocked(t, "direct", 1)
		done := make(chan struct{})
		go func() { defer close(done); app.Bind(t, "alice", phone) }()
		core.WaitBlocked(t, "bulk", 1) // it waits for the push
		release()
		<-done
		wantIDs(t, core.Gateway(t).Connect(t, phone).Open(t), <-accepted)
	})
	t.Run("many at once", func(t *testing.T) {
		t.Parallel()
		app := core.NewApp(t, nil)
		const users = 30
		phones, ids := make([]*pushcoretest.Device, users), make([]string, users)
		for i := range phones {
			phones[i] = app.Register(t)
		}
		var wg sync.WaitGroup
		for i := range users {
			wg.Go(func() { app.Bind(t, fmt.Sprint("user", i), phones[i]) })
			wg.Go(func() { ids[i] = app.Push(t, pushcoretest.ToUsers(fmt.Sprint("user", i))) })
		}
		wg.Wait()
		gateway := core.Gateway(t)
		for i := range users {
			wantIDs(t, gateway.Connect(t, phones[i]).Open(t), ids[i])
			wantCounts(t, app.Get(t, ids[i]), &pushv1.Counts{Pending: 1})
		}
	})
}

func TestRule7UnknownDeviceTokenIsFinalAtOnceAndAUserWithoutADeviceIsNot(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	token, user := app.Push(t, pushcoretest.ToTokens("nobody")), app.Push(t, pushcoretest.ToUsers("nobody"))
	wantDelivery(t, app.Deliveries(t, token)[0], pushv1.Delivery_FAILED, pushv1.Delivery_UNKNOWN_DEVICE)
	wantDelivery(t, app.Deliveries(t, user)[0], pushv1.Delivery_PENDING, pushv1.Delivery_NO_DEVICE)
	if got := app.Get(t, token).GetState(); got != pushv1.Push_ENDED {
		t.Errorf("the push to an unknown token is %s", got)
	}
	if got := app.Get(t, user).GetState(); got != pushv1.Push_ACTIVE {
		t.Errorf("the push to a user without a device is %s", got)
	}
}

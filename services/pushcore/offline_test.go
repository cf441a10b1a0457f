package pushcore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

// waitTargeted waits until every slice of an audience push has been resolved and handed over.
func waitTargeted(t *testing.T, app *pushcoretest.App, id string) {
	t.Helper()
	pushcoretest.Eventually(t, "the push is handed over", func() bool {
		return app.Get(t, id).GetState() != pushv1.Push_ACCEPTED
	})
}

func TestDeviceThatWasAwayGetsWhatWasKeptOldestFirst(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	phone := app.Register(t)
	app.Bind(t, "alice", phone)
	var want []string
	for i := range 12 {
		to := []pushcoretest.PushOption{pushcoretest.ToDevices(phone), pushcoretest.ToAll(), pushcoretest.ToUsers("alice")}[i%3]
		id := app.Push(t, to, pushcoretest.Title(fmt.Sprint(i)))
		if i%3 == 1 {
			waitTargeted(t, app, id)
		}
		want = append(want, id)
	}

	session := gateway.Connect(t, phone)
	kept := session.Open(t, pushcoretest.Limit(5))
	wantIDs(t, kept, want[:5]...)
	if kept[2].User == "" || kept[0].User != "" {
		t.Errorf("only a user's message carries the opaque user: %q, %q", kept[2].User, kept[0].User)
	}
	var rest []pushcoretest.Message
	for more := true; more; {
		var page []pushcoretest.Message
		page, more = session.Pull(t, append(kept, rest...)[len(kept)+len(rest)-1].ID, 3)
		rest = append(rest, page...)
	}
	wantIDs(t, append(kept, rest...), want...)
	fromOldest, more := session.Pull(t, "", 100)
	wantIDs(t, fromOldest, want...)
	if more {
		t.Error("more is promised than there is")
	}

	messages := phone.Pending(t, 4)
	for i, m := range messages {
		if m["push_id"] != want[i] {
			t.Errorf("pending over HTTPS: %v at %d, want %s", m["push_id"], i, want[i])
		}
	}
	for i, id := range want {
		if i%2 == 0 {
			phone.Event(t, id, "arrived")
		}
	}
	pushcoretest.Eventually(t, "what arrived is not kept any more", func() bool {
		left, _ := session.Pull(t, "", 100)
		return len(left) == 6
	})
}

func TestNobodyGetsAnotherDevicesPushes(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app, other := core.NewApp(t, nil), core.NewApp(t, nil)
	gateway := core.Gateway(t)
	phone, second, stranger := app.Register(t), app.Register(t), other.Register(t)
	id := app.Push(t, pushcoretest.ToDevices(phone))
	waitTargeted(t, app, app.Push(t, pushcoretest.ToAll()))
	wantIDs(t, gateway.Connect(t, stranger).Open(t))
	for _, m := range gateway.Connect(t, second).Open(t) {
		if m.ID == id {
			t.Error("a push reached a device it was not for")
		}
	}
	// The events of one device say nothing about another's delivery.
	second.Event(t, id, "arrived")
	stranger.Event(t, id, "arrived")
	wantDelivery(t, app.Delivery(t, id, phone), pushv1.Delivery_PENDING, 0)
	wantCounts(t, app.Get(t, id), &pushv1.Counts{Pending: 1})
}

func TestOverTheCapTheNewestAreKeptAndTheRestIsEvicted(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	phone, other := app.Register(t), app.Register(t)
	app.Bind(t, "alice", phone)
	var all []string
	for i := range 150 {
		to := []pushcoretest.PushOption{pushcoretest.ToDevices(phone), pushcoretest.ToUsers("alice"), pushcoretest.ToAll()}[i%3]
		all = append(all, app.Push(t, to))
	}
	for i := 2; i < 150; i += 3 {
		waitTargeted(t, app, all[i])
	}
	wantIDs(t, gateway.Connect(t, phone).Open(t), all[50:]...)
	for i, id := range all {
		if i >= 50 {
			wantDelivery(t, app.Delivery(t, id, phone), pushv1.Delivery_PENDING, 0)
			continue
		}
		d := app.WaitState(t, id, phone, pushv1.Delivery_EVICTED)
		wantDelivery(t, d, pushv1.Delivery_EVICTED, pushv1.Delivery_OVER_CAP)
		want := &pushv1.Counts{Evicted: 1}
		if i%3 == 2 {
			want.Pending = 1 // the other device's
		}
		wantCounts(t, app.Get(t, id), want)
	}
	if kept := gateway.Connect(t, other).Open(t); len(kept) != 50 {
		t.Errorf("the other device has %d kept, not the 50 for everyone", len(kept))
	}
}

func TestTheCapIsTheApps(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, &adminv1.Settings{DeviceCap: 2})
	phone := app.Register(t)
	var all []string
	for range 4 {
		all = append(all, app.Push(t, pushcoretest.ToDevices(phone)))
	}
	wantIDs(t, core.Gateway(t).Connect(t, phone).Open(t), all[2:]...)
}

func TestOfOneCollapseKeyOnlyTheNewestIsKept(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	device, all := pushcoretest.ToDevices, pushcoretest.ToAll
	for name, audiences := range map[string][]bool{ // true: for everyone
		"direct": {false, false, false}, "audience": {true, true, true},
		"mixed": {false, true, false, true}, "mixed, direct last": {true, false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app := core.NewApp(t, nil)
			gateway := core.Gateway(t)
			phone := app.Register(t)
			other := app.Push(t, device(phone), pushcoretest.Collapse("other"))
			var ids []string
			for _, everyone := range audiences {
				to := device(phone)
				if everyone {
					to = all()
				}
				id := app.Push(t, to, pushcoretest.Collapse("order-7"))
				if everyone {
					waitTargeted(t, app, id)
				}
				ids = append(ids, id)
			}
			plain := app.Push(t, device(phone))
			wantIDs(t, gateway.Connect(t, phone).Open(t), other, ids[len(ids)-1], plain)
			for _, id := range ids[:len(ids)-1] {
				d := app.WaitState(t, id, phone, pushv1.Delivery_COLLAPSED)
				wantDelivery(t, d, pushv1.Delivery_COLLAPSED, pushv1.Delivery_NEWER_PUSH)
				waitCounts(t, app, id, &pushv1.Counts{Collapsed: 1})
			}
			wantCounts(t, app.Get(t, ids[len(ids)-1]), &pushv1.Counts{Pending: 1})
		})
	}
}

func TestPushToEveryoneCollapsesTheOlderOneWithoutAConnect(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	app.Register(t)
	old := app.Push(t, pushcoretest.ToAll(), pushcoretest.Collapse("k"))
	waitTargeted(t, app, old)
	newer := app.Register(t)
	second := app.Push(t, pushcoretest.ToAll(), pushcoretest.Collapse("k"))
	waitTargeted(t, app, second)
	waitCounts(t, app, old, &pushv1.Counts{Collapsed: 1})
	if app.Delivery(t, old, newer) != nil {
		t.Error("a device that was not targeted has a delivery")
	}
	waitCounts(t, app, second, &pushv1.Counts{Pending: 2})
	wantDelivery(t, app.Deliveries(t, old)[0], pushv1.Delivery_COLLAPSED, pushv1.Delivery_NEWER_PUSH)
}

func TestCollapseLeavesWhatTheDeviceHasHad(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	phone := app.Register(t)
	old := app.Push(t, pushcoretest.ToAll(), pushcoretest.Collapse("k"))
	waitTargeted(t, app, old)
	phone.Event(t, old, "shown")
	waitTargeted(t, app, app.Push(t, pushcoretest.ToAll(), pushcoretest.Collapse("k")))
	wantCounts(t, app.Get(t, old), &pushv1.Counts{Shown: 1})
}

func TestWhatIsNotConfirmedExpiresWithoutAConnect(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	phone := app.Register(t)
	session := gateway.Open(t, phone)
	ttl := pushcoretest.TTL(3 * time.Second)
	direct := app.Push(t, pushcoretest.ToDevices(phone), ttl)
	gateway.NextDeliver(t).Take(t)
	gateway.Receipt(t, session, direct, ledgerv1.Step_STEP_SENT)
	user := app.Push(t, pushcoretest.ToUsers("nobody"), ttl)
	audience := app.Push(t, pushcoretest.ToAll(), ttl)
	gateway.NextSlice(t, app).Answer(t, session)
	older := app.Push(t, pushcoretest.ToDevices(app.Register(t)), ttl, pushcoretest.Collapse("k"))
	wantDelivery(t, app.Deliveries(t, user)[0], pushv1.Delivery_PENDING, pushv1.Delivery_NO_DEVICE)

	for _, id := range []string{direct, user, audience, older} {
		waitCounts(t, app, id, &pushv1.Counts{Expired: 1})
		if got := app.Get(t, id).GetState(); got != pushv1.Push_ENDED {
			t.Errorf("the push is %s", got)
		}
	}
	wantDelivery(t, app.Deliveries(t, direct)[0], pushv1.Delivery_EXPIRED, pushv1.Delivery_TTL_OVER)
	wantDelivery(t, app.Deliveries(t, audience)[0], pushv1.Delivery_EXPIRED, pushv1.Delivery_TTL_OVER)
	wantDelivery(t, app.Deliveries(t, user)[0], pushv1.Delivery_EXPIRED, pushv1.Delivery_NO_DEVICE)
	kept, _ := session.Pull(t, "", 10)
	wantIDs(t, kept)

	// A late confirmation is the truth.
	phone.Event(t, direct, "arrived")
	phone.Event(t, audience, "arrived")
	wantCounts(t, app.Get(t, direct), &pushv1.Counts{Arrived: 1})
	wantCounts(t, app.Get(t, audience), &pushv1.Counts{Arrived: 1})
}

func TestExpiredPushesLeaveNothingLive(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	app.Register(t)
	id := app.Push(t, pushcoretest.ToAll(), pushcoretest.TTL(time.Second))
	waitCounts(t, app, id, &pushv1.Counts{Expired: 1})
	sql := core.SQL(t)
	pushcoretest.Eventually(t, "the live lists are empty", func() bool {
		var live, listed int
		err := sql.QueryRow(t.Context(), `
			SELECT (SELECT count(*) FROM audience_push), (SELECT coalesce(sum(cardinality(pushes)), 0) FROM live)`).Scan(&live, &listed)
		if err != nil {
			t.Fatal(err)
		}
		return live+listed == 0
	})
}

func TestInboxHoldsOnlyWhatIsNotFinal(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	phone := app.Register(t)
	app.Bind(t, "alice", phone)
	ids := []string{
		app.Push(t, pushcoretest.ToDevices(phone)), app.Push(t, pushcoretest.ToUsers("alice")),
	}
	for _, id := range ids {
		phone.Event(t, id, "arrived")
	}
	rows, err := core.SQL(t).Query(t.Context(), "SELECT push_id::text FROM inbox UNION ALL SELECT push_id::text FROM user_inbox")
	if err != nil {
		t.Fatal(err)
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

package pushcore_test

import (
	"testing"

	"google.golang.org/grpc/codes"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestPushToEveryoneIsOneMessagePerSliceWithTheBitmap(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	one, two, stranger := core.Gateway(t), core.Gateway(t), core.Gateway(t)
	var sessions []*pushcoretest.Session
	for i := range 6 {
		sessions = append(sessions, []*pushcoretest.Gateway{one, two}[i%2].Open(t, app.Register(t)))
	}
	stranger.Open(t, core.NewApp(t, nil).Register(t))
	away := app.Register(t)
	skipOrdinals(t, core, app, 2<<20) // the app's next device is in its third slice; nobody is in the second
	far := one.Open(t, app.Register(t))

	id := app.Push(t, pushcoretest.ToAll(), pushcoretest.Title("all"))
	for _, gateway := range []*pushcoretest.Gateway{one, two} {
		seen := map[uint32]bool{}
		for range 2 {
			s := gateway.NextSlice(t, app)
			seen[s.GetSlice()] = true
			if pushcoretest.PushID(s.GetBody()) != id || !s.GetBody().GetAudience() {
				t.Errorf("the body is %v", s.GetBody())
			}
			if s.GetSlice() == 0 {
				if s.Ordinals.GetCardinality() != 7 {
					t.Errorf("slice 0 has %d devices", s.Ordinals.GetCardinality())
				}
				var mine []*pushcoretest.Session
				for _, session := range sessions {
					if session.Gateway == gateway {
						mine = append(mine, session)
					}
				}
				s.Answer(t, mine...)
			} else if gateway == one {
				s.Answer(t, far)
			} else {
				s.Answer(t) // nobody of it is here: an empty bitmap is an answer, too
			}
		}
		if !seen[0] || !seen[2] {
			t.Errorf("asked for slices %v", seen)
		}
	}
	waitCounts(t, app, id, &pushv1.Counts{Sent: 7, Pending: 1})
	pushcoretest.Eventually(t, "the push is active", func() bool { return app.Get(t, id).GetState() == pushv1.Push_ACTIVE })
	wantDelivery(t, app.Delivery(t, id, away), pushv1.Delivery_PENDING, 0)
	wantDelivery(t, app.Delivery(t, id, far.Device), pushv1.Delivery_SENT, 0)

	one.SliceReceipt(t, id, ledgerv1.Step_STEP_ARRIVED, sessions[0], sessions[2])
	two.SliceReceipt(t, id, ledgerv1.Step_STEP_ARRIVED, sessions[1])
	one.SliceReceipt(t, id, ledgerv1.Step_STEP_ARRIVED, far)
	one.SliceReceipt(t, id, ledgerv1.Step_STEP_SHOWN, sessions[0], sessions[2])
	waitCounts(t, app, id, &pushv1.Counts{Sent: 3, Pending: 1, Arrived: 2, Shown: 2})
	if at := app.Delivery(t, id, sessions[0].Device).GetTimes(); at.GetShown() == nil || at.GetShown().GetSeconds()%60 != 0 {
		t.Errorf("times to the minute: %v", at)
	}
	if n := len(app.Deliveries(t, id)); n != 8 {
		t.Errorf("%d deliveries", n)
	}
}

// skipOrdinals makes an app look as if it had had so many devices.
func skipOrdinals(t *testing.T, core *pushcoretest.Core, app *pushcoretest.App, next int64) {
	t.Helper()
	_, err := core.SQL(t).Exec(t.Context(), "UPDATE app_ordinal SET next = $2 WHERE app_no = $1", app.Number, next)
	if err != nil {
		t.Fatal(err)
	}
}

func TestPushToEveryoneReachesADeviceThatOpensLater(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	early, phone := app.Register(t), app.Register(t)
	session := gateway.Open(t, early)
	first := app.Push(t, pushcoretest.ToAll())
	gateway.NextSlice(t, app).Answer(t, session)
	waitTargeted(t, app, first)
	late := app.Register(t)

	opened := gateway.Connect(t, phone)
	wantIDs(t, opened.Open(t), first)
	wantIDs(t, gateway.Connect(t, late).Open(t)) // registered after the push
	gateway.SliceReceipt(t, first, ledgerv1.Step_STEP_ARRIVED, opened)
	app.WaitState(t, first, phone, pushv1.Delivery_ARRIVED)
	pushcoretest.Eventually(t, "it is not kept any more", func() bool {
		kept, _ := opened.Pull(t, "", 10)
		return len(kept) == 0
	})
	// What was sent, but not confirmed, comes again.
	wantIDs(t, gateway.Connect(t, early).Open(t), first)
}

func TestPushToEveryoneOfAnAppWithoutDevicesEnds(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	id := app.Push(t, pushcoretest.ToAll())
	pushcoretest.Eventually(t, "the push has ended", func() bool { return app.Get(t, id).GetState() == pushv1.Push_ENDED })
	wantCounts(t, app.Get(t, id), &pushv1.Counts{})
	sql := core.SQL(t)
	pushcoretest.Eventually(t, "it does not count as live", func() bool {
		var live int
		if err := sql.QueryRow(t.Context(), "SELECT count(*) FROM audience_push").Scan(&live); err != nil {
			t.Fatal(err)
		}
		return live == 0
	})
}

func TestPushThatEveryDeviceHasIsNotLiveAnyMore(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	session := gateway.Open(t, app.Register(t))
	id := app.Push(t, pushcoretest.ToAll())
	request := gateway.NextSlice(t, app)
	gateway.SliceReceipt(t, id, ledgerv1.Step_STEP_ARRIVED, session) // before the answer
	app.WaitState(t, id, session.Device, pushv1.Delivery_ARRIVED)
	request.Answer(t, session)
	pushcoretest.Eventually(t, "the push has ended", func() bool { return app.Get(t, id).GetState() == pushv1.Push_ENDED })
	wantCounts(t, app.Get(t, id), &pushv1.Counts{Arrived: 1})
	sql := core.SQL(t)
	pushcoretest.Eventually(t, "it has left the live list", func() bool {
		var listed int
		if err := sql.QueryRow(t.Context(), "SELECT coalesce(sum(cardinality(pushes)), 0) FROM live").Scan(&listed); err != nil {
			t.Fatal(err)
		}
		return listed == 0
	})
}

func TestAnAppsLivePushesToEveryoneAreBounded(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app, other := core.NewApp(t, nil), core.NewApp(t, nil)
	app.Register(t)
	for range 200 {
		app.Push(t, pushcoretest.ToAll())
	}
	_, err := app.TryPush(t, pushcoretest.ToAll())
	wantError(t, err, codes.ResourceExhausted, "TOO_MANY_LIVE_PUSHES", "")
	other.Push(t, pushcoretest.ToAll())
	app.Push(t, pushcoretest.ToTokens("unknown"))
}

func TestReceiptsForDevicesThatWereNotTargetedCountForNothing(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	in := gateway.Open(t, app.Register(t))
	id := app.Push(t, pushcoretest.ToAll())
	request := gateway.NextSlice(t, app)
	out := gateway.Open(t, app.Register(t))
	request.AnswerWith(t, &gatewayv1.SliceResponse{Sent: pushcoretest.Bits(t, in, out)})
	gateway.SliceReceipt(t, id, ledgerv1.Step_STEP_ARRIVED, in, out)
	out.Device.Event(t, id, "clicked")
	waitCounts(t, app, id, &pushv1.Counts{Arrived: 1})
	gateway.SliceReceipt(t, id, ledgerv1.Step_STEP_ARRIVED, in, out) // again
	gateway.SliceReceipt(t, id, ledgerv1.Step_STEP_CLICKED, in)
	waitCounts(t, app, id, &pushv1.Counts{Clicked: 1})
}

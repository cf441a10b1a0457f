package pushcore_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/halleypush/halley/pkg/ordinal"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

// shares returns how many receipt partitions each owner has.
func shares(t *testing.T, site *pushcoretest.Site) map[string]int {
	t.Helper()
	rows, err := site.SQL(t).Query(t.Context(), "SELECT owner, count(*) FROM receipt_partition WHERE until > now() GROUP BY 1")
	if err != nil {
		t.Fatal(err)
	}
	owners := map[string]int{}
	var owner string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&owner, &n}, func() error {
		owners[owner] = n
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return owners
}

func TestRule11ReplicasShareTheWorkAndTakeOverWhatADeadOneHad(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSite(t)
	doomed := site.StartProcess(t)
	pushcoretest.Eventually(t, "one has all partitions", func() bool {
		owners := shares(t, site)
		return len(owners) == 1 && sumOf(owners) == ordinal.Partitions
	})
	heir := site.Start(t)
	pushcoretest.Eventually(t, "two have half each", func() bool {
		owners := shares(t, site)
		for _, n := range owners {
			if n != ordinal.Partitions/2 {
				return false
			}
		}
		return len(owners) == 2
	})

	// The same app through either replica: a push accepted by one, its receipts applied by whoever owns the partition.
	app := doomed.NewApp(t, nil)
	gateway := heir.Gateway(t)
	session := gateway.Open(t, app.Register(t))
	first, second := app.Push(t, pushcoretest.ToAll()), app.On(heir).Push(t, pushcoretest.ToAll())
	for range 2 {
		gateway.NextSlice(t, app).Answer(t, session)
	}
	for _, id := range []string{first, second} {
		gateway.SliceReceipt(t, id, ledgerv1.Step_STEP_ARRIVED, session)
		waitCounts(t, app, id, &pushv1.Counts{Arrived: 1})
	}

	doomed.Stop()
	app = app.On(heir)
	gateway.SliceReceipt(t, first, ledgerv1.Step_STEP_SHOWN, session)
	gateway.SliceReceipt(t, second, ledgerv1.Step_STEP_CLICKED, session)
	waitCounts(t, app, first, &pushv1.Counts{Shown: 1})
	waitCounts(t, app, second, &pushv1.Counts{Clicked: 1})
	pushcoretest.Eventually(t, "the heir has all partitions", func() bool {
		owners := shares(t, site)
		return len(owners) == 1 && sumOf(owners) == ordinal.Partitions
	})
}

func sumOf(owners map[string]int) (sum int) {
	for _, n := range owners {
		sum += n
	}
	return sum
}

func TestRule11SecondOwnerOfAPartitionIsHarmless(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	twin := core.Site.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	const devices = 40
	var sessions []*pushcoretest.Session
	for range devices {
		sessions = append(sessions, gateway.Open(t, app.Register(t)))
	}
	id := app.Push(t, pushcoretest.ToAll())
	gateway.NextSlice(t, app).Answer(t, sessions...)
	// Both replicas apply steps of the same slice, each with its own cache of it, and many of them twice.
	for i, s := range sessions {
		on := []*pushcoretest.Core{core, twin}[i%2]
		s.Device.On(on).Event(t, id, "arrived")
		if i%4 == 0 {
			sessions[(i+1)%devices].Device.On(on).Event(t, id, "shown")
		}
		gateway.SliceReceipt(t, id, ledgerv1.Step_STEP_ARRIVED, s)
	}
	waitCounts(t, app, id, &pushv1.Counts{Arrived: 30, Shown: 10})
	waitCounts(t, app.On(twin), id, &pushv1.Counts{Arrived: 30, Shown: 10})
}

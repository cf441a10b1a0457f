package pushcore_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/halleypush/halley/pkg/postgres"
	"github.com/halleypush/halley/pkg/postgres/postgrestest"
	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestRule5GatewayThatStopsRenewingLapsesAndItsSlicesEnd(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	live, dead := core.Gateway(t), core.Gateway(t)
	here, there := live.Open(t, app.Register(t)), dead.Open(t, app.Register(t))
	dead.Lapse()
	id := app.Push(t, pushcoretest.ToAll())
	live.NextSlice(t, app).Answer(t, here)
	waitTargeted(t, app, id) // it waits for the silent one, until that has lapsed
	waitCounts(t, app, id, &pushv1.Counts{Sent: 1, Pending: 1})

	// A lapsed incarnation never returns.
	if got := dead.Renew(t).GetStatus(); got != gatewayv1.RenewLeaseResponse_LAPSED {
		t.Errorf("a renewal of a lapsed incarnation: %s", got)
	}
	result := dead.Send(t, &gatewayv1.SessionsRequest{Opens: []*gatewayv1.Open{there.OpenRequest()}}).Wait(t)
	if result.Status != gatewayv1.SessionsResponse_LAPSED || len(result.Opened) != 0 {
		t.Errorf("an open of a lapsed incarnation: %s %v", result.Status, result.Opened)
	}
	// Its process takes a new one and opens its sessions again, each with what is kept.
	dead.Reincarnate(t)
	wantIDs(t, there.Open(t), id)
	if got := live.Renew(t).GetStatus(); got != gatewayv1.RenewLeaseResponse_LIVE {
		t.Errorf("the live gateway is %s", got)
	}
	direct := app.Push(t, pushcoretest.ToDevices(there.Device))
	if got := dead.NextDeliver(t).PushIDs()[0]; got != direct {
		t.Errorf("the new incarnation is asked for %s", got)
	}
}

func TestRule5GatewayThatEndsItsLeaseIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	gateway.Open(t, app.Register(t)).Close(t)
	gateway.Lapse()
	gateway.RenewWith(t, func(r *gatewayv1.RenewLeaseRequest) { r.Ending = true })
	begin := time.Now()
	waitTargeted(t, app, app.Push(t, pushcoretest.ToAll()))
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("it took %v: the lease was waited for", took)
	}
	if _, slices, _ := gateway.Waiting(); slices > 1 {
		t.Error("the ended gateway was asked again")
	}
	if got := gateway.Renew(t).GetStatus(); got != gatewayv1.RenewLeaseResponse_LAPSED {
		t.Errorf("a renewal after the end: %s", got)
	}
}

func TestRule5RenewalNeedsAProofOfNATS(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	gateway := core.Gateway(t)
	gateway.Lapse()
	sql := core.SQL(t)
	until := func() (at time.Time) {
		if err := sql.QueryRow(t.Context(), "SELECT lease_until FROM gateway").Scan(&at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	before := until()
	for name, age := range map[string]*durationpb.Duration{"old": durationpb.New(time.Minute), "none": nil} {
		response := gateway.RenewWith(t, func(r *gatewayv1.RenewLeaseRequest) { r.NatsRoundTripAge = age })
		if response.GetStatus() != gatewayv1.RenewLeaseResponse_NO_PROOF || !until().Equal(before) {
			t.Errorf("a renewal with a proof that is %s: %s, until %v", name, response.GetStatus(), until())
		}
	}
	if got := gateway.Renew(t); got.GetStatus() != gatewayv1.RenewLeaseResponse_LIVE || !until().After(before) ||
		got.GetDatabaseIdentity() == "" || got.GetLease().AsDuration() != 6*time.Second {
		t.Errorf("a renewal with a fresh proof: %v", got)
	}
}

func TestRule5NewPushcoreJudgesNobodyAtOnce(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSite(t)
	first := site.Start(t)
	app := first.NewApp(t, nil)
	gateway := first.Gateway(t)
	session := gateway.Open(t, app.Register(t))
	gateway.Lapse() // there is no pushcore to renew with
	gateway.Disconnect()
	first.Stop()
	runOut(t, site)
	pushcoretest.Eventually(t, "PostgreSQL has run for long: nothing else keeps the leases from being judged", func() (long bool) {
		err := site.SQL(t).QueryRow(t.Context(), "SELECT now() - pg_postmaster_start_time() > interval '10 seconds'").Scan(&long)
		if err != nil {
			t.Fatal(err)
		}
		return long
	})

	core := site.Start(t)
	gateway.Move(core)
	app = app.On(core)
	id := app.Push(t, pushcoretest.ToAll())
	gateway.NextSlice(t, app)
	gateway.NextSlice(t, app) // leases were looked at before it was asked again
	if got := gateway.Renew(t).GetStatus(); got != gatewayv1.RenewLeaseResponse_LIVE {
		t.Errorf("the gateway is %s", got)
	}
	gateway.NextSlice(t, app).Answer(t, session)
	waitCounts(t, app, id, &pushv1.Counts{Sent: 1})
}

// runOut makes every lease look as if it had run out a minute ago.
func runOut(t *testing.T, site *pushcoretest.Site) {
	t.Helper()
	if _, err := site.SQL(t).Exec(t.Context(), "UPDATE gateway SET lease_until = now() - interval '1 minute'"); err != nil {
		t.Fatal(err)
	}
}

// ownPostgres starts a PostgreSQL that the test may restart.
func ownPostgres(t *testing.T) (cluster *postgres.Cluster, restart func()) {
	t.Helper()
	postgrestest.NotShort(t)
	folder, err := os.MkdirTemp("", "halley-pushcore-pg-*") // its path must be passable for PostgreSQL's user, and short
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(folder, 0o711); err != nil {
		t.Fatal(err)
	}
	options := postgres.Options{DataDir: filepath.Join(folder, "data"), Log: slog.New(slog.DiscardHandler)}
	start := func() {
		if cluster, err = postgres.Start(context.Background(), options); err != nil {
			t.Fatal(err)
		}
	}
	start()
	t.Cleanup(func() {
		if err := cluster.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	return cluster, func() {
		if err := cluster.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		start()
	}
}

func TestRule5AfterPostgreSQLWasAwayNoLeaseIsJudgedUntilOneLeaseLater(t *testing.T) {
	t.Parallel()
	cluster, restart := ownPostgres(t)
	site := pushcoretest.NewSiteOn(t, cluster.DSN())
	site.ExpectErrors = true
	core := site.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	session := gateway.Open(t, app.Register(t))
	before := gateway.Renew(t).GetDatabaseIdentity()
	// The pushcore has run long enough to judge: a gateway that is out of time lapses.
	other := core.Gateway(t)
	other.Open(t, app.Register(t))
	other.Lapse()
	first := app.Push(t, pushcoretest.ToAll())
	gateway.NextSlice(t, app).Answer(t, session)
	waitTargeted(t, app, first)

	gateway.Lapse()
	restart()
	pushcoretest.Eventually(t, "the database is back", core.Ready)
	runOut(t, site) // as if the outage had been longer than the lease
	second := app.Push(t, pushcoretest.ToAll())
	gateway.NextSlice(t, app)
	gateway.NextSlice(t, app)
	renewed := gateway.Renew(t)
	if renewed.GetStatus() != gatewayv1.RenewLeaseResponse_LIVE {
		t.Errorf("the gateway is %s", renewed.GetStatus())
	}
	if renewed.GetDatabaseIdentity() == before {
		t.Error("the database's identity tells nothing of the restart")
	}
	gateway.NextSlice(t, app).Answer(t, session)
	waitTargeted(t, app, second)
	wantIDs(t, session.Open(t), first, second)
}

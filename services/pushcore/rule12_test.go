package pushcore_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestRule12OnlyAReceiptMakesArrived(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	gateway := core.Gateway(t)
	session := gateway.Open(t, app.Register(t))
	direct, everyone := app.Push(t, pushcoretest.ToDevices(session.Device)), app.Push(t, pushcoretest.ToAll())
	gateway.NextDeliver(t).Take(t)
	gateway.NextSlice(t, app).Answer(t, session)
	waitCounts(t, app, everyone, &pushv1.Counts{Sent: 1})
	waitMetric(t, core, 1, "halley_pushcore_direct_deliveries_total", "result", "taken")
	wantCounts(t, app.Get(t, direct), &pushv1.Counts{Pending: 1})
	kept, _ := session.Pull(t, "", 10) // both are kept until the phone confirms them
	wantIDs(t, kept, direct, everyone)
	gateway.Receipt(t, session, direct, ledgerv1.Step_STEP_ARRIVED)
	gateway.SliceReceipt(t, everyone, ledgerv1.Step_STEP_ARRIVED, session)
	for _, id := range []string{direct, everyone} {
		waitCounts(t, app, id, &pushv1.Counts{Arrived: 1})
	}
}

func TestRule14SecretsAreNeitherStoredInTheClearNorLogged(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, &adminv1.Settings{BindPolicy: adminv1.Settings_OPEN})
	gateway := core.Gateway(t)
	phone := app.Register(t)
	phone.Call(t, "report", `{"channel_tokens":[{"channel":"fcm","token":"fcm-vendor-token-0123456789"}]}`)
	phone.Call(t, "bind", `{"user":"alice"}`)
	session := gateway.Open(t, phone)
	app.Push(t, pushcoretest.ToDevices(phone), pushcoretest.Title("a very private title"))
	gateway.NextDeliver(t).Take(t)
	core.REST(t, "GET", "/v1/apps/"+app.ID+"/pushes", "", pushcoretest.Bearer("sk_wrong-and-still-a-secret"))
	core.REST(t, "POST", "/device/v1/bind", `{"user":7}`, phone.Basic)
	session.Close(t)
	core.Stop()

	secrets := map[string]string{
		"server key": app.ServerKey, "client key": app.ClientKey, "device secret": phone.Secret, "content": "a very private title",
		"admin token": pushcoretest.AdminToken, "service token": pushcoretest.ServiceToken, "vendor token": "fcm-vendor-token",
		"a wrong key": "sk_wrong-and-still-a-secret",
	}
	logs := core.Logs.String()
	for what, secret := range secrets {
		if strings.Contains(logs, secret) {
			t.Errorf("the %s is logged", what)
		}
	}
	if !strings.Contains(logs, "pushcore serves") {
		t.Error("nothing is logged at all")
	}
	dump := dumpDatabase(t, core.Site)
	for _, what := range []string{"server key", "client key", "device secret", "admin token", "service token"} {
		if secret := secrets[what]; strings.Contains(dump, secret) || strings.Contains(dump, fmt.Sprintf("%x", secret)) {
			t.Errorf("the %s is in the database", what)
		}
	}
	if !strings.Contains(dump, app.ID) {
		t.Error("the dump is empty")
	}
}

// dumpDatabase returns every row of every table as text.
func dumpDatabase(t *testing.T, site *pushcoretest.Site) string {
	t.Helper()
	sql := site.SQL(t)
	rows, err := sql.Query(t.Context(), "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'")
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	var dump strings.Builder
	for _, table := range tables {
		rows, err := sql.Query(t.Context(), "SELECT r::text FROM "+table+" r")
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&dump, table, strings.Join(lines, "\n"))
	}
	return dump.String()
}

func TestRule14KeysAreShownOnce(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	for _, path := range []string{"", "/keys"} {
		answer := core.REST(t, "GET", "/admin/v1/apps/"+app.ID+path, "", pushcoretest.Bearer(pushcoretest.AdminToken))
		if answer.Code != 200 || strings.Contains(answer.Body, app.ServerKey) || strings.Contains(answer.Body, app.ClientKey) {
			t.Errorf("%d %s", answer.Code, answer.Body)
		}
	}
}

func TestRule14TheDatabasesClockDecidesAndAPhonesTimeChangesNothing(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	phone := app.Register(t)
	id := app.Push(t, pushcoretest.ToDevices(phone))
	future := time.Now().Add(1000 * time.Hour).UnixMilli()
	phone.Call(t, "events", fmt.Sprintf(`[{"push_id":%q,"type":"arrived","at":%d},{"push_id":%q,"type":"shown","at":-5}]`, id, future, id))
	at := app.Delivery(t, id, phone).GetTimes()
	for what, step := range map[string]time.Time{"arrived": at.GetArrived().AsTime(), "shown": at.GetShown().AsTime()} {
		if time.Since(step).Abs() > time.Minute {
			t.Errorf("%s at %v", what, step)
		}
	}
}

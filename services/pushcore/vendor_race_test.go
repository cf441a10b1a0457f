package pushcore_test

import (
	"fmt"
	"testing"

	"github.com/halleypush/halley/pkg/ordinal"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

// A claim and a Pull of the same device cross. The claim stops with all done and nothing visible; the Pull runs through and
// has the push: both ways carry it, and the SDK drops the second. Once the claim is visible no Pull has it.
func TestClaimAndPullCross(t *testing.T) {
	t.Parallel()
	for name, audience := range map[string]bool{"direct": false, "everyone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newVendorSite(t, "huawei")
			phone := s.app.RegisterWith(t, "huawei")
			release := s.core.StopAtCommit(t, "send_job")
			id := s.pushTo(t, audience, phone)
			s.core.WaitBlocked(t, map[bool]string{false: "direct", true: "ledger"}[audience], 1)
			session := s.gateway.Connect(t, phone)
			wantIDs(t, session.Open(t), id)
			release()
			job := s.sender.NextJob(t)
			if job.PushID() != id {
				t.Errorf("the job is for %s", job.PushID())
			}
			pushcoretest.Eventually(t, "a Pull leaves it out", func() bool {
				kept, _ := session.Pull(t, "", 10)
				return len(kept) == 0
			})
			job.Report(t, senderv1.Outcome_OUTCOME_ACCEPTED)
			phone.Event(t, id, "arrived") // by either way
			waitCounts(t, s.app, id, &pushv1.Counts{Arrived: 1})
		})
	}
}

// Two reports about one delivery cross: one says accepted, the other that it failed. Whichever is applied first, the delivery
// counts once, the job goes, and what was accepted is not taken back by a result that comes later.
func TestAcceptAndReleaseCross(t *testing.T) {
	t.Parallel()
	for name, audience := range map[string]bool{"direct": false, "everyone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newVendorSite(t, "huawei")
			phone := s.app.RegisterWith(t, "huawei")
			id := s.pushTo(t, audience, phone)
			job := s.sender.NextJob(t)
			table := map[bool]string{false: "delivery_log", true: "slice_step"}[audience]
			release := s.core.StopAtCommit(t, table)
			job.Report(t, senderv1.Outcome_OUTCOME_ACCEPTED)
			s.core.WaitBlocked(t, "ledger", 1)
			job.Report(t, senderv1.Outcome_OUTCOME_GIVEN_UP)
			s.core.WaitBlocked(t, "ledger", 2) // waits for the row of the first
			release()
			waitMetric(t, s.core, 1, "halley_pushcore_vendor_results_total", "channel", "huawei", "outcome", "given_up")
			waitCounts(t, s.app, id, &pushv1.Counts{Sent: 1})
			s.app.WaitChannel(t, id, phone, "huawei", pushv1.Delivery_Attempt_ACCEPTED)
			noJobs(t, s.core)
			wantIDs(t, s.gateway.Connect(t, phone).Open(t))
		})
	}
}

// A vendor that failed a push and takes it after all: it is sent, and the own connection may have it too.
func TestAcceptAfterRelease(t *testing.T) {
	t.Parallel()
	for name, audience := range map[string]bool{"direct": false, "everyone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newVendorSite(t, "huawei")
			phone := s.app.RegisterWith(t, "huawei")
			id := s.pushTo(t, audience, phone)
			job := s.sender.NextJob(t)
			job.Report(t, senderv1.Outcome_OUTCOME_GIVEN_UP)
			job.Report(t, senderv1.Outcome_OUTCOME_GIVEN_UP)
			s.app.WaitChannel(t, id, phone, "huawei", pushv1.Delivery_Attempt_GIVEN_UP)
			wantCounts(t, s.app.Get(t, id), &pushv1.Counts{Pending: 1})
			job.Report(t, senderv1.Outcome_OUTCOME_ACCEPTED)
			waitCounts(t, s.app, id, &pushv1.Counts{Sent: 1})
			noJobs(t, s.core)
		})
	}
}

func TestJobsSurviveNATSLosingItsData(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	core.ExpectErrors = true
	app := core.NewApp(t, quick())
	app.SetChannel(t, "huawei")
	phone := app.RegisterWith(t, "huawei")
	direct, everyone := app.Push(t, pushcoretest.ToDevices(phone)), app.Push(t, pushcoretest.ToAll())
	sql := core.SQL(t)
	pushcoretest.Eventually(t, "both jobs are in the stream", func() bool {
		var n int
		if err := sql.QueryRow(t.Context(), "SELECT count(*) FROM send_job WHERE published = 1").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 2
	})
	core.NATS.Stop()
	core.NATS.Wipe(t)
	core.NATS.Start(t)
	sender := core.Sender(t, "huawei") // nobody took them before
	got := map[string]bool{}
	for range 2 {
		job := sender.NextJob(t)
		got[job.PushID()] = true
		job.Report(t, senderv1.Outcome_OUTCOME_ACCEPTED)
	}
	if !got[direct] || !got[everyone] {
		t.Errorf("came again: %v", got)
	}
	for _, id := range []string{direct, everyone} {
		waitCounts(t, app, id, &pushv1.Counts{Sent: 1})
	}
	noJobs(t, core)
	waitMetric(t, core, 1, "halley_pushcore_vendor_streams_lost_total")
	if n := len(sender.Jobs()); n > 0 {
		t.Errorf("%d jobs came once more", n)
	}
}

func TestAPushcoreKilledBetweenClaimAndPublish(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSite(t)
	site.ExpectErrors = true
	doomed := site.StartProcess(t)
	app := doomed.NewApp(t, quick())
	app.SetChannel(t, "huawei")
	phone := app.RegisterWith(t, "huawei")
	// Publishing reads tokens of the claimed; the claim itself has them already when it stops at its commit.
	release := site.StopAtCommit(t, "send_job")
	direct, everyone := app.Push(t, pushcoretest.ToDevices(phone)), app.Push(t, pushcoretest.ToAll())
	site.WaitBlocked(t, "direct", 1)
	site.WaitBlocked(t, "ledger", 1)
	tokens := site.Hold(t, "LOCK TABLE channel_token IN ACCESS EXCLUSIVE MODE")
	release()
	sql := site.SQL(t)
	pushcoretest.Eventually(t, "both are claimed", func() bool {
		var n int
		if err := sql.QueryRow(t.Context(), "SELECT count(*) FROM send_job").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 2
	})
	doomed.Stop()
	tokens()
	heir := site.Start(t)
	app = app.On(heir)
	sender := heir.Sender(t, "huawei")
	for range 2 {
		sender.NextJob(t).Report(t, senderv1.Outcome_OUTCOME_ACCEPTED)
	}
	for _, id := range []string{direct, everyone} {
		waitCounts(t, app, id, &pushv1.Counts{Sent: 1})
	}
	noJobs(t, heir)
}

// manyDevices makes n active devices with a token of one of the channels each, as if they had registered.
func manyDevices(t *testing.T, core *pushcoretest.Core, app *pushcoretest.App, n int, channels ...string) {
	t.Helper()
	app.Register(t) // makes the slice's row of active devices
	sql := core.SQL(t)
	bits := fullBits(t, n)
	for _, statement := range []struct {
		sql  string
		args []any
	}{
		{
			`INSERT INTO device (bucket, app_no, ordinal, letter, state)
			SELECT $1::smallint, $2::integer, n, 'a', 2 FROM generate_series(0, $3::integer - 1) AS n ON CONFLICT DO NOTHING`,
			[]any{ordinal.Bucket(app.Number, 0), app.Number, n},
		},
		{
			`INSERT INTO channel_token (bucket, app_no, ordinal, channel, token, app_package, environment)
			SELECT $1::smallint, $2::integer, n, ($4::text[])[1 + n % cardinality($4::text[])], 'token-' || n, 'com.example', 'production'
			FROM generate_series(0, $3::integer - 1) AS n`,
			[]any{ordinal.Bucket(app.Number, 0), app.Number, n, channels},
		},
		{"UPDATE slice_active SET members = $2 WHERE app_no = $1", []any{app.Number, bits}},
		{"UPDATE app_ordinal SET next = $2 WHERE app_no = $1", []any{app.Number, n}},
	} {
		if _, err := sql.Exec(t.Context(), statement.sql, statement.args...); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAHundredThousandDevicesOverThreeChannels(t *testing.T) {
	t.Parallel()
	const devices = 100_000
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	channels := []string{"huawei", "fcm", "meizu"}
	limits := map[string]int{"huawei": 1000, "fcm": 500, "meizu": 100}
	senders := map[string]*pushcoretest.Sender{}
	for _, name := range channels {
		app.SetChannel(t, name)
		senders[name] = core.Sender(t, name)
	}
	manyDevices(t, core, app, devices, channels...)
	id := app.Push(t, pushcoretest.ToAll())
	seen := make([]bool, devices)
	want := &pushv1.Counts{}
	for n := 0; n < devices; {
		var job *pushcoretest.Job
		select {
		case job = <-senders["huawei"].Jobs():
		case job = <-senders["fcm"].Jobs():
		case job = <-senders["meizu"].Jobs():
		case <-t.Context().Done():
			t.Fatal("too late")
		}
		if len(job.GetTargets()) > limits[job.GetChannel()] {
			t.Fatalf("%d targets for %s", len(job.GetTargets()), job.GetChannel())
		}
		var results []*senderv1.Result
		for _, target := range job.GetTargets() {
			number := target.GetOrdinal()
			if seen[number] || target.GetToken() != fmt.Sprintf("token-%d", number) || channels[number%3] != job.GetChannel() {
				t.Fatalf("device %d: again, or %v by %s", number, target, job.GetChannel())
			}
			seen[number] = true
			r := pushcoretest.ResultOf(target, senderv1.Outcome_OUTCOME_ACCEPTED)
			switch number % 10 {
			case 0:
				r.Outcome = senderv1.Outcome_OUTCOME_REJECTED // the own connection's again
				want.Pending++
			case 1:
				r.Outcome = senderv1.Outcome_OUTCOME_EXPIRED
				want.Expired++
			default:
				want.Sent++
			}
			results = append(results, r)
			n++
		}
		half := len(results) / 2
		job.ReportResults(t, results[:half]...)
		job.ReportResults(t, results[half:]...)
	}
	waitCounts(t, app, id, want)
	noJobs(t, core)
	for name, s := range senders {
		if n := len(s.Jobs()); n > 0 {
			t.Errorf("%d more jobs for %s", n, name)
		}
	}
}

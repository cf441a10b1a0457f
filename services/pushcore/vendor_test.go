package pushcore_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	ledgerv1 "github.com/halleypush/halley/proto/halley/ledger/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

// quick makes the vendor way open after a second.
func quick() *adminv1.Settings { return &adminv1.Settings{AckTimeout: durationpb.New(time.Second)} }

// vendorSite is a pushcore with an app that has a credential, a sender and a gateway.
type vendorSite struct {
	core    *pushcoretest.Core
	app     *pushcoretest.App
	sender  *pushcoretest.Sender
	gateway *pushcoretest.Gateway
}

func newVendorSite(t *testing.T, name string) *vendorSite {
	t.Helper()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, quick())
	app.SetChannel(t, name)
	return &vendorSite{core, app, core.Sender(t, name), core.Gateway(t)}
}

// noJobs waits until nothing is left to be sent.
func noJobs(t *testing.T, core *pushcoretest.Core) {
	t.Helper()
	sql := core.SQL(t)
	pushcoretest.Eventually(t, "no job is left", func() bool {
		var jobs int
		if err := sql.QueryRow(t.Context(), "SELECT count(*) FROM send_job").Scan(&jobs); err != nil {
			t.Fatal(err)
		}
		return jobs == 0
	})
}

func TestVendorReachesADeviceThatIsAway(t *testing.T) {
	t.Parallel()
	for name, audience := range map[string]bool{"direct": false, "everyone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newVendorSite(t, "huawei")
			phone := s.app.RegisterWith(t, "huawei", "fcm")
			id := s.pushTo(t, audience, phone)
			job := s.sender.NextJob(t)
			if job.PushID() != id || len(job.GetTargets()) != 1 || job.GetTargets()[0].GetToken() != pushcoretest.TokenOf(phone, "huawei") ||
				job.GetContent().GetNotification().GetTitle() != "hello" || job.GetAppId() != s.app.ID || job.GetAudience() != audience {
				t.Errorf("the job is %v", job)
			}
			s.app.WaitChannel(t, id, phone, "huawei", pushv1.Delivery_Attempt_OUTCOME_UNSPECIFIED)
			waitCounts(t, s.app, id, &pushv1.Counts{Pending: 1})
			session := s.gateway.Connect(t, phone)
			wantIDs(t, session.Open(t)) // the vendor has it
			job.Report(t, senderv1.Outcome_OUTCOME_ACCEPTED)
			job.Report(t, senderv1.Outcome_OUTCOME_ACCEPTED) // comes twice
			s.app.WaitChannel(t, id, phone, "huawei", pushv1.Delivery_Attempt_ACCEPTED)
			waitCounts(t, s.app, id, &pushv1.Counts{Sent: 1})
			kept, _ := session.Pull(t, "", 10)
			wantIDs(t, kept)
			noJobs(t, s.core)
			job.Receipt(t, pushcoretest.TokenOf(phone, "huawei"), senderv1.Outcome_OUTCOME_ARRIVED)
			waitCounts(t, s.app, id, &pushv1.Counts{Arrived: 1})
			job.Receipt(t, "a token of nobody", senderv1.Outcome_OUTCOME_CLICKED)
			job.Receipt(t, pushcoretest.TokenOf(phone, "huawei"), senderv1.Outcome_OUTCOME_CLICKED)
			waitCounts(t, s.app, id, &pushv1.Counts{Clicked: 1})
			job.Report(t, senderv1.Outcome_OUTCOME_REJECTED) // disorder: the first word counts
			phone.Event(t, id, "dismissed")
			waitCounts(t, s.app, id, &pushv1.Counts{Clicked: 1})
			if d := s.app.Delivery(t, id, phone); d.GetChannel() != "huawei" || len(d.GetAttempts()) != 1 {
				t.Errorf("the delivery is %v", d)
			}
		})
	}
}

func (s *vendorSite) pushTo(t *testing.T, audience bool, phone *pushcoretest.Device, options ...pushcoretest.PushOption) string {
	t.Helper()
	to := pushcoretest.ToDevices(phone)
	if audience {
		to = pushcoretest.ToAll()
	}
	return s.app.Push(t, append([]pushcoretest.PushOption{to}, options...)...)
}

func TestVendorGetsWhatAHalfOpenConnectionDoesNotConfirm(t *testing.T) {
	t.Parallel()
	for name, audience := range map[string]bool{"direct": false, "everyone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newVendorSite(t, "fcm")
			frozen, awake := s.app.RegisterWith(t, "fcm"), s.app.RegisterWith(t, "fcm")
			session, other := s.gateway.Open(t, frozen), s.gateway.Open(t, awake)
			var id string
			if audience {
				id = s.app.Push(t, pushcoretest.ToAll())
				s.gateway.NextSlice(t, s.app).Answer(t, session, other)
				s.gateway.SliceReceipt(t, id, ledgerv1.Step_STEP_ARRIVED, other)
			} else {
				id = s.app.Push(t, pushcoretest.ToDevices(frozen, awake))
				s.gateway.NextDeliver(t).Take(t)
				s.gateway.Receipt(t, other, id, ledgerv1.Step_STEP_ARRIVED)
				s.gateway.Receipt(t, session, id, ledgerv1.Step_STEP_SENT) // not acknowledged
			}
			job := s.sender.NextJob(t)
			if len(job.GetTargets()) != 1 || job.GetTargets()[0].GetOrdinal() != session.Ordinal {
				t.Errorf("the job is for %v, not only for the phone that is silent", job.GetTargets())
			}
			job.Report(t, senderv1.Outcome_OUTCOME_ACCEPTED)
			waitCounts(t, s.app, id, &pushv1.Counts{Sent: 1, Arrived: 1})
			d := s.app.WaitChannel(t, id, frozen, "fcm", pushv1.Delivery_Attempt_ACCEPTED)
			if n := len(d.GetAttempts()); !audience && (n != 2 || d.GetAttempts()[0].GetChannel() != "halley") {
				t.Errorf("the attempts are %v", d.GetAttempts())
			}
		})
	}
}

func TestVendorFailureFallsBackToTheOwnConnection(t *testing.T) {
	t.Parallel()
	for name, audience := range map[string]bool{"direct": false, "everyone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newVendorSite(t, "xiaomi")
			online, away := s.app.RegisterWith(t, "xiaomi"), s.app.RegisterWith(t, "xiaomi")
			session := s.gateway.Open(t, online)
			way := pushcoretest.By(pushv1.Policy_VENDOR_FIRST)
			var id string
			if audience {
				id = s.app.Push(t, pushcoretest.ToAll(), way)
			} else {
				id = s.app.Push(t, pushcoretest.ToDevices(online, away), way)
			}
			job := s.sender.NextJob(t)
			if len(job.GetTargets()) != 2 {
				t.Fatalf("the job is for %v", job.GetTargets())
			}
			job.Report(t, senderv1.Outcome_OUTCOME_QUOTA_SPENT)
			if audience {
				s.gateway.NextSlice(t, s.app).Answer(t, session)
				s.gateway.SliceReceipt(t, id, ledgerv1.Step_STEP_ARRIVED, session)
			} else {
				request := s.gateway.NextDeliver(t)
				if len(request.GetTargets()) != 1 || request.PushIDs()[0] != id {
					t.Errorf("asked for %v", request)
				}
				request.Take(t)
				s.gateway.Receipt(t, session, id, ledgerv1.Step_STEP_ARRIVED)
			}
			waitCounts(t, s.app, id, &pushv1.Counts{Arrived: 1, Pending: 1})
			wantIDs(t, s.gateway.Connect(t, away).Open(t), id) // kept for the other
			s.app.WaitChannel(t, id, away, "xiaomi", pushv1.Delivery_Attempt_QUOTA_SPENT)
			noJobs(t, s.core)
		})
	}
}

func TestVendorOnly(t *testing.T) {
	t.Parallel()
	for name, audience := range map[string]bool{"direct": false, "everyone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newVendorSite(t, "vivo")
			var phones []*pushcoretest.Device
			for range 3 {
				phones = append(phones, s.app.RegisterWith(t, "vivo"))
			}
			bare, silent := s.app.Register(t), s.app.RegisterWith(t, "vivo")
			silent.Call(t, "report", `{"notifications":false}`)
			session := s.gateway.Open(t, phones[0])
			way := pushcoretest.By(pushv1.Policy_VENDOR_ONLY)
			to := pushcoretest.ToDevices(append(phones, bare, silent)...)
			if audience {
				to = pushcoretest.ToAll()
			}
			id := s.app.Push(t, to, way)
			job := s.sender.NextJob(t)
			if len(job.GetTargets()) != 3 {
				t.Fatalf("the job is for %v", job.GetTargets())
			}
			waitCounts(t, s.app, id, &pushv1.Counts{Failed: 2, Pending: 3})
			wantDelivery(t, s.app.Delivery(t, id, bare), pushv1.Delivery_FAILED, pushv1.Delivery_NO_CHANNEL)
			wantDelivery(t, s.app.Delivery(t, id, silent), pushv1.Delivery_FAILED, pushv1.Delivery_PERMISSION_OFF)
			targets := job.GetTargets()
			job.ReportResults(t, pushcoretest.ResultOf(targets[0], senderv1.Outcome_OUTCOME_ACCEPTED),
				pushcoretest.ResultOf(targets[1], senderv1.Outcome_OUTCOME_CREDENTIAL_BAD))
			waitCounts(t, s.app, id, &pushv1.Counts{Failed: 3, Sent: 1, Pending: 1})
			job.ReportResults(t, pushcoretest.ResultOf(targets[2], senderv1.Outcome_OUTCOME_TOKEN_GONE))
			waitCounts(t, s.app, id, &pushv1.Counts{Failed: 4, Sent: 1})
			wantDelivery(t, s.app.Delivery(t, id, phones[1]), pushv1.Delivery_FAILED, pushv1.Delivery_CREDENTIAL_BAD)
			wantDelivery(t, s.app.Delivery(t, id, phones[2]), pushv1.Delivery_FAILED, pushv1.Delivery_TOKEN_GONE)
			kept, _ := session.Pull(t, "", 10)
			wantIDs(t, kept)
			if delivers, slices, _ := s.gateway.Waiting(); delivers+slices > 0 {
				t.Error("a gateway was asked")
			}
			pushcoretest.Eventually(t, "the push has ended", func() bool { return s.app.Get(t, id).GetState() == pushv1.Push_ENDED })
			noJobs(t, s.core)
		})
	}
}

func TestWhichVendor(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, &adminv1.Settings{Channel: pushv1.Policy_VENDOR_ONLY})
	senders := map[string]*pushcoretest.Sender{}
	for _, name := range []string{"huawei", "fcm"} {
		app.SetChannel(t, name)
		senders[name] = core.Sender(t, name)
	}
	phone := app.RegisterWith(t, "fcm", "huawei", "oppo")
	to := pushcoretest.ToDevices(phone)
	app.Push(t, to) // by the app's default
	senders["huawei"].NextJob(t)
	app.Push(t, to, pushcoretest.Without("huawei"))
	senders["fcm"].NextJob(t)
	none := app.Push(t, to, pushcoretest.Without("huawei", "fcm"))
	wantDelivery(t, app.WaitState(t, none, phone, pushv1.Delivery_FAILED), pushv1.Delivery_FAILED, pushv1.Delivery_NO_CHANNEL)
	own := app.Push(t, to, pushcoretest.By(pushv1.Policy_OWN_ONLY))
	now := app.Push(t, to, pushcoretest.By(pushv1.Policy_OWN_FIRST), pushcoretest.TTL(0))
	app.WaitState(t, now, phone, pushv1.Delivery_EXPIRED)
	wantDelivery(t, app.Delivery(t, own, phone), pushv1.Delivery_PENDING, 0)
	phone.ReportToken(t, "huawei", "") // signed off
	app.Push(t, to)
	senders["fcm"].NextJob(t)
	for name, s := range senders {
		if n := len(s.Jobs()); n > 0 {
			t.Errorf("%d more jobs for %s", n, name)
		}
	}
}

func TestAUsersPushGoesToAVendorOnlyWhileTheDeviceIsBound(t *testing.T) {
	t.Parallel()
	s := newVendorSite(t, "apns")
	phone := s.app.RegisterWith(t, "apns")
	s.app.Bind(t, "alice", phone)
	id := s.app.Push(t, pushcoretest.ToUsers("alice"))
	job := s.sender.NextJob(t)
	if job.GetTargets()[0].GetUser() == "" || job.GetTargets()[0].GetUser() == "alice" {
		t.Errorf("the target is %v", job.GetTargets()[0])
	}
	s.app.Unbind(t, "alice", phone)
	wantDelivery(t, s.app.Delivery(t, id, phone), pushv1.Delivery_FAILED, pushv1.Delivery_UNBOUND)
	job.Report(t, senderv1.Outcome_OUTCOME_GIVEN_UP)
	noJobs(t, s.core)
	wantDelivery(t, s.app.Delivery(t, id, phone), pushv1.Delivery_FAILED, pushv1.Delivery_UNBOUND)

	// A device that is bound later, and away, gets it by its vendor.
	later := s.app.Push(t, pushcoretest.ToUsers("bob"))
	s.app.Bind(t, "bob", phone)
	if job := s.sender.NextJob(t); job.PushID() != later {
		t.Errorf("the job is for %s", job.PushID())
	}
}

func TestAClaimedDeliveryExpiresUnlessItIsAccepted(t *testing.T) {
	t.Parallel()
	for name, audience := range map[string]bool{"direct": false, "everyone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newVendorSite(t, "oppo")
			phone := s.app.RegisterWith(t, "oppo")
			id := s.pushTo(t, audience, phone, pushcoretest.TTL(3*time.Second))
			job := s.sender.NextJob(t)
			wantDelivery(t, s.app.WaitState(t, id, phone, pushv1.Delivery_EXPIRED), pushv1.Delivery_EXPIRED, pushv1.Delivery_TTL_OVER)
			noJobs(t, s.core)
			job.Report(t, senderv1.Outcome_OUTCOME_EXPIRED)
			waitMetric(t, s.core, 1, "halley_pushcore_vendor_results_total", "channel", "oppo", "outcome", "expired")
			wantCounts(t, s.app.Get(t, id), &pushv1.Counts{Expired: 1})
		})
	}
}

func TestNoJobForWhatIsOverByThen(t *testing.T) {
	t.Parallel()
	s := newVendorSite(t, "honor")
	s.core.NATS.Stop() // so that the job waits
	s.core.ExpectErrors = true
	one, two := s.app.RegisterWith(t, "honor"), s.app.RegisterWith(t, "honor")
	id := s.app.Push(t, pushcoretest.ToDevices(one, two))
	s.app.WaitChannel(t, id, one, "honor", pushv1.Delivery_Attempt_OUTCOME_UNSPECIFIED)
	_, err := s.core.Devices.DeleteDevice(s.app.Key(t.Context()), &pushv1.DeleteDeviceRequest{App: s.app.ID, Device: one.Token})
	if err != nil {
		t.Fatal(err)
	}
	s.core.NATS.Start(t)
	job := s.sender.NextJob(t)
	if len(job.GetTargets()) != 1 || job.GetTargets()[0].GetToken() != pushcoretest.TokenOf(two, "honor") {
		t.Errorf("the job is for %v", job.GetTargets())
	}
	job.Report(t, senderv1.Outcome_OUTCOME_ACCEPTED)
	noJobs(t, s.core)
	waitCounts(t, s.app, id, &pushv1.Counts{Failed: 1, Sent: 1})
}

func TestWhatAVendorHasIsNotCollapsed(t *testing.T) {
	t.Parallel()
	for name, audience := range map[string]bool{"direct": false, "everyone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newVendorSite(t, "huawei")
			phone := s.app.RegisterWith(t, "huawei")
			first := s.pushTo(t, audience, phone, pushcoretest.Collapse("news"))
			job := s.sender.NextJob(t)
			second := s.pushTo(t, audience, phone, pushcoretest.Collapse("news"))
			if next := s.sender.NextJob(t); next.PushID() != second || next.GetContent().GetCollapseKey() != "news" {
				t.Errorf("the next job is %v", next)
			}
			wantIDs(t, s.gateway.Connect(t, phone).Open(t))
			job.Report(t, senderv1.Outcome_OUTCOME_ACCEPTED) // the vendor collapses, or the phone shows both
			waitCounts(t, s.app, first, &pushv1.Counts{Sent: 1})
			wantCounts(t, s.app.Get(t, second), &pushv1.Counts{Pending: 1})
		})
	}
}

func TestReceiptsOfVendors(t *testing.T) {
	t.Parallel()
	for name, audience := range map[string]bool{"direct": false, "everyone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newVendorSite(t, "huawei")
			phone := s.app.RegisterWith(t, "huawei")
			id := s.pushTo(t, audience, phone)
			job := s.sender.NextJob(t)
			token := pushcoretest.TokenOf(phone, "huawei")
			job.Report(t, senderv1.Outcome_OUTCOME_ACCEPTED)
			waitCounts(t, s.app, id, &pushv1.Counts{Sent: 1})
			job.Receipt(t, token, senderv1.Outcome_OUTCOME_DROPPED)
			wantDelivery(t, s.app.WaitState(t, id, phone, pushv1.Delivery_FAILED), pushv1.Delivery_FAILED, pushv1.Delivery_VENDOR_REJECTED)
			job.Receipt(t, token, senderv1.Outcome_OUTCOME_SHOWN) // it is there after all
			waitCounts(t, s.app, id, &pushv1.Counts{Shown: 1})
			if c := channelToken(t, s, phone, "huawei"); c.GetGoneAt() != nil {
				t.Errorf("the token is %v", c)
			}
		})
	}
}

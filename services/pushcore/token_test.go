package pushcore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	senderv1 "github.com/halleypush/halley/proto/halley/sender/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

// fullBits returns the bitmap of the ordinals below n.
func fullBits(t *testing.T, n int) []byte {
	t.Helper()
	bits := roaring.New()
	bits.AddRange(0, uint64(n))
	data, err := bits.ToBytes()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func channelToken(t *testing.T, s *vendorSite, phone *pushcoretest.Device, name string) *pushv1.Device_ChannelToken {
	t.Helper()
	r, err := s.core.Devices.GetDevice(s.app.Key(t.Context()), &pushv1.GetDeviceRequest{App: s.app.ID, Device: phone.Token})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.GetDevice().GetChannelTokens() {
		if c.GetChannel() == name {
			return c
		}
	}
	return nil
}

func TestRule13ATokenThatIsGoneIsDeleted(t *testing.T) {
	t.Parallel()
	s := newVendorSite(t, "apns")
	phone := s.app.RegisterWith(t, "apns", "fcm")
	gone := func(change func(*senderv1.Result)) {
		t.Helper()
		id := s.app.Push(t, pushcoretest.ToDevices(phone))
		job := s.sender.NextJob(t)
		result := pushcoretest.ResultOf(job.GetTargets()[0], senderv1.Outcome_OUTCOME_TOKEN_GONE)
		change(result)
		job.ReportResults(t, result)
		s.app.WaitChannel(t, id, phone, "apns", pushv1.Delivery_Attempt_TOKEN_GONE)
		noJobs(t, s.core)
	}
	results := 0
	applied := func() {
		t.Helper()
		results++
		waitMetric(t, s.core, float64(results), "halley_pushcore_vendor_results_total", "channel", "apns", "outcome", "token_gone")
	}
	// Void before the device reported it: it is another registration of the app.
	gone(func(r *senderv1.Result) { r.GoneAt = timestamppb.New(time.Now().Add(-time.Hour)) })
	applied()
	gone(func(r *senderv1.Result) { r.Token = "the token before this one" })
	applied()
	if c := channelToken(t, s, phone, "apns"); c.GetGoneAt() != nil || c.GetTokenSuffix() == "" {
		t.Errorf("the token is %v", c)
	}
	gone(func(r *senderv1.Result) { r.GoneAt = timestamppb.New(time.Now().Add(time.Second)) })
	pushcoretest.Eventually(t, "the token is gone", func() bool { return channelToken(t, s, phone, "apns").GetGoneAt() != nil })
	if c := channelToken(t, s, phone, "apns"); c.GetTokenSuffix() != "" {
		t.Errorf("the token is %v", c)
	}
	if c := channelToken(t, s, phone, "fcm"); c.GetGoneAt() != nil || c.GetTokenSuffix() == "" {
		t.Errorf("the other channel's token is %v", c)
	}
	only := s.app.Push(t, pushcoretest.ToDevices(phone), pushcoretest.By(pushv1.Policy_VENDOR_ONLY))
	wantDelivery(t, s.app.WaitState(t, only, phone, pushv1.Delivery_FAILED), pushv1.Delivery_FAILED, pushv1.Delivery_NO_CHANNEL)
	phone.ReportToken(t, "apns", "a fresh token")
	if c := channelToken(t, s, phone, "apns"); c.GetGoneAt() != nil {
		t.Errorf("the fresh token is %v", c)
	}
	s.app.Push(t, pushcoretest.ToDevices(phone))
	if got := s.sender.NextJob(t).GetTargets()[0].GetToken(); got != "a fresh token" {
		t.Errorf("sent to %q", got)
	}
}

func TestRule13ManyTokensGoneAtOnceAreHeld(t *testing.T) {
	t.Parallel()
	s := newVendorSite(t, "huawei")
	const devices = 400
	manyDevices(t, s.core, s.app, devices, "huawei")
	s.app.Push(t, pushcoretest.ToAll())
	s.sender.NextJob(t).Report(t, senderv1.Outcome_OUTCOME_TOKEN_GONE)
	waitMetric(t, s.core, devices, "halley_pushcore_token_deletions_held", "channel", "huawei")
	left := func() (n int) {
		if err := s.core.SQL(t).QueryRow(t.Context(), "SELECT count(*) FROM channel_token WHERE gone_at IS NULL").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := left(); n != devices {
		t.Errorf("%d tokens are left of %d", n, devices)
	}
	admin := pushcoretest.AsAdmin(t.Context())
	seen := map[string]bool{}
	for page := ""; ; {
		held, err := s.core.Apps.ListHeldTokens(admin, &adminv1.ListHeldTokensRequest{App: s.app.ID, PageSize: 150, PageToken: page})
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range held.GetTokens() {
			seen[h.GetDevice()] = true
		}
		if page = held.GetNextPageToken(); page == "" {
			break
		}
	}
	if len(seen) != devices {
		t.Errorf("%d are listed", len(seen))
	}
	path := fmt.Sprintf("/admin/v1/apps/%s/held-tokens:release", s.app.ID)
	answer := s.core.REST(t, "POST", path, `{"channel":"huawei","keep":true}`, pushcoretest.Bearer(pushcoretest.AdminToken))
	if answer.Code != 200 || left() != devices {
		t.Errorf("%d %s, %d tokens are left", answer.Code, answer.Body, left())
	}
	waitMetric(t, s.core, 0, "halley_pushcore_token_deletions_held", "channel", "huawei")

	s.app.Push(t, pushcoretest.ToAll())
	s.sender.NextJob(t).Report(t, senderv1.Outcome_OUTCOME_TOKEN_GONE)
	waitMetric(t, s.core, devices, "halley_pushcore_token_deletions_held", "channel", "huawei")
	released, err := s.core.Apps.ReleaseHeldTokens(admin, &adminv1.ReleaseHeldTokensRequest{App: s.app.ID, Channel: "huawei"})
	if err != nil || released.GetTokens() != devices || left() != 0 {
		t.Errorf("%v, %v, %d tokens are left", released, err, left())
	}
}

package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

const (
	// troubledPhones is how many phones each vendor's app has, neighbours how many the other app has that the vendor serves.
	troubledPhones, neighbours = 120, 5
	// troubleOver bounds how long it takes until all is delivered once a trouble is over.
	troubleOver = time.Minute
	// daily is what a vendor takes a day from an app, where it has a code to say so.
	daily = 30
	// notBefore is when no test of quotas begins: shortly before the vendors' day ends.
	notBefore = 2 * time.Minute
)

// secrets are where a vendor's console has an app's secret; without it the console gives out another one.
var secrets = map[string][]string{
	"apns": {"key", "key_id"}, "fcm": {"service_account.private_key", "service_account.private_key_id"},
	"harmony": {"service_account.private_key", "service_account.key_id"}, "honor": {"client_secret"}, "huawei": {"client_secret"},
	"meizu": {"app_secret"}, "oppo": {"master_secret"}, "vivo": {"app_secret"}, "xiaomi": {"app_secret"},
}

// troubled is an app whose vendor has bad days, and another app with the same vendor.
type troubled struct {
	*vendorApp
	neighbour *vendorApp
	pushID    string
	parked    float64
}

// trouble is one that vendors have at the same time, in steps that each takes after the other; the last one checks what came of it.
type trouble struct {
	name  string
	of    []string // channels
	steps []func(*troubled, *testing.T)
}

func troubles() []trouble {
	var all []string
	for _, c := range channels {
		all = append(all, c.name)
	}
	// Apple's 429 is about one device, which is then left alone for a minute.
	limited := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return name == "apns" })
	type steps = []func(*troubled, *testing.T)
	return []trouble{
		{"dead tokens", all, steps{(*troubled).pushToDead, (*troubled).checkDead}},
		{"access token ended", all, steps{(*troubled).pushSlowly, (*troubled).endAccess, (*troubled).checkOnce}},
		{"too fast", limited, steps{(*troubled).limitRate, (*troubled).checkRate}},
		{"broken connections", all, steps{(*troubled).breakOff, (*troubled).mend, (*troubled).checkOnce}},
		{"credential revoked", all, steps{(*troubled).pushSlowly, (*troubled).revoke, (*troubled).replace, (*troubled).checkOnce}},
		{"quota spent", []string{"meizu", "oppo", "vivo", "xiaomi"}, steps{(*troubled).limitDay, (*troubled).checkQuota}},
	}
}

// TestTroubleWithVendors has each vendor refuse some of a request's phones, the app's access tokens, its speed and its credential, break
// connections, and spend its quota, in the middle of a push: what can be delivered is, once, and the ledger tells why the rest is not.
func TestTroubleWithVendors(t *testing.T) {
	t.Parallel()
	all := startTroubled(t)
	for _, trouble := range troubles() { //nolint:paralleltest // they follow each other
		having, last, begun := slices.Clone(all), len(trouble.steps)-1, time.Now()
		having = slices.DeleteFunc(having, func(one *troubled) bool { return !slices.Contains(trouble.of, one.name) })
		for _, step := range trouble.steps[:last] {
			for _, one := range having {
				step(one, t)
			}
		}
		for _, one := range having {
			t.Run(trouble.name+"/"+one.name, func(t *testing.T) {
				trouble.steps[last](one, t)
				one.goodDay(t)
			})
		}
		t.Logf("%s: %v", trouble.name, time.Since(begun).Round(time.Millisecond))
	}
}

func startTroubled(t *testing.T) []*troubled {
	t.Helper()
	var all []*troubled
	for _, app := range startChannels(t, troubledPhones, 5) {
		neighbour := *app
		neighbour.App = app.Site.CreateApp(t, app.name+"-2")
		neighbour.vendors.SetChannel(t, neighbour.App, app.name, app.sender)
		neighbour.register(t, neighbours)
		all = append(all, &troubled{vendorApp: app, neighbour: &neighbour})
	}
	return all
}

// post pushes over REST to phones that only their vendor may reach.
func (a *vendorApp) post(t *testing.T, ttl time.Duration, phones []string) (pushID string) {
	t.Helper()
	body := map[string]any{
		"audience":     map[string]any{"devices": map[string]any{"tokens": phones}},
		"notification": map[string]any{"title": "Hi", "body": "from e2e"},
		"policy":       map[string]any{"ttl": fmt.Sprintf("%ds", int(ttl.Seconds())), "channel": "VENDOR_ONLY"},
	}
	var accepted struct {
		PushID string `json:"push_id"`
	}
	rest(t, a.App, http.MethodPost, "/v1/apps/"+a.ID+"/pushes", body, http.StatusOK, &accepted)
	if accepted.PushID == "" {
		t.Fatal("a push has no id")
	}
	return accepted.PushID
}

// pushSlowly pushes while the vendor takes its time.
func (a *troubled) pushSlowly(t *testing.T) {
	t.Helper()
	a.vendors.Switch(t, a.name, map[string]any{"latency": map[string]any{"base": "1500ms", "path": "/"}})
	a.pushID = a.post(t, time.Hour, a.phones)
}

// awaitPart waits until the vendor has accepted a part of the push.
func (a *troubled) awaitPart(t *testing.T) {
	t.Helper()
	rig.Until(t, troubleOver, a.name+" has accepted a part of the push", func() error {
		if n := len(a.vendors.Accepted(t, a.name, a.pushID)); n == 0 {
			return errors.New("nothing is")
		}
		return nil
	})
}

// goodDay has the vendor behave.
func (a *troubled) goodDay(t *testing.T) {
	t.Helper()
	a.vendors.Text(t, http.MethodDelete, "/v1/"+a.name+"/switches", nil)
}

// checkOnce checks that all of the push is delivered, once.
func (a *troubled) checkOnce(t *testing.T) {
	t.Helper()
	a.awaitDelivered(t, a.pushID, len(a.phones))
	a.checkLedger(t, a.pushID, false)
}

// checkNeighbour checks that the vendor's other app takes no notice.
func (a *troubled) checkNeighbour(t *testing.T) {
	t.Helper()
	id := a.neighbour.post(t, time.Hour, a.neighbour.phones)
	a.neighbour.awaitDelivered(t, id, neighbours)
	a.neighbour.checkLedger(t, id, false)
}

// awaitParked waits until the sender puts more of the app off than before.
func (a *troubled) awaitParked(t *testing.T, why string) {
	t.Helper()
	rig.Until(t, troubleOver, "the sender of "+a.name+" waits: "+why, func() error {
		if a.sender.Parked(t, why) == a.parked {
			return errors.New("it does not")
		}
		return nil
	})
}

// failed returns the phones that a push failed for, and checks why it did.
func (a *troubled) failed(t *testing.T, pushID string, reason pushv1.Delivery_Reason) []string {
	t.Helper()
	var failed []string
	for d, err := range a.Client.ListDeliveries(t.Context(), &pushv1.ListDeliveriesRequest{App: a.ID, PushId: pushID, PageSize: 1000}) {
		if err != nil {
			t.Fatal(err)
		}
		if d.GetState() != pushv1.Delivery_FAILED {
			continue
		}
		if d.GetReason() != reason {
			t.Errorf("%s failed with %v, not %v: %v", d.GetDevice(), d.GetReason(), reason, d.GetAttempts())
		}
		failed = append(failed, d.GetDevice())
	}
	return failed
}

// awaitEnded waits until a push is delivered or failed for each phone, and returns how many times it failed.
func (a *troubled) awaitEnded(t *testing.T, pushID string) (failed int) {
	t.Helper()
	rig.Until(t, troubleOver, "the push has ended", func() error {
		push, err := a.Client.GetPush(t.Context(), a.ID, pushID)
		if err != nil {
			return err
		}
		c := push.GetCounts()
		failed = int(c.GetFailed())
		reached := c.GetSent()
		if a.receipts {
			reached = c.GetArrived()
		}
		if int(reached)+failed != len(a.phones) {
			return fmt.Errorf("counts are %q", c)
		}
		return nil
	})
	return failed
}

// pushToDead pushes to phones of which the vendor calls some dead, in every request of several phones.
func (a *troubled) pushToDead(t *testing.T) {
	t.Helper()
	a.vendors.Switch(t, a.name, map[string]any{"invalid_share": 0.2})
	a.pushID = a.post(t, time.Hour, a.phones)
}

// checkDead: the others have the push, once; the dead tokens are removed, and not sent to any more.
func (a *troubled) checkDead(t *testing.T) {
	t.Helper()
	failed := a.awaitEnded(t, a.pushID)
	if failed == 0 || failed == len(a.phones) {
		a.failed(t, a.pushID, pushv1.Delivery_TOKEN_GONE)
		t.Fatalf("%d tokens are dead", failed)
	}
	a.checkLedger(t, a.pushID, false)
	dead := a.failed(t, a.pushID, pushv1.Delivery_TOKEN_GONE)
	for _, phone := range dead {
		rig.Until(t, troubleOver, "the dead token of "+phone+" is removed", func() error {
			got, err := a.Client.Devices().GetDevice(t.Context(), &pushv1.GetDeviceRequest{App: a.ID, Device: phone})
			if err != nil {
				return err
			}
			if tokens := got.GetDevice().GetChannelTokens(); len(tokens) != 1 || tokens[0].GetGoneAt() == nil {
				return fmt.Errorf("tokens %v", tokens)
			}
			return nil
		})
	}
	again := a.post(t, time.Hour, a.phones)
	if n := a.awaitEnded(t, again); n != failed {
		t.Errorf("the next push failed for %d phones, not %d", n, failed)
	}
	a.failed(t, again, pushv1.Delivery_NO_CHANNEL)
	a.checkLedger(t, again, false)
	a.phones = slices.DeleteFunc(a.phones, func(phone string) bool { return slices.Contains(dead, phone) })
	t.Logf("%d of %d tokens were dead", failed, troubledPhones)
}

// endAccess ends the access tokens that were given out, in the middle of a push; the credential stays good.
func (a *troubled) endAccess(t *testing.T) {
	t.Helper()
	a.awaitPart(t)
	a.vendors.Text(t, http.MethodPost, "/v1/"+a.name+"/expire?app="+a.ID, nil)
	a.goodDay(t)
}

// limitRate has the vendor take less than the sender could send.
func (a *troubled) limitRate(t *testing.T) {
	t.Helper()
	a.vendors.Text(t, http.MethodDelete, "/v1/"+a.name+"/accepted", nil)
	a.vendors.Switch(t, a.name, map[string]any{"limit": map[string]any{"per_second": 150, "burst": 15, "retry_after": "1s"}})
	a.pushID = a.post(t, time.Hour, a.phones)
}

// checkRate: the vendor has refused some, and all are delivered all the same.
func (a *troubled) checkRate(t *testing.T) {
	t.Helper()
	a.checkOnce(t)
	var stats struct{ Answers map[string]int }
	if err := json.Unmarshal([]byte(a.vendors.Text(t, http.MethodGet, "/v1/"+a.name+"/stats", nil)), &stats); err != nil {
		t.Fatal(err)
	}
	if len(stats.Answers) < 2 {
		t.Errorf("the vendor has refused nobody for speed: %v", stats.Answers)
	}
	t.Logf("the vendor's answers: %v", stats.Answers)
}

// breakOff has the vendor break every connection.
func (a *troubled) breakOff(t *testing.T) {
	t.Helper()
	a.parked = a.sender.Parked(t, "breaker")
	a.vendors.Switch(t, a.name, map[string]any{"outage": map[string]any{"mode": "close", "path": "/", "share": 1}})
	a.pushID = a.post(t, time.Hour, a.phones)
}

// mend lets connections be, once the vendor was left alone for them.
func (a *troubled) mend(t *testing.T) {
	t.Helper()
	a.awaitParked(t, "breaker")
	if taken := a.vendors.Accepted(t, a.name, a.pushID); len(taken) > 0 {
		t.Errorf("a vendor that is away has accepted %d", len(taken))
	}
	a.goodDay(t)
}

// revoke makes the app's credential void in the middle of a push: the vendor's console gives out another one.
func (a *troubled) revoke(t *testing.T) {
	t.Helper()
	a.parked = a.sender.Parked(t, "credential")
	a.awaitPart(t)
	if a.name == "webpush" { // subscriptions belong to their key: there is no other one
		a.vendors.Switch(t, a.name, map[string]any{"credentials": map[string]any{"revoked": []string{a.ID}}})
		return
	}
	var apps map[string]map[string]any
	if err := json.Unmarshal([]byte(a.vendors.Text(t, http.MethodGet, "/v1/"+a.name+"/apps", nil)), &apps); err != nil {
		t.Fatal(err)
	}
	for _, path := range secrets[a.name] {
		fields := apps[a.ID]
		inner, name, nested := strings.Cut(path, ".")
		if nested {
			fields = fields[inner].(map[string]any)
		} else {
			name = path
		}
		if fields[name] == nil {
			t.Fatalf("%s has no %s", a.name, path)
		}
		delete(fields, name)
	}
	a.vendors.Text(t, http.MethodPost, "/v1/"+a.name+"/apps", apps[a.ID])
	a.vendors.Text(t, http.MethodPost, "/v1/"+a.name+"/expire?app="+a.ID, nil)
}

// replace gives the app its new credential, once the sender waits for it; the vendor's other app takes no notice meanwhile.
func (a *troubled) replace(t *testing.T) {
	t.Helper()
	a.awaitParked(t, "credential")
	if taken := len(a.vendors.Accepted(t, a.name, a.pushID)); taken == len(a.phones) {
		t.Errorf("the vendor has accepted all %d with a credential that is void", taken)
	}
	a.goodDay(t)
	a.checkNeighbour(t)
	a.vendors.SetChannel(t, a.App, a.name, a.sender)
}

// limitDay pushes more than the vendor takes in a day.
func (a *troubled) limitDay(t *testing.T) {
	t.Helper()
	china := time.FixedZone("UTC+8", 8*60*60) // where the vendors' days begin
	rig.Until(t, 2*notBefore, "the vendors' new day", func() error {
		if now := time.Now().In(china); now.Add(notBefore).Day() != now.Day() {
			return errors.New("it has not begun")
		}
		return nil
	})
	a.parked = a.sender.Parked(t, "quota")
	a.vendors.Switch(t, a.name, map[string]any{"limit": map[string]any{"daily": daily}})
	a.pushID = a.post(t, time.Minute, a.phones)
}

// checkQuota: what cannot live until the next day fails with the reason, what can waits for it without bothering the vendor, and the
// vendor's other app has a quota of its own.
func (a *troubled) checkQuota(t *testing.T) {
	t.Helper()
	failed := a.awaitEnded(t, a.pushID)
	if taken := len(a.phones) - failed; taken == 0 || taken > daily {
		t.Errorf("the vendor has taken %d of %d a day", taken, daily)
	}
	a.failed(t, a.pushID, pushv1.Delivery_QUOTA_SPENT)
	a.checkLedger(t, a.pushID, false)
	a.goodDay(t) // nobody tells the sender
	waits := a.post(t, 48*time.Hour, a.phones)
	a.awaitParked(t, "quota")
	a.checkNeighbour(t)
	if taken := len(a.vendors.Accepted(t, a.name, waits)); taken > 0 {
		t.Errorf("the vendor was asked to take %d after the quota was spent", taken)
	}
	a.AwaitCounts(t, waits, troubleOver, &pushv1.Counts{Targeted: uint32(len(a.phones)), Pending: uint32(len(a.phones))})
}

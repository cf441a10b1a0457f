package e2e_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/halleypush/halley/e2e/rig"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// channels are the vendor channels, and what points their senders to a simulator. A new one is added here.
var channels = []vendorChannel{
	{"apns", "production: {url}\nca: {ca}", false, true},
	{"fcm", "url: {url}", false, false},
	{"harmony", "url: {url}", true, true},
	{"honor", "url: {url}\ntoken_url: {url}/auth/token", true, false},
	{"huawei", "url: {url}\ntoken_url: {url}/oauth2/v3/token", true, true},
	{"meizu", "url: {url}", true, false},
	{"oppo", "url: {url}", true, true},
	{"vivo", "url: {url}", true, true},
	{"webpush", "hosts: [127.0.0.1]\nprivate: true\nca: {ca}", false, false},
	{"xiaomi", "url: {url}", true, true},
}

// vendorChannel is what tests know of a channel.
type vendorChannel struct {
	name     string
	config   string // of the sender; {url} and {ca} are the simulator's
	receipts bool   // the vendor says when a message has reached the phone
	dedup    bool   // requests carry an id that a repeat has, too; without one, only the push_id in the message tells it
}

// vendorPhones is how many phones each channel has.
const vendorPhones = 300

// vendorApp is an app whose phones only one vendor reaches.
type vendorApp struct {
	*rig.App
	vendorChannel
	vendors *rig.Vendors
	sender  *rig.Sender
	phones  []string          // tokens
	secrets []string          // the phones'
	devices map[string]string // the phones' tokens by channel token
}

// startChannels starts the simulators, the senders, and an app with phones for each channel. Senders make small requests, of batch
// phones, so that a push is many of them, and try for as long as a test takes.
func startChannels(t *testing.T, phones, batch int) []*vendorApp {
	t.Helper()
	cluster := rig.StartCluster(t, rig.Options{})
	names := make([]string, len(channels))
	for i, c := range channels {
		names[i] = c.name
	}
	vendors := cluster.StartVendors(t, names...)
	apps := make([]*vendorApp, len(channels))
	for i, c := range channels {
		config := strings.NewReplacer("{url}", vendors.URLs[c.name], "{ca}", vendors.CA).Replace(c.config)
		apps[i] = &vendorApp{
			App: cluster.CreateApp(t, c.name), vendorChannel: c, vendors: vendors,
			sender: cluster.StartSender(t, c.name, fmt.Sprintf("%s\nbatch: %d\n", config, batch)+"concurrency: 4\ntries: 100\nfirst_retry: 100ms\nlongest_retry: 1s\n"+
				"breaker_after: 3\nbreaker_for: 1s\n"),
		}
		vendors.SetChannel(t, apps[i].App, c.name, apps[i].sender)
		apps[i].register(t, phones)
	}
	return apps
}

// register registers phones over HTTPS, as the app on a phone without a connection does.
func (a *vendorApp) register(t *testing.T, n int) {
	t.Helper()
	a.phones, a.secrets, a.devices = make([]string, n), make([]string, n), map[string]string{}
	channelTokens := a.vendors.Tokens(t, a.App, a.name, n)
	var group errgroup.Group
	group.SetLimit(8)
	for i, channelToken := range channelTokens {
		group.Go(func() (err error) {
			a.phones[i], a.secrets[i], err = registerPhone(&http.Client{Timeout: 20 * time.Second}, a.App, a.name, channelToken)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, channelToken := range channelTokens {
		a.devices[knownAs(channelToken)] = a.phones[i]
	}
}

// knownAs returns what a vendor knows of a phone's token: all, but of a subscription of Web Push.
func knownAs(channelToken string) string {
	var subscription struct{ Endpoint string }
	if json.Unmarshal([]byte(channelToken), &subscription) == nil {
		return subscription.Endpoint
	}
	return channelToken
}

// registerPhone registers a phone with its maker's token, and returns its own with its secret.
func registerPhone(web *http.Client, app *rig.App, channel, channelToken string) (token, secret string, err error) {
	body, err := json.Marshal(map[string]any{
		"app": app.ID, "client_key": app.ClientKey, "install_id": rand.Text(),
		"channel_tokens": []map[string]string{{"channel": channel, "token": channelToken, "environment": "production"}},
	})
	if err != nil {
		return "", "", err
	}
	response, err := web.Post(app.URL+"/device/v1/register", "application/json", bytes.NewReader(body))
	if err != nil {
		return "", "", fmt.Errorf("register: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", "", fmt.Errorf("register: %w", err)
	}
	var registered struct{ Token, Secret string }
	if json.Unmarshal(text, &registered) != nil || registered.Token == "" {
		return "", "", fmt.Errorf("register: %s: %s", response.Status, text)
	}
	return registered.Token, registered.Secret, nil
}

// awaitDelivered waits until the vendor has a push for n phones and, where it sends receipts, says that they have it.
func (a *vendorApp) awaitDelivered(t *testing.T, pushID string, n int) {
	t.Helper()
	want := &pushv1.Counts{Targeted: uint32(n), Sent: uint32(n)}
	if a.receipts {
		want = &pushv1.Counts{Targeted: uint32(n), Arrived: uint32(n)}
	}
	a.AwaitCounts(t, pushID, time.Minute, want)
}

// checkLedger compares the vendor's list of who has a push, and how often, with the ledger's.
func (a *vendorApp) checkLedger(t *testing.T, pushID string, repeats bool) {
	t.Helper()
	taken := map[string]bool{} // by device
	for channelToken, times := range a.vendors.Accepted(t, a.name, pushID) {
		device, known := a.devices[channelToken]
		switch {
		case !known:
			t.Fatalf("%s has taken push %s for a token that no phone has: %s", a.name, pushID, channelToken)
		case times != 1 && !repeats:
			t.Errorf("%s has taken push %s %d times for %s", a.name, pushID, times, device)
		}
		taken[device] = true
	}
	for d, err := range a.Client.ListDeliveries(t.Context(), &pushv1.ListDeliveriesRequest{App: a.ID, PushId: pushID, PageSize: 1000}) {
		if err != nil {
			t.Fatal(err)
		}
		reached := d.GetState() == pushv1.Delivery_SENT || d.GetState() == pushv1.Delivery_ARRIVED
		if reached != taken[d.GetDevice()] || reached && d.GetChannel() != a.name {
			t.Errorf("push %s to %s: %s has taken it: %v; the ledger has %v by %q", pushID, d.GetDevice(), a.name, taken[d.GetDevice()],
				d.GetState(), d.GetChannel())
		}
		delete(taken, d.GetDevice())
	}
	if len(taken) > 0 {
		t.Errorf("%s has taken push %s for %d phones that the ledger does not have", a.name, pushID, len(taken))
	}
}

// TestChannels pushes to phones that only one vendor reaches, for each vendor: what the vendor has accepted is what the ledger
// says, also when senders are killed in the middle, and when a vendor is down for a while.
func TestChannels(t *testing.T) {
	t.Parallel()
	apps := startChannels(t, vendorPhones, 20)
	for _, app := range apps {
		t.Run("delivered/"+app.name, app.testDelivered)
	}
	killed := make([]partlySent, len(apps))
	for i, app := range apps { // all at once: what a killed sender had comes again after a minute
		killed[i] = app.killInMidBatch(t)
	}
	for i, app := range apps {
		t.Run("killed/"+app.name, func(t *testing.T) { app.testKilled(t, killed[i]) })
	}
	for _, app := range apps { //nolint:paralleltest // the stages stand on each other
		t.Run("down/"+app.name, func(t *testing.T) { app.testDown(t, apps) })
	}
}

func (a *vendorApp) testDelivered(t *testing.T) {
	direct, everyone := a.Push(t, a.phones[:10]...), a.Push(t)
	a.awaitDelivered(t, direct, 10)
	a.awaitDelivered(t, everyone, len(a.phones))
	a.checkLedger(t, direct, false)
	a.checkLedger(t, everyone, false)
}

// partlySent is a push whose sender was killed when the vendor had accepted it for so many phones.
type partlySent struct {
	pushID   string
	accepted int
}

// killInMidBatch kills the sender while the vendor has a part of a push, and starts it again.
func (a *vendorApp) killInMidBatch(t *testing.T) partlySent {
	t.Helper()
	a.vendors.Switch(t, a.name, map[string]any{"latency": map[string]any{"base": "200ms", "path": "/"}})
	push := partlySent{pushID: a.Push(t, a.phones...)}
	rig.Until(t, 30*time.Second, a.name+" has accepted a part of the push", func() error {
		if push.accepted = len(a.vendors.Accepted(t, a.name, push.pushID)); push.accepted == 0 {
			return errors.New("nothing is")
		}
		return nil
	})
	a.sender.Kill(t)
	push.accepted = len(a.vendors.Accepted(t, a.name, push.pushID))
	a.vendors.Text(t, http.MethodDelete, "/v1/"+a.name+"/switches", nil)
	a.sender.Start(t)
	return push
}

// testKilled: nothing of the push is lost, and what comes twice has the same id where the vendor has one.
func (a *vendorApp) testKilled(t *testing.T, push partlySent) {
	t.Helper()
	if push.accepted == len(a.phones) {
		t.Fatal("the sender was killed too late: all was accepted")
	}
	rig.Until(t, 2*time.Minute, "the rest is sent", func() error {
		got, err := a.Client.GetPush(t.Context(), a.ID, push.pushID)
		if err != nil {
			return err
		}
		// Receipts that came while no sender was there may be lost.
		if c := got.GetCounts(); c.GetSent()+c.GetArrived() != uint32(len(a.phones)) {
			return fmt.Errorf("counts are %q", c)
		}
		return nil
	})
	a.checkLedger(t, push.pushID, true)
	twice := 0
	for _, times := range a.vendors.Accepted(t, a.name, push.pushID) {
		twice += times - 1
	}
	ids := a.vendors.DedupIDs(t, a.name, push.pushID)
	if len(ids) != len(a.phones) {
		t.Errorf("%d phones have requests, not %d", len(ids), len(a.phones))
	}
	for token, of := range ids {
		if len(of) != 1 || a.dedup != (of[0] != "") {
			t.Fatalf("the ids by which %s can tell that the push came twice to %s are %q", a.name, token, of)
		}
	}
	t.Logf("killed when %d of %d were accepted; %d came twice, with an id that says so: %v",
		push.accepted, len(a.phones), twice, a.dedup)
}

// testDown takes the vendor away: its breaker opens, other channels take no notice, and all is delivered once it is back.
func (a *vendorApp) testDown(t *testing.T, apps []*vendorApp) {
	t.Helper()
	parked := a.sender.Parked(t, "breaker")
	a.vendors.Switch(t, a.name, map[string]any{"outage": map[string]any{"mode": "503", "path": "/", "share": 1}})
	pushID := a.Push(t, a.phones...)
	rig.Until(t, 30*time.Second, "the breaker opens", func() error {
		if a.sender.Parked(t, "breaker") == parked {
			return errors.New("it is closed")
		}
		return nil
	})
	var longest time.Duration
	for _, other := range apps {
		if other == a {
			continue
		}
		begun, id := time.Now(), other.Push(t, other.phones[:10]...)
		other.awaitDelivered(t, id, 10)
		other.checkLedger(t, id, false)
		longest = max(longest, time.Since(begun))
	}
	if taken := a.vendors.Accepted(t, a.name, pushID); len(taken) > 0 {
		t.Errorf("a vendor that is down has accepted %d", len(taken))
	}
	a.vendors.Text(t, http.MethodDelete, "/v1/"+a.name+"/switches", nil)
	back := time.Now()
	a.awaitDelivered(t, pushID, len(a.phones))
	a.checkLedger(t, pushID, false)
	t.Logf("other channels delivered within %v meanwhile; all was delivered %v after the vendor was back",
		longest.Round(time.Millisecond), time.Since(back).Round(time.Millisecond))
}

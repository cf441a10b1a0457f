package e2e_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/halleypush/halley/e2e/rig"
	"github.com/halleypush/halley/pkg/device"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

const (
	// frozenPhones is how many phones lose their network without a word.
	frozenPhones = 1000
	// ackTimeout is how long they have to confirm a push, vendorWithin how long the vendor's way may then take.
	ackTimeout   = 10 * time.Second
	vendorWithin = 5 * time.Second
	// unackedFor is how long a gateway bears with a connection on which a message is not confirmed.
	unackedFor = 3 * ackTimeout
)

// TestFrozenPhones stops a thousand connected phones with SIGSTOP: their connections stay, nobody answers. What is pushed to them,
// own connection first, is with the vendor within the ack timeout and five seconds, once for each. The gateway closes their
// connections after three ack timeouts; once they go on, what comes to them comes once.
func TestFrozenPhones(t *testing.T) {
	t.Parallel()
	cluster := rig.StartCluster(t, rig.Options{})
	app := startVendored(t, cluster, "frozen")
	vendors, channel := app.vendors, app.name
	// Heartbeats that would tell that the phones are gone come later than the ack timeout.
	settings := &adminv1.Settings{
		AckTimeout: durationpb.New(ackTimeout), KeepAlive: durationpb.New(5 * time.Minute), KeepAliveMax: durationpb.New(10 * time.Minute),
	}
	if _, err := cluster.Admin(t).UpdateApp(t.Context(), &adminv1.UpdateAppRequest{App: app.ID, Settings: settings}); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(rig.Folder(t), "phones")
	app.register(t, frozenPhones)
	app.keep(t, store)
	phones := rig.StartProgram(t, filepath.Dir(store), "phones", nil, rig.Bin(t, "halley"), "device", "--number", strconv.Itoa(frozenPhones),
		"--store", store, "--app", app.ID, "--client-key", app.ClientKey, "--mqtt", app.MQTT)
	awaitOnline(t, app.App, frozenPhones)

	awake := app.Push(t, app.phones...)
	app.AwaitCounts(t, awake, time.Minute, &pushv1.Counts{Targeted: frozenPhones, Arrived: frozenPhones})
	if taken := len(vendors.Accepted(t, channel, awake)); taken > 0 {
		t.Errorf("the vendor has a push that %d phones have confirmed", taken)
	}

	phones.Freeze(t)
	begun := time.Now()
	frozen := map[string]string{"to each": app.Push(t, app.phones...), "to everyone": app.Push(t)}
	kept := app.pushOwn(t)
	for what, pushID := range frozen {
		rig.Until(t, ackTimeout+vendorWithin-time.Since(begun), "the vendor has the push "+what, func() error {
			if n := len(vendors.Accepted(t, channel, pushID)); n < frozenPhones {
				return fmt.Errorf("it has it for %d", n)
			}
			return nil
		})
		t.Logf("%d frozen phones: the vendor had the push %s after %v", frozenPhones, what, time.Since(begun).Round(time.Millisecond))
		app.awaitDelivered(t, pushID, frozenPhones)
		app.checkLedger(t, pushID, false)
	}
	rig.Until(t, unackedFor+slack-time.Since(begun), "the gateway closes connections on which nothing is confirmed", func() error {
		closed, err := cluster.Gateways[0].Metric("halley_gateway_closes_total", `reason="no_ack"`)
		if err == nil && closed != frozenPhones {
			err = fmt.Errorf("it has closed %.0f", closed)
		}
		return err
	})
	t.Logf("%d frozen phones: the gateway had closed their connections after %v", frozenPhones, time.Since(begun).Round(time.Millisecond))
	awaitOnline(t, app.App, 0)

	phones.Thaw(t)
	awaitOnline(t, app.App, frozenPhones)
	thawed := app.Push(t)
	app.AwaitCounts(t, thawed, time.Minute, &pushv1.Counts{Targeted: frozenPhones, Arrived: frozenPhones})
	app.AwaitCounts(t, kept, time.Minute, &pushv1.Counts{Targeted: frozenPhones, Arrived: frozenPhones})
	got := printed(t, phones)
	for _, pushID := range []string{awake, kept, thawed} {
		if len(got[pushID]) != frozenPhones {
			t.Errorf("push %s came to %d phones", pushID, len(got[pushID]))
		}
	}
	// What the vendor has brought may come once more: their kernels had taken it for them. Only phones can tell.
	for pushID, phones := range got {
		for phone, times := range phones {
			if times != 1 {
				t.Errorf("push %s came %d times to phone %s", pushID, times, phone)
			}
		}
	}
}

// pushOwn pushes to everyone, by their own connections only.
func (a *vendorApp) pushOwn(t *testing.T) string {
	t.Helper()
	request := a.Request()
	request.Policy.Channel = pushv1.Policy_OWN_ONLY
	response, err := a.Client.Push(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return response.GetPushId()
}

// printed counts the pushes that the phones of a `halley device` have printed, by push and phone.
func printed(t *testing.T, phones *rig.Program) map[string]map[string]int {
	t.Helper()
	got := map[string]map[string]int{}
	for _, line := range phones.Lines(t) { // [17] 15:04:05.000  01a22310-…  title=…
		fields := strings.Fields(line)
		if len(fields) < 3 || len(fields[2]) != 36 {
			continue
		}
		if got[fields[2]] == nil {
			got[fields[2]] = map[string]int{}
		}
		got[fields[2]][fields[0]]++
	}
	return got
}

// keep writes the phones' identities into a store of `halley device`.
func (a *vendorApp) keep(t *testing.T, store string) {
	t.Helper()
	for i, token := range a.phones {
		folder := filepath.Join(store, strconv.Itoa(i+1))
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		id := device.Identity{App: a.ID, InstallID: rand.Text(), Token: token, Secret: a.secrets[i]}
		if err := device.FileStore(folder).SaveIdentity(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
}

// startVendored starts a vendor, and makes an app whose phones it reaches.
func startVendored(t *testing.T, cluster *rig.Cluster, id string) *vendorApp {
	t.Helper()
	const channel = "huawei"
	vendors := cluster.StartVendors(t, channel)
	url := vendors.URLs[channel]
	app := &vendorApp{
		App: cluster.CreateApp(t, id), vendorChannel: vendorChannel{name: channel, receipts: true}, vendors: vendors,
		sender: cluster.StartSender(t, channel, "url: "+url+"\ntoken_url: "+url+"/oauth2/v3/token\n"),
	}
	vendors.SetChannel(t, app.App, channel, app.sender)
	return app
}

// awaitOnline waits until so many phones of an app are online.
func awaitOnline(t *testing.T, app *rig.App, n int) {
	t.Helper()
	rig.Until(t, time.Minute, "the phones are online", func() error {
		online := 0
		for d, err := range app.Client.ListDevices(t.Context(), &pushv1.ListDevicesRequest{App: app.ID, PageSize: 1000}) {
			if err != nil {
				return err
			}
			if d.GetOnline() {
				online++
			}
		}
		if online != n {
			return errors.New(strconv.Itoa(online) + " are")
		}
		return nil
	})
}

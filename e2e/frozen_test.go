package e2e_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
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
)

// TestFrozenPhones stops a thousand connected phones with SIGSTOP: their connections stay, nobody answers. What is pushed to them,
// own connection first, is with the vendor within the ack timeout and five seconds, once for each.
func TestFrozenPhones(t *testing.T) {
	t.Parallel()
	const channel = "huawei"
	cluster := rig.StartCluster(t, rig.Options{})
	vendors := cluster.StartVendors(t, channel)
	url := vendors.URLs[channel]
	sender := cluster.StartSender(t, channel, "url: "+url+"\ntoken_url: "+url+"/oauth2/v3/token\n")
	app := &vendorApp{
		App: cluster.CreateApp(t, "frozen"), vendorChannel: vendorChannel{name: channel, receipts: true}, vendors: vendors, sender: sender,
	}
	// Heartbeats that would tell that the phones are gone come later than the ack timeout.
	settings := &adminv1.Settings{
		AckTimeout: durationpb.New(ackTimeout), KeepAlive: durationpb.New(5 * time.Minute), KeepAliveMax: durationpb.New(10 * time.Minute),
	}
	if _, err := cluster.Admin(t).UpdateApp(t.Context(), &adminv1.UpdateAppRequest{App: app.ID, Settings: settings}); err != nil {
		t.Fatal(err)
	}
	vendors.SetChannel(t, app.App, channel, sender)
	store := filepath.Join(rig.Folder(t), "phones")
	app.register(t, frozenPhones)
	app.keep(t, store)
	phones := rig.StartProgram(t, filepath.Dir(store), "phones", nil, rig.Bin(t, "halley"), "device", "--number", strconv.Itoa(frozenPhones),
		"--store", store, "--app", app.ID, "--client-key", app.ClientKey, "--mqtt", app.MQTT)
	app.awaitOnline(t, frozenPhones)

	awake := app.Push(t, app.phones...)
	app.AwaitCounts(t, awake, time.Minute, &pushv1.Counts{Targeted: frozenPhones, Arrived: frozenPhones})
	if taken := len(vendors.Accepted(t, channel, awake)); taken > 0 {
		t.Errorf("the vendor has a push that %d phones have confirmed", taken)
	}

	phones.Freeze(t)
	defer phones.Thaw(t)
	for what, to := range map[string][]string{"to each": app.phones, "to everyone": nil} { //nolint:paralleltest // on the same phones
		t.Run(what, func(t *testing.T) {
			begun := time.Now()
			pushID := app.Push(t, to...)
			rig.Until(t, ackTimeout+vendorWithin, "the vendor has the push for all phones", func() error {
				if n := len(vendors.Accepted(t, channel, pushID)); n < frozenPhones {
					return fmt.Errorf("it has it for %d", n)
				}
				return nil
			})
			took := time.Since(begun)
			app.awaitDelivered(t, pushID, frozenPhones)
			app.checkLedger(t, pushID, false)
			t.Logf("%d frozen phones: the vendor had the push after %v", frozenPhones, took.Round(time.Millisecond))
		})
	}
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

// awaitOnline waits until so many phones are online.
func (a *vendorApp) awaitOnline(t *testing.T, n int) {
	t.Helper()
	rig.Until(t, time.Minute, "the phones are online", func() error {
		online := 0
		for d, err := range a.Client.ListDevices(t.Context(), &pushv1.ListDevicesRequest{App: a.ID, PageSize: 1000}) {
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

package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/halleypush/halley/e2e/rig"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

const (
	// audienceSize is how many phones the audience has, unless HALLEY_E2E_PHONES says otherwise.
	audienceSize = 4000
	// sampleEvery is how often senders' memory is read.
	sampleEvery = 250 * time.Millisecond
	// pushesPerHalf is how many pushes each half of the run has. As many go before, in which connections and heaps grow to what
	// they need.
	pushesPerHalf = 3
	// maxGrowth bounds a sender's least memory in the second half over that in the first: what it keeps of what it has done
	// raises that. What it has beyond comes and goes with the jobs that it works on.
	maxGrowth = 1.2
	// maxMemory bounds a sender's memory at any time, in bytes, however many phones there are: half of what the chart allows.
	maxMemory = 256 << 20
)

// TestAudienceOfTenChannels pushes to everyone of an app whose phones are spread over all vendors: what the vendors have accepted
// is what the ledger says, for each phone, and the senders' memory does not grow with the number of messages.
func TestAudienceOfTenChannels(t *testing.T) {
	t.Parallel()
	size, err := strconv.Atoi(os.Getenv("HALLEY_E2E_PHONES"))
	if err != nil || size < len(channels) {
		size = audienceSize
	}
	a := startAudience(t, size)
	a.halfOfRun(t)
	first, second := a.halfOfRun(t), a.halfOfRun(t)
	for _, c := range channels {
		was, is := first[c.name], second[c.name]
		slices.Sort(was)
		slices.Sort(is)
		growth, peak := is[0]/was[0], is[len(is)-1]
		t.Logf("sender-%s had %.1f to %.1f MB in the first half, %.1f to %.1f MB in the second: least %.2f times, median %.2f times",
			c.name, was[0]/1e6, was[len(was)-1]/1e6, is[0]/1e6, peak/1e6, growth, is[len(is)/2]/was[len(was)/2])
		if growth > maxGrowth || peak > maxMemory {
			t.Errorf("the memory of sender-%s has grown", c.name)
		}
	}
}

// audience is an app with phones of all vendors.
type audience struct {
	*rig.App
	vendors *rig.Vendors
	senders map[string]*rig.Sender // by channel
	phones  map[string]string      // tokens by channel and channel token
}

// wayTo is how a phone is reached: its vendor and the vendor's token.
func wayTo(channel, channelToken string) string { return channel + " " + channelToken }

func startAudience(t *testing.T, size int) *audience {
	t.Helper()
	cluster := rig.StartCluster(t, rig.Options{})
	var names []string
	for _, c := range channels {
		names = append(names, c.name)
	}
	a := &audience{
		App: cluster.CreateApp(t, "everyone"), vendors: cluster.StartVendors(t, names...),
		senders: map[string]*rig.Sender{}, phones: make(map[string]string, size),
	}
	begun := time.Now()
	for i, c := range channels {
		config := strings.NewReplacer("{url}", a.vendors.URLs[c.name], "{ca}", a.vendors.CA).Replace(c.config)
		a.senders[c.name] = cluster.StartSender(t, c.name, config)
		a.vendors.SetChannel(t, a.App, c.name, a.senders[c.name])
		a.register(t, c.name, size*(i+1)/len(channels)-size*i/len(channels))
	}
	if len(a.phones) != size {
		t.Fatalf("%d phones are registered, not %d", len(a.phones), size)
	}
	t.Logf("%d phones of %d vendors registered in %v", size, len(channels), time.Since(begun).Round(time.Second))
	return a
}

// register registers phones of a vendor, as their apps do.
func (a *audience) register(t *testing.T, channel string, n int) {
	t.Helper()
	const atOnce = 32
	web := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}}
	defer web.CloseIdleConnections()
	channelTokens := a.vendors.Tokens(t, a.App, channel, n)
	tokens := make([]string, n)
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, channelToken := range channelTokens {
		group.Go(func() (err error) {
			tokens[i], _, err = registerPhone(web, a.App, channel, channelToken)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, channelToken := range channelTokens {
		a.phones[wayTo(channel, knownAs(channelToken))] = tokens[i]
	}
}

// halfOfRun pushes several times, and returns samples of the senders' memory meanwhile by channel, in bytes.
func (a *audience) halfOfRun(t *testing.T) map[string][]float64 {
	t.Helper()
	stop := a.watchMemory(t)
	for range pushesPerHalf {
		a.send(t)
	}
	return stop()
}

// send pushes to everyone, waits until all is delivered, and checks what became of it.
func (a *audience) send(t *testing.T) {
	t.Helper()
	begun := time.Now()
	pushID := a.pushToEveryone(t)
	rig.Until(t, 10*time.Minute, "all phones are reached", func() error {
		push, err := a.Client.GetPush(t.Context(), a.ID, pushID)
		if err != nil {
			return err
		}
		if c := push.GetCounts(); int(c.GetSent()+c.GetArrived()) != len(a.phones) {
			return fmt.Errorf("of %d the counts are %q", len(a.phones), c)
		}
		return nil
	})
	took := time.Since(begun)
	a.checkAccounts(t, pushID)
	t.Logf("%d phones of %d vendors reached in %v: %.0f a second", len(a.phones), len(channels), took.Round(10*time.Millisecond),
		float64(len(a.phones))/took.Seconds())
}

// pushToEveryone pushes over REST.
func (a *audience) pushToEveryone(t *testing.T) (pushID string) {
	t.Helper()
	body := `{"audience": {"all": {}}, "notification": {"title": "Hi", "body": "to everyone"}, "policy": {"ttl": "3600s"}}`
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.URL+"/v1/apps/"+a.ID+"/pushes", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+a.ServerKey)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var pushed struct {
		PushID string `json:"push_id"`
	}
	if err := json.NewDecoder(response.Body).Decode(&pushed); err != nil || pushed.PushID == "" {
		t.Fatalf("push: %s, %v", response.Status, err)
	}
	return pushed.PushID
}

// checkAccounts compares the vendors' lists of who has a push with the ledger: each phone is in one list, once, and in the
// ledger with that vendor.
func (a *audience) checkAccounts(t *testing.T, pushID string) {
	t.Helper()
	by := make(map[string]string, len(a.phones)) // the vendor, by phone
	for _, c := range channels {
		for channelToken, times := range a.vendors.Accepted(t, c.name, pushID) {
			phone, known := a.phones[wayTo(c.name, channelToken)]
			if !known || times != 1 || by[phone] != "" {
				t.Fatalf("%s has taken the push %d times for phone %q, which %q has taken it for, too", c.name, times, phone, by[phone])
			}
			by[phone] = c.name
		}
	}
	if len(by) != len(a.phones) {
		t.Errorf("the vendors have taken the push for %d phones, not %d", len(by), len(a.phones))
	}
	listed := 0
	for d, err := range a.Client.ListDeliveries(t.Context(), &pushv1.ListDeliveriesRequest{App: a.ID, PushId: pushID, PageSize: 1000}) {
		if err != nil {
			t.Fatal(err)
		}
		listed++
		reached := d.GetState() == pushv1.Delivery_SENT || d.GetState() == pushv1.Delivery_ARRIVED
		if !reached || by[d.GetDevice()] == "" || d.GetChannel() != by[d.GetDevice()] {
			t.Fatalf("the ledger has %v by %q for phone %s, which %q has taken the push for", d.GetState(), d.GetChannel(), d.GetDevice(), by[d.GetDevice()])
		}
		delete(by, d.GetDevice())
	}
	if listed != len(a.phones) || len(by) != 0 {
		t.Errorf("the ledger has %d phones, not %d; vendors have taken the push for %d that it does not have", listed, len(a.phones), len(by))
	}
}

// watchMemory reads the senders' resident memory until stop is called, which returns it by channel, in bytes.
func (a *audience) watchMemory(t *testing.T) (stop func() map[string][]float64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	samples := make(map[string][]float64, len(channels))
	var watching sync.WaitGroup
	watching.Go(func() {
		for more := true; more; more = wait(ctx, sampleEvery) {
			for channel, sender := range a.senders {
				memory, err := residentMemory(t.Context(), sender.Admin)
				if err != nil {
					t.Errorf("memory of sender-%s: %v", channel, err)
				}
				samples[channel] = append(samples[channel], memory)
			}
		}
	})
	return func() map[string][]float64 {
		cancel()
		watching.Wait()
		return samples
	}
}

// residentMemory reads a process's metric of it, in bytes.
func residentMemory(ctx context.Context, admin string) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	_, rest, found := bytes.Cut(text, []byte("\nprocess_resident_memory_bytes "))
	if !found {
		return 0, fmt.Errorf("it is not in the metrics: %s", response.Status)
	}
	value, _, _ := bytes.Cut(rest, []byte("\n"))
	return strconv.ParseFloat(string(value), 64)
}

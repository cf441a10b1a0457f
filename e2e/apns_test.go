package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/halleypush/halley/e2e/rig"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

const bundle = "com.example.app"

// iPhone registers a device that can be reached through Apple only, and returns its token.
func iPhone(t *testing.T, app *rig.App, n int, token string) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"app": app.ID, "client_key": app.ClientKey, "install_id": fmt.Sprintf("e2e-iphone-installation-%08d", n), "platform": "ios",
		"channel_tokens": []map[string]string{{"channel": "apns", "token": token, "environment": "production"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, app.URL+"/device/v1/register", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Token string }
	if err := json.Unmarshal(text, &answer); err != nil || answer.Token == "" {
		t.Fatalf("register: %s: %s", response.Status, text)
	}
	return answer.Token
}

// TestAPNs pushes to devices that only Apple reaches, through the sender and the simulator, each a process of its own.
func TestAPNs(t *testing.T) {
	t.Parallel()
	cluster := rig.StartCluster(t, rig.Options{})
	vendors := cluster.StartVendors(t, "apns")
	sender := cluster.StartSender(t, "apns", fmt.Sprintf("production: %s\nca: %s\nfirst_retry: 100ms\n", vendors.URLs["apns"], vendors.CA))
	app := cluster.CreateApp(t, "apple")
	admin := cluster.Admin(t)

	console := vendors.Register(t, "apns", map[string]any{"app": app.ID, "bundle_id": bundle})
	set := func(key any) error {
		fields, err := structpb.NewStruct(map[string]any{
			"bundle_id": bundle, "key": key, "key_id": console["key_id"], "team_id": console["team_id"],
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = admin.SetChannel(t.Context(), &adminv1.SetChannelRequest{App: app.ID, Channel: "apns", Credential: fields})
		return err
	}
	if err := set("nonsense"); err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("a credential that is none: %v", err)
	}
	if err := set(console["key"]); err != nil {
		t.Fatal(err)
	}

	const n = 300
	tokens := strings.Fields(vendors.Text(t, http.MethodPost, "/v1/apns/tokens", map[string]any{"app": app.ID, "count": n}))
	phones := make([]string, n)
	for i := range phones {
		phones[i] = iPhone(t, app, i, strings.Trim(tokens[i], `"`))
	}
	direct := app.Push(t, phones[:10]...)
	everyone := app.Push(t)
	app.AwaitCounts(t, direct, time.Minute, &pushv1.Counts{Targeted: 10, Sent: 10})
	app.AwaitCounts(t, everyone, time.Minute, &pushv1.Counts{Targeted: n, Sent: n})
	wantPairs(t, vendors, map[string]int{direct: 10, everyone: n})

	// The sender is killed in the middle, and Apple is away for a moment: nothing is lost.
	vendors.Switch(t, "apns", map[string]any{"outage": map[string]any{"mode": "503", "path": "/", "share": 0.3}})
	again := app.Push(t)
	sender.Kill(t)
	sender.Start(t)
	vendors.Text(t, http.MethodDelete, "/v1/apns/switches", nil)
	app.AwaitCounts(t, again, 2*time.Minute, &pushv1.Counts{Targeted: n, Sent: n})
	if got := pairs(t, vendors)[again]; got != n {
		t.Errorf("Apple has taken %d of %d", got, n)
	}
}

// pairs returns how many devices the simulator has accepted each push for.
func pairs(t *testing.T, v *rig.Vendors) map[string]int {
	t.Helper()
	got := map[string]int{}
	lines := bufio.NewScanner(strings.NewReader(v.Text(t, http.MethodGet, "/v1/apns/pairs", nil)))
	for lines.Scan() {
		var pair struct {
			PushID string `json:"push_id"`
		}
		if err := json.Unmarshal(lines.Bytes(), &pair); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		got[pair.PushID]++
	}
	return got
}

// wantPairs checks what the simulator has accepted. The check of the credential is not a push, and stands beside.
func wantPairs(t *testing.T, v *rig.Vendors, want map[string]int) {
	t.Helper()
	got := pairs(t, v)
	for push, n := range want {
		if got[push] != n {
			t.Errorf("Apple has taken %s for %d devices, not %d", push, got[push], n)
		}
	}
}

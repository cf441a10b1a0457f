package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/postgres/postgrestest"
	"github.com/halleypush/halley/services/halley"
	"github.com/halleypush/halley/services/halley/internal/cli"
)

// TestChannelsOfAnApp sets, shows and takes away the credentials of every channel. Of Web Push there is no sender here.
func TestChannelsOfAnApp(t *testing.T) {
	t.Parallel()
	served := slices.DeleteFunc(channel.Vendors(), func(name string) bool { return name == channel.WebPush })
	data := dataFolder(t)
	up(t, data, func(c *halley.Config) {
		c.Channels, c.VendorSimulators, c.SimulatorControl = served, true, "127.0.0.1:0"
	})
	env, err := os.ReadFile(filepath.Join(data, "demo.env"))
	if err != nil {
		t.Fatal(err)
	}
	_, control, _ := strings.Cut(string(env), "HALLEY_SIMULATORS=")
	control = strings.TrimSpace(control)
	must := func(args ...string) string {
		t.Helper()
		code, out, errOut := run(t, data, args...)
		if code != cli.ExitOK {
			t.Fatalf("halley %s: exit code %d: %s", strings.Join(args, " "), code, errOut)
		}
		return out
	}
	refused := func(want string, args ...string) {
		t.Helper()
		if code, _, errOut := run(t, data, args...); code != cli.ExitRefused || !strings.Contains(errOut, want) {
			t.Errorf("halley %s: exit code %d, %q; want %q", strings.Join(args, " "), code, errOut, want)
		}
	}

	refused("CHANNEL_NOT_SET", "channel", "get", "huawei")
	refused("credential.app_secret: is missing", "channel", "set", "huawei", "--app-id", "1")
	refused("credential.urgnet: there is no such field", "channel", "set", "huawei", "--credential", file(t, `{"urgnet": true}`))
	refused("credential.key", "channel", "set", "apns", "--bundle-id", "com.example.app", "--key", file(t, "no key"))
	refused("no sender of webpush answers", "channel", "set", "webpush", "--credential", file(t, `{"app_id": "1"}`))
	if shown := must("channel", "set", "webpush", "--credential", file(t, `{"app_id": "1"}`), "--unchecked"); !strings.Contains(shown, "checked      no") {
		t.Errorf("a credential that nobody checked is shown as\n%s", shown)
	}

	// The simulator's credential, and then the same one from its files. It is never shown.
	for _, name := range served {
		if shown := must("channel", "set", name, "--simulator", control); !strings.Contains(shown, "checked      yes") {
			t.Errorf("channel set %s printed\n%s", name, shown)
		}
	}
	apps := map[string]struct{ Key, KeyID, TeamID, BundleID string }{}
	registered, err := os.ReadFile(filepath.Join(data, "vendorsim", "apns.apps.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(strings.NewReplacer("_id", "ID").Replace(string(registered))), &apps); err != nil {
		t.Fatal(err)
	}
	apple := apps["demo"]
	must("channel", "set", "apns", "--bundle-id", apple.BundleID, "--key", file(t, apple.Key), "--key-id", apple.KeyID, "--team-id", apple.TeamID)
	refused("credential", "channel", "set", "apns", "--simulator", control, "--team-id", "TEAM999999") // Apple does not know the team

	all := must("channel", "list")
	for _, name := range channel.Vendors() {
		if !strings.Contains(all, name) {
			t.Errorf("channel list does not have %s:\n%s", name, all)
		}
	}
	if strings.Contains(all+must("channel", "get", "apns", "-o", "json"), "PRIVATE") {
		t.Error("a key is shown")
	}
	if shown := must("channel", "get", "huawei"); !strings.Contains(shown, "/receipts/huawei/demo/") {
		t.Errorf("channel get huawei has no URL for receipts:\n%s", shown)
	}
	must("channel", "delete", "webpush")
	refused("CHANNEL_NOT_SET", "channel", "get", "webpush")
}

// file returns the path of a file with a text.
func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheDemonstrationReachesAPhoneOfEveryMaker(t *testing.T) {
	t.Parallel()
	postgrestest.NotShort(t)
	code, out, errOut := run(t, "", "demo")
	if code != cli.ExitOK {
		t.Fatalf("exit code %d: %s\n%s", code, errOut, out)
	}
	for _, name := range channel.Vendors() {
		if !strings.Contains(out, name) {
			t.Errorf("no phone of %s in\n%s", name, out)
		}
	}
}

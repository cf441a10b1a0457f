package cli_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/halleypush/halley/services/halley/internal/cli"
	"github.com/halleypush/halley/services/pushcore/doctor"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestDoctorExaminesAnInstallation(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	path := filepath.Join(t.TempDir(), "pushcore.yaml")
	content := fmt.Sprintf("http: 127.0.0.1:0\ngrpc: 127.0.0.1:0\ninternal: 127.0.0.1:0\ntelemetry: {listen: 127.0.0.1:0}\ndatabase_url: %q\nkey_file: %q\nadmin_token: %q\nservice_token: %q\nnats: {url: %q, user: pushcore, password: %q}\n",
		core.DSN, core.KeyFile, pushcoretest.AdminToken, pushcoretest.ServiceToken, core.NATS.URL(), "test-core")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plain.Close() })
	code, out, errOut := run(t, "", "doctor", "--config", path, "--phones", "mqtt://"+plain.Addr().String())
	for _, want := range []string{"schema", "stream SEND", "clock of postgresql", "none holds a lease", "in plain text"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if code != cli.ExitOK || strings.Contains(out, "failed") {
		t.Errorf("exit code %d: %s\n%s", code, errOut, out)
	}

	untrusted := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(untrusted.Close)
	address := untrusted.Listener.Addr().String()
	code, out, errOut = run(t, "", "doctor", "--config", path, "-o", "json",
		"--phones", "mqtts://"+address+",wss://127.0.0.1:1,http://example.com,mqtt://")
	var ways []doctor.Finding
	for line := range strings.Lines(out) {
		var f doctor.Finding
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if f.Check == "phones' way in" {
			ways = append(ways, f)
		}
	}
	if code != cli.ExitFailed || len(ways) != 4 {
		t.Fatalf("exit code %d: %s\n%s", code, errOut, out)
	}
	for i, want := range []string{"that phones trust", "whether gateways run", "mqtt, mqtts, ws or wss", "mqtts://host:8883"} {
		if ways[i].Level != doctor.Failed || !strings.Contains(ways[i].Do, want) {
			t.Errorf("%+v, want %q", ways[i], want)
		}
	}
}

func TestDoctorSaysWhatItNeeds(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"which installation?":        {"doctor"},
		`no vendor channel "pigeon"`: {"doctor", "--config", os.DevNull, "--channels", "pigeon"},
		"--output":                   {"doctor", "--config", os.DevNull, "-o", "xml"},
	} {
		if code, _, errOut := run(t, "", args...); code != cli.ExitUsage || !strings.Contains(errOut, want) {
			t.Errorf("%v: exit code %d, %q", args, code, errOut)
		}
	}
	path := filepath.Join(t.TempDir(), "pushcore.yaml")
	if err := os.WriteFile(path, []byte("admin_token_file: /nowhere/admin"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ := run(t, "", "doctor", "--config", path)
	if want := "-> put into /nowhere/admin, readable for the user that runs this: token of the admin API"; code != cli.ExitFailed || !strings.Contains(out, want) {
		t.Errorf("exit code %d: %s, want %q", code, out, want)
	}
	if code, out, _ := run(t, "", "doctor", "--config", "/nowhere/pushcore.yaml"); code != cli.ExitFailed || !strings.Contains(out, "/nowhere") {
		t.Errorf("exit code %d: %s", code, out)
	}
}

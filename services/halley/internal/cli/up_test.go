package cli_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/halleypush/halley/pkg/postgres/postgrestest"
	"github.com/halleypush/halley/services/halley/internal/cli"
)

// takenAddress returns one that something listens on, until the test ends.
func takenAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener.Addr().String()
}

func TestWhoseAddressIsTakenIsToldWhatSetsAnother(t *testing.T) {
	t.Parallel()
	postgrestest.NotShort(t)
	taken, data := takenAddress(t), dataFolder(t)
	const free = "127.0.0.1:0"
	for flag, want := range map[string]string{
		"--http-listen":    "http in the configuration file or HALLEY_HTTP, or --http-listen",
		"--mqtt-listen":    "mqtt in the configuration file or HALLEY_MQTT, or --mqtt-listen",
		"--mqtts-listen":   "mqtts in the configuration file or HALLEY_MQTTS, or --mqtts-listen",
		"--nats-listen":    "nats in the configuration file or HALLEY_NATS_LISTEN, or --nats-listen",
		"--metrics-listen": "telemetry.listen in the configuration file or HALLEY_TELEMETRY_LISTEN, or --metrics-listen",
	} {
		args := []string{"up", "--log-level", "error", "--channels", "none"}
		for _, name := range []string{"--http-listen", "--grpc-listen", "--internal-listen", "--mqtt-listen", "--mqtts-listen", "--metrics-listen"} {
			args = append(args, name, free)
		}
		code, _, errOut := run(t, data, append(args, flag, taken)...)
		if code != cli.ExitFailed || !strings.Contains(errOut, taken) || !strings.Contains(errOut, want) {
			t.Errorf("%s: exit code %d, %q, want %q", flag, code, errOut, want)
		}
	}
	path := filepath.Join(t.TempDir(), "up.yaml")
	content := fmt.Sprintf("{http: %s, grpc: %s, internal: %s, mqtt: %s, mqtts: '', vendor_simulators: true, simulator_control: %s}", free, free, free, free, taken)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, errOut := run(t, data, "up", "--config", path, "--log-level", "error", "--channels", "none")
	if code != cli.ExitFailed || !strings.Contains(errOut, taken) || !strings.Contains(errOut, "HALLEY_SIMULATOR_CONTROL") {
		t.Errorf("simulators: exit code %d, %q", code, errOut)
	}
}

func TestAServiceWhoseAddressIsTakenSaysWhatSetsAnother(t *testing.T) {
	t.Parallel()
	taken, dir := takenAddress(t), t.TempDir()
	keys, path := filepath.Join(dir, "keys.json"), filepath.Join(dir, "config.yaml")
	if code, _, errOut := run(t, "", "keyring", keys); code != cli.ExitOK {
		t.Fatal(errOut)
	}
	const token = "0123456789abcdef"
	for service, content := range map[string]string{
		"pushcore": fmt.Sprintf("{grpc: %q, http: '127.0.0.1:0', key_file: %q, database_url: none, admin_token: %q, service_token: %q}", taken, keys, token, token),
		"gateway":  fmt.Sprintf("{mqtt: %q, service_token: %q}", taken, token),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"pushcore": "HALLEY_GRPC", "gateway": "HALLEY_MQTT"}[service]
		code, _, errOut := run(t, "", "service", service, "--config", path)
		if code != cli.ExitFailed || !strings.Contains(errOut, taken) || !strings.Contains(errOut, want) {
			t.Errorf("%s: exit code %d, %q, want %q", service, code, errOut, want)
		}
	}
}

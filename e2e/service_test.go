package e2e_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
)

// TestHealth asks each part how it is, takes away what it needs, and stops it gracefully within its deadline.
func TestHealth(t *testing.T) {
	t.Parallel()
	cluster := rig.StartCluster(t, rig.Options{})
	app := cluster.CreateApp(t, "health")
	p := connected(t, app)
	gateway := cluster.Gateways[0]
	parts := []*rig.Process{cluster.Pushcore, gateway}
	for _, part := range parts {
		for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
			if err := part.Probe(path); err != nil {
				t.Errorf("%s %s: %v", part.Name, path, err)
			}
		}
	}
	cluster.NATS.Kill(t)
	for _, part := range parts {
		rig.Until(t, 20*time.Second, part.Name+" is not ready without NATS", func() error {
			if part.Probe("/readyz") == nil {
				return errors.New("it is")
			}
			return part.Probe("/healthz") // but it lives
		})
	}
	cluster.NATS.Start(t)
	cluster.AwaitReady(t)
	cluster.Pushcore.Kill(t)
	if err := gateway.Probe("/readyz"); err != nil {
		t.Errorf("a gateway without a pushcore is ready, for phones can come: %v", err)
	}
	cluster.Pushcore.Start(t)
	p.awaitOnce(t, app.Push(t, p.token))
	// 60 s is the gateway's drain_deadline; pushcore's is shorter.
	t.Logf("graceful stop of the gateway with a phone: %v", gateway.Stop(t, time.Minute).Round(time.Millisecond))
	t.Logf("graceful stop of pushcore: %v", cluster.Pushcore.Stop(t, 30*time.Second).Round(time.Millisecond))
}

// TestCheckConfig has each binary say what is wrong with its configuration, and exit with 0 only when nothing is.
func TestCheckConfig(t *testing.T) {
	t.Parallel()
	dir := rig.Folder(t)
	rig.Command(t, dir, rig.Bin(t, "halley"), "keyring", "keys.json")
	good := map[string]string{
		"pushcore": "database_url: postgres://nowhere/halley\nkey_file: keys.json\nadmin_token: ak_0123456789abcdef0123456789abcdef0123\n" +
			"service_token: 0123456789abcdef0123456789abcdef\nnats: {user: pushcore, password: secret}\n",
		"gateway": "service_token: 0123456789abcdef0123456789abcdef\nnats: {user: gateway, password: secret}\n",
	}
	for binary, text := range good {
		for _, c := range []struct{ name, text, complaint string }{
			{"good", text, ""},
			{"unknown key", text + "no_such_key: 1\n", "no_such_key"},
			{"wrong value", text + "telemetry: {trace_ratio: 2}\n", "trace_ratio"},
		} {
			t.Run(binary+" "+c.name, func(t *testing.T) {
				t.Parallel()
				file := filepath.Join(rig.Folder(t), "config.yaml")
				if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
					t.Fatal(err)
				}
				out, err := rig.Try(t, dir, rig.Bin(t, binary), "-config", file, "-check-config")
				if (err == nil) != (c.complaint == "") || !bytes.Contains(out, []byte(c.complaint)) {
					t.Errorf("%v, and said: %s", err, out)
				}
			})
		}
	}
}

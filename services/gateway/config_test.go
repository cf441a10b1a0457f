package gateway_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/services/gateway"
)

func TestMistakesInTheConfigurationAreNamed(t *testing.T) {
	t.Parallel()
	cert, key, _ := newCertificate(t)
	_, otherKey, _ := newCertificate(t)
	for yaml, want := range map[string]string{
		"mqtt: 127.0.0.1:0": "",
		"mqtt: 1883":        `mqtt: "1883" is not of the form host:port or :port`,
		"mqtt: :99999":      `mqtt: ":99999" is not of the form`,
		"mqtt: ''":          "mqtt, mqtts or websocket is needed",
		"mqtts: :8883\ntls_cert: nope.crt\ntls_key: nope.key":             "certificate nope.crt with key nope.key: open nope.crt",
		"mqtts: :8883\ntls_cert: " + cert + "\ntls_key: " + otherKey:      "private key does not match public key",
		"mqtts: :8883\ntls_cert: " + cert + "\ntls_key: " + key:           "",
		"server_reference: push.example.com":                              "",
		"server_reference: push.example.com:1883":                         "",
		"server_reference: push.example.com:99999":                        `server_reference: "push.example.com:99999" is not of the form host or host:port`,
		"server_reference_tls: http://push.example.com":                   "server_reference_tls: ",
		"server_reference_websocket: a b":                                 "server_reference_websocket: ",
		"pushcore_ca: none.pem":                                           "pushcore_ca needs pushcore_tls",
		"pushcore_tls: true\npushcore_ca: none.pem":                       "open none.pem",
		"mqtt: 1883\nserver_reference: 'a b'\npushcore_ca: /tmp/none.pem": `"a b" is not of the form`,
	} {
		path := filepath.Join(t.TempDir(), "gateway.yaml")
		if err := os.WriteFile(path, []byte("service_token: "+strings.Repeat("s", 32)+"\n"+yaml+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := config.Load(path, &gateway.Config{})
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", yaml, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, and not %q", yaml, err, want)
		}
	}
}

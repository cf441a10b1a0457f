package gateway_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/services/gateway"
	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

// replace puts a file's text, or that of another file, in place of a file at once.
func replace(t *testing.T, path, from string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(t.TempDir(), "fresh")
	if err := os.WriteFile(fresh, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, path); err != nil {
		t.Fatal(err)
	}
}

func TestACertificateChangesWithoutARestart(t *testing.T) {
	t.Parallel()
	cert, key, client := newCertificate(t)
	otherCert, otherKey, later := newCertificate(t)
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.MQTTS, c.TLSCert, c.TLSKey = "127.0.0.1:0", cert, key
	}})
	believed := func(by *tls.Config) bool {
		conn, err := tls.Dial("tcp", site.MQTTSAddr(), by)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	conn, err := tls.Dial("tcp", site.MQTTSAddr(), client)
	if err != nil {
		t.Fatal(err)
	}
	wire := gatewaytest.NewWire(t, conn, gatewaytest.V5)
	wire.Greet(t, wire.Connect(site.Core.NewDevice(t)))
	if believed(later) {
		t.Fatal("the two are the same")
	}
	const loads = "halley_gateway_certificate_loads_total"
	// The key comes first, as with two files it must be one of them; until the certificate follows, nothing changes for phones.
	replace(t, key, otherKey)
	gatewaytest.Eventually(t, "the failure is counted", func() bool {
		return believed(client) && site.Metric(t, loads, `result="failed"`) == 1
	})
	replace(t, cert, otherCert)
	gatewaytest.Eventually(t, "phones see the new certificate", func() bool { return believed(later) })
	wire.Ping(t)
	if n := site.Metric(t, loads, `result="ok"`); n != 2 {
		t.Errorf("%v loads are counted", n)
	}
	parsed, err := tls.LoadX509KeyPair(otherCert, otherKey)
	if err != nil {
		t.Fatal(err)
	}
	if at := site.Metric(t, "halley_gateway_certificate_not_after_seconds", cert); at != float64(parsed.Leaf.NotAfter.Unix()) {
		t.Errorf("it ends at %v", at)
	}
	if n := strings.Count(site.Logs.String(), "certificate cannot be read"); n != 1 {
		t.Errorf("the failure is logged %d times", n)
	}
}

func TestTicketKeysFollowTheSecretsFile(t *testing.T) {
	t.Parallel()
	cert, key, client := newCertificate(t)
	client.ServerName = "127.0.0.1"
	path := filepath.Join(t.TempDir(), "secret")
	secret := func(letter string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(strings.Repeat(letter, 32)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secret("a")
	site := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.MQTTS, c.TLSCert, c.TLSKey = "127.0.0.1:0", cert, key
		c.TicketSecret, c.TicketSecretFile = config.Secret(strings.Repeat("a", 32)), path
	}})
	resumes := func(client *tls.Config) bool {
		conn, err := tls.Dial("tcp", site.MQTTSAddr(), client)
		if err != nil {
			t.Fatal(err)
		}
		wire := gatewaytest.NewWire(t, conn, gatewaytest.V5)
		defer wire.Close()
		wire.Greet(t, wire.Connect(site.Core.NewDevice(t))) // the ticket comes with it
		return conn.ConnectionState().DidResume
	}
	// Each client has the ticket of its first connection.
	ticket := func() *tls.Config {
		c := client.Clone()
		c.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		resumes(c)
		return c
	}
	if !resumes(ticket()) {
		t.Fatal("nothing resumes")
	}
	old := ticket()
	cache := old.ClientSessionCache
	state, _ := cache.Get("127.0.0.1")
	secret("b")
	gatewaytest.Eventually(t, "tickets of the old secret do not resume", func() bool {
		cache.Put("127.0.0.1", state)
		return !resumes(old)
	})
	if !resumes(ticket()) {
		t.Error("those of the new one do not resume")
	}
}

package site_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/halleypush/halley/services/halley/internal/site"
)

func open(t *testing.T, dir string) *site.Site {
	t.Helper()
	s, err := site.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // closed already by some tests
	return s
}

func TestSecretsAreMadeOnceAndArePrivate(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	first := open(t, dir)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir)
	if first.Secrets.AdminToken == "" || first.Secrets.AdminToken != again.Secrets.AdminToken ||
		first.Secrets.NATS["gateway"] == "" || first.Secrets.NATS["gateway"] != again.Secrets.NATS["gateway"] {
		t.Error("the secrets of the second start are not those of the first")
	}
	if first.Secrets.NATS["gateway"] == first.Secrets.NATS["pushcore"] {
		t.Error("two users have one password")
	}
	info, err := os.Stat(again.Path("secrets.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestAFolderIsHeldByOneProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, dir)
	if _, err := site.Open(dir); !errors.Is(err, site.ErrHeld) {
		t.Errorf("a second Open: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestOwnCertificateIsBelievedWithItsAuthority(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	c, err := s.OwnCertificates()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	again, err := s.OwnCertificates()
	if err != nil {
		t.Fatal(err)
	}
	if second, err := tls.LoadX509KeyPair(again.Cert, again.Key); err != nil || !second.Leaf.Equal(pair.Leaf) {
		t.Error("the second call made another certificate")
	}
}

func TestDemoFileIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), site.DemoFile)
	if _, err := site.ReadDemo(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	want := site.Demo{
		App: "demo", ServerKey: "sk_x=", ClientKey: "ck_x", AdminToken: "ak_x", HTTP: "http://127.0.0.1:8080", GRPC: "127.0.0.1:9090",
		MQTT: "127.0.0.1:1883",
	}
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := site.ReadDemo(path)
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}

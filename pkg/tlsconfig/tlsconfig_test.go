package tlsconfig_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/tlsconfig"
)

// write writes a self-signed certificate for a name into a folder, in place of the one that is there.
func write(t *testing.T, dir, name string) (tlsconfig.Pair, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{name}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair := tlsconfig.Pair{Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+"-key.pem")}
	for path, block := range map[string]*pem.Block{
		pair.Cert: {Type: "CERTIFICATE", Bytes: der}, pair.Key: {Type: "EC PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pair, parsed
}

// shake makes one handshake and returns what the client sees.
func shake(t *testing.T, server, client *tls.Config) tls.ConnectionState {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		s, err := listener.Accept()
		if err == nil {
			_, _ = s.Write([]byte("hello")) // fails where the handshake does, which the client tells
			_ = s.Close()
		}
	}()
	c, err := tls.Dial("tcp", listener.Addr().String(), client)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil { // the ticket comes before it
		t.Fatal(err)
	}
	return c.ConnectionState()
}

func insecure(name string) *tls.Config {
	return &tls.Config{ServerName: name, InsecureSkipVerify: true} //nolint:gosec // what is shown is looked at
}

func TestCertificatesAreChosenByName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, first := write(t, dir, "one.example")
	two, second := write(t, dir, "two.example")
	server, err := tlsconfig.ServerNames(tlsconfig.Events{}, one, two)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]*x509.Certificate{
		"one.example": first, "two.example": second, "three.example": first, "": first,
	} {
		if got := shake(t, server, insecure(name)).PeerCertificates[0]; !got.Equal(want) {
			t.Errorf("%q gets that of %v", name, got.DNSNames)
		}
	}
}

func TestACertificateFollowsItsFiles(t *testing.T) {
	t.Parallel()
	pair, _ := write(t, t.TempDir(), "one.example")
	var loaded, failed atomic.Int32
	server, err := tlsconfig.ServerNames(tlsconfig.Events{
		Loaded: func(p tlsconfig.Pair, expires time.Time) {
			if p == pair && time.Until(expires) > 0 {
				loaded.Add(1)
			}
		},
		Failed: func(p tlsconfig.Pair, err error) {
			if p == pair && err != nil {
				failed.Add(1)
			}
		},
	}, pair)
	if err != nil {
		t.Fatal(err)
	}
	shown := func() *x509.Certificate { return shake(t, server, insecure("one.example")).PeerCertificates[0] }
	until := func(what string, done func() bool) { // shakes hands all the time, so that the files are looked at
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !done(); {
			if time.Now().After(deadline) {
				t.Fatal("never happened: " + what)
			}
		}
	}
	first := shown()
	other, fresh := write(t, t.TempDir(), "one.example")
	change := func(path, from string) {
		t.Helper()
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		later := time.Now().Add(time.Minute) // whatever the file system's clock can tell apart
		if err := os.Chtimes(path, later, later); err != nil {
			t.Fatal(err)
		}
	}
	// A certificate whose key is still the old one is none, and is told of once.
	change(pair.Cert, other.Cert)
	until("the failure is told", func() bool { return shown().Equal(first) && failed.Load() == 1 })
	change(pair.Key, other.Key)
	until("the new one is shown", func() bool { return shown().Equal(fresh) })
	if err := os.WriteFile(pair.Cert, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	until("rubbish is told", func() bool { return shown() != nil && failed.Load() == 2 })
	if !shown().Equal(fresh) {
		t.Error("a broken file takes the certificate away")
	}
	if loaded.Load() != 2 || failed.Load() != 2 {
		t.Errorf("%d loads and %d failures are told", loaded.Load(), failed.Load())
	}
}

func TestSessionsResumeWithEveryServerOfTheSecret(t *testing.T) {
	t.Parallel()
	pair, _ := write(t, t.TempDir(), "one.example")
	now := time.Now()
	const day = 24 * time.Hour
	server := func(secret string, at time.Time) *tls.Config {
		config, err := tlsconfig.ServerNames(tlsconfig.Events{}, pair)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlsconfig.SetTicketKeys(config, secret, at); err != nil {
			t.Fatal(err)
		}
		return config
	}
	secret := strings.Repeat("s", tlsconfig.MinTicketSecret)
	for name, c := range map[string]struct {
		other *tls.Config
		want  bool
	}{
		"another pod":               {server(secret, now), true},
		"days later":                {server(secret, now.Add(6*day)), true},
		"too late":                  {server(secret, now.Add(9*day)), false},
		"a clock that is behind":    {server(secret, now.Add(-day)), true},
		"a clock that is far off":   {server(secret, now.Add(-3*day)), false},
		"a pod with another secret": {server(strings.Repeat("x", tlsconfig.MinTicketSecret), now), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				client := insecure("one.example")
				client.MaxVersion, client.ClientSessionCache = version, tls.NewLRUClientSessionCache(1)
				if shake(t, server(secret, now), client).DidResume {
					t.Error("the first connection resumes")
				}
				if got := shake(t, c.other, client).DidResume; got != c.want {
					t.Errorf("%s: resumed %v", tls.VersionName(version), got)
				}
			}
		})
	}
	if err := tlsconfig.SetTicketKeys(&tls.Config{}, "short", now); err == nil { //nolint:gosec // no server
		t.Error("a short secret is taken")
	}
}

func TestWhatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := tlsconfig.ServerNames(tlsconfig.Events{}); err == nil {
		t.Error("no certificate will do")
	}
	pair, _ := write(t, t.TempDir(), "one.example")
	if _, err := tlsconfig.ServerNames(tlsconfig.Events{}, pair, tlsconfig.Pair{Cert: pair.Cert, Key: pair.Cert}); err == nil {
		t.Error("a pair without its key will do")
	}
	if config, err := tlsconfig.Server("", "", ""); config != nil || err != nil {
		t.Errorf("no certificate: %v, %v", config, err)
	}
}

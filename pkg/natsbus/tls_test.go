package natsbus_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/halleypush/halley/pkg/natsbus"
)

// certificate writes a certificate for 127.0.0.1, which signs itself, and its key.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(pair.Leaf)
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, Username: "pushcore", Password: "p", TLS: true,
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	otherCert, _ := certificate(t)
	for name, c := range map[string]struct {
		config natsbus.Config
		ok     bool
	}{
		"both sides":     {natsbus.Config{CA: cert, Cert: cert, Key: key}, true},
		"no client cert": {natsbus.Config{CA: cert}, false},
		"wrong CA":       {natsbus.Config{CA: otherCert, Cert: cert, Key: key}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.config.URL, c.config.User, c.config.Password = s.ClientURL(), "pushcore", "p"
			result := make(chan bool, 100)
			conn, err := natsbus.Connect("test", c.config, slog.New(slog.DiscardHandler), natsbus.Events{},
				nats.ReconnectErrHandler(func(*nats.Conn, error) { result <- false }),
				nats.ConnectHandler(func(*nats.Conn) { result <- true }))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(conn.Close)
			if got := wait(t, result, "answer"); got != c.ok {
				t.Errorf("connected: %v, want %v", got, c.ok)
			}
		})
	}
}

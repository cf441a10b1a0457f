package pushcore_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	gatewayv1 "github.com/halleypush/halley/proto/halley/gateway/v1"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

// authority signs certificates for a test.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir(), pool: x509.NewCertPool()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key = key
	a.pool.AddCert(a.cert)
	a.write(t, "ca.pem", "CERTIFICATE", der)
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) write(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(a.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// issue writes a certificate for 127.0.0.1 and its key as name.pem and name.key, and returns them.
func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	a.write(t, name+".pem", "CERTIFICATE", der)
	a.write(t, name+".key", "PRIVATE KEY", encoded)
	pair, err := tls.LoadX509KeyPair(a.path(name+".pem"), a.path(name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func TestInternalPortTakesClientCertificatesInsteadOfTheToken(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	ours.issue(t, "server")
	gateway, stranger := ours.issue(t, "gateway"), theirs.issue(t, "stranger")
	site := pushcoretest.NewSite(t)
	config, err := site.Config()
	if err != nil {
		t.Fatal(err)
	}
	config.InternalCert, config.InternalKey, config.InternalCA = ours.path("server.pem"), ours.path("server.key"), ours.path("ca.pem")
	config.ServiceToken = ""
	core := site.StartWith(t, config)
	for name, c := range map[string]struct {
		certificates []tls.Certificate
		want         codes.Code
	}{
		"ours": {[]tls.Certificate{gateway}, codes.NotFound}, "another authority's": {[]tls.Certificate{stranger}, codes.Unavailable},
		"none": {nil, codes.Unavailable},
	} {
		conn, err := grpc.NewClient(core.Internal, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			RootCAs: ours.pool, Certificates: c.certificates, MinVersion: tls.VersionTLS13,
		})))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, err = gatewayv1.NewGatewayServiceClient(conn).GetApp(t.Context(), &gatewayv1.GetAppRequest{App: "nobody"})
		if got := status.Code(err); got != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = gatewayv1.NewGatewayServiceClient(core.InternalConn).GetApp(t.Context(), &gatewayv1.GetAppRequest{App: "nobody"})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("without TLS: %v", err)
	}
}

func TestPublicPortsServeTLS(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t)
	ours.issue(t, "server")
	site := pushcoretest.NewSite(t)
	config, err := site.Config()
	if err != nil {
		t.Fatal(err)
	}
	config.TLSCert, config.TLSKey = ours.path("server.pem"), ours.path("server.key")
	core := site.StartWith(t, config)
	client := &tls.Config{RootCAs: ours.pool, MinVersion: tls.VersionTLS12}
	conn, err := grpc.NewClient(core.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(client)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, err = pushv1.NewPushServiceClient(conn).Push(t.Context(), &pushv1.PushRequest{})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("gRPC over TLS: %v", err)
	}
	web, err := tls.Dial("tcp", core.HTTP, client)
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	if _, err := web.Write([]byte("GET /v1/apps/a/pushes HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 12)
	if _, err := web.Read(answer); err != nil || string(answer) != "HTTP/1.0 401" && string(answer) != "HTTP/1.1 401" {
		t.Errorf("REST over TLS: %q, %v", answer, err)
	}
}

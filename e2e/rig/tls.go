package rig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// addTLS gives the gateways a certificate, an address for it each, and the secret by which phones resume TLS with any of them.
func (c *Cluster) addTLS(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key) // its own authority
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c.write(t, "server.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
	c.write(t, "server.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
	c.write(t, "ticket.secret", []byte(rand.Text()+rand.Text()))
	c.CA = filepath.Join(c.dir, "server.pem")
	for _, g := range c.Gateways {
		address := Addr(t)
		c.MQTTSs = append(c.MQTTSs, address)
		g.env = append([]string{
			"HALLEY_MQTTS=" + address, "HALLEY_TLS_CERT=server.pem", "HALLEY_TLS_KEY=server.key", "HALLEY_TICKET_SECRET_FILE=ticket.secret",
		}, g.env...)
	}
	c.WebSocket = fmt.Sprintf("wss://%s/mqtt", c.WebSockets[0])
}

// TLSConfig returns what a phone believes, and a memory of its own with which it resumes.
func (c *Cluster) TLSConfig(t testing.TB) *tls.Config {
	t.Helper()
	authorities := x509.NewCertPool()
	if text, err := os.ReadFile(c.CA); err != nil || !authorities.AppendCertsFromPEM(text) {
		t.Fatalf("%s has no certificate (%v)", c.CA, err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: authorities, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
}

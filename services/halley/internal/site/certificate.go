package site

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certificateFor is how long the site's own certificates are valid.
const certificateFor = 10 * 365 * 24 * time.Hour

// Certificates are the files of the site's own authority and server certificate.
type Certificates struct{ CA, Cert, Key string }

// OwnCertificates returns a certificate for this machine (localhost, its name and loopback addresses), signed by an authority
// of the site's own; both are made the first time. Devices believe it when they are given the CA file.
func (s *Site) OwnCertificates() (Certificates, error) {
	dir := s.Path("tls")
	c := Certificates{
		CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "server.pem"), Key: filepath.Join(dir, "server.key"),
	}
	if _, err := os.Stat(c.Cert); err == nil {
		return c, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return c, fmt.Errorf("certificates: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return c, fmt.Errorf("certificates: %w", err)
	}
	if err := c.create(); err != nil {
		return c, fmt.Errorf("certificates: %w", err)
	}
	return c, nil
}

func (c Certificates) create() error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now().Add(-time.Hour)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Halley on " + host},
		NotBefore: now, NotAfter: now.Add(certificateFor), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host},
		NotBefore: now, NotAfter: now.Add(certificateFor), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost", host}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, server, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	// The authority's key is forgotten: it signs nothing else. The certificate comes last, because it says that all is there.
	return errors.Join(
		writePEM(c.CA, "CERTIFICATE", caDER), writePEM(c.Key, "PRIVATE KEY", keyDER), writePEM(c.Cert, "CERTIFICATE", der))
}

func writePEM(path, kind string, der []byte) error {
	if err := WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})); err != nil {
		return err
	}
	if kind == "CERTIFICATE" { // everybody may see it; devices of other users on this machine need the authority's
		return os.Chmod(path, 0o644)
	}
	return nil
}

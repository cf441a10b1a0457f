// Package authority is the certificate authority of the simulators: it makes their servers' certificates, and clients' where
// a vendor knows them.
package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

const (
	// CertificateFile is the authority's certificate in its folder.
	CertificateFile = "ca.pem"
	keyFile         = "ca-key.pem"
	// life is how long the authority's certificate and those that it signs are good.
	life = 398 * 24 * time.Hour
)

// userID is the object identifier of UID, which crypto/x509 has no name for.
var userID = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}

// Authority signs certificates.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

var _ frame.Authority = (*Authority)(nil)

// Open returns the authority whose files are in a folder. It makes a new one if there is none, or if it ends within a day.
func Open(dir string) (*Authority, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, CertificateFile), filepath.Join(dir, keyFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return create(dir)
	case err != nil:
		return nil, fmt.Errorf("read the authority: %w", err)
	case time.Until(pair.Leaf.NotAfter) < 24*time.Hour:
		return create(dir)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is not an ECDSA key", keyFile)
	}
	return &Authority{certificate: pair.Leaf, key: key}, nil
}

func create(dir string) (*Authority, error) {
	a := &Authority{}
	certificate, key, err := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Halley vendor simulators"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, keyFile), key, 0o600); err != nil {
		return nil, fmt.Errorf("write the authority's key: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, CertificateFile), certificate, 0o644); err != nil {
		return nil, fmt.Errorf("write the authority's certificate: %w", err)
	}
	return Open(dir)
}

// sign makes a certificate and its key, in PEM; without a key of its own, the authority signs itself.
func (a *Authority) sign(template *x509.Certificate) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, fmt.Errorf("make a serial number: %w", err)
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(life)
	parent, signer := a.certificate, a.key
	if signer == nil {
		parent, signer = template, private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &private.PublicKey, signer)
	if err != nil {
		return nil, nil, fmt.Errorf("sign a certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

// Server returns the TLS settings of a server with these host names and addresses. Client certificates are asked for, and
// not checked: the vendor does that, to answer as documented.
func (a *Authority) Server(hosts []string, protocols ...string) (*tls.Config, error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: hosts[0]}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	certificate, key, err := a.sign(template)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("load a certificate: %w", err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: protocols,
		ClientAuth: tls.RequestClientCert,
	}, nil
}

// Client returns a certificate for a client and its key, in PEM.
func (a *Authority) Client(s frame.Subject) (certificate, key []byte, err error) {
	return a.sign(&x509.Certificate{
		Subject: pkix.Name{
			CommonName: s.Name, OrganizationalUnit: []string{s.Unit},
			ExtraNames: []pkix.AttributeTypeAndValue{{Type: userID, Value: s.UserID}},
		},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// Verify checks that a client's certificate (DER) is from this authority and has not ended, and returns whom it names.
func (a *Authority) Verify(der []byte) (frame.Subject, error) {
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return frame.Subject{}, fmt.Errorf("parse the client's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.certificate)
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: usages}); err != nil {
		return frame.Subject{}, fmt.Errorf("verify the client's certificate: %w", err)
	}
	s := frame.Subject{Name: certificate.Subject.CommonName}
	if len(certificate.Subject.OrganizationalUnit) > 0 {
		s.Unit = certificate.Subject.OrganizationalUnit[0]
	}
	for _, n := range certificate.Subject.Names {
		if n.Type.Equal(userID) {
			s.UserID, _ = n.Value.(string)
		}
	}
	return s, nil
}

// Pool returns the authority's certificate, for clients of its servers.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

package doctor_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/services/pushcore"
	"github.com/halleypush/halley/services/pushcore/doctor"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestMain(m *testing.M) { pushcoretest.Main(m) }

// examine returns the findings, by check; the worst one of each.
func examine(t *testing.T, c pushcore.Config) map[string]doctor.Finding {
	t.Helper()
	found := map[string]doctor.Finding{}
	doctor.Examine(t.Context(), &c, func(f doctor.Finding) {
		if f.Level != doctor.OK && f.Do == "" {
			t.Errorf("what is to be done? %+v", f)
		}
		if old, ok := found[f.Check]; !ok || old.Level == doctor.OK || f.Level == doctor.Failed {
			found[f.Check] = f
		}
	})
	return found
}

// want fails the test unless a check has that level, and a text or advice with those words.
func want(t *testing.T, found map[string]doctor.Finding, check string, level doctor.Level, words string) {
	t.Helper()
	f, ok := found[check]
	if !ok || f.Level != level || !strings.Contains(f.Text+" "+f.Do, words) {
		t.Errorf("%s: %+v, want %s with %q", check, f, level, words)
	}
}

func configOf(t *testing.T, s *pushcoretest.Site) pushcore.Config {
	t.Helper()
	c, err := s.Config()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAHealthyInstallation(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	core.Gateway(t)
	c := configOf(t, core.Site)
	pushcoretest.Eventually(t, "all is well", func() bool { // the last streams are made after the start
		for check, f := range examine(t, c) {
			if f.Level != doctor.OK {
				t.Logf("%s: %+v", check, f)
				return false
			}
		}
		return true
	})
}

func TestWhatAPushcoreLeavesBehindIsExamined(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	app := core.NewApp(t, nil)
	sql, ctx := core.SQL(t), t.Context()
	for _, statement := range []string{
		`INSERT INTO channel_credential (app_no, channel, candidate, version, sealed, key_id, receipt_secret, expires_at, unchecked)
		 SELECT app_no, 'apns', false, 1, '\x00000063', 99, repeat('0', 32), now() + interval '9 days', true FROM app WHERE app_id = '` + app.ID + `'`,
		"INSERT INTO held_token (bucket, app_no, ordinal, channel, token) VALUES (0, 1, 1, 'apns', 't')",
	} {
		if _, err := sql.Exec(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	found := examine(t, configOf(t, core.Site))
	want(t, found, "gateways", doctor.Warning, "none holds a lease")
	want(t, found, "credential apns of "+app.ID, doctor.Warning, "")
	want(t, found, "secrets", doctor.Failed, "key 99")
	want(t, found, "held tokens", doctor.Warning, "1 tokens")
	want(t, found, "credentials", doctor.OK, "apns")
	if _, err := sql.Exec(ctx, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)"); err != nil {
		t.Fatal(err)
	}
	want(t, examine(t, configOf(t, core.Site)), "schema", doctor.OK, "99999")
	if _, err := sql.Exec(ctx, "UPDATE schema_support SET oldest = 99999"); err != nil {
		t.Fatal(err)
	}
	want(t, examine(t, configOf(t, core.Site)), "schema", doctor.Failed, "99999")
}

func TestNothingIsThere(t *testing.T) {
	t.Parallel()
	c := configOf(t, pushcoretest.NewSite(t))
	c.KeyFile, c.NATSOptions = filepath.Join(t.TempDir(), "none"), nil
	c.DatabaseURL = "postgres://nobody:secret@127.0.0.1:1/none"
	c.NATS.URL = "nats://127.0.0.1:1"
	found := examine(t, c)
	want(t, found, "keys", doctor.Failed, "none")
	want(t, found, "postgresql", doctor.Failed, "start PostgreSQL at 127.0.0.1, port 1")
	want(t, found, "keys", doctor.Failed, "halley keyring "+c.KeyFile)
	want(t, found, "nats", doctor.Failed, "start NATS")
	for check, f := range found {
		if strings.Contains(f.Text, "secret") {
			t.Errorf("%s tells a secret: %s", check, f.Text)
		}
	}
}

func TestWrongPasswordOfNATS(t *testing.T) {
	t.Parallel()
	c := configOf(t, pushcoretest.NewSite(t))
	c.NATS.Password = "wrong"
	want(t, examine(t, c), "nats", doctor.Failed, "password")
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	c := configOf(t, pushcoretest.NewSite(t))
	c.TLSCert, c.TLSKey = certificate(t, 90*24*time.Hour)
	c.InternalCert, c.InternalKey = certificate(t, 5*24*time.Hour)
	c.InternalCA, _ = certificate(t, -time.Hour)
	c.NATS.Cert, _ = certificate(t, time.Hour)
	_, c.NATS.Key = certificate(t, time.Hour)
	found := examine(t, c)
	want(t, found, "certificate tls_cert", doctor.OK, "89 days")
	want(t, found, "certificate internal_cert", doctor.Warning, "renew")
	want(t, found, "certificate internal_ca", doctor.Failed, "expired")
	want(t, found, "certificate nats.cert", doctor.Failed, "key")
}

// certificate makes one that signed itself, with its key.
func certificate(t *testing.T, holds time.Duration) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(holds), IPAddresses: []net.IP{{127, 0, 0, 1}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

package doctor

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"
)

// soon is how long before its end a certificate is warned of.
const soon = 21 * 24 * time.Hour

// certificates looks at every certificate that the configuration names.
func (e *examination) certificates() {
	c := e.config
	for _, p := range []struct{ what, cert, key, ca string }{
		{"tls_cert", c.TLSCert, c.TLSKey, ""},
		{"internal_cert", c.InternalCert, c.InternalKey, ""},
		{"nats.cert", c.NATS.Cert, c.NATS.Key, ""},
		{"internal_ca", "", "", c.InternalCA},
		{"nats.ca", "", "", c.NATS.CA},
	} {
		check := "certificate " + p.what
		var ends time.Time
		var err error
		switch {
		case p.cert != "":
			ends, err = endOfPair(p.cert, p.key)
		case p.ca != "":
			ends, err = endOfAuthorities(p.ca)
		default:
			continue
		}
		if err != nil {
			e.failed(check, err.Error(), "put a certificate there, with its key")
			continue
		}
		e.tell(Expiry(check, "", Renew, ends))
	}
}

// Renew is what to do about a certificate that ends.
const Renew = "renew it; services read the new file by themselves"

// Expiry is the finding about something that holds until a time. subject begins its text, do is what renews it.
func Expiry(check, subject, do string, ends time.Time) Finding {
	f := Finding{Check: check, Level: OK, Text: fmt.Sprintf("%sholds until %s (%d days)", subject, ends.UTC().Format(time.DateOnly), int(time.Until(ends).Hours()/24))}
	switch left := time.Until(ends); {
	case left <= 0:
		f.Level, f.Text = Failed, fmt.Sprintf("%shas expired on %s", subject, ends.UTC().Format(time.DateOnly))
	case left < soon:
		f.Level = Warning
	default:
		return f
	}
	f.Do = do
	return f
}

// endOfPair returns until when a certificate that goes with a key holds.
func endOfPair(cert, key string) (time.Time, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return time.Time{}, err
	}
	if now := time.Now(); now.Before(pair.Leaf.NotBefore) {
		return time.Time{}, fmt.Errorf("%s does not hold before %v; is the clock right?", cert, pair.Leaf.NotBefore)
	}
	return pair.Leaf.NotAfter, nil
}

// endOfAuthorities returns until when the first to end of a file's certificates holds.
func endOfAuthorities(path string) (end time.Time, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return end, err
	}
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return end, fmt.Errorf("%s: %w", path, err)
		}
		if end.IsZero() || c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	if end.IsZero() {
		return end, errors.New(path + " holds no certificate")
	}
	return end, nil
}

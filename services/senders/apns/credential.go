package apns

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"regexp"
	"time"

	"github.com/sideshow/apns2/certificate"
	"github.com/sideshow/apns2/token"

	"github.com/halleypush/halley/pkg/sender"
)

// fields are a credential as it is set: a key (key, key_id, team_id) or a certificate (certificate, password), and the app's
// bundle id.
type fields struct {
	BundleID string `json:"bundle_id"`
	// Key is the text of the .p8 file.
	Key    string `json:"key"`
	KeyID  string `json:"key_id"`
	TeamID string `json:"team_id"`
	// Certificate is a .p12 file in base64, or PEM with certificate and key.
	Certificate string `json:"certificate"`
	Password    string `json:"password"`
}

// credential is a parsed one with its connections.
type credential struct {
	topic   string
	client  *http.Client
	expires time.Time
	token   *token.Token // nil with a certificate
}

// ExpiresAt returns when the certificate ends; a key does not.
func (c *credential) ExpiresAt() time.Time { return c.expires }

// Close closes the idle connections.
func (c *credential) Close() error {
	c.client.CloseIdleConnections()
	return nil
}

// renew has a new provider token made, if the present one is old enough: Apple takes at most one in 20 minutes.
func (c *credential) renew() {
	if c.token == nil {
		return
	}
	c.token.Lock()
	defer c.token.Unlock()
	if time.Since(time.Unix(c.token.IssuedAt, 0)) > tokenQuiet {
		c.token.IssuedAt = 0
	}
}

var tenCharacters = regexp.MustCompile(`^[A-Z0-9]{10}$`)

// Parse reads a credential.
func (v *Vendor) Parse(text []byte) (sender.Credential, error) {
	var f fields
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return nil, &sender.FieldError{Field: "credential", Problem: "not a JSON object of bundle_id, key, key_id, team_id, certificate and password"}
	}
	switch {
	case f.BundleID == "":
		return nil, &sender.FieldError{Field: "bundle_id", Problem: "missing: the app's bundle id, such as com.example.app"}
	case (f.Key == "") == (f.Certificate == ""):
		return nil, &sender.FieldError{Field: "key", Problem: "either key (a .p8 file) or certificate (a .p12 file) is needed"}
	case f.Key != "":
		return v.withKey(f)
	default:
		return v.withCertificate(f)
	}
}

func (v *Vendor) withKey(f fields) (sender.Credential, error) {
	key, err := token.AuthKeyFromBytes([]byte(f.Key))
	switch {
	case err != nil:
		return nil, &sender.FieldError{Field: "key", Problem: "not the text of a .p8 file with an EC key"}
	case !tenCharacters.MatchString(f.KeyID):
		return nil, &sender.FieldError{Field: "key_id", Problem: "must be the key's 10 characters"}
	case !tenCharacters.MatchString(f.TeamID):
		return nil, &sender.FieldError{Field: "team_id", Problem: "must be the team's 10 characters"}
	}
	return &credential{
		topic: f.BundleID, client: v.client(), token: &token.Token{AuthKey: key, KeyID: f.KeyID, TeamID: f.TeamID},
	}, nil
}

func (v *Vendor) withCertificate(f fields) (sender.Credential, error) {
	cert, err := certificate.FromPemBytes([]byte(f.Certificate), f.Password)
	if err != nil {
		var der []byte
		if der, err = base64.StdEncoding.DecodeString(f.Certificate); err == nil {
			cert, err = certificate.FromP12Bytes(der, f.Password)
		}
	}
	if err != nil || len(cert.Certificate) == 0 {
		return nil, &sender.FieldError{Field: "certificate", Problem: "neither PEM nor a .p12 file in base64 that the password opens"}
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, &sender.FieldError{Field: "certificate", Problem: "cannot be read"}
	}
	return &credential{topic: f.BundleID, client: v.client(cert), expires: leaf.NotAfter}, nil
}

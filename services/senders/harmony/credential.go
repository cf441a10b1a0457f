package harmony

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/internal/hms"
)

// shortestKey is the least size of an account's key, in bits; Huawei makes them with 4096.
const shortestKey = 2048

// ahead is how long before its end a token is signed anew, with what sender.TokenSource adds.
const ahead = 4 * time.Minute

// account is what is used of the service account's file, as Huawei's console gives it.
type account struct {
	ProjectID  string `json:"project_id"`
	KeyID      string `json:"key_id"`
	PrivateKey string `json:"private_key"`
	SubAccount string `json:"sub_account"`
}

// credential is an app's. It is set as a JSON object of these fields.
type credential struct {
	sender.Forever `json:"-"`
	sender.Classes
	hms.Receipts

	// ServiceAccount is the service account's file.
	ServiceAccount json.RawMessage `json:"service_account"`

	account account
	tokens  *sender.TokenSource
}

// Parse reads a credential.
func (v *Vendor) Parse(text []byte) (sender.Credential, error) {
	c := &credential{}
	if err := sender.ParseFields(text, c); err != nil {
		return nil, err
	}
	if len(c.ServiceAccount) == 0 {
		return nil, &sender.FieldError{Field: "service_account", Problem: "is missing: the service account's file, a JSON object"}
	}
	if json.Unmarshal(c.ServiceAccount, &c.account) != nil { // it has more fields than are used
		return nil, &sender.FieldError{Field: "service_account", Problem: "is not the service account's file, a JSON object"}
	}
	c.ServiceAccount = nil
	if err := sender.Required("service_account.project_id", c.account.ProjectID, "service_account.key_id", c.account.KeyID,
		"service_account.sub_account", c.account.SubAccount); err != nil {
		return nil, err
	}
	key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(c.account.PrivateKey))
	if err != nil || key.N.BitLen() < shortestKey {
		return nil, &sender.FieldError{Field: "service_account.private_key", Problem: fmt.Sprintf("must be a PEM text with an RSA key of %d bits or more", shortestKey)}
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c.account.PrivateKey = ""
	c.tokens = v.tokens(c.account, key)
	return c, nil
}

// tokens returns a source of JWTs, which are signed here: Huawei gives none out for v3.
func (v *Vendor) tokens(a account, key *rsa.PrivateKey) *sender.TokenSource {
	return &sender.TokenSource{Fetch: func(context.Context) (string, time.Duration, error) {
		now := time.Now()
		token := jwt.NewWithClaims(jwt.SigningMethodPS256, jwt.MapClaims{
			"iss": a.SubAccount, "aud": v.config.Audience, "iat": now.Unix(), "exp": now.Add(v.config.TokenLife).Unix(),
		})
		token.Header["kid"] = a.KeyID
		signed, err := token.SignedString(key)
		if err != nil {
			return "", 0, fmt.Errorf("sign a token: %w", err)
		}
		return signed, max(v.config.TokenLife-ahead, v.config.TokenLife/2), nil
	}}
}

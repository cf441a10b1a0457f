package senders

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/halleypush/halley/pkg/channel"
)

// credential is what a vendor's console gives out for the app.
type credential struct {
	// APNs.
	BundleID string `json:"bundle_id"`
	Key      string `json:"key"`
	KeyID    string `json:"key_id"`
	TeamID   string `json:"team_id"`
	// Huawei.
	ClientID     string `json:"-"`
	ClientNumber any    `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	// FCM.
	Account        json.RawMessage `json:"service_account"`
	ServiceAccount serviceAccount  `json:"-"`

	channel   string
	forSender json.RawMessage
}

// serviceAccount is what is used of Google's file.
type serviceAccount struct {
	Project  string `json:"project_id"`
	KeyID    string `json:"private_key_id"`
	Key      string `json:"private_key"`
	Email    string `json:"client_email"`
	TokenURI string `json:"token_uri"`
}

// encode returns the credential as the sender takes it.
func (c *credential) encode() (json.RawMessage, error) {
	switch c.channel {
	case channel.APNs:
		return json.Marshal(map[string]string{"bundle_id": c.BundleID, "key": c.Key, "key_id": c.KeyID, "team_id": c.TeamID})
	case channel.FCM:
		if err := json.Unmarshal(c.Account, &c.ServiceAccount); err != nil {
			return nil, fmt.Errorf("service account: %w", err)
		}
		return json.Marshal(map[string]any{"service_account": c.Account})
	default:
		c.ClientID = fmt.Sprint(c.ClientNumber)
		return json.Marshal(map[string]string{"app_id": c.ClientID, "app_secret": c.ClientSecret})
	}
}

// authorization returns the header Authorization that the bare loop sends.
func (c *credential) authorization(ctx context.Context, s *simulators) (string, error) {
	switch c.channel {
	case channel.APNs:
		key, err := jwt.ParseECPrivateKeyFromPEM([]byte(c.Key))
		if err != nil {
			return "", err
		}
		provider := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"iss": c.TeamID, "iat": time.Now().Unix()})
		provider.Header["kid"] = c.KeyID
		signed, err := provider.SignedString(key)
		return "bearer " + signed, err
	case channel.FCM:
		a := c.ServiceAccount
		key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(a.Key))
		if err != nil {
			return "", err
		}
		now := time.Now()
		assertion := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
			"iss": a.Email, "scope": "https://www.googleapis.com/auth/firebase.messaging", "aud": a.TokenURI,
			"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		})
		assertion.Header["kid"] = a.KeyID
		signed, err := assertion.SignedString(key)
		if err != nil {
			return "", err
		}
		return accessToken(ctx, s, a.TokenURI, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {signed}})
	default:
		return accessToken(ctx, s, s.URLs[c.channel]+"/oauth2/v3/token",
			url.Values{"grant_type": {"client_credentials"}, "client_id": {c.ClientID}, "client_secret": {c.ClientSecret}})
	}
}

// accessToken fetches one by one of OAuth 2's grants, and returns it as a header's value.
func accessToken(ctx context.Context, s *simulators, address string, grant url.Values) (string, error) {
	pem, err := os.ReadFile(s.CA)
	if err != nil {
		return "", err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return "", errors.New("ca.pem holds no certificate")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(grant.Encode()))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Token == "" {
		return "", fmt.Errorf("access token: %s: %w", response.Status, err)
	}
	return "Bearer " + answer.Token, nil
}

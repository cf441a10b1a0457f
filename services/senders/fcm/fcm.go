// Package fcm is the channel to Android phones with Google's services, and to what else a Firebase project reaches: FCM, HTTP v1.
package fcm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	firebase "firebase.google.com/go/v4"
	"firebase.google.com/go/v4/messaging"
	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/api/option"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
)

// Config is the configuration of sender-fcm.
type Config struct {
	sender.Config `yaml:",inline"`

	URL      string `yaml:"url" env:"FCM_URL" default:"https://fcm.googleapis.com" doc:"URL of FCM"`
	TokenURL string `yaml:"token_url" env:"FCM_TOKEN_URL" doc:"URL of access tokens; empty: the service account's token_uri"`
	CA       string `yaml:"ca" env:"FCM_CA" doc:"file with certificates that sign the services', beside the system's; for simulators"`
}

const (
	// maxTTL is how long FCM keeps a message.
	maxTTL = 28 * 24 * time.Hour
	// perSecond is the default quota of a project, 600,000 a minute.
	perSecond = 10_000
	// concurrency is how many requests of one project are under way.
	concurrency = 500
	// quotaPause is how long to stay away after 429 without Retry-After.
	quotaPause = time.Minute
	// scope is what access tokens are for, life how long an assertion holds.
	scope = "https://www.googleapis.com/auth/firebase.messaging"
	life  = time.Hour
	// shortestKey is the least size of an account's key, in bits.
	shortestKey = 2048
)

// Vendor is FCM.
type Vendor struct {
	config *Config
	client *http.Client
	now    func() time.Time
}

var (
	_ sender.Vendor  = (*Vendor)(nil)
	_ sender.Checker = (*Vendor)(nil)
)

// New returns the vendor.
func New(c *Config) (*Vendor, error) {
	client, err := sender.NewClient(concurrency, c.CA)
	if err != nil {
		return nil, err
	}
	return &Vendor{config: c, client: client, now: time.Now}, nil
}

// Channel returns "fcm".
func (*Vendor) Channel() string { return channel.FCM }

// Limits returns what FCM allows.
func (*Vendor) Limits() sender.Limits {
	return sender.Limits{Batch: 1, PerSecond: perSecond, Concurrency: concurrency, MaxTTL: maxTTL}
}

// account is what is used of a service account's file.
type account struct {
	ProjectID  string `json:"project_id"`
	KeyID      string `json:"private_key_id"`
	PrivateKey string `json:"private_key"`
	Email      string `json:"client_email"`
	TokenURI   string `json:"token_uri"`
}

// credential is an app's. It is set as a JSON object of these fields.
type credential struct {
	sender.Forever `json:"-"`

	// ServiceAccount is the service account's file.
	ServiceAccount json.RawMessage `json:"service_account"`

	tokens    *sender.TokenSource
	messaging *messaging.Client
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
	var a account
	if json.Unmarshal(c.ServiceAccount, &a) != nil { // it has more fields than are used
		return nil, &sender.FieldError{Field: "service_account", Problem: "is not the service account's file, a JSON object"}
	}
	c.ServiceAccount = nil
	if err := sender.Required("service_account.project_id", a.ProjectID, "service_account.client_email", a.Email,
		"service_account.token_uri", a.TokenURI); err != nil {
		return nil, err
	}
	key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(a.PrivateKey))
	if err != nil || key.N.BitLen() < shortestKey {
		return nil, &sender.FieldError{Field: "service_account.private_key", Problem: fmt.Sprintf("must be a PEM text with an RSA key of %d bits or more", shortestKey)}
	}
	c.tokens = &sender.TokenSource{Fetch: func(ctx context.Context) (string, time.Duration, error) {
		now := time.Now()
		assertion := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
			"iss": a.Email, "scope": scope, "aud": a.TokenURI, "iat": now.Unix(), "exp": now.Add(life).Unix(),
		})
		assertion.Header["kid"] = a.KeyID
		signed, err := assertion.SignedString(key)
		if err != nil {
			return "", 0, fmt.Errorf("sign an assertion: %w", err)
		}
		return v.fetch(ctx, a.TokenURI, signed)
	}}
	c.messaging, err = v.library(a.ProjectID)
	return c, err
}

// library returns Google's client for a project, which builds and checks messages, and sends none (see wire).
func (v *Vendor) library(project string) (*messaging.Client, error) {
	ctx := context.Background() // it is used for nothing that takes time: there is nobody to authenticate with
	app, err := firebase.NewApp(ctx, &firebase.Config{ProjectID: project},
		option.WithEndpoint(strings.TrimSuffix(v.config.URL, "/")+"/v1"), option.WithHTTPClient(&http.Client{Transport: wire{}}))
	if err != nil {
		return nil, fmt.Errorf("firebase: %w", err)
	}
	client, err := app.Messaging(ctx)
	if err != nil {
		return nil, fmt.Errorf("firebase: %w", err)
	}
	return client, nil
}

// fetch exchanges an assertion for an access token (RFC 7523).
func (v *Vendor) fetch(ctx context.Context, address, assertion string) (string, time.Duration, error) {
	if v.config.TokenURL != "" {
		address = v.config.TokenURL
	}
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {assertion}}
	return sender.FetchToken(ctx, v.client, address, form)
}

// Send makes one request; a second one only if the access token has ended.
func (v *Vendor) Send(ctx context.Context, given sender.Credential, m *sender.Message) []sender.Result {
	return sender.Same(m, v.send(ctx, given.(*credential), m))
}

func (v *Vendor) send(ctx context.Context, c *credential, m *sender.Message) (r sender.Result) {
	d, err := sender.Common(m, c, func() (*draft, error) { return newDraft(c.messaging, m, v.now()) })
	if err != nil {
		return sender.Result{Outcome: sender.Rejected, Code: err.Error()}
	}
	err = c.tokens.Try(ctx, func(token string) (refused bool) {
		a, err := sender.Post(ctx, v.client, d.url, sender.JSON, d.body(m.Targets[0].Token), "Authorization", "Bearer "+token)
		if err != nil {
			r = sender.ResultOf(err)
			return false
		}
		r = read(m, a)
		return a.Status == http.StatusUnauthorized && r.Outcome == sender.CredentialBad
	})
	if err != nil {
		return sender.ResultOf(err)
	}
	return r
}

// read returns what an answer says.
func read(m *sender.Message, a *sender.Answer) sender.Result {
	var answer struct {
		Name  string `json:"name"`
		Error struct {
			Status  string `json:"status"`
			Message string `json:"message"`
			Details []struct {
				Type       string `json:"@type"`
				Code       string `json:"errorCode"`
				Violations []struct {
					Field string `json:"field"`
				} `json:"fieldViolations"`
			} `json:"details"`
		} `json:"error"`
	}
	a.Decode(&answer)
	if a.Status == http.StatusOK {
		return sender.Result{Outcome: sender.Accepted, Code: "200", VendorID: answer.Name[strings.LastIndexByte(answer.Name, '/')+1:]}
	}
	code, aboutToken, aboutOthers := answer.Error.Status, strings.Contains(answer.Error.Message, "registration token"), false
	for _, detail := range answer.Error.Details {
		if strings.HasSuffix(detail.Type, "google.firebase.fcm.v1.FcmError") && detail.Code != "" {
			code = detail.Code
		}
		for _, violation := range detail.Violations {
			aboutToken = aboutToken || violation.Field == "message.token"
			aboutOthers = aboutOthers || violation.Field != "message.token"
		}
	}
	if code == "INVALID_ARGUMENT" && aboutToken && !aboutOthers && len(m.Override) == 0 {
		code = badToken
	}
	r := codes.Judge(a, code, m.Scrub(answer.Error.Message), sender.Rejected)
	if r.Outcome == sender.Retry && r.After == 0 && slices.Contains([]string{"QUOTA_EXCEEDED", "RESOURCE_EXHAUSTED"}, code) {
		r.After = quotaPause
	}
	return r
}

// Check has FCM validate a message to a token that there is not: it has to refuse the token, and nothing else.
func (v *Vendor) Check(ctx context.Context, given sender.Credential) (note string, err error) {
	m := &sender.Message{Sandbox: true, TTL: time.Minute, Targets: []sender.Target{{Token: "halley-check"}}}
	return sender.Checked(v.send(ctx, given.(*credential), m))
}

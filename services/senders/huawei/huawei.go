// Package huawei is the channel to Huawei's phones with Android, EMUI or HarmonyOS up to 4: Push Kit, API v1 and v2.
package huawei

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/internal/hms"
)

// Config is the configuration of sender-huawei.
type Config struct {
	sender.Config `yaml:",inline"`

	URL         string        `yaml:"url" env:"HUAWEI_URL" default:"https://push-api.cloud.huawei.com" doc:"URL of Push Kit"`
	TokenURL    string        `yaml:"token_url" env:"HUAWEI_TOKEN_URL" default:"https://oauth-login.cloud.huawei.com/oauth2/v3/token" doc:"URL that gives access tokens"`
	CA          string        `yaml:"ca" env:"HUAWEI_CA" doc:"file with certificates that sign the services', beside the system's; for simulators"`
	CallbackAge time.Duration `yaml:"callback_age" env:"HUAWEI_CALLBACK_AGE" default:"5m" doc:"how old a signed call with receipts may be"`
}

// concurrency is how many requests of one app are under way: 16,000 devices at most.
const concurrency = 16

// Vendor is Push Kit.
type Vendor struct {
	config *Config
	client *http.Client
}

var (
	_ sender.Vendor   = (*Vendor)(nil)
	_ sender.Checker  = (*Vendor)(nil)
	_ sender.Receiver = (*Vendor)(nil)
)

// New returns the vendor.
func New(c *Config) (*Vendor, error) {
	client, err := sender.NewClient(concurrency, c.CA)
	if err != nil {
		return nil, err
	}
	return &Vendor{config: c, client: client}, nil
}

// Channel returns "huawei".
func (*Vendor) Channel() string { return channel.Huawei }

// Limits returns what Huawei allows. It counts devices, not requests, a second, and how many differs from app to app: no rate is
// set here, and Huawei says with 503 what is too much.
func (*Vendor) Limits() sender.Limits {
	return sender.Limits{Batch: hms.Batch, Concurrency: concurrency, MaxTTL: hms.MaxTTL}
}

// credential is an app's. It is set as a JSON object of these fields.
type credential struct {
	sender.Forever `json:"-"`
	sender.Classes
	hms.Receipts

	AppID     string `json:"app_id"`
	AppSecret string `json:"app_secret"`
	// ProjectID has requests go to API v2 instead of v1.
	ProjectID string `json:"project_id"`
	// BadgeClass is the activity that the launcher starts. Huawei wants it with a badge; without it there is none.
	BadgeClass string `json:"badge_class"`
	// Urgent: Huawei has granted the app the right to importance and urgency HIGH.
	Urgent bool `json:"urgent"`

	tokens *sender.TokenSource
}

// Parse reads a credential.
func (v *Vendor) Parse(text []byte) (sender.Credential, error) {
	c := &credential{}
	if err := sender.ParseFields(text, c); err != nil {
		return nil, err
	}
	if err := sender.Required("app_id", c.AppID, "app_secret", c.AppSecret); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c.tokens = sender.ClientCredentials(v.client, v.config.TokenURL, c.AppID, c.AppSecret)
	return c, nil
}

// address returns where an app's messages go.
func (v *Vendor) address(c *credential) string {
	version, id := "v1", c.AppID
	if c.ProjectID != "" {
		version, id = "v2", c.ProjectID
	}
	return fmt.Sprintf("%s/%s/%s/messages:send", strings.TrimSuffix(v.config.URL, "/"), version, url.PathEscape(id))
}

// Send makes one request for all targets; a second one only if the access token has ended.
func (v *Vendor) Send(ctx context.Context, given sender.Credential, m *sender.Message) []sender.Result {
	c := given.(*credential)
	body, err := request(c, m)
	if err != nil {
		return sender.Same(m, sender.Result{Outcome: sender.Rejected, Code: err.Error()})
	}
	return v.send(ctx, c, m, body)
}

func (v *Vendor) send(ctx context.Context, c *credential, m *sender.Message, body []byte) (results []sender.Result) {
	err := c.tokens.Try(ctx, func(token string) (refused bool) {
		a, err := sender.Post(ctx, v.client, v.address(c), sender.JSON, body, "Authorization", "Bearer "+token)
		if err != nil {
			results = sender.Same(m, sender.ResultOf(err))
			return false
		}
		results, refused = read(m, a)
		return refused
	})
	if err != nil {
		return sender.Same(m, sender.ResultOf(err))
	}
	return results
}

// read returns what an answer says of each target, and whether it says that the access token is not taken any more.
func read(m *sender.Message, a *sender.Answer) (results []sender.Result, refused bool) {
	var answer struct {
		Code      sender.Text `json:"code"`
		Message   string      `json:"msg"`
		RequestID string      `json:"requestId"`
	}
	a.Decode(&answer)
	r := codes.Judge(a, string(answer.Code), m.Scrub(answer.Message), sender.Retry)
	r.VendorID = answer.RequestID
	results = sender.Same(m, r)
	if answer.Code == partial {
		results = readPartial(m, r, answer.Message)
	}
	return results, hms.Refused(a, string(answer.Code))
}

// readPartial returns results of an answer that names the tokens that are void; the others are accepted.
func readPartial(m *sender.Message, r sender.Result, message string) []sender.Result {
	var detail struct {
		Illegal []string `json:"illegal_tokens"`
	}
	if json.Unmarshal([]byte(message), &detail) != nil || len(detail.Illegal) == 0 { // who is accepted is not known
		r.Outcome, r.Code = sender.Retry, partial+" without its tokens"
		return sender.Same(m, r)
	}
	illegal := make(map[string]bool, len(detail.Illegal))
	for _, token := range detail.Illegal {
		illegal[token] = true
	}
	results := make([]sender.Result, len(m.Targets))
	for i, t := range m.Targets {
		results[i] = sender.Result{Outcome: sender.Accepted, Code: partial, VendorID: r.VendorID}
		if illegal[t.Token] {
			results[i].Outcome, results[i].Code = sender.TokenGone, partial+" illegal token"
		}
	}
	return results
}

// Check fetches an access token and has Huawei look at a message without sending it.
func (v *Vendor) Check(ctx context.Context, given sender.Credential) (note string, err error) {
	c := given.(*credential)
	m := &sender.Message{
		TTL: time.Minute, Targets: []sender.Target{{Token: "halley-check"}}, Payload: "check",
		Override: map[string]any{"validate_only": true},
	}
	body, err := request(c, m)
	if err != nil {
		return "", err
	}
	return sender.Checked(v.send(ctx, c, m, body)[0])
}

// Receipts reads a call with receipts.
func (v *Vendor) Receipts(given sender.Credential, r *http.Request, body []byte) ([]sender.Receipt, []byte, error) {
	return given.(*credential).Read(r, body, time.Now(), v.config.CallbackAge)
}

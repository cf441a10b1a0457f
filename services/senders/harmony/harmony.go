// Package harmony is the channel to phones with HarmonyOS NEXT (5 and later): Push Kit, API v3.
package harmony

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/internal/hms"
)

// Config is the configuration of sender-harmony.
type Config struct {
	sender.Config `yaml:",inline"`

	URL         string        `yaml:"url" env:"HARMONY_URL" default:"https://push-api.cloud.huawei.com" doc:"URL of Push Kit"`
	Audience    string        `yaml:"audience" env:"HARMONY_AUDIENCE" default:"https://oauth-login.cloud.huawei.com/oauth2/v3/token" doc:"who the signed tokens are for; nothing is asked there"`
	TokenLife   time.Duration `yaml:"token_life" env:"HARMONY_TOKEN_LIFE" default:"1h" doc:"how long a signed token holds; Huawei refuses more than a day"`
	TestBatch   int           `yaml:"test_batch" env:"HARMONY_TEST_BATCH" default:"10" doc:"targets of one request with test messages (devices whose environment is sandbox)"`
	CA          string        `yaml:"ca" env:"HARMONY_CA" doc:"file with certificates that sign the service's, beside the system's; for simulators"`
	CallbackAge time.Duration `yaml:"callback_age" env:"HARMONY_CALLBACK_AGE" default:"5m" doc:"how old a signed call with receipts may be"`
}

// concurrency is how many requests of one app are under way: 16,000 devices at most.
const concurrency = 16

// Vendor is Push Kit v3.
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
	switch {
	case c.TokenLife < time.Minute || c.TokenLife > 24*time.Hour:
		return nil, errors.New("token_life must be between 1m and 24h")
	case c.TestBatch < 1:
		return nil, errors.New("test_batch must be at least 1")
	}
	client, err := sender.NewClient(concurrency, c.CA)
	if err != nil {
		return nil, err
	}
	return &Vendor{config: c, client: client}, nil
}

// Channel returns "harmony".
func (*Vendor) Channel() string { return channel.Harmony }

// Limits returns what Huawei allows. An app's rate is shown in its console only; Huawei says with 503 what is too much.
func (*Vendor) Limits() sender.Limits {
	return sender.Limits{Batch: hms.Batch, Concurrency: concurrency, MaxTTL: hms.MaxTTL}
}

// Send makes one request for all targets (test messages: one for every ten); a second one only if the token has ended.
func (v *Vendor) Send(ctx context.Context, given sender.Credential, m *sender.Message) []sender.Result {
	c := given.(*credential)
	batch := len(m.Targets)
	if m.Sandbox {
		batch = min(batch, v.config.TestBatch)
	}
	var results []sender.Result
	for targets := range slices.Chunk(m.Targets, max(batch, 1)) {
		part := *m
		part.Targets = targets
		results = append(results, v.send(ctx, c, &part)...)
	}
	return results
}

func (v *Vendor) send(ctx context.Context, c *credential, m *sender.Message) (results []sender.Result) {
	body, pushType, err := request(c, m)
	if err != nil {
		return sender.Same(m, sender.Result{Outcome: sender.Rejected, Code: err.Error()})
	}
	address := fmt.Sprintf("%s/v3/%s/messages:send", strings.TrimSuffix(v.config.URL, "/"), url.PathEscape(c.account.ProjectID))
	err = c.tokens.Try(ctx, func(token string) (refused bool) {
		a, err := sender.Post(ctx, v.client, address, sender.JSON, body, "Authorization", "Bearer "+token, "push-type", pushType)
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

// read returns what an answer says of each target, and whether it says that the token is not taken any more.
func read(m *sender.Message, a *sender.Answer) (results []sender.Result, refused bool) {
	var answer struct {
		Code      sender.Text `json:"code"`
		Message   string      `json:"msg"`
		RequestID string      `json:"requestId"`
	}
	a.Decode(&answer)
	code := string(answer.Code)
	r := codes.Judge(a, code, m.Scrub(answer.Message), sender.Retry)
	r.VendorID = answer.RequestID
	results = sender.Same(m, r)
	if code == partial || code == allRefused {
		results = readReasons(m, r, answer.Message)
	}
	return results, hms.Refused(a, code)
}

// readReasons returns results of an answer that names the tokens that it refuses, by reason; the others have the result r.
func readReasons(m *sender.Message, r sender.Result, message string) []sender.Result {
	var detail struct {
		Illegal map[string][]string `json:"illegalTokens"`
	}
	if json.Unmarshal([]byte(message), &detail) != nil || len(detail.Illegal) == 0 {
		if r.Outcome == sender.Accepted { // who is accepted is not known
			r.Outcome, r.Code = sender.Retry, partial+" without its tokens"
		}
		return sender.Same(m, r)
	}
	reasons := map[string]string{}
	for reason, tokens := range detail.Illegal {
		for _, token := range tokens {
			reasons[token] = reason
		}
	}
	if r.Outcome == sender.Accepted {
		r.Code = partial
	}
	results := sender.Same(m, r)
	for i, t := range m.Targets {
		if reason, ok := reasons[t.Token]; ok {
			results[i] = codes.Result("target "+reason, "", sender.Rejected)
			results[i].VendorID = r.VendorID
		}
	}
	return results
}

// Check has Huawei refuse a test message for a device that there is not: if it complains of the device, the credential is good.
func (v *Vendor) Check(ctx context.Context, given sender.Credential) (note string, err error) {
	m := &sender.Message{TTL: time.Minute, Targets: []sender.Target{{Token: "halley-check"}}, Payload: "check", Sandbox: true}
	return sender.Checked(v.send(ctx, given.(*credential), m)[0])
}

// Receipts reads a call with receipts.
func (v *Vendor) Receipts(given sender.Credential, r *http.Request, body []byte) ([]sender.Receipt, []byte, error) {
	return given.(*credential).Read(r, body, time.Now(), v.config.CallbackAge)
}

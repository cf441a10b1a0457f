// Package xiaomi is the channel to Xiaomi's phones: MiPush.
package xiaomi

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
)

// Config is the configuration of sender-xiaomi.
type Config struct {
	sender.Config `yaml:",inline"`

	URL           string `yaml:"url" env:"XIAOMI_URL" default:"https://api.xmpush.xiaomi.com" doc:"URL of MiPush for apps of the region china"`
	Global        string `yaml:"global" env:"XIAOMI_GLOBAL" default:"https://api.xmpush.global.xiaomi.com" doc:"URL for the region global"`
	Europe        string `yaml:"europe" env:"XIAOMI_EUROPE" default:"https://fr-api.xmpush.global.xiaomi.com" doc:"URL for the region europe"`
	India         string `yaml:"india" env:"XIAOMI_INDIA" default:"https://idmb-api.xmpush.global.xiaomi.com" doc:"URL for the region india"`
	Russia        string `yaml:"russia" env:"XIAOMI_RUSSIA" default:"https://ru-api.xmpush.global.xiaomi.com" doc:"URL for the region russia"`
	CA            string `yaml:"ca" env:"XIAOMI_CA" doc:"file with certificates that sign the service's, beside the system's; for simulators"`
	CallbackType  int    `yaml:"callback_type" env:"XIAOMI_CALLBACK_TYPE" default:"179" doc:"receipts that are asked for, a sum of 1 delivered, 2 clicked, 16 invalid device, 32 push disabled, 64 filtered, 128 daily total"`
	TitleLength   int    `yaml:"title_length" env:"XIAOMI_TITLE_LENGTH" default:"49" doc:"characters of a title"`
	BodyLength    int    `yaml:"body_length" env:"XIAOMI_BODY_LENGTH" default:"127" doc:"characters of a body"`
	EscapePayload bool   `yaml:"escape_payload" env:"XIAOMI_ESCAPE_PAYLOAD" doc:"URL-encode the payload once more than its form needs; the vendor's words can be read so, its libraries do not"`
}

const (
	batch = 1000
	// maxTTL is how long Xiaomi keeps a message.
	maxTTL = 14 * 24 * time.Hour
	// perSecond is the rate, in requests, of the smallest apps (from a third party's guide).
	perSecond = 500
	// concurrency is how many requests of one app are under way.
	concurrency = 32
	// maxPayload is the size of the payload in bytes (from memory).
	maxPayload = 4096
)

// Vendor is MiPush.
type Vendor struct {
	config *Config
	client *http.Client
}

var (
	_ sender.Vendor   = (*Vendor)(nil)
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

// Channel returns "xiaomi".
func (*Vendor) Channel() string { return channel.Xiaomi }

// Limits returns what Xiaomi allows.
func (v *Vendor) Limits() sender.Limits {
	return sender.Limits{
		Batch: batch, PerSecond: perSecond, Concurrency: concurrency, MaxTTL: maxTTL,
		Title: sender.Length{Characters: v.config.TitleLength}, Body: sender.Length{Characters: v.config.BodyLength},
	}
}

// credential is an app's. It is set as a JSON object of these fields.
type credential struct {
	sender.Forever `json:"-"`
	// Classes are the ids of Xiaomi's channels. A channel id that Categories does not have is taken for Xiaomi's own.
	sender.Classes

	AppSecret string `json:"app_secret"`
	// Package is the app's, for devices that report none.
	Package string `json:"package"`
	// Region is where the app's devices are registered: china (default), global, europe, india or russia.
	Region string `json:"region"`

	url string
}

// Parse reads a credential.
func (v *Vendor) Parse(text []byte) (sender.Credential, error) {
	c := &credential{}
	if err := sender.ParseFields(text, c); err != nil {
		return nil, err
	}
	if err := sender.Required("app_secret", c.AppSecret, "package", c.Package); err != nil {
		return nil, err
	}
	regions := map[string]string{
		"": v.config.URL, "china": v.config.URL, "global": v.config.Global, "europe": v.config.Europe,
		"india": v.config.India, "russia": v.config.Russia,
	}
	var known bool
	if c.url, known = regions[c.Region]; !known {
		return nil, &sender.FieldError{Field: "region", Problem: "must be china, global, europe, india or russia"}
	}
	return c, nil
}

// Send makes one request for all targets.
func (v *Vendor) Send(ctx context.Context, given sender.Credential, m *sender.Message) []sender.Result {
	c := given.(*credential)
	form, err := v.request(c, m)
	if err != nil {
		return sender.Same(m, sender.Result{Outcome: sender.Rejected, Code: err.Error()})
	}
	a, err := sender.Post(ctx, v.client, strings.TrimSuffix(c.url, "/")+"/v3/message/regid", sender.Form, []byte(form.Encode()),
		"Authorization", "key="+c.AppSecret)
	if err != nil {
		return sender.Same(m, sender.ResultOf(err))
	}
	return read(m, a)
}

// read returns what an answer says of each target.
func read(m *sender.Message, a *sender.Answer) []sender.Result {
	var answer struct {
		Code        sender.Text     `json:"code"`
		Description sender.Text     `json:"description"`
		Reason      sender.Text     `json:"reason"`
		Data        json.RawMessage `json:"data"` // an object, or nothing of use
	}
	var data struct {
		ID      string      `json:"id"`
		Bad     string      `json:"bad_regids"`
		Exceeds sender.Text `json:"channel_exceed_quota"`
	}
	a.Decode(&answer)
	_ = json.Unmarshal(answer.Data, &data) // what is no object says nothing
	code := string(answer.Code)
	r := codes.Judge(a, code, m.Scrub(string(answer.Description+" "+answer.Reason)), sender.Retry)
	r.VendorID = data.ID
	if code == badDevice && len(m.Targets) > 1 { // it is not said which
		r.Outcome = sender.Rejected
	}
	results := sender.Same(m, r)
	if r.Outcome != sender.Accepted {
		return results
	}
	bad, exceeding := setOf(data.Bad), setOf(string(data.Exceeds))
	for i, t := range m.Targets {
		if exceeding[t.Token] { // that this is a list of registration ids is uncertain
			results[i].Outcome, results[i].Code = sender.Rejected, "channel_exceed_quota"
		}
		if bad[t.Token] {
			results[i].Outcome, results[i].Code = sender.TokenGone, "bad_regids"
		}
	}
	return results
}

func setOf(list string) map[string]bool {
	set := map[string]bool{}
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item != "" {
			set[item] = true
		}
	}
	return set
}

// Receipts reads a call with receipts. Xiaomi signs nothing: only who knows the app's path can call.
func (v *Vendor) Receipts(_ sender.Credential, _ *http.Request, body []byte) ([]sender.Receipt, []byte, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, nil, fmt.Errorf("receipts of Xiaomi: %w", err)
	}
	var data map[string]struct {
		Param   string      `json:"param"`
		Type    sender.Text `json:"type"`
		Targets string      `json:"targets"`
	}
	if err := json.Unmarshal([]byte(form.Get("data")), &data); err != nil {
		return nil, nil, fmt.Errorf("receipts of Xiaomi: %w", err)
	}
	var receipts []sender.Receipt
	for _, message := range data {
		r := sender.Receipt{Tag: message.Param}
		r.What, r.Code = sender.KindOf(ReceiptCodes(), string(message.Type))
		for target := range setOf(message.Targets) {
			r.Token = target
			receipts = append(receipts, r)
		}
	}
	return receipts, []byte("{}"), nil
}

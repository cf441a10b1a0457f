// Package meizu is the channel to Meizu's phones: Flyme push.
package meizu

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
)

// Config is the configuration of sender-meizu.
type Config struct {
	sender.Config `yaml:",inline"`

	URL         string `yaml:"url" env:"MEIZU_URL" default:"https://server-api-push.meizu.com" doc:"URL of Flyme push for apps of the region china"`
	Overseas    string `yaml:"overseas" env:"MEIZU_OVERSEAS" default:"https://server-api-push.in.meizu.com" doc:"URL for the region overseas"`
	CA          string `yaml:"ca" env:"MEIZU_CA" doc:"file with certificates that sign the service's, beside the system's; for simulators"`
	TitleLength int    `yaml:"title_length" env:"MEIZU_TITLE_LENGTH" default:"32" doc:"characters of a title"`
	BodyLength  int    `yaml:"body_length" env:"MEIZU_BODY_LENGTH" default:"100" doc:"characters of a body"`
}

const (
	path = "/garcia/api/server/push/varnished/pushByPushId"
	// batch is the documented limit; older texts say 1,000.
	batch = 100
	// maxTTL is how long Meizu keeps a message.
	maxTTL = 72 * time.Hour
	// perSecond is the default rate in requests.
	perSecond = 500
	// concurrency is how many requests of one app are under way.
	concurrency = 32
	// tooFast is the code for too many requests, after which Meizu wants a second's pause.
	tooFast = "110010"
	// private is the class of messages that are for this user alone; others are public, of which a device gets so many a day.
	private = "private"
)

// Vendor is Flyme push.
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

// Channel returns "meizu".
func (*Vendor) Channel() string { return channel.Meizu }

// Limits returns what Meizu allows.
func (v *Vendor) Limits() sender.Limits {
	return sender.Limits{
		Batch: batch, PerSecond: perSecond, Concurrency: concurrency, MaxTTL: maxTTL,
		Title: sender.Length{Characters: v.config.TitleLength}, Body: sender.Length{Characters: v.config.BodyLength},
	}
}

// credential is an app's. It is set as a JSON object of these fields.
type credential struct {
	sender.Forever `json:"-"`
	// Classes are "public" or "private".
	sender.Classes

	AppID     string `json:"app_id"`
	AppSecret string `json:"app_secret"`
	// Region is where the app's devices are registered: china (default) or overseas.
	Region string `json:"region"`
	// ReceiptToken is the access_token that is set for receipts in the console; empty: it is not looked at.
	ReceiptToken string `json:"receipt_token"`

	url string
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
	for name, class := range c.Categories {
		if class != private && class != "public" {
			return nil, &sender.FieldError{Field: "categories." + name, Problem: "must be public or private"}
		}
	}
	if c.Category != "" && c.Category != private && c.Category != "public" {
		return nil, &sender.FieldError{Field: "category", Problem: "must be public or private"}
	}
	var known bool
	if c.url, known = map[string]string{"": v.config.URL, "china": v.config.URL, "overseas": v.config.Overseas}[c.Region]; !known {
		return nil, &sender.FieldError{Field: "region", Problem: "must be china or overseas"}
	}
	return c, nil
}

// Send makes one request for all targets. Meizu has stopped data messages for the app (pass-through), so only notifications go.
func (v *Vendor) Send(ctx context.Context, given sender.Credential, m *sender.Message) []sender.Result {
	c := given.(*credential)
	if m.Notification == nil {
		return sender.Same(m, sender.Result{Outcome: sender.Rejected, Code: "Meizu takes notifications only"})
	}
	message, err := messageJSON(c, m)
	if err != nil {
		return sender.Same(m, sender.Result{Outcome: sender.Rejected, Code: err.Error()})
	}
	parameters := map[string]string{"appId": c.AppID, "pushIds": strings.Join(m.Tokens(), ","), "messageJson": message}
	form := url.Values{"sign": {sign(parameters, c.AppSecret)}}
	for name, value := range parameters {
		form.Set(name, value)
	}
	a, err := sender.Post(ctx, v.client, strings.TrimSuffix(c.url, "/")+path, sender.Form, []byte(form.Encode()))
	if err != nil {
		return sender.Same(m, sender.ResultOf(err))
	}
	return read(m, a)
}

// read returns what an answer says of each target: those in its value, by code, failed; the others did not.
func read(m *sender.Message, a *sender.Answer) []sender.Result {
	var answer struct {
		Code    sender.Text     `json:"code"`
		Message sender.Text     `json:"message"`
		Value   json.RawMessage `json:"value"` // an object, or nothing of use
		ID      sender.Text     `json:"msgId"`
	}
	a.Decode(&answer)
	code := string(answer.Code)
	r := codes.Judge(a, code, m.Scrub(string(answer.Message)), sender.Retry)
	r.VendorID = string(answer.ID)
	switch {
	case r.Outcome == sender.TokenGone && len(m.Targets) > 1: // it is not said which
		r.Outcome = sender.Rejected
	case code == tooFast && r.After == 0:
		r.After = time.Second
	}
	results := sender.Same(m, r)
	if r.Outcome != sender.Accepted {
		return results
	}
	var value map[string]json.RawMessage
	_ = json.Unmarshal(answer.Value, &value) // what is no object says nothing
	failed := map[string]sender.Result{}
	for code, list := range value {
		var ids []string
		if json.Unmarshal(list, &ids) != nil {
			continue
		}
		for _, id := range ids {
			failed[id] = codes.Result("target "+code, "", sender.Retry)
		}
	}
	for i, t := range m.Targets {
		if f, ok := failed[t.Token]; ok {
			f.VendorID = r.VendorID
			results[i] = f
		}
	}
	return results
}

// Receipts reads a call with receipts. Meizu sends the access token that the console has with them.
func (v *Vendor) Receipts(given sender.Credential, _ *http.Request, body []byte) ([]sender.Receipt, []byte, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, nil, fmt.Errorf("receipts of Meizu: %w", err)
	}
	c, _ := given.(*credential)
	if c != nil && c.ReceiptToken != "" && subtle.ConstantTimeCompare([]byte(c.ReceiptToken), []byte(form.Get("access_token"))) == 0 {
		return nil, nil, sender.ErrForged
	}
	var data map[string]struct {
		Param   string      `json:"param"`
		Type    sender.Text `json:"type"`
		Targets []string    `json:"targets"`
	}
	if err := json.Unmarshal([]byte(form.Get("cb")), &data); err != nil {
		return nil, nil, fmt.Errorf("receipts of Meizu: %w", err)
	}
	var receipts []sender.Receipt
	for _, message := range data {
		r := sender.Receipt{Tag: message.Param}
		r.What, r.Code = sender.KindOf(ReceiptCodes(), string(message.Type))
		for _, target := range message.Targets {
			r.Token = target
			receipts = append(receipts, r)
		}
	}
	return receipts, []byte("{}"), nil
}

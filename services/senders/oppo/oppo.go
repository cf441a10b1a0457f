// Package oppo is the channel to the phones of OPPO, OnePlus and realme: OPPO PUSH.
package oppo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
)

// Config is the configuration of sender-oppo.
type Config struct {
	sender.Config `yaml:",inline"`

	URL         string `yaml:"url" env:"OPPO_URL" default:"https://api.push.oppomobile.com" doc:"URL of OPPO PUSH for devices of China"`
	Overseas    string `yaml:"overseas" env:"OPPO_OVERSEAS" default:"https://api-intl.push.oppomobile.com" doc:"URL for devices of elsewhere"`
	CA          string `yaml:"ca" env:"OPPO_CA" doc:"file with certificates that sign the service's, beside the system's; for simulators"`
	TitleLength int    `yaml:"title_length" env:"OPPO_TITLE_LENGTH" default:"50" doc:"characters of a title"`
	BodyLength  int    `yaml:"body_length" env:"OPPO_BODY_LENGTH" default:"128" doc:"characters of a body"`
	ShortLength int    `yaml:"short_length" env:"OPPO_SHORT_LENGTH" default:"50" doc:"characters beyond which a body is sent as a long text; older texts say 200"`
}

const (
	authPath = "/server/v1/auth"
	sendPath = "/server/v1/message/notification/unicast_batch"
	// batch is the newest limit; older texts say 100.
	batch = 1000
	// maxTTL is how long OPPO keeps a message.
	maxTTL = 10 * 24 * time.Hour
	// perSecond is the rate in requests: of the smallest apps, in targets, it is 5,000 (from a third party's guide).
	perSecond = 500
	// concurrency is how many requests of one app are under way.
	concurrency = 32
	// holds is how long an auth_token is used; OPPO keeps it for 24 h, and wants it fetched every 1 to 12 h.
	holds = 6 * time.Hour
	// Codes of an auth_token that is not taken any more.
	void, missing = "11", "29"
)

// Vendor is OPPO PUSH.
type Vendor struct {
	config *Config
	client *http.Client
}

var (
	_ sender.Vendor   = (*Vendor)(nil)
	_ sender.Receiver = (*Vendor)(nil)
	_ sender.Checker  = (*Vendor)(nil)
)

// New returns the vendor.
func New(c *Config) (*Vendor, error) {
	client, err := sender.NewClient(concurrency, c.CA)
	if err != nil {
		return nil, err
	}
	return &Vendor{config: c, client: client}, nil
}

// Channel returns "oppo".
func (*Vendor) Channel() string { return channel.OPPO }

// Limits returns what OPPO allows.
func (v *Vendor) Limits() sender.Limits {
	return sender.Limits{
		Batch: batch, PerSecond: perSecond, Concurrency: concurrency, MaxTTL: maxTTL,
		Title: sender.Length{Characters: v.config.TitleLength}, Body: sender.Length{Characters: v.config.BodyLength},
	}
}

// credential is an app's. It is set as a JSON object of these fields.
type credential struct {
	sender.Forever `json:"-"`
	// Classes are OPPO's categories, such as ORDER or MARKETING.
	sender.Classes

	AppKey       string `json:"app_key"`
	MasterSecret string `json:"master_secret"`
	// Channels are the ids that channels have with OPPO, by the notification's channel id; one that is not here is sent as it is.
	Channels map[string]string `json:"channels"`
	// NotifyLevel is how loud notifications with a category are: 1, 2 or 16; 0: OPPO decides.
	NotifyLevel int `json:"notify_level"`

	china, overseas *sender.TokenSource
}

// Parse reads a credential.
func (v *Vendor) Parse(text []byte) (sender.Credential, error) {
	c := &credential{}
	if err := sender.ParseFields(text, c); err != nil {
		return nil, err
	}
	if err := sender.Required("app_key", c.AppKey, "master_secret", c.MasterSecret); err != nil {
		return nil, err
	}
	switch c.NotifyLevel {
	case 0, 1, 2, 16:
	default:
		return nil, &sender.FieldError{Field: "notify_level", Problem: "must be 1, 2 or 16"}
	}
	c.china, c.overseas = v.tokens(c, v.config.URL), v.tokens(c, v.config.Overseas)
	return c, nil
}

// tokens fetches a region's auth_tokens.
func (v *Vendor) tokens(c *credential, address string) *sender.TokenSource {
	return &sender.TokenSource{Fetch: func(ctx context.Context) (string, time.Duration, error) {
		now := strconv.FormatInt(time.Now().UnixMilli(), 10)
		sum := sha256.Sum256([]byte(c.AppKey + now + c.MasterSecret))
		form := url.Values{"app_key": {c.AppKey}, "timestamp": {now}, "sign": {hex.EncodeToString(sum[:])}}
		a, err := sender.Post(ctx, v.client, strings.TrimSuffix(address, "/")+authPath, sender.Form, []byte(form.Encode()))
		if err != nil {
			return "", 0, fmt.Errorf("auth_token: %w", err)
		}
		var answer struct {
			Code    sender.Text `json:"code"`
			Message sender.Text `json:"message"`
			Data    struct {
				Token string `json:"auth_token"`
			} `json:"data"`
		}
		a.Decode(&answer)
		r := codes.Judge(a, string(answer.Code), string(answer.Message), sender.Retry)
		if r.Outcome == sender.Accepted && answer.Data.Token != "" {
			return answer.Data.Token, holds, nil
		}
		if r.Outcome == sender.Accepted {
			r.Outcome = sender.Retry
		}
		r.Code = "auth_token: " + r.Code
		return "", 0, &sender.Failure{Result: r}
	}}
}

// isOverseas says where a registration id belongs: those of China have one part, or name it.
func isOverseas(id string) bool {
	parts := strings.Split(id, "_")
	switch len(parts) {
	case 1:
		return false
	case 2:
		return parts[0] != "CN"
	default:
		return parts[1] != "CN"
	}
}

// Send makes one request for all targets, or two if some are of China and some of elsewhere.
func (v *Vendor) Send(ctx context.Context, given sender.Credential, m *sender.Message) []sender.Result {
	c := given.(*credential)
	if m.Notification == nil {
		return sender.Same(m, sender.Result{Outcome: sender.Rejected, Code: "OPPO takes notifications only"})
	}
	results := make([]sender.Result, len(m.Targets))
	for _, overseas := range []bool{false, true} {
		part := *m
		part.Targets = nil
		var places []int
		for i, t := range m.Targets {
			if isOverseas(t.Token) == overseas {
				part.Targets, places = append(part.Targets, t), append(places, i)
			}
		}
		if len(places) == 0 {
			continue
		}
		for i, r := range v.sendTo(ctx, c, &part, overseas) {
			results[places[i]] = r
		}
	}
	return results
}

func (v *Vendor) sendTo(ctx context.Context, c *credential, m *sender.Message, overseas bool) (results []sender.Result) {
	messages, err := v.messages(c, m)
	if err != nil {
		return sender.Same(m, sender.Result{Outcome: sender.Rejected, Code: err.Error()})
	}
	address, tokens := v.config.URL, c.china
	if overseas {
		address, tokens = v.config.Overseas, c.overseas
	}
	err = tokens.Try(ctx, func(token string) (refused bool) {
		form := url.Values{"auth_token": {token}, "messages": {string(messages)}}
		a, err := sender.Post(ctx, v.client, strings.TrimSuffix(address, "/")+sendPath, sender.Form, []byte(form.Encode()))
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

// read returns what an answer says of each target, and whether it says that the auth_token is not taken any more.
func read(m *sender.Message, a *sender.Answer) (results []sender.Result, refused bool) {
	var answer struct {
		Code    sender.Text     `json:"code"`
		Message sender.Text     `json:"message"`
		Data    json.RawMessage `json:"data"` // a list of a batch's targets
	}
	a.Decode(&answer)
	code := string(answer.Code)
	unknown := sender.Rejected
	if code == "" { // it is not OPPO's
		unknown = sender.Retry
	}
	r := codes.Judge(a, code, m.Scrub(string(answer.Message)), unknown)
	if r.Outcome == sender.TokenGone && len(m.Targets) > 1 { // it is not said which
		r.Outcome = sender.Rejected
	}
	results = sender.Same(m, r)
	if r.Outcome != sender.Accepted {
		return results, code == void || code == missing
	}
	var list []struct {
		ID      sender.Text `json:"messageId"`
		Token   string      `json:"registrationId"`
		Code    sender.Text `json:"errorCode"`
		Message sender.Text `json:"errorMessage"`
	}
	_ = json.Unmarshal(answer.Data, &list) // what is no list says nothing of single targets
	byToken := map[string]int{}
	for i := range list {
		byToken[list[i].Token] = i
	}
	for i, t := range m.Targets {
		k, ok := byToken[t.Token]
		if !ok && len(list) == len(m.Targets) && list[i].Token == "" {
			k, ok = i, true // they are in the order of the targets
		}
		if !ok {
			continue
		}
		if code := string(list[k].Code); code != "" && code != "0" {
			known := "target " + code
			if _, of := codes.Find(known); !of {
				known = code
			}
			results[i] = codes.Result(known, m.Scrub(string(list[k].Message)), sender.Rejected)
		}
		results[i].VendorID = string(list[k].ID)
	}
	return results, false
}

// Check fetches an auth_token: OPPO has no dry run.
func (v *Vendor) Check(ctx context.Context, given sender.Credential) (note string, err error) {
	_, err = given.(*credential).china.Token(ctx)
	return sender.Checked(sender.ResultOf(err))
}

// Receipts reads a call with receipts. OPPO signs nothing: only who knows the app's path can call.
func (v *Vendor) Receipts(_ sender.Credential, _ *http.Request, body []byte) ([]sender.Receipt, []byte, error) {
	var list []struct {
		Param string      `json:"param"`
		Type  sender.Text `json:"eventType"`
		IDs   string      `json:"registrationIds"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, nil, fmt.Errorf("receipts of OPPO: %w", err)
	}
	var receipts []sender.Receipt
	for _, event := range list {
		r := sender.Receipt{Tag: event.Param}
		r.What, r.Code = sender.KindOf(ReceiptCodes(), string(event.Type))
		for id := range strings.SplitSeq(event.IDs, ",") {
			if r.Token = strings.TrimSpace(id); r.Token != "" {
				receipts = append(receipts, r)
			}
		}
	}
	return receipts, []byte("{}"), nil
}

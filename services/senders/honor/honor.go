// Package honor is the channel to Honor's phones: Honor Push.
//
// Little of it is documented in public. What is uncertain is marked so, read with tolerance, and can be configured.
package honor

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/internal/hms"
)

// Config is the configuration of sender-honor.
type Config struct {
	sender.Config `yaml:",inline"`

	URL      string `yaml:"url" env:"HONOR_URL" default:"https://push-api.cloud.honor.com" doc:"URL of Honor Push; once https://push-api.cloud.hihonor.com"`
	TokenURL string `yaml:"token_url" env:"HONOR_TOKEN_URL" default:"https://iam.developer.honor.com/auth/token" doc:"URL that gives access tokens"`
	CA       string `yaml:"ca" env:"HONOR_CA" doc:"file with certificates that sign the services', beside the system's; for simulators"`
}

// concurrency is how many requests of one app are under way.
const concurrency = 16

// Vendor is Honor Push.
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

// Channel returns "honor".
func (*Vendor) Channel() string { return channel.Honor }

// Limits returns what Honor allows. The batch is uncertain: it is Huawei's. Rates are not published.
func (*Vendor) Limits() sender.Limits {
	return sender.Limits{Batch: hms.Batch, Concurrency: concurrency, MaxTTL: hms.MaxTTL}
}

// credential is an app's. It is set as a JSON object of these fields.
type credential struct {
	sender.Forever `json:"-"`
	// Classes are LOW (marketing) or NORMAL (service).
	sender.Classes

	AppID        string `json:"app_id"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	// BadgeClass is the activity that the launcher starts. Without it there is no badge.
	BadgeClass string `json:"badge_class"`

	tokens *sender.TokenSource
}

// Parse reads a credential.
func (v *Vendor) Parse(text []byte) (sender.Credential, error) {
	c := &credential{}
	if err := sender.ParseFields(text, c); err != nil {
		return nil, err
	}
	if err := sender.Required("app_id", c.AppID, "client_id", c.ClientID, "client_secret", c.ClientSecret); err != nil {
		return nil, err
	}
	known := []string{"", low, normal}
	if !slices.Contains(known, c.Category) {
		return nil, &sender.FieldError{Field: "category", Problem: "must be LOW or NORMAL"}
	}
	for _, class := range c.Categories {
		if !slices.Contains(known, class) {
			return nil, &sender.FieldError{Field: "categories", Problem: "must be LOW or NORMAL for each channel id"}
		}
	}
	c.tokens = sender.ClientCredentials(v.client, v.config.TokenURL, c.ClientID, c.ClientSecret)
	return c, nil
}

// Send makes one request for all targets; a second one only if the access token has ended.
func (v *Vendor) Send(ctx context.Context, given sender.Credential, m *sender.Message) (results []sender.Result) {
	c := given.(*credential)
	body, err := request(c, m)
	if err != nil {
		return sender.Same(m, sender.Result{Outcome: sender.Rejected, Code: err.Error()})
	}
	address := fmt.Sprintf("%s/api/v1/%s/sendMessage", strings.TrimSuffix(v.config.URL, "/"), url.PathEscape(c.AppID))
	err = c.tokens.Try(ctx, func(token string) (refused bool) {
		a, err := sender.Post(ctx, v.client, address, sender.JSON, body,
			"Authorization", "Bearer "+token, "timestamp", strconv.FormatInt(time.Now().UnixMilli(), 10))
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

// read returns what an answer says of each target, and whether it says that the access token is not taken any more. Clients in
// public know two forms of success, and two names of the text.
func read(m *sender.Message, a *sender.Answer) (results []sender.Result, refused bool) {
	var answer struct {
		Code    sender.Text `json:"code"`
		Message sender.Text `json:"message"`
		Msg     sender.Text `json:"msg"`
		Data    struct {
			Sent      bool     `json:"sendResult"`
			RequestID string   `json:"requestId"`
			Failed    []string `json:"failTokens"`
			Expired   []string `json:"expireTokens"`
		} `json:"data"`
	}
	a.Decode(&answer)
	code := string(answer.Code)
	r := codes.Judge(a, code, m.Scrub(string(answer.Message+answer.Msg)), sender.Rejected)
	if answer.Data.Sent && a.Status == http.StatusOK {
		r = sender.Result{Outcome: sender.Accepted, Code: strings.TrimSpace(code + " sent")}
	}
	if code == partial && len(answer.Data.Failed)+len(answer.Data.Expired) == 0 { // who is accepted is not known
		r.Outcome = sender.Retry
	}
	r.VendorID = answer.Data.RequestID
	state := map[string]sender.Outcome{}
	if r.Outcome == sender.Accepted {
		for _, token := range answer.Data.Failed {
			state[token] = sender.Retry
		}
	}
	for _, token := range answer.Data.Expired { // the only word of Honor that voids a token
		state[token] = sender.TokenGone
	}
	results = sender.Same(m, r)
	for i, t := range m.Targets {
		if o, ok := state[t.Token]; ok {
			results[i].Outcome, results[i].Code = o, code+" "+map[sender.Outcome]string{sender.Retry: "fail", sender.TokenGone: "expire"}[o]+" token"
		}
	}
	return results, hms.Refused(a, code) || a.Status == http.StatusForbidden
}

// Check fetches an access token: Honor has no dry run.
func (v *Vendor) Check(ctx context.Context, given sender.Credential) (note string, err error) {
	_, err = given.(*credential).tokens.Token(ctx)
	if note, err = sender.Checked(sender.ResultOf(err)); err == nil && note == "" {
		note = "client_id and client_secret work; app_id was not checked"
	}
	return note, err
}

// Receipts reads a call with receipts. Their form is not public, so this takes what Huawei's are like, as a list or in a field
// statuses or data. Nor is a signature known: only who knows the app's path can call.
func (v *Vendor) Receipts(_ sender.Credential, _ *http.Request, body []byte) ([]sender.Receipt, []byte, error) {
	type status struct {
		Token  string      `json:"token"`
		Tag    string      `json:"biTag"`
		Status sender.Text `json:"status"`
	}
	var list []status
	if err := json.Unmarshal(body, &list); err != nil {
		var object struct {
			Statuses []status `json:"statuses"`
			Data     []status `json:"data"`
		}
		if err := json.Unmarshal(body, &object); err != nil {
			return nil, nil, fmt.Errorf("receipts of Honor: %w", err)
		}
		list = append(object.Statuses, object.Data...)
	}
	var receipts []sender.Receipt
	for _, s := range list {
		receipts = append(receipts, receipt(s.Token, s.Tag, string(s.Status)))
	}
	return receipts, []byte(`{"code":"200","message":"success"}`), nil
}

// receipt reads a state as Huawei's. A token is not void by it: that Honor's mean the same is uncertain.
func receipt(token, tag, code string) sender.Receipt {
	r := sender.Receipt{Token: token, Tag: tag, Code: code}
	for _, known := range ReceiptCodes() {
		if known.Code == code {
			r.What, r.Code = known.What, code+" "+known.Meaning
		}
	}
	return r
}

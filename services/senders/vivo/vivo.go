// Package vivo is the channel to the phones of vivo and iQOO: vivo Push.
package vivo

import (
	"context"
	"crypto/md5" //nolint:gosec // vivo's own choice
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
)

// Config is the configuration of sender-vivo.
type Config struct {
	sender.Config `yaml:",inline"`

	URL         string `yaml:"url" env:"VIVO_URL" default:"https://api-push.vivo.com.cn" doc:"URL of vivo Push"`
	CA          string `yaml:"ca" env:"VIVO_CA" doc:"file with certificates that sign the service's, beside the system's; for simulators"`
	TitleLength int    `yaml:"title_length" env:"VIVO_TITLE_LENGTH" default:"40" doc:"characters of a title"`
	BodyLength  int    `yaml:"body_length" env:"VIVO_BODY_LENGTH" default:"100" doc:"characters of a body"`
}

const (
	authPath, sendPath, savePath, listPath = "/message/auth", "/message/send", "/message/saveListPayload", "/message/pushToList"

	batch = 1000
	// maxTTL is how long vivo keeps a message by its newest text; older ones say 7 days.
	maxTTL = 24 * time.Hour
	// perSecond is the least rate, in requests.
	perSecond = 500
	// concurrency is how many requests of one app are under way.
	concurrency = 32
	// holds is how long an authToken is used; vivo keeps it for 24 h, and wants it fetched every 1 to 2 h.
	holds = 90 * time.Minute
	// Codes with a meaning here: an authToken that is not taken, an invalid regId, a message that must wait for the morning.
	authenticate, invalidID, night = "10000", "10302", "10071"
	// morning is the hour, UTC+8, from which operation messages go out again.
	morning = 7
)

// Vendor is vivo Push.
type Vendor struct {
	config *Config
	url    string
	client *http.Client
	now    func() time.Time
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
	return &Vendor{config: c, url: strings.TrimSuffix(c.URL, "/"), client: client, now: time.Now}, nil
}

// Channel returns "vivo".
func (*Vendor) Channel() string { return channel.Vivo }

// Limits returns what vivo allows.
func (v *Vendor) Limits() sender.Limits {
	return sender.Limits{
		Batch: batch, PerSecond: perSecond, Concurrency: concurrency, MaxTTL: maxTTL,
		Title: sender.Length{Characters: v.config.TitleLength}, Body: sender.Length{Characters: v.config.BodyLength},
	}
}

// credential is an app's. It is set as a JSON object of these fields.
type credential struct {
	sender.Forever `json:"-"`
	// Classes are vivo's categories, such as ORDER or MARKETING; they say the classification, too.
	sender.Classes

	AppID     string `json:"app_id"`
	AppKey    string `json:"app_key"`
	AppSecret string `json:"app_secret"`
	// ReceiptID is the id of the app's address for receipts in vivo's console; empty: it is sent with each message, for which
	// vivo sends receipts of messages to one device only.
	ReceiptID string `json:"receipt_id"`

	tokens *sender.TokenSource
}

// Parse reads a credential.
func (v *Vendor) Parse(text []byte) (sender.Credential, error) {
	c := &credential{}
	if err := sender.ParseFields(text, c); err != nil {
		return nil, err
	}
	if err := sender.Required("app_id", c.AppID, "app_key", c.AppKey, "app_secret", c.AppSecret); err != nil {
		return nil, err
	}
	id, err := strconv.ParseUint(c.AppID, 10, 63)
	if err != nil {
		return nil, &sender.FieldError{Field: "app_id", Problem: "must be a number"}
	}
	c.AppID = strconv.FormatUint(id, 10) // without zeros before it, which JSON's numbers do not have
	c.tokens = &sender.TokenSource{Fetch: func(ctx context.Context) (string, time.Duration, error) { return v.fetch(ctx, c) }}
	return c, nil
}

// fetch gets an authToken.
func (v *Vendor) fetch(ctx context.Context, c *credential) (string, time.Duration, error) {
	now := v.now().UnixMilli()
	sum := md5.Sum([]byte(c.AppID + c.AppKey + strconv.FormatInt(now, 10) + c.AppSecret)) //nolint:gosec // as above
	body, _ := json.Marshal(map[string]any{
		"appId": json.Number(c.AppID), "appKey": c.AppKey, "timestamp": now, "sign": hex.EncodeToString(sum[:]),
	}) // texts and numbers always can be
	a, err := sender.Post(ctx, v.client, v.url+authPath, sender.JSON, body)
	if err != nil {
		return "", 0, fmt.Errorf("authToken: %w", err)
	}
	var answer struct {
		Result sender.Text `json:"result"`
		Desc   sender.Text `json:"desc"`
		Token  string      `json:"authToken"`
	}
	a.Decode(&answer)
	r := codes.Judge(a, string(answer.Result), string(answer.Desc), sender.Retry)
	if r.Outcome == sender.Accepted && answer.Token != "" {
		return answer.Token, holds, nil
	}
	if r.Outcome == sender.Accepted {
		r.Outcome = sender.Retry
	}
	r.Code = "authToken: " + r.Code
	return "", 0, &sender.Failure{Result: r}
}

// Send makes one request for a single target. For several, vivo wants the message first and then the list of targets.
func (v *Vendor) Send(ctx context.Context, given sender.Credential, m *sender.Message) (results []sender.Result) {
	c := given.(*credential)
	if m.Notification == nil {
		return sender.Same(m, sender.Result{Outcome: sender.Rejected, Code: "vivo takes notifications only"})
	}
	fields, err := request(c, m)
	if err != nil {
		return sender.Same(m, sender.Result{Outcome: sender.Rejected, Code: err.Error()})
	}
	err = c.tokens.Try(ctx, func(token string) (refused bool) {
		if len(m.Targets) > 1 {
			results, refused = v.sendList(ctx, m, token, fields)
			return refused
		}
		fields["regId"] = m.Targets[0].Token
		results, _, refused = v.call(ctx, m, sendPath, token, fields)
		return refused
	})
	if err != nil {
		return sender.Same(m, sender.ResultOf(err))
	}
	return results
}

// sendList stores a message and has it sent to all targets. vivo wants another requestId with each request: the list's is the
// de-dup id, that of what is stored is of this attempt alone, since storing it once more shows nothing.
func (v *Vendor) sendList(ctx context.Context, m *sender.Message, token string, fields map[string]any) ([]sender.Result, bool) {
	stored := maps.Clone(fields)
	if _, given := m.Override["requestId"]; !given {
		stored["requestId"] = m.ID + "-" + strconv.FormatInt(v.now().UnixMilli(), 10)
	}
	results, task, refused := v.call(ctx, m, savePath, token, stored)
	if results[0].Outcome != sender.Accepted {
		return results, refused
	}
	if task == "" {
		return sender.Same(m, sender.Result{Outcome: sender.Retry, Code: "vivo stored the message, but gave no taskId"}), false
	}
	results, _, refused = v.call(ctx, m, listPath, token, map[string]any{
		"appId": fields["appId"], "taskId": task, "regIds": m.Tokens(), "requestId": m.ID, "pushMode": fields["pushMode"],
	})
	return results, refused
}

// call makes one request and reads what its answer says of each target, the id that it gives, and whether it says that the
// authToken is not taken any more.
func (v *Vendor) call(
	ctx context.Context, m *sender.Message, path, token string, fields map[string]any,
) (results []sender.Result, task string, refused bool) {
	body, err := json.Marshal(fields)
	if err != nil {
		return sender.Same(m, sender.Result{Outcome: sender.Rejected, Code: err.Error()}), "", false
	}
	a, err := sender.Post(ctx, v.client, v.url+path, sender.JSON, body, "authToken", token)
	if err != nil {
		return sender.Same(m, sender.ResultOf(err)), "", false
	}
	type invalid struct {
		Status sender.Text `json:"status"`
		ID     string      `json:"userid"`
	}
	var answer struct {
		Result  sender.Text `json:"result"`
		Desc    sender.Text `json:"desc"`
		Task    sender.Text `json:"taskId"`
		Invalid invalid     `json:"invalidUser"`
		List    []invalid   `json:"invalidUsers"`
	}
	a.Decode(&answer)
	code := string(answer.Result)
	unknown := sender.Rejected
	if code == "" { // it is not vivo's
		unknown = sender.Retry
	}
	r := codes.Judge(a, code, m.Scrub(string(answer.Desc)), unknown)
	r.VendorID = string(answer.Task)
	if code == night {
		r.After = v.untilMorning()
	}
	status := map[string]string{}
	for _, i := range append(answer.List, answer.Invalid) {
		status[i.ID] = string(i.Status)
	}
	if r.Outcome == sender.TokenGone && len(m.Targets) > 1 { // it is not said which, but for those in the list
		r.Outcome = sender.Rejected
	}
	results = sender.Same(m, r)
	for i, t := range m.Targets {
		if s := status[t.Token]; s != "" && (r.Outcome == sender.Accepted || code == invalidID) {
			results[i] = codes.Result("target "+s, "", sender.Rejected)
			results[i].VendorID = r.VendorID
		}
	}
	return results, r.VendorID, code == authenticate
}

// untilMorning returns how long it is until operation messages go out again.
func (v *Vendor) untilMorning() time.Duration {
	now := v.now().In(time.FixedZone("UTC+8", 8*60*60))
	next := time.Date(now.Year(), now.Month(), now.Day(), morning, 0, 0, 0, now.Location())
	if !next.After(now) {
		next = next.AddDate(0, 0, 1)
	}
	return next.Sub(now)
}

// Check fetches an authToken; vivo's test mode reaches phones.
func (v *Vendor) Check(ctx context.Context, given sender.Credential) (note string, err error) {
	_, err = given.(*credential).tokens.Token(ctx)
	return sender.Checked(sender.ResultOf(err))
}

// Receipts reads a call with receipts, of which each says that a message arrived. vivo signs nothing: only who knows the app's
// path can call.
func (v *Vendor) Receipts(_ sender.Credential, _ *http.Request, body []byte) ([]sender.Receipt, []byte, error) {
	var data map[string]struct {
		Param   string      `json:"param"`
		Targets string      `json:"targets"`
		AckType sender.Text `json:"ackType"` // of newer receipts: 0 arrived, others refused; that is uncertain
	}
	if err := json.Unmarshal(body, &data); err != nil {
		return nil, nil, fmt.Errorf("receipts of vivo: %w", err)
	}
	var receipts []sender.Receipt
	for _, message := range data {
		r := sender.Receipt{Tag: message.Param, What: sender.ReceiptArrived, Code: "arrived"}
		if t := string(message.AckType); t != "" && t != "0" {
			r.What, r.Code = sender.ReceiptUnknown, "ackType "+t
		}
		for target := range strings.SplitSeq(message.Targets, ",") {
			if r.Token = strings.TrimSpace(target); r.Token != "" {
				receipts = append(receipts, r)
			}
		}
	}
	return receipts, []byte("{}"), nil
}

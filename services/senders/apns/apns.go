// Package apns is the channel to iPhones, iPads, Macs and Apple watches: the Apple Push Notification service.
package apns

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/sideshow/apns2"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
)

// Config is the configuration of sender-apns.
type Config struct {
	sender.Config `yaml:",inline"`

	Production    string `yaml:"production" env:"APNS_PRODUCTION" default:"https://api.push.apple.com" doc:"URL of Apple's production service"`
	Sandbox       string `yaml:"sandbox" env:"APNS_SANDBOX" default:"https://api.sandbox.push.apple.com" doc:"URL of Apple's service for development builds"`
	Manage        string `yaml:"manage" env:"APNS_MANAGE" default:"https://api-manage-broadcast.push.apple.com:2196" doc:"URL of Apple's production service for broadcast channels"`
	ManageSandbox string `yaml:"manage_sandbox" env:"APNS_MANAGE_SANDBOX" default:"https://api-manage-broadcast.sandbox.push.apple.com:2195" doc:"URL of the one for development builds"`
	CA            string `yaml:"ca" env:"APNS_CA" doc:"file with certificates that sign the service's, beside the system's; for simulators"`
}

const (
	// maxTTL is how long Apple keeps a notification at the most (from memory: 30 days).
	maxTTL = 30 * 24 * time.Hour
	// concurrency is how many streams of one app are used at a time; Apple commonly allows 1,000 on a connection.
	concurrency = 500
	// pingAfter is when a silent connection is checked.
	pingAfter = 15 * time.Second
	// quietFor is how long a device is left alone after 429 TooManyRequests; Apple names no time.
	quietFor = time.Minute
	// tokenQuiet is how long no new provider token may be made after 429 TooManyProviderTokenUpdates.
	tokenQuiet = 20 * time.Minute
)

// Vendor is APNs.
type Vendor struct {
	config *Config
	roots  *x509.CertPool // nil: the system's
}

var (
	_ sender.Vendor      = (*Vendor)(nil)
	_ sender.Checker     = (*Vendor)(nil)
	_ sender.Broadcaster = (*Vendor)(nil)
)

// New returns the vendor.
func New(c *Config) (*Vendor, error) {
	roots, err := sender.Roots(c.CA)
	if err != nil {
		return nil, err
	}
	return &Vendor{config: c, roots: roots}, nil
}

// Channel returns "apns".
func (*Vendor) Channel() string { return channel.APNs }

// Limits returns what Apple allows: one device per request, many requests at a time, no published quota.
func (*Vendor) Limits() sender.Limits {
	return sender.Limits{Batch: 1, Concurrency: concurrency, MaxTTL: maxTTL}
}

// client returns an HTTP/2 client with connections of its own: Apple wants one key per connection.
func (v *Vendor) client(certificates ...tls.Certificate) *http.Client {
	var only http.Protocols
	only.SetHTTP2(true)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: v.roots, Certificates: certificates},
		Protocols:       &only, HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter},
	}}
}

// Send makes one request for one device.
func (v *Vendor) Send(ctx context.Context, c sender.Credential, m *sender.Message) []sender.Result {
	credential := c.(*credential)
	common, err := sender.Common(m, c, func() (*apns2.Notification, error) { return notification(m, credential.topic, time.Now()) })
	if err != nil {
		return []sender.Result{{Outcome: sender.Rejected, Code: err.Error()}}
	}
	return []sender.Result{v.push(ctx, credential, m.Sandbox, addressed(common, m))}
}

func (v *Vendor) push(ctx context.Context, c *credential, sandbox bool, n *apns2.Notification) sender.Result {
	host := v.config.Production
	if sandbox {
		host = v.config.Sandbox
	}
	client := &apns2.Client{Host: host, Token: c.token, HTTPClient: c.client}
	response, err := client.PushWithContext(ctx, n)
	if err != nil {
		return sender.Result{Outcome: sender.Retry, Code: reason(err)}
	}
	return c.result(response)
}

// reason returns an error without the URL, which names the device.
func reason(err error) string {
	var address interface{ Unwrap() error }
	if errors.As(err, &address) {
		return address.Unwrap().Error()
	}
	return err.Error()
}

// result returns what an answer comes to, and has a new provider token made if the present one has ended.
func (c *credential) result(r *apns2.Response) sender.Result {
	if r.StatusCode == http.StatusForbidden && r.Reason == apns2.ReasonExpiredProviderToken {
		c.renew()
	}
	code := strconv.Itoa(r.StatusCode)
	if r.Reason != "" {
		code += " " + r.Reason
	}
	out := sender.Result{Outcome: outcome(r.StatusCode, r.Reason), Code: code, VendorID: r.ApnsID}
	switch {
	case r.StatusCode == http.StatusGone && !r.Timestamp.IsZero():
		out.GoneAt = r.Timestamp.Time
	case r.Reason == apns2.ReasonTooManyRequests:
		out.After = quietFor
	case r.Reason == apns2.ReasonTooManyProviderTokenUpdates:
		out.After = tokenQuiet
	}
	return out
}

// probe is a token that no device has: Apple looks at the credential before it looks at the token.
const probe = "0000000000000000000000000000000000000000000000000000000000000000"

// Check has Apple refuse a notification for a device that there is not: if it complains of the device, the credential is good.
func (v *Vendor) Check(ctx context.Context, c sender.Credential) (note string, err error) {
	credential := c.(*credential)
	n := &apns2.Notification{
		DeviceToken: probe, Topic: credential.topic, PushType: apns2.PushTypeBackground, Priority: apns2.PriorityLow,
		Payload: []byte(`{"aps":{"content-available":1}}`),
	}
	r := v.push(ctx, credential, false, n)
	switch r.Outcome {
	case sender.TokenGone, sender.Accepted:
		return "", nil
	case sender.Retry, sender.QuotaSpent:
		return "Apple could not be asked (" + r.Code + "): only the form was checked", nil
	default:
		return "", errors.New("Apple refuses it: " + r.Code)
	}
}

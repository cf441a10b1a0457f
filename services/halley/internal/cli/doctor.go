package cli

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/services/pushcore"
	"github.com/halleypush/halley/services/pushcore/doctor"
	"github.com/halleypush/halley/services/senders/apns"
	"github.com/halleypush/halley/services/senders/fcm"
	"github.com/halleypush/halley/services/senders/harmony"
	"github.com/halleypush/halley/services/senders/honor"
	"github.com/halleypush/halley/services/senders/huawei"
	"github.com/halleypush/halley/services/senders/meizu"
	"github.com/halleypush/halley/services/senders/oppo"
	"github.com/halleypush/halley/services/senders/vivo"
	"github.com/halleypush/halley/services/senders/xiaomi"
)

// reachWithin bounds how long a vendor or a gateway may take to answer.
const reachWithin = 10 * time.Second

// errIll ends a doctor's visit that found something that does not work.
var errIll = errors.New("something does not work; see above")

func newDoctor(g *globals) *cobra.Command {
	var path string
	var phones, channels []string
	c := &cobra.Command{
		Use: "doctor", Short: "Examine what an installation stands on, and say what to do", Args: cobra.NoArgs,
		Long: `Examines what the configuration of a pushcore names: the key file, certificates, PostgreSQL with its schema and clock, NATS with its
streams, and what is in them: gateways, credentials, tokens that wait for a decision. Then whether the vendors of the credentials (or of
--channels) answer from here, and what certificates phones see (--phones). It changes nothing. Run it where pushcores run.

Exit codes: 0 all works (there may be warnings), 1 something does not work. To see a push go all the way, use halley check.`,
		Example: `  halley doctor --config /etc/halley/config/config.yaml --phones mqtts://mqtt.example.com:8883`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" && os.Getenv("HALLEY_DATABASE_URL") == "" && os.Getenv("HALLEY_DATABASE_URL_FILE") == "" {
				return usageError{errors.New("which installation? --config with a pushcore's configuration file, or its HALLEY_… variables; for a halley up, use halley check")}
			}
			for _, name := range channels {
				if !slices.Contains(channel.Vendors(), name) {
					return usageError{fmt.Errorf("--channels: there is no vendor channel %q; they are %s", name, strings.Join(channel.Vendors(), ", "))}
				}
			}
			return g.examine(cmd.Context(), path, phones, channels)
		},
	}
	c.Flags().StringVar(&path, "config", "", "configuration `file` of a pushcore")
	c.Flags().StringSliceVar(&phones, "phones", nil, "`URLs` that phones connect to, such as mqtts://mqtt.example.com:8883")
	c.Flags().StringSliceVar(&channels, "channels", nil, "vendor channels to look at (default: those that apps have credentials for)")
	return c
}

func (g *globals) examine(ctx context.Context, path string, phones, channels []string) error {
	if g.output != "text" && g.output != "json" {
		return usageError{fmt.Errorf("--output must be text or json, not %q", g.output)}
	}
	ill := false
	tell := func(f doctor.Finding) {
		ill = ill || f.Level == doctor.Failed
		g.tell(f)
	}
	var core pushcore.Config
	var invalid error
	if err := config.Load(path, &core); err != nil {
		invalid = err
		tell(doctor.Finding{Check: "configuration", Level: doctor.Failed, Text: err.Error(), Do: mend(path, err)})
	}
	if invalid == nil {
		used := doctor.Examine(ctx, &core, tell)
		if len(channels) == 0 {
			channels = used
		}
	}
	for _, name := range channels {
		for _, address := range vendorURLs()[name] {
			tell(reachVendor(ctx, name, address))
		}
	}
	for _, address := range phones {
		tell(reachGateway(ctx, address))
	}
	if ill {
		return errIll
	}
	return nil
}

// mend says what to do about a configuration that cannot be read.
func mend(path string, err error) string {
	var secret *config.SecretFileError
	switch {
	case errors.As(err, &secret):
		return fmt.Sprintf("put into %s, readable for the user that runs this: %s", secret.Path, secret.Holds)
	case errors.Is(err, fs.ErrNotExist):
		return "make " + path + "; pushcore -h lists the keys that it may have"
	case path == "":
		return "correct the HALLEY_… variables; pushcore -h lists them"
	default:
		return "correct " + path + "; pushcore -h lists the keys that it may have"
	}
}

func (g *globals) tell(f doctor.Finding) {
	if g.output == "json" {
		line, _ := json.Marshal(f) // strings
		fmt.Fprintf(g.out, "%s\n", line)
		return
	}
	fmt.Fprintf(g.out, "%-8s %-24s %s\n", f.Level, f.Check, f.Text)
	if f.Do != "" {
		fmt.Fprintf(g.out, "%-8s %-24s -> %s\n", "", "", f.Do)
	}
}

// vendorURLs returns where vendors take messages, by channel. Those of Web Push are in each browser's subscription: these are
// the large ones'.
func vendorURLs() map[string][]string {
	return map[string][]string{
		channel.APNs:    urlsOf(func(c *apns.Config) []string { return []string{c.Production, c.Sandbox} }),
		channel.FCM:     append(urlsOf(func(c *fcm.Config) []string { return []string{c.URL} }), "https://oauth2.googleapis.com"),
		channel.Huawei:  urlsOf(func(c *huawei.Config) []string { return []string{c.URL, c.TokenURL} }),
		channel.Harmony: urlsOf(func(c *harmony.Config) []string { return []string{c.URL} }),
		channel.Honor:   urlsOf(func(c *honor.Config) []string { return []string{c.URL, c.TokenURL} }),
		channel.Xiaomi:  urlsOf(func(c *xiaomi.Config) []string { return []string{c.URL} }),
		channel.OPPO:    urlsOf(func(c *oppo.Config) []string { return []string{c.URL} }),
		channel.Vivo:    urlsOf(func(c *vivo.Config) []string { return []string{c.URL} }),
		channel.Meizu:   urlsOf(func(c *meizu.Config) []string { return []string{c.URL} }),
		channel.WebPush: {"https://fcm.googleapis.com", "https://updates.push.services.mozilla.com", "https://web.push.apple.com"},
	}
}

// urlsOf returns URLs of a sender's default configuration.
func urlsOf[C any](urls func(*C) []string) []string {
	c := new(C)
	if err := config.Defaults(c); err != nil {
		panic(err) // the defaults are the program's own
	}
	return urls(c)
}

// reachVendor asks a vendor's server for anything: that it answers is enough. Its answer has the time, by which tokens are
// signed.
func reachVendor(ctx context.Context, name, address string) doctor.Finding {
	f := doctor.Finding{Check: "vendor " + name, Level: doctor.Failed, Do: "let senders reach it: DNS, firewall, network policies, proxy"}
	ctx, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, address, nil)
	if err != nil {
		f.Text = err.Error()
		return f
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	begun := time.Now()
	response, err := client.Do(request)
	if err != nil {
		f.Text = err.Error()
		return f
	}
	_ = response.Body.Close() // HEAD has none
	f.Level, f.Do = doctor.OK, ""
	f.Text = fmt.Sprintf("%s answers, in %v", request.URL.Host, time.Since(begun).Round(time.Millisecond))
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		if off := time.Until(date); off.Abs() > time.Minute {
			f.Level, f.Do = doctor.Failed, "run NTP (chrony, systemd-timesyncd) here: signed tokens of a wrong time are refused"
			f.Text = fmt.Sprintf("the clock of %s is %v from this machine's", request.URL.Host, off.Round(time.Second))
		}
	}
	return f
}

// reachGateway connects as a phone does, as far as TLS.
func reachGateway(ctx context.Context, address string) doctor.Finding {
	f := doctor.Finding{Check: "phones' way in", Level: doctor.Failed, Do: "see whether gateways run, and whether the balancer has them"}
	u, err := url.Parse(serverURL(address))
	if err != nil || u.Hostname() == "" {
		f.Text, f.Do = fmt.Sprintf("%q is no address", address), "write it as mqtts://host:8883, mqtt://host:1883 or wss://host"
		return f
	}
	ports := map[string]string{"mqtt": "1883", "mqtts": "8883", "ws": "80", "wss": "443"}
	port, known := ports[u.Scheme]
	if !known {
		f.Text, f.Do = fmt.Sprintf("%q is no way in", u.Scheme), "write mqtt, mqtts, ws or wss"
		return f
	}
	if u.Port() != "" {
		port = u.Port()
	}
	ctx, cancel := context.WithTimeout(ctx, reachWithin)
	defer cancel()
	host := net.JoinHostPort(u.Hostname(), port)
	if u.Scheme == "mqtt" || u.Scheme == "ws" {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", host)
		if err != nil {
			f.Text = err.Error()
			return f
		}
		_ = conn.Close() // nothing was said
		return doctor.Finding{Check: f.Check, Level: doctor.OK, Text: host + " takes connections, in plain text"}
	}
	conn, err := new(tls.Dialer).DialContext(ctx, "tcp", host)
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		f.Do = "give the gateways a certificate for this name that phones trust"
	}
	if err != nil {
		f.Text = err.Error()
		return f
	}
	defer conn.Close() // nothing was said
	ends := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].NotAfter
	return doctor.Expiry(f.Check, host+"'s certificate ", doctor.Renew, ends)
}

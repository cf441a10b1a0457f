// Package senders measures the senders of vendor channels beside a bare HTTP/2 client loop that makes the same requests to the
// same simulator in the same run.
package senders

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/halleypush/halley/bench/internal/crew"
	"github.com/halleypush/halley/bench/internal/report"
	"github.com/halleypush/halley/bench/internal/site"
	"github.com/halleypush/halley/bench/internal/suite"
	"github.com/halleypush/halley/pkg/channel"
)

// sizes are how much a run does.
type sizes struct {
	pairs   int // of the sender and the loop, by turns
	single  int // devices of a round, for vendors that take one in a request
	batched int // likewise, for vendors that take many
}

func sizesOf(quick bool) sizes {
	if quick {
		return sizes{pairs: 1, single: 5_000, batched: 50_000}
	}
	return sizes{pairs: 5, single: 40_000, batched: 400_000}
}

// startWithin bounds a start of all parts, roundWithin a round.
const startWithin, roundWithin = time.Minute, 2 * time.Minute

// settings are what differs from the senders' defaults, to be printed.
const settings = "senders: telemetry.profiles true; sender-fcm: per_second 1000000, so that FCM's default quota is not what is measured"

// vendor is a channel that is measured.
type vendor struct {
	channel string
	// The names of the figures; ratio is empty for who takes batches: what a sender does for each device, the loop has no part in.
	ratio, rate, cpu string
	// batch is how many devices a request has, perJob a job, as pushcore makes them; concurrency how many requests are under
	// way: all as the sender has them.
	batch, perJob, concurrency int
	// address returns the URL of a request; of tells what the credential is.
	address func(url string, c credential) string
	// config is the sender's own; {url} and {ca} are the simulator's.
	config string
}

// vendors are measured one after the other.
func vendors() []vendor {
	return []vendor{
		{
			channel: channel.APNs, ratio: "apns.rate_ratio", rate: "apns.per_s", cpu: "apns.cpu_us",
			batch: 1, perJob: 500, concurrency: 500, config: "production: {url}\nca: {ca}\n",
			address: func(url string, _ credential) string { return url + "/3/device/" + tokenHere },
		},
		{
			channel: channel.FCM, ratio: "fcm.rate_ratio", rate: "fcm.per_s", cpu: "fcm.cpu_us",
			batch: 1, perJob: 500, concurrency: 500, config: "url: {url}\nca: {ca}\nper_second: 1000000\n",
			address: func(url string, c credential) string {
				return url + "/v1/projects/" + c.ServiceAccount.Project + "/messages:send"
			},
		},
		{
			channel: channel.Huawei, rate: "huawei.devices_per_s", cpu: "huawei.cpu_us",
			batch: 1000, perJob: 1000, concurrency: 16, config: "url: {url}\ntoken_url: {url}/oauth2/v3/token\nca: {ca}\n",
			address: func(url string, c credential) string { return url + "/v1/" + c.ClientID + "/messages:send" },
		},
	}
}

// bench is one run.
type bench struct {
	sizes
	suite.Options
	dir     string
	nats    *site.NATS
	office  *office
	sims    *simulators
	figures []report.Figure
}

// Run measures.
func Run(ctx context.Context, o suite.Options) (_ []report.Figure, err error) {
	b := &bench{sizes: sizesOf(o.Quick), Options: o}
	var wanted []vendor
	for _, v := range vendors() {
		if o.Wanted(v.rate, v.cpu) || v.ratio != "" && o.Wanted(v.ratio) {
			wanted = append(wanted, v)
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	if b.dir, err = os.MkdirTemp("", "halley-bench-*"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.dir)
	starting, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if b.nats, err = site.StartNATS(starting, o.Bin, b.dir); err != nil {
		return nil, err
	}
	defer b.nats.Stop()
	if b.office, err = openOffice(starting, b.nats.URL); err != nil {
		return nil, err
	}
	defer b.office.close()
	if b.sims, err = startSimulators(starting, o.Bin, b.dir); err != nil {
		return nil, err
	}
	defer b.sims.Stop()
	b.say("%+v", b.sizes)
	b.say("%s", settings)
	for _, v := range wanted {
		if err := b.measure(ctx, v); err != nil {
			return b.figures, fmt.Errorf("%s: %w", v.channel, err)
		}
	}
	return b.figures, nil
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.Out, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}

// measure has the sender and the loop reach the same devices by turns. Both keep their process and their connections.
func (b *bench) measure(ctx context.Context, v vendor) error {
	starting, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	c, err := b.sims.register(starting, v.channel)
	if err != nil {
		return err
	}
	b.office.issue(v.channel, c.forSender)
	n := b.single
	if v.batch > 1 {
		n = b.batched
	}
	tokens, err := b.sims.tokens(starting, v.channel, n)
	if err != nil {
		return err
	}
	sender, admin, err := b.startSender(starting, v)
	if err != nil {
		return err
	}
	defer sender.Stop()
	loop, err := crew.Start(Role)
	if err != nil {
		return err
	}
	defer loop.Stop()
	r := &rounds{bench: b, vendor: v, sender: sender, admin: admin, loop: loop, tokens: tokens}
	if err := r.learn(starting, c); err != nil {
		return fmt.Errorf("first request: %w", err)
	}
	return r.run(ctx)
}

package halley

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/apns"
	"github.com/halleypush/halley/services/senders/fcm"
	"github.com/halleypush/halley/services/senders/harmony"
	"github.com/halleypush/halley/services/senders/honor"
	"github.com/halleypush/halley/services/senders/huawei"
	"github.com/halleypush/halley/services/senders/meizu"
	"github.com/halleypush/halley/services/senders/oppo"
	"github.com/halleypush/halley/services/senders/vivo"
	"github.com/halleypush/halley/services/senders/webpush"
	"github.com/halleypush/halley/services/senders/xiaomi"
	"github.com/halleypush/halley/services/vendorsim"
)

// embeddable reads the own configuration of a channel's sender from the environment, and makes its vendor; the rest of the
// configuration is base's. simulators is nil if the vendor is the real one.
type embeddable func(base sender.Config, simulators *vendorsim.Simulators) (sender.Config, sender.Vendor, error)

// embeddables returns the channels whose senders can run in this process. A new one is added here, with what points it to its
// simulator.
func embeddables() map[string]embeddable {
	return map[string]embeddable{
		channel.APNs: embed(apns.New, func(c *apns.Config) *sender.Config { return &c.Config },
			func(c *apns.Config, s *vendorsim.Simulators) {
				c.Production, c.Sandbox, c.CA = s.URL("apns"), s.URL("apns_sandbox"), s.CAFile()
				c.Manage, c.ManageSandbox = c.Production, c.Sandbox
			}),
		channel.FCM: embed(fcm.New, func(c *fcm.Config) *sender.Config { return &c.Config },
			func(c *fcm.Config, s *vendorsim.Simulators) { c.URL = s.URL(channel.FCM) }),
		channel.Harmony: embed(harmony.New, func(c *harmony.Config) *sender.Config { return &c.Config },
			func(c *harmony.Config, s *vendorsim.Simulators) { c.URL = s.URL(channel.Harmony) }),
		channel.Honor: embed(honor.New, func(c *honor.Config) *sender.Config { return &c.Config },
			func(c *honor.Config, s *vendorsim.Simulators) {
				c.URL, c.TokenURL = s.URL(channel.Honor), s.URL(channel.Honor)+"/auth/token"
			}),
		channel.Huawei: embed(huawei.New, func(c *huawei.Config) *sender.Config { return &c.Config },
			func(c *huawei.Config, s *vendorsim.Simulators) {
				c.URL, c.TokenURL = s.URL(channel.Huawei), s.URL(channel.Huawei)+"/oauth2/v3/token"
			}),
		channel.Meizu: embed(meizu.New, func(c *meizu.Config) *sender.Config { return &c.Config },
			func(c *meizu.Config, s *vendorsim.Simulators) { c.URL = s.URL(channel.Meizu) }),
		channel.OPPO: embed(oppo.New, func(c *oppo.Config) *sender.Config { return &c.Config },
			func(c *oppo.Config, s *vendorsim.Simulators) { c.URL = s.URL(channel.OPPO) }),
		channel.Vivo: embed(vivo.New, func(c *vivo.Config) *sender.Config { return &c.Config },
			func(c *vivo.Config, s *vendorsim.Simulators) { c.URL = s.URL(channel.Vivo) }),
		channel.WebPush: embed(webpush.New, func(c *webpush.Config) *sender.Config { return &c.Config },
			func(c *webpush.Config, s *vendorsim.Simulators) {
				c.Hosts, c.Private, c.CA = []string{"127.0.0.1"}, true, s.CAFile()
			}),
		channel.Xiaomi: embed(xiaomi.New, func(c *xiaomi.Config) *sender.Config { return &c.Config },
			func(c *xiaomi.Config, s *vendorsim.Simulators) { c.URL = s.URL(channel.Xiaomi) }),
	}
}

// embed returns how the sender of a vendor's package runs in this process.
func embed[C any, V sender.Vendor](
	construct func(*C) (V, error), common func(*C) *sender.Config, simulate func(*C, *vendorsim.Simulators),
) embeddable {
	return func(base sender.Config, simulators *vendorsim.Simulators) (sender.Config, sender.Vendor, error) {
		c := new(C)
		settings := common(c)
		settings.ServiceToken = base.ServiceToken // without it the configuration is not good
		if err := config.Load("", c); err != nil {
			return base, nil, err
		}
		if simulators != nil {
			simulate(c, simulators)
		}
		vendor, err := construct(c)
		if err != nil {
			return base, nil, err
		}
		settings.Pushcore, settings.ServiceToken = base.Pushcore, base.ServiceToken
		settings.NATS, settings.NATSOptions = base.NATS, base.NATSOptions
		settings.Shared, settings.Receipts, settings.PublicURL = base.Shared, "", ""
		if _, receives := sender.Vendor(vendor).(sender.Receiver); receives {
			settings.Receipts, settings.PublicURL = base.Receipts, base.PublicURL
		}
		return *settings, vendor, nil
	}
}

// channels returns the channels of the configuration that a sender is for. With simulators, those that have none are left
// out, so that no vendor is called by mistake.
func (c *Config) channels() ([]string, error) {
	all, simulated := embeddables(), vendorsim.Channels()
	var wanted []string
	for _, name := range c.Channels {
		switch _, known := all[name]; {
		case name == "all":
			wanted = channel.Vendors()
		case known:
			wanted = append(wanted, name)
		case name != "none" && name != "":
			return nil, fmt.Errorf("channels: there is no sender of %q", name)
		}
	}
	slices.Sort(wanted)
	return slices.DeleteFunc(slices.Compact(wanted), func(name string) bool {
		return all[name] == nil || c.VendorSimulators && !slices.Contains(simulated, name)
	}), nil
}

// newSimulators makes the vendor simulators, if they are asked for.
func (u *up) newSimulators(ctx context.Context) error {
	if !u.config.VendorSimulators {
		return nil
	}
	var c vendorsim.Config
	if err := config.Defaults(&c); err != nil {
		return err
	}
	c.Channels = nil
	for _, name := range vendorsim.Channels() {
		c.Channels = append(c.Channels, name+"=127.0.0.1:0")
	}
	c.TLS = []string{channel.WebPush} // a subscription is a URL, and https
	c.Dir, c.Control = u.site.Path("vendorsim"), u.config.SimulatorControl
	c.Shared, c.Health = u.telemetry, u.health.Part("vendorsim")
	var err error
	u.simulators, err = vendorsim.New(ctx, c)
	var unusable *config.AddressError
	if errors.As(err, &unusable) { // the one address that is not free to choose
		err = config.Unusable("simulator_control", "SIMULATOR_CONTROL", unusable.Err)
	}
	if err != nil {
		return fmt.Errorf("vendor simulators: %w", err)
	}
	return nil
}

// newSenders makes the senders of the configured channels. There is a pushcore already.
func (u *up) newSenders(ctx context.Context, options []nats.Option) error {
	channels, err := u.config.channels()
	if err != nil {
		return err
	}
	secrets := u.site.Secrets
	base := sender.Config{
		Pushcore: u.pushcore.InternalAddr(), ServiceToken: secrets.ServiceToken,
		NATS: natsbus.Config{User: "sender", Password: secrets.NATS["sender"]}, NATSOptions: options,
		Receipts: "127.0.0.1:0", PublicURL: u.config.PublicURL, Shared: u.telemetry,
	}
	if base.PublicURL == "" && u.simulators != nil {
		base.PublicURL = u.scheme() + u.pushcore.HTTPAddr()
	}
	u.senders = make(map[string]*sender.Sender, len(channels))
	receipts := map[string]http.Handler{}
	for _, name := range channels {
		c, vendor, err := embeddables()[name](base, u.simulators)
		if err != nil {
			return fmt.Errorf("sender of %s: %w", name, err)
		}
		c.Health = u.health.Part("sender-" + name)
		if u.senders[name], err = sender.New(ctx, c, vendor); err != nil {
			return fmt.Errorf("sender of %s: %w", name, err)
		}
		if addr := u.senders[name].ReceiptsAddr(); addr != "" {
			receipts[name] = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
		}
	}
	u.receipts.Store(&receipts)
	return nil
}

// serveReceipts hands vendors' receipts, which come to the port for everybody, to the channel's sender.
func (u *up) serveReceipts(w http.ResponseWriter, r *http.Request) {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, receiptsPath), "/")
	if all := u.receipts.Load(); all != nil && (*all)[name] != nil {
		(*all)[name].ServeHTTP(w, r)
		return
	}
	http.NotFound(w, r)
}

// receiptsPath begins the paths of vendors' receipts; the channel follows.
const receiptsPath = "/receipts/"

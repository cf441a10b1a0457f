package halley

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/halleypush/halley/pkg/client"
	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	"github.com/halleypush/halley/services/halley/internal/site"
)

// welcome waits until everything is ready, makes the demo app the first time, and says where everything is.
func (u *up) welcome(ctx context.Context, admin string) error {
	if err := u.await(ctx); err != nil {
		return err
	}
	demo, first, err := u.demo(ctx)
	if err != nil {
		return err
	}
	u.say(`
Halley is up.
  REST, phones' HTTPS, WebSocket /mqtt   %s   (OpenAPI: /openapi.json)
  gRPC                                   %s
  MQTT                                   %s   TLS: %s
  health and metrics                     http://%s
  data folder                            %s
  vendor channels                        %s
`, u.scheme()+u.pushcore.HTTPAddr(), u.pushcore.GRPCAddr(), u.gateway.MQTTAddr(), u.secureMQTT(), admin, u.site.Dir,
		or(strings.Join(slices.Sorted(maps.Keys(u.senders)), " "), "none"))
	if u.simulators != nil {
		u.say("  vendor simulators, instead of vendors  %s   (control API)\n", u.simulators.ControlURL())
	}
	if first {
		u.say(`
The app "demo" is new. Its keys are shown this once, and kept in %s:
  server key   %s   (for business servers; secret)
  client key   %s   (ships inside the app; public)
  admin token  %s   (for operators; secret)
`, u.site.Path(site.DemoFile), demo.ServerKey, demo.ClientKey, demo.AdminToken)
	}
	if demo.App != "" {
		u.say(`
Try, in another terminal:
  %[1]s device --user alice            a simulated phone
  %[1]s push --user alice --title Hi   a push to it
`, os.Args[0])
	}
	if u.config.Ready != nil {
		u.config.Ready(demo)
	}
	return nil
}

// secureMQTT says where phones speak MQTT over TLS, and whom they have to trust for that.
func (u *up) secureMQTT() string {
	address := u.gateway.MQTTSAddr()
	switch {
	case address == "":
		return "none"
	case u.config.TLSCert == "":
		return address + "   (authority: " + u.site.Path("tls/ca.pem") + ")"
	default:
		return address
	}
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// await waits until the services are ready.
func (u *up) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		failing := u.health.Failing(ctx)
		if len(failing) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("not ready within %v: %v", readyWithin, failing)
			}
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// demo returns the demo app, and makes it if this is the first start. The file with its keys is written anew each time,
// because the addresses may be others.
func (u *up) demo(ctx context.Context) (demo site.Demo, first bool, err error) {
	path := u.site.Path(site.DemoFile)
	demo, err = site.ReadDemo(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return demo, false, err
	}
	if err != nil && !u.config.Demo {
		return site.Demo{}, false, nil
	}
	if err != nil {
		if demo, err = u.createDemo(ctx); err != nil {
			return demo, false, err
		}
		first = true
	}
	demo.AdminToken = u.site.Secrets.AdminToken.Reveal()
	demo.HTTP, demo.GRPC, demo.MQTT = u.scheme()+u.pushcore.HTTPAddr(), u.pushcore.GRPCAddr(), u.gateway.MQTTAddr()
	if demo.Simulators = ""; u.simulators != nil {
		demo.Simulators = u.simulators.ControlURL()
	}
	return demo, first, demo.Write(path)
}

// scheme begins the URLs of the HTTP address.
func (u *up) scheme() string {
	if u.config.TLSCert != "" {
		return "https://"
	}
	return "http://"
}

// createDemo makes the app demo, which lets phones bind themselves to any user. If an earlier start made it and was killed
// before it wrote the keys down, the app gets new ones.
func (u *up) createDemo(ctx context.Context) (site.Demo, error) {
	admin, err := u.admin()
	if err != nil {
		return site.Demo{}, err
	}
	defer admin.Close()
	created, err := admin.CreateApp(ctx, &adminv1.CreateAppRequest{
		App: "demo", Name: "Demonstration", Settings: &adminv1.Settings{BindPolicy: adminv1.Settings_OPEN},
	})
	if client.Reason(err) == "APP_EXISTS" {
		created = &adminv1.CreateAppResponse{}
		for kind, key := range map[adminv1.Key_Kind]*string{
			adminv1.Key_SERVER: &created.ServerKey, adminv1.Key_CLIENT: &created.ClientKey,
		} {
			var again *adminv1.CreateKeyResponse
			again, err = admin.CreateKey(ctx, &adminv1.CreateKeyRequest{App: "demo", Kind: kind, Note: "demo.env"})
			if err != nil {
				break
			}
			*key = again.GetSecret()
		}
	}
	if err != nil {
		return site.Demo{}, fmt.Errorf("make the app demo: %w", err)
	}
	return site.Demo{App: "demo", ServerKey: created.GetServerKey(), ClientKey: created.GetClientKey()}, nil
}

// admin returns a client of the admin API of this process.
func (u *up) admin() (*client.Admin, error) {
	host, port, err := net.SplitHostPort(u.pushcore.GRPCAddr())
	if err != nil {
		return nil, fmt.Errorf("grpc address: %w", err)
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	var options []client.Option
	if u.config.TLSCert == "" {
		options = append(options, client.WithPlaintext())
	}
	return client.NewAdmin(net.JoinHostPort(host, port), u.site.Secrets.AdminToken.Reveal(), options...)
}

package site

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/halleypush/halley/bench/internal/process"
)

// GatewayOptions say how a gateway runs.
type GatewayOptions struct {
	// Bin is the folder of the programs, Dir the one for the configuration and the log, Name the gateway's in them.
	Bin, Dir, Name string
	// NATS is a URL, Pushcore a host:port.
	NATS, Pushcore string
	// Certificate and Key are files for a port with TLS; empty: there is none.
	Certificate, Key string
	// Spans is where spans go over OTLP, a URL; empty: nowhere.
	Spans string
	// Host is the address of the port that devices connect to; empty: 127.0.0.1.
	Host string
}

// Gateway is a running gateway. Stop it.
type Gateway struct {
	*process.Process
	// MQTT and MQTTS are host:port; MQTTS is empty without a certificate. Admin is the operators' port.
	MQTT, MQTTS, Admin string
}

// GatewayConfig is what differs from a gateway's defaults, to be printed.
const GatewayConfig = "gateway: connect_rate 1000000, connect_burst 1000000, drain_wait 0s, drain_rate 1000000, telemetry.profiles true"

// StartGateway starts a gateway and waits until it is ready.
func StartGateway(ctx context.Context, o GatewayOptions) (*Gateway, error) {
	a, err := addresses(3)
	if err != nil {
		return nil, err
	}
	g := &Gateway{MQTT: a[0], Admin: a[1]}
	if o.Host != "" {
		_, port, err := net.SplitHostPort(g.MQTT)
		if err != nil {
			return nil, err
		}
		g.MQTT = net.JoinHostPort(o.Host, port)
	}
	secure := ""
	if o.Certificate != "" {
		g.MQTTS = a[2]
		secure = fmt.Sprintf("mqtts: %s\ntls_cert: %s\ntls_key: %s\n", g.MQTTS, o.Certificate, o.Key)
	}
	err = os.WriteFile(filepath.Join(o.Dir, o.Name+".yaml"), []byte(fmt.Sprintf(`
mqtt: %s
%spushcore: %s
service_token: %s
connect_rate: 1000000
connect_burst: 1000000
nats: {url: %q, user: gateway, password: %s}
telemetry: {listen: "%s", profiles: true}
drain_wait: 0s
drain_rate: 1000000
`, g.MQTT, secure, o.Pushcore, ServiceToken, o.NATS, Password, g.Admin)), 0o600)
	if err != nil {
		return nil, err
	}
	var env []string
	if o.Spans != "" {
		env = append(env, "OTEL_EXPORTER_OTLP_ENDPOINT="+o.Spans)
	}
	g.Process, err = process.Start(o.Dir, o.Name, env, filepath.Join(o.Bin, "gateway"), "-config", o.Name+".yaml")
	if err != nil {
		return nil, err
	}
	if err := g.Await(ctx, process.Ready(ctx, "http://"+g.Admin+"/readyz")); err != nil {
		g.Stop()
		return nil, err
	}
	return g, nil
}

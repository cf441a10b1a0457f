package gateway

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/pkg/tlsconfig"
	"github.com/halleypush/halley/services/gateway/internal/gate"
	"github.com/halleypush/halley/services/gateway/internal/loop"
	"github.com/halleypush/halley/services/gateway/internal/proxy"
)

// Config is what a gateway needs. config.Load fills it from a YAML file and HALLEY_… variables.
type Config struct {
	MQTT      string `yaml:"mqtt" env:"MQTT" default:"127.0.0.1:1883" doc:"address of MQTT over TCP; empty: none"`
	MQTTS     string `yaml:"mqtts" env:"MQTTS" doc:"address of MQTT over TLS, such as :8883; needs tls_cert"`
	WebSocket string `yaml:"websocket" env:"WEBSOCKET" doc:"address of MQTT over WebSocket (path /mqtt), such as :8083; with tls_cert over TLS"`
	TLSCert   string `yaml:"tls_cert" env:"TLS_CERT" doc:"certificate file for mqtts and websocket"`
	TLSKey    string `yaml:"tls_key" env:"TLS_KEY" doc:"key file for mqtts and websocket"`

	Certificates     []string      `yaml:"certificates" env:"CERTIFICATES" doc:"further certificates, a list of cert file:key file; a client gets the first that fits the name it asks for, else tls_cert"`
	TicketSecret     config.Secret `yaml:"ticket_secret" env:"TICKET_SECRET" doc:"32 bytes or more, the same for all gateways: phones resume TLS with any of them. Empty: only with the one they came from"`
	TicketSecretFile string        `yaml:"ticket_secret_file" env:"TICKET_SECRET_FILE" doc:"a file with the ticket secret"`
	MaxHandshakes    int           `yaml:"max_handshakes" env:"MAX_HANDSHAKES" default:"4096" doc:"TLS handshakes under way; connections beyond are closed"`
	ProxyProtocol    []string      `yaml:"proxy_protocol" env:"PROXY_PROTOCOL" doc:"list of the balancers' networks, such as [10.0.0.0/8]: connections come from them alone, and begin with a PROXY header of version 2 that names the client"`

	Pushcore         string        `yaml:"pushcore" env:"PUSHCORE" default:"127.0.0.1:9091" doc:"address of pushcore's internal port; dns:///name:port spreads over replicas"`
	PushcoreTLS      bool          `yaml:"pushcore_tls" env:"PUSHCORE_TLS" doc:"speak TLS with pushcore"`
	PushcoreCA       string        `yaml:"pushcore_ca" env:"PUSHCORE_CA" doc:"certificates that sign pushcore's; empty: the system's"`
	PushcoreCert     string        `yaml:"pushcore_cert" env:"PUSHCORE_CERT" doc:"client certificate to show to pushcore, instead of the service token"`
	PushcoreKey      string        `yaml:"pushcore_key" env:"PUSHCORE_KEY" doc:"key of the client certificate"`
	ServiceToken     config.Secret `yaml:"service_token" env:"SERVICE_TOKEN" doc:"token to show to pushcore"`
	ServiceTokenFile string        `yaml:"service_token_file" env:"SERVICE_TOKEN_FILE" doc:"a file with the service token"`

	Pod   string `yaml:"pod" env:"POD" doc:"name of this gateway, for people; empty: the host's"`
	Loops int    `yaml:"loops" env:"LOOPS" doc:"event loops; 0: one per processor"`

	MaxPacket   int           `yaml:"max_packet" env:"MAX_PACKET" default:"16384" doc:"largest packet that a device may send, in bytes"`
	PacketRate  float64       `yaml:"packet_rate" env:"PACKET_RATE" default:"50" doc:"packets a second that a device may send"`
	PacketBurst float64       `yaml:"packet_burst" env:"PACKET_BURST" default:"200" doc:"packets that a device may send at once"`
	UserTimeout time.Duration `yaml:"user_timeout" env:"USER_TIMEOUT" default:"30s" doc:"after how long a socket is given up whose data is not acknowledged"`

	ConnectRate         float64       `yaml:"connect_rate" env:"CONNECT_RATE" default:"5000" doc:"devices a second that are let in; others are told when to come back. 0: any"`
	ConnectBurst        int           `yaml:"connect_burst" env:"CONNECT_BURST" default:"10000" doc:"devices that are let in at once"`
	MaxConnections      int           `yaml:"max_connections" env:"MAX_CONNECTIONS" doc:"most devices at a time; 0: what memory allows"`
	AddressConnections  int           `yaml:"address_connections" env:"ADDRESS_CONNECTIONS" doc:"most devices of one client address (IPv6: of a /64); mobile carriers put many behind one. 0: any"`
	AddressRate         float64       `yaml:"address_rate" env:"ADDRESS_RATE" doc:"CONNECTs a second of one client address; ten seconds' worth may come at once. 0: any"`
	AppConnections      int           `yaml:"app_connections" env:"APP_CONNECTIONS" doc:"most devices of one app at a time; 0: any"`
	AppRate             float64       `yaml:"app_rate" env:"APP_RATE" doc:"CONNECTs a second of one app; ten seconds' worth may come at once. 0: any"`
	AddressBytes        float64       `yaml:"address_bytes" env:"ADDRESS_BYTES" doc:"bytes a second from one client address, once its devices have proved themselves; ten seconds' worth may come at once. 0: any"`
	AppBytes            float64       `yaml:"app_bytes" env:"APP_BYTES" doc:"bytes a second from the devices of one app; ten seconds' worth may come at once. 0: any"`
	FlapPerMinute       int           `yaml:"flap_per_minute" env:"FLAP_PER_MINUTE" default:"20" doc:"how often a minute one device comes in; one that comes more often is told to stay away for 2 s, 4 s, … 32 s, then for flap_ban. 0: any"`
	AddressFailures     int           `yaml:"address_failures" env:"ADDRESS_FAILURES" default:"120" doc:"connections a minute of one client address that may fail (wrong secret, TLS that fails, no CONNECT), beyond one for each device that comes in; then as above. 0: any"`
	FlapBan             time.Duration `yaml:"flap_ban" env:"FLAP_BAN" default:"2m" doc:"how long a device, or an address whose connections fail, stays out that goes on"`
	AcceptRate          float64       `yaml:"accept_rate" env:"ACCEPT_RATE" default:"20000" doc:"connections a second that are looked at; others are closed at once. 0: any"`
	HandshakeRate       float64       `yaml:"handshake_rate" env:"HANDSHAKE_RATE" doc:"TLS handshakes a second that begin; connections beyond are closed at once. 0: twice connect_rate"`
	MaxUnidentified     int           `yaml:"max_unidentified" env:"MAX_UNIDENTIFIED" default:"20000" doc:"connections that have not said who they are; others are closed at once. 0: any"`
	AddressUnidentified int           `yaml:"address_unidentified" env:"ADDRESS_UNIDENTIFIED" doc:"such connections of one client address; 0: any"`
	MaxBackOff          time.Duration `yaml:"max_back_off" env:"MAX_BACK_OFF" default:"5m" doc:"longest time to come back that a device is told"`
	MaxOpens            int           `yaml:"max_opens" env:"MAX_OPENS" default:"100000" doc:"sessions that wait to be opened by pushcore; beyond it newcomers are told to come back. 0: any"`
	MemoryWatermark     float64       `yaml:"memory_watermark" env:"MEMORY_WATERMARK" default:"0.9" doc:"share of the container's memory (without a container: of GOMEMLIMIT), the kernel's for sockets included, beyond which newcomers are told to come back; 0: never"`
	CPUWatermark        float64       `yaml:"cpu_watermark" env:"CPU_WATERMARK" default:"0.97" doc:"share of the processors, over 10 s, beyond which newcomers are told to come back; 0: never"`

	ReopenRate               int           `yaml:"reopen_rate" env:"REOPEN_RATE" default:"5000" doc:"sessions a second that are opened again, or Pull, after a gap"`
	Revision                 string        `yaml:"revision" env:"REVISION" doc:"what sets apart the gateways of one rollout from those that they replace, such as the hash of a pod's template; empty: a stopping gateway waits for no rollout"`
	RolloutWait              time.Duration `yaml:"rollout_wait" env:"ROLLOUT_WAIT" default:"5m" doc:"how long at most a stopping gateway of a rollout keeps its devices until all that are replaced with it stop, too, so that each device moves only once"`
	DrainWait                time.Duration `yaml:"drain_wait" env:"DRAIN_WAIT" default:"5s" doc:"how long a stopping gateway still accepts, until balancers have noticed"`
	DrainRate                int           `yaml:"drain_rate" env:"DRAIN_RATE" default:"1000" doc:"connections a second that a stopping gateway sends away; more if they would not be gone by drain_deadline otherwise"`
	DrainDeadline            time.Duration `yaml:"drain_deadline" env:"DRAIN_DEADLINE" default:"60s" doc:"how long sending the connections away may take"`
	ServerReference          string        `yaml:"server_reference" env:"SERVER_REFERENCE" doc:"host:port that MQTT 5 devices over TCP are sent to when they have to go elsewhere; empty: they come back to where they were. A host without a port is for all transports: devices keep their port"`
	ServerReferenceTLS       string        `yaml:"server_reference_tls" env:"SERVER_REFERENCE_TLS" doc:"the same for devices over TLS"`
	ServerReferenceWebSocket string        `yaml:"server_reference_websocket" env:"SERVER_REFERENCE_WEBSOCKET" doc:"the same for devices over WebSocket"`
	MaxLifetime              time.Duration `yaml:"max_lifetime" env:"MAX_LIFETIME" doc:"longest that a device stays connected: half to all of it, at random, so that the load spreads over new gateways; 0: for ever"`

	NATS      natsbus.Config   `yaml:"nats" env:"NATS"`
	Telemetry telemetry.Config `yaml:"telemetry" env:"TELEMETRY"`

	// NATSOptions are further options of the NATS connections, such as one to a server in the same process.
	NATSOptions []nats.Option `yaml:"-"`
	// Shared and Health are those of the process, where several services share one; the process serves them then. Nil: the
	// service has its own, and serves them.
	Shared *telemetry.Telemetry `yaml:"-"`
	Health *telemetry.Health    `yaml:"-"`
	// Root is the root of the file system whose /proc and cgroups tell how much memory there is, where that is not /.
	Root string `yaml:"-"`
	// TelemetryOptions change where logs and spans go.
	TelemetryOptions []telemetry.Option `yaml:"-"`
}

// Validate says what is wrong with the configuration.
func (c *Config) Validate() error {
	switch {
	case c.Pushcore == "":
		return errors.New("pushcore is needed")
	case c.ServiceToken == "" && c.PushcoreCert == "":
		return errors.New("service_token is needed, or pushcore_cert for mutual TLS")
	case c.PushcoreCert != "" && (c.PushcoreKey == "" || !c.PushcoreTLS):
		return errors.New("pushcore_cert needs pushcore_key and pushcore_tls")
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return errors.New("tls_cert and tls_key go together")
	case len(c.Certificates) > 0 && c.TLSCert == "":
		return errors.New("certificates needs tls_cert and tls_key for clients that name none")
	case c.TicketSecret != "" && len(c.TicketSecret.Reveal()) < tlsconfig.MinTicketSecret:
		return fmt.Errorf("ticket_secret needs at least %d bytes", tlsconfig.MinTicketSecret)
	case c.MaxHandshakes < 1:
		return errors.New("max_handshakes must be at least 1")
	case c.MQTTS != "" && c.TLSCert == "":
		return errors.New("mqtts needs tls_cert and tls_key")
	case c.MaxPacket < 1024 || c.MaxPacket > 1<<20:
		return errors.New("max_packet must be between 1024 and 1048576")
	case c.PacketRate <= 0 || c.PacketBurst < 1:
		return errors.New("packet_rate must be over 0 and packet_burst at least 1")
	case c.ReopenRate < 1 || c.DrainRate < 1:
		return errors.New("reopen_rate and drain_rate must be at least 1")
	case c.ConnectRate < 0 || c.AddressRate < 0 || c.AppRate < 0 || c.AddressBytes < 0 || c.AppBytes < 0 ||
		c.AcceptRate < 0 || c.HandshakeRate < 0:
		return errors.New("connect_rate, accept_rate, handshake_rate, address_rate, app_rate, address_bytes and app_bytes must not be negative")
	case c.ConnectRate > 0 && c.ConnectBurst < 1:
		return errors.New("connect_burst must be at least 1")
	case c.MaxConnections < 0 || c.AddressConnections < 0 || c.AppConnections < 0 || c.FlapPerMinute < 0 || c.MaxOpens < 0:
		return errors.New("max_connections, address_connections, app_connections, flap_per_minute and max_opens must not be negative")
	case c.AddressFailures < 0 || c.MaxUnidentified < 0 || c.AddressUnidentified < 0:
		return errors.New("address_failures, max_unidentified and address_unidentified must not be negative")
	case c.MaxBackOff < time.Second || c.FlapBan < 0:
		return errors.New("max_back_off must be at least 1s, flap_ban not negative")
	case c.MemoryWatermark < 0 || c.MemoryWatermark > 1 || c.CPUWatermark < 0 || c.CPUWatermark > 1:
		return errors.New("memory_watermark and cpu_watermark must be between 0 and 1")
	case c.RolloutWait < 0 || c.DrainWait < 0:
		return errors.New("rollout_wait and drain_wait must not be negative")
	case c.DrainDeadline <= 0:
		return errors.New("drain_deadline must be over 0")
	case c.MaxLifetime != 0 && c.MaxLifetime < time.Second:
		return errors.New("max_lifetime must be at least 1s, or 0")
	case c.Loops < 0:
		return errors.New("loops must not be negative")
	}
	for _, text := range c.Certificates {
		if cert, key, _ := strings.Cut(text, ":"); cert == "" || key == "" {
			return fmt.Errorf("certificates: %q is not of the form cert file:key file", text)
		}
	}
	if _, err := c.balancers(); err != nil {
		return err
	}
	return errors.Join(c.validateAddresses(), c.validateFiles(), c.Telemetry.Validate())
}

// validateAddresses says what is wrong with where the gateway listens, and with where it sends devices.
func (c *Config) validateAddresses() error {
	var errs []error
	open := false
	for _, a := range []struct{ name, address string }{{"mqtt", c.MQTT}, {"mqtts", c.MQTTS}, {"websocket", c.WebSocket}} {
		if a.address == "" {
			continue
		}
		open = true
		if _, port, err := net.SplitHostPort(a.address); err != nil || !isPort(port) {
			errs = append(errs, fmt.Errorf("%s: %q is not of the form host:port or :port", a.name, a.address))
		}
	}
	if !open {
		errs = append(errs, errors.New("mqtt, mqtts or websocket is needed: devices have no way in"))
	}
	for _, a := range []struct{ name, address string }{
		{"server_reference", c.ServerReference}, {"server_reference_tls", c.ServerReferenceTLS}, {"server_reference_websocket", c.ServerReferenceWebSocket},
	} {
		host, port, err := net.SplitHostPort(a.address)
		if err != nil {
			host, port = a.address, "1"
		}
		if a.address != "" && (host == "" || !isPort(port) || strings.ContainsAny(host, "/ @")) {
			errs = append(errs, fmt.Errorf("%s: %q is not of the form host or host:port", a.name, a.address))
		}
	}
	return errors.Join(errs...)
}

func isPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}

// validateFiles says which certificates cannot be read.
func (c *Config) validateFiles() error {
	var errs []error
	for _, p := range c.certificates() {
		if _, err := tls.LoadX509KeyPair(p.Cert, p.Key); err != nil {
			errs = append(errs, fmt.Errorf("certificate %s with key %s: %w", p.Cert, p.Key, err))
		}
	}
	switch {
	case c.PushcoreTLS:
		if _, err := tlsconfig.Client(c.PushcoreCA, c.PushcoreCert, c.PushcoreKey); err != nil {
			errs = append(errs, fmt.Errorf("pushcore_ca, pushcore_cert and pushcore_key: %w", err))
		}
	case c.PushcoreCA != "":
		errs = append(errs, errors.New("pushcore_ca needs pushcore_tls"))
	}
	return errors.Join(errs...)
}

// certificates returns the files of all certificates, the one for clients that ask for no name first.
func (c *Config) certificates() []tlsconfig.Pair {
	if c.TLSCert == "" {
		return nil
	}
	pairs := []tlsconfig.Pair{{Cert: c.TLSCert, Key: c.TLSKey}}
	for _, text := range c.Certificates {
		cert, key, _ := strings.Cut(text, ":")
		pairs = append(pairs, tlsconfig.Pair{Cert: cert, Key: key})
	}
	return pairs
}

// balancers returns the networks of which connections begin with a header; nil: they do not.
func (c *Config) balancers() (proxy.Networks, error) {
	if len(c.ProxyProtocol) == 0 {
		return nil, nil
	}
	networks, err := proxy.ParseNetworks(c.ProxyProtocol)
	if err != nil {
		return nil, fmt.Errorf("proxy_protocol: %w", err)
	}
	return networks, nil
}

// references returns where devices are sent, by transport. An address with a port is a listener's, which speaks one transport.
func (c *Config) references() loop.References {
	everywhere := c.ServerReference
	if _, _, err := net.SplitHostPort(everywhere); err == nil {
		everywhere = ""
	}
	return loop.References{
		loop.TCP: c.ServerReference, loop.TLS: cmp.Or(c.ServerReferenceTLS, everywhere),
		loop.WebSocket: cmp.Or(c.ServerReferenceWebSocket, everywhere),
	}
}

func (c *Config) limits() gate.Limits {
	handshakes := c.HandshakeRate
	if handshakes == 0 {
		handshakes = 2 * c.ConnectRate
	}
	return gate.Limits{
		ConnectRate: c.ConnectRate, ConnectBurst: c.ConnectBurst,
		Connections: c.MaxConnections, AddressConnections: c.AddressConnections, AppConnections: c.AppConnections,
		AddressRate: c.AddressRate, AppRate: c.AppRate, AddressBytes: c.AddressBytes, AppBytes: c.AppBytes,
		FlapPerMinute: c.FlapPerMinute, FlapBan: c.FlapBan, MaxBackOff: c.MaxBackOff,
		AddressFailures: c.AddressFailures, AcceptRate: c.AcceptRate, HandshakeRate: handshakes,
		Unidentified: c.MaxUnidentified, AddressUnidentified: c.AddressUnidentified,
	}
}

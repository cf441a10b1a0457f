package gateway

import (
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/telemetry"
)

// Config is what a gateway needs. config.Load fills it from a YAML file and HALLEY_… variables.
type Config struct {
	MQTT      string `yaml:"mqtt" env:"MQTT" default:"127.0.0.1:1883" doc:"address of MQTT over TCP; empty: none"`
	MQTTS     string `yaml:"mqtts" env:"MQTTS" doc:"address of MQTT over TLS, such as :8883; needs tls_cert"`
	WebSocket string `yaml:"websocket" env:"WEBSOCKET" doc:"address of MQTT over WebSocket (path /mqtt), such as :8083; with tls_cert over TLS"`
	TLSCert   string `yaml:"tls_cert" env:"TLS_CERT" doc:"certificate file for mqtts and websocket"`
	TLSKey    string `yaml:"tls_key" env:"TLS_KEY" doc:"key file for mqtts and websocket"`

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

	ReopenRate    int           `yaml:"reopen_rate" env:"REOPEN_RATE" default:"5000" doc:"sessions a second that are opened again, or Pull, after a gap"`
	DrainWait     time.Duration `yaml:"drain_wait" env:"DRAIN_WAIT" default:"5s" doc:"how long a stopping gateway still accepts, until balancers have noticed"`
	DrainRate     int           `yaml:"drain_rate" env:"DRAIN_RATE" default:"1000" doc:"connections a second that a stopping gateway sends away"`
	DrainDeadline time.Duration `yaml:"drain_deadline" env:"DRAIN_DEADLINE" default:"60s" doc:"when a stopping gateway closes what is left"`

	NATS      natsbus.Config   `yaml:"nats" env:"NATS"`
	Telemetry telemetry.Config `yaml:"telemetry" env:"TELEMETRY"`

	// NATSOptions are further options of the NATS connections, such as one to a server in the same process.
	NATSOptions []nats.Option `yaml:"-"`
	// Shared and Health are those of the process, where several services share one; the process serves them then. Nil: the
	// service has its own, and serves them.
	Shared *telemetry.Telemetry `yaml:"-"`
	Health *telemetry.Health    `yaml:"-"`
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
	case c.MQTTS != "" && c.TLSCert == "":
		return errors.New("mqtts needs tls_cert and tls_key")
	case c.MaxPacket < 1024 || c.MaxPacket > 1<<20:
		return errors.New("max_packet must be between 1024 and 1048576")
	case c.PacketRate <= 0 || c.PacketBurst < 1:
		return errors.New("packet_rate must be over 0 and packet_burst at least 1")
	case c.ReopenRate < 1 || c.DrainRate < 1:
		return errors.New("reopen_rate and drain_rate must be at least 1")
	case c.Loops < 0:
		return errors.New("loops must not be negative")
	}
	return c.Telemetry.Validate()
}

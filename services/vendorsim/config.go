package vendorsim

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/telemetry"
)

// Config is what the simulators need. config.Load fills it from a YAML file and HALLEY_… variables.
type Config struct {
	Channels []string `yaml:"channels" env:"VENDORSIM_CHANNELS" default:"apns=127.0.0.1:9201,apns_sandbox=127.0.0.1:9202,fcm=127.0.0.1:9203,huawei=127.0.0.1:9204,harmony=127.0.0.1:9205,webpush=127.0.0.1:9206,honor=127.0.0.1:9207,xiaomi=127.0.0.1:9208,oppo=127.0.0.1:9209,vivo=127.0.0.1:9210,meizu=127.0.0.1:9211" doc:"the channels to simulate, each channel=address; port 0 takes any that is free"`
	TLS      []string `yaml:"tls" env:"VENDORSIM_TLS" doc:"channels that are served over TLS; apns and apns_sandbox always are"`
	Hosts    []string `yaml:"hosts" env:"VENDORSIM_HOSTS" default:"127.0.0.1,localhost" doc:"names and addresses in the servers' certificates"`
	Control  string   `yaml:"control" env:"VENDORSIM_CONTROL" default:"127.0.0.1:9200" doc:"address of the control API; must be loopback, because it hands out keys"`
	Dir      string   `yaml:"dir" env:"VENDORSIM_DIR" doc:"folder for the certificate authority (ca.pem) and the registered apps with their keys"`

	RecordBytes int `yaml:"record_bytes" env:"VENDORSIM_RECORD_BYTES" default:"16777216" doc:"bytes of accepted requests that each channel keeps whole, the latest"`
	RecordPairs int `yaml:"record_pairs" env:"VENDORSIM_RECORD_PAIRS" default:"2000000" doc:"different (token, push_id) that each channel counts"`

	ReceiptCA string `yaml:"receipt_ca" env:"VENDORSIM_RECEIPT_CA" doc:"certificates that sign those of the receipts' receivers; empty: the system's"`

	Telemetry telemetry.Config `yaml:"telemetry" env:"TELEMETRY"`

	// Shared and Health are those of the process, where several services share one; the process serves them then. Nil: the
	// service has its own, and serves them.
	Shared *telemetry.Telemetry `yaml:"-"`
	Health *telemetry.Health    `yaml:"-"`
	// TelemetryOptions change where logs go.
	TelemetryOptions []telemetry.Option `yaml:"-"`
}

var _ config.Validator = (*Config)(nil)

// Validate says what is wrong with the configuration.
func (c *Config) Validate() error {
	if c.Dir == "" {
		return errors.New("dir is needed")
	}
	if len(c.Channels) == 0 {
		return errors.New("channels is needed")
	}
	if len(c.Hosts) == 0 {
		return errors.New("hosts is needed")
	}
	var seen []string
	for _, entry := range c.Channels {
		channel, address, ok := strings.Cut(entry, "=")
		if _, known := vendors()[channel]; !known {
			return fmt.Errorf("channels: there is no simulator of %q", channel)
		}
		if _, _, err := net.SplitHostPort(address); !ok || err != nil {
			return fmt.Errorf("channels: %q must be channel=host:port", entry)
		}
		if slices.Contains(seen, channel) {
			return fmt.Errorf("channels: %s is there twice", channel)
		}
		seen = append(seen, channel)
	}
	for _, channel := range c.TLS {
		if !slices.Contains(seen, channel) {
			return fmt.Errorf("tls: %q is not among the channels", channel)
		}
	}
	host, _, err := net.SplitHostPort(c.Control)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && !ip.IsLoopback() {
		return errors.New("control must be host:port on loopback")
	}
	if c.RecordBytes < 1<<20 || c.RecordPairs < 1 {
		return errors.New("record_bytes must be at least 1048576 and record_pairs at least 1")
	}
	return c.Telemetry.Validate()
}

package sender

import (
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/telemetry"
)

// Config is what every sender needs, whatever its vendor. A vendor's own keys stand beside it, see Program.
type Config struct {
	Pushcore         string        `yaml:"pushcore" env:"PUSHCORE" default:"127.0.0.1:9091" doc:"address of pushcore's internal port; dns:///name:port spreads over replicas"`
	PushcoreTLS      bool          `yaml:"pushcore_tls" env:"PUSHCORE_TLS" doc:"speak TLS with pushcore"`
	PushcoreCA       string        `yaml:"pushcore_ca" env:"PUSHCORE_CA" doc:"certificates that sign pushcore's; empty: the system's"`
	PushcoreCert     string        `yaml:"pushcore_cert" env:"PUSHCORE_CERT" doc:"client certificate to show to pushcore, instead of the service token"`
	PushcoreKey      string        `yaml:"pushcore_key" env:"PUSHCORE_KEY" doc:"key of the client certificate"`
	ServiceToken     config.Secret `yaml:"service_token" env:"SERVICE_TOKEN" doc:"token to show to pushcore"`
	ServiceTokenFile string        `yaml:"service_token_file" env:"SERVICE_TOKEN_FILE" doc:"a file with the service token"`

	Receipts  string `yaml:"receipts" env:"RECEIPTS" doc:"address that takes the vendor's receipts, such as :8090; empty: none"`
	PublicURL string `yaml:"public_url" env:"PUBLIC_URL" doc:"URL under which the vendor reaches that address, such as https://push.example.com; empty: no receipts are asked for"`

	Tries        int           `yaml:"tries" env:"TRIES" default:"8" doc:"attempts for a target before it is given up"`
	FirstRetry   time.Duration `yaml:"first_retry" env:"FIRST_RETRY" default:"2s" doc:"pause after the first failed attempt; it doubles with each, and half of it is random"`
	LongestRetry time.Duration `yaml:"longest_retry" env:"LONGEST_RETRY" default:"10m" doc:"longest pause between attempts"`
	Timeout      time.Duration `yaml:"timeout" env:"TIMEOUT" default:"20s" doc:"how long one request to the vendor may take"`
	BreakerAfter int           `yaml:"breaker_after" env:"BREAKER_AFTER" default:"10" doc:"failed requests of an app in a row after which the vendor is left alone for it"`
	BreakerFor   time.Duration `yaml:"breaker_for" env:"BREAKER_FOR" default:"30s" doc:"for how long"`

	CredentialWait time.Duration `yaml:"credential_wait" env:"CREDENTIAL_WAIT" default:"5m" doc:"how long an app's jobs wait for another credential once the vendor refuses it; 0: not at all"`

	// What the vendor allows; 0: what the sender knows of the vendor.
	Batch       int           `yaml:"batch" env:"BATCH" doc:"targets of one request; 0: the vendor's"`
	PerSecond   float64       `yaml:"per_second" env:"PER_SECOND" doc:"requests a second of one app; 0: the vendor's"`
	PerDay      int64         `yaml:"per_day" env:"PER_DAY" doc:"targets a day of one app; 0: the vendor's"`
	Concurrency int           `yaml:"concurrency" env:"CONCURRENCY" doc:"requests of one app under way; 0: the vendor's"`
	MaxTTL      time.Duration `yaml:"max_ttl" env:"MAX_TTL" doc:"longest time that the vendor keeps a message; 0: the vendor's"`

	NATS      natsbus.Config   `yaml:"nats" env:"NATS"`
	Telemetry telemetry.Config `yaml:"telemetry" env:"TELEMETRY"`

	// NATSOptions are further options of the NATS connection, such as one to a server in the same process.
	NATSOptions []nats.Option `yaml:"-"`
	// Shared and Health are those of the process, where several services share one. Nil: the service has its own.
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
	case c.Tries < 1 || c.Tries > 100:
		return errors.New("tries must be between 1 and 100")
	case c.FirstRetry <= 0 || c.LongestRetry < c.FirstRetry:
		return errors.New("first_retry must be over 0 and longest_retry not shorter")
	case c.Timeout < time.Second || c.Timeout > time.Minute:
		return errors.New("timeout must be between 1s and 1m")
	case c.BreakerAfter < 1 || c.BreakerFor <= 0:
		return errors.New("breaker_after must be at least 1 and breaker_for over 0")
	case c.CredentialWait < 0:
		return errors.New("credential_wait must not be negative")
	case c.Batch < 0 || c.PerSecond < 0 || c.PerDay < 0 || c.Concurrency < 0 || c.MaxTTL < 0:
		return errors.New("batch, per_second, per_day, concurrency and max_ttl must not be negative")
	case c.PublicURL != "" && c.Receipts == "":
		return errors.New("public_url needs receipts")
	}
	return c.Telemetry.Validate()
}

// limits returns what the vendor allows, as the configuration has it.
func (c *Config) limits(l Limits) Limits {
	if c.Batch > 0 {
		l.Batch = min(l.Batch, c.Batch)
	}
	if c.PerSecond > 0 {
		l.PerSecond = c.PerSecond
	}
	if c.PerDay > 0 {
		l.PerDay = c.PerDay
	}
	if c.Concurrency > 0 {
		l.Concurrency = c.Concurrency
	}
	if c.MaxTTL > 0 {
		l.MaxTTL = c.MaxTTL
	}
	return l
}

package pushcore

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/natsbus"
	"github.com/halleypush/halley/pkg/telemetry"
	"github.com/halleypush/halley/services/pushcore/internal/api"
	"github.com/halleypush/halley/services/pushcore/internal/storage"
	"github.com/halleypush/halley/services/pushcore/internal/vendor"
)

// Config is what a pushcore needs. config.Load fills it from a YAML file and HALLEY_… variables.
type Config struct {
	HTTP     string `yaml:"http" env:"HTTP" default:"127.0.0.1:8080" doc:"address of REST and of the phones' HTTPS calls"`
	GRPC     string `yaml:"grpc" env:"GRPC" default:"127.0.0.1:9090" doc:"address of the business and admin APIs over gRPC"`
	Internal string `yaml:"internal" env:"INTERNAL" default:"127.0.0.1:9091" doc:"address of the internal contracts, for gateways"`

	TLSCert string `yaml:"tls_cert" env:"TLS_CERT" doc:"certificate file for http and grpc; empty: plain text"`
	TLSKey  string `yaml:"tls_key" env:"TLS_KEY" doc:"key file for http and grpc"`

	InternalCert string `yaml:"internal_cert" env:"INTERNAL_CERT" doc:"certificate file for the internal port; empty: plain text"`
	InternalKey  string `yaml:"internal_key" env:"INTERNAL_KEY" doc:"key file for the internal port"`
	InternalCA   string `yaml:"internal_ca" env:"INTERNAL_CA" doc:"certificates that sign the clients' on the internal port: mutual TLS, instead of the service token"`

	ServiceToken     config.Secret `yaml:"service_token" env:"SERVICE_TOKEN" doc:"token that gateways show on the internal port"`
	ServiceTokenFile string        `yaml:"service_token_file" env:"SERVICE_TOKEN_FILE" doc:"a file with the service token"`
	AdminToken       config.Secret `yaml:"admin_token" env:"ADMIN_TOKEN" doc:"token of the admin API, ak_…"`
	AdminTokenFile   string        `yaml:"admin_token_file" env:"ADMIN_TOKEN_FILE" doc:"a file with the admin token"`
	KeyFile          string        `yaml:"key_file" env:"KEY_FILE" doc:"file with the device and encryption keys; halley keyring makes one"`

	DatabaseURL     config.Secret `yaml:"database_url" env:"DATABASE_URL" doc:"PostgreSQL, as postgres://user:password@host/database"`
	DatabaseURLFile string        `yaml:"database_url_file" env:"DATABASE_URL_FILE" doc:"a file with the database URL"`
	KeepSchema      bool          `yaml:"keep_schema" env:"KEEP_SCHEMA" doc:"halley migrate brings the schema up to date: refuse one that is older, instead of doing so at the start"`
	Pools           storage.Sizes `yaml:"pools" env:"POOL"`
	Retention       time.Duration `yaml:"retention" env:"RETENTION" default:"720h" doc:"how long pushes and what became of them are kept; whole days"`

	PublicURL string `yaml:"public_url" env:"PUBLIC_URL" doc:"where vendors reach this site with their receipts, such as https://push.example.com"`

	CORSOrigins []string `yaml:"cors_origins" env:"CORS_ORIGINS" doc:"origins of web pages that may make the phones' calls (/device/v1) from their scripts, such as https://www.example.com; * is any; empty: none"`

	Jobs vendor.Batches `yaml:"jobs" env:"JOBS"`

	StreamReplicas int `yaml:"stream_replicas" env:"STREAM_REPLICAS" default:"1" doc:"NATS servers that keep what waits there: 3 with a cluster of three or more"`

	NATS      natsbus.Config   `yaml:"nats" env:"NATS"`
	Telemetry telemetry.Config `yaml:"telemetry" env:"TELEMETRY"`

	// NATSOptions are further options of the NATS connections, such as one to a server in the same process.
	NATSOptions []nats.Option `yaml:"-"`
	// Mounts are further handlers on the HTTP port, by pattern.
	Mounts map[string]http.Handler `yaml:"-"`
	// Shared and Health are those of the process, where several services share one; the process serves them then. Nil: the
	// service has its own, and serves them.
	Shared *telemetry.Telemetry `yaml:"-"`
	Health *telemetry.Health    `yaml:"-"`
	// TelemetryOptions change where logs and spans go.
	TelemetryOptions []telemetry.Option `yaml:"-"`
}

// maxJob bounds the targets of a job for a vendor's sender.
const maxJob = 10_000

// minRetention is the longest ttl and a day: what may still change must not be dropped.
const minRetention = 8 * 24 * time.Hour

// Validate says what is wrong with the configuration.
func (c *Config) Validate() error {
	switch {
	case c.DatabaseURL == "":
		return errors.New("database_url is needed")
	case c.KeyFile == "":
		return errors.New("key_file is needed")
	case len(c.AdminToken) < 16:
		return errors.New("admin_token is needed, with at least 16 characters")
	case len(c.ServiceToken) < 16 && c.InternalCA == "":
		return errors.New("service_token is needed, with at least 16 characters, or internal_ca for mutual TLS")
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return errors.New("tls_cert and tls_key go together")
	case (c.InternalCert == "") != (c.InternalKey == ""):
		return errors.New("internal_cert and internal_key go together")
	case c.InternalCA != "" && c.InternalCert == "":
		return errors.New("internal_ca needs internal_cert and internal_key")
	case strings.HasSuffix(c.PublicURL, "/"):
		return errors.New("public_url has no slash at its end")
	case slices.ContainsFunc(c.CORSOrigins, func(o string) bool { return !api.IsOrigin(o) }):
		return errors.New("cors_origins must be * or like https://www.example.com, without a path")
	case min(c.Jobs.Default, c.Jobs.Meizu) < 1 || max(c.Jobs.Default, c.Jobs.Meizu) > maxJob:
		return fmt.Errorf("jobs may have 1 to %d targets", maxJob)
	case c.StreamReplicas < 0 || c.StreamReplicas > 5:
		return errors.New("stream_replicas must be at most 5, and not negative")
	case c.Retention < minRetention:
		return errors.New("retention must be at least 192h (8 days): a push may live for 7")
	case min(c.Pools.Direct, c.Pools.Open, c.Pools.Ledger, c.Pools.Bulk) < 2:
		return errors.New("each of pools needs at least 2 connections")
	}
	return c.Telemetry.Validate()
}

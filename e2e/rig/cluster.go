package rig

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/halleypush/halley/pkg/postgres"
)

// adminToken and the others are secrets of rigs only.
const (
	adminToken   = "ak_e2e0123456789abcdef0123456789abcdef01234567"
	serviceToken = "e2e0123456789abcdef0123456789abcdef"
	natsPassword = "e2e0123456789abcdef"
)

// Options say what a cluster is made of.
type Options struct {
	// Gateways is how many, 1 if it is 0.
	Gateways int
	// Env is given to pushcore and the gateways, beside their configuration files.
	Env []string
	// Host is where the gateways await phones, 127.0.0.1 if it is empty; a Network's phones reach its Host.
	Host string
	// Links puts a Link between each gateway and NATS. What passes it goes through the test's process, and waits when that has much to do.
	Links bool
	// TLS has the gateways take phones over TLS, too, and WebSockets over nothing else.
	TLS bool
}

// Cluster is Halley as services: PostgreSQL, NATS, a pushcore and gateways, each a process of its own.
type Cluster struct {
	Site
	Postgres *postgres.Cluster
	NATS     *Process
	Pushcore *Process
	Gateways []*Process
	// MQTTs, MQTTSs (with TLS) and WebSockets are the gateways' addresses, host:port.
	MQTTs, MQTTSs, WebSockets []string
	// CA is the file with the certificate to believe, where there is TLS.
	CA string
	// Links lie between the gateways and NATS, if there are to be any.
	Links []*Link

	dir, nats string
}

// StartCluster starts a cluster and waits until all of it is ready. It ends with the test.
func StartCluster(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := &Cluster{dir: folder(t)}
	c.startPostgres(t)
	c.makeFiles(t)
	c.nats = Addr(t)
	_, natsPort, _ := net.SplitHostPort(c.nats)
	c.NATS = c.process(t, "nats-server", "nats", "", "-c", "nats.conf", "-p", natsPort)
	c.NATS.env = []string{"HALLEY_NATS_STORE=" + c.StoreDir()}
	for _, user := range []string{"PUSHCORE", "GATEWAY", "SENDER"} {
		c.NATS.env = append(c.NATS.env, "HALLEY_NATS_"+user+"_PASSWORD="+natsPassword)
	}
	c.NATS.Start(t)
	internal := Addr(t)
	c.addPushcore(t, internal)
	c.Pushcore.env = o.Env
	for i := range max(o.Gateways, 1) {
		nats := c.nats
		if o.Links {
			c.Links = append(c.Links, NewLink(t, nats))
			nats = c.Links[i].Addr()
		}
		c.addGateway(t, i, AddrOn(t, cmp.Or(o.Host, "127.0.0.1")), nats, internal)
		c.Gateways[i].env = o.Env
	}
	c.Site.MQTT, c.Site.WebSocket = c.MQTTs[0], "ws://"+c.WebSockets[0]+"/mqtt"
	if o.TLS {
		c.addTLS(t)
	}
	for _, p := range append([]*Process{c.Pushcore}, c.Gateways...) {
		p.Launch(t)
	}
	c.AwaitReady(t)
	return c
}

// AwaitReady waits until pushcore and every gateway are ready.
func (c *Cluster) AwaitReady(t testing.TB) {
	t.Helper()
	for _, p := range append([]*Process{c.Pushcore}, c.Gateways...) {
		p.AwaitReady(t)
	}
}

// StoreDir is the folder of NATS's data.
func (c *Cluster) StoreDir() string { return filepath.Join(c.dir, "jetstream") }

// PostgresDir is the folder of PostgreSQL's data.
func (c *Cluster) PostgresDir() string { return filepath.Join(c.dir, "postgres") }

// RestartPostgres stops PostgreSQL, lets meanwhile run, and starts it again.
func (c *Cluster) RestartPostgres(t testing.TB, meanwhile func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startWithin)
	defer cancel()
	if err := c.Postgres.Stop(ctx); err != nil {
		t.Fatalf("stop PostgreSQL: %v", err)
	}
	meanwhile()
	c.startPostgres(t)
}

func (c *Cluster) startPostgres(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(c.dir, "postgres-supervisor.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), startWithin)
	defer cancel()
	server, err := postgres.Start(ctx, postgres.Options{
		DataDir: c.PostgresDir(), Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
	c.Postgres = server
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startWithin)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			t.Errorf("stop PostgreSQL: %v", err)
		}
		_ = log.Close()
	})
	if err := c.Postgres.CreateDatabase(ctx, "halley"); err != nil {
		t.Fatalf("PostgreSQL: %v", err)
	}
}

// makeFiles makes what docs/operations.md asks an operator to make.
func (c *Cluster) makeFiles(t testing.TB) {
	t.Helper()
	Command(t, c.dir, Bin(t, "halley"), "keyring", "keys.json")
	c.write(t, "nats.conf", Command(t, c.dir, Bin(t, "halley"), "nats-config"))
	c.write(t, "service.token", []byte(serviceToken))
	c.write(t, "admin.token", []byte(adminToken))
	c.write(t, "nats.password", []byte(natsPassword))
	c.write(t, "database.url", []byte(c.Postgres.DatabaseDSN("halley")))
	c.AdminToken = adminToken
}

func (c *Cluster) addPushcore(t testing.TB, internal string) {
	t.Helper()
	http, grpc, admin := Addr(t), Addr(t), Addr(t)
	c.write(t, "pushcore.yaml", fmt.Appendf(nil, `
http: %s
grpc: %s
internal: %s
database_url_file: database.url
key_file: keys.json
admin_token_file: admin.token
service_token_file: service.token
nats: {url: "nats://%s", user: pushcore, password_file: nats.password}
telemetry: {listen: "%s"}
`, http, grpc, internal, c.nats, admin))
	c.Pushcore = c.process(t, "pushcore", "pushcore", admin, "-config", "pushcore.yaml")
	c.URL, c.GRPC, c.Internal = "http://"+http, grpc, internal
}

func (c *Cluster) addGateway(t testing.TB, i int, mqtt, nats, pushcore string) {
	t.Helper()
	websocket, admin := Addr(t), Addr(t)
	name := fmt.Sprintf("gateway-%d", i)
	c.write(t, name+".yaml", fmt.Appendf(nil, `
mqtt: %s
websocket: %s
pushcore: %s
service_token_file: service.token
pod: %s
drain_wait: 200ms
nats: {url: "nats://%s", user: gateway, password_file: nats.password}
telemetry: {listen: "%s"}
`, mqtt, websocket, pushcore, name, nats, admin))
	c.Gateways = append(c.Gateways, c.process(t, "gateway", name, admin, "-config", name+".yaml"))
	c.MQTTs, c.WebSockets = append(c.MQTTs, mqtt), append(c.WebSockets, websocket)
}

func (c *Cluster) write(t testing.TB, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (c *Cluster) process(t testing.TB, bin, name, admin string, args ...string) *Process {
	t.Helper()
	p := &Process{Name: name, Admin: admin, path: Bin(t, bin), args: args, dir: c.dir}
	t.Cleanup(p.end)
	return p
}

package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/config"
	"github.com/halleypush/halley/pkg/postgres/postgrestest"
	"github.com/halleypush/halley/services/halley"
	"github.com/halleypush/halley/services/halley/internal/cli"
	"github.com/halleypush/halley/services/halley/internal/site"
)

// run runs a command line against a data folder that holds nothing, or the given one.
func run(t *testing.T, data string, args ...string) (code int, out, errOut string) {
	t.Helper()
	if data == "" {
		data = t.TempDir()
	}
	var o, e bytes.Buffer
	code = cli.Run(t.Context(), append([]string{"--data-dir", data}, args...), &o, &e)
	return code, o.String(), e.String()
}

func TestWrongUsageHasItsExitCodeAndSaysWhy(t *testing.T) {
	t.Parallel()
	keys := []string{"--app", "demo", "--key", "sk_x"}
	admin := []string{"--admin-token", "ak_x", "--app", "shop"}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no such command":     {[]string{"shove"}, `unknown command "shove"`},
		"no such subcommand":  {[]string{"get", "rich"}, `unknown command "rich"`},
		"no such flag":        {[]string{"push", "--tile", "x"}, "unknown flag: --tile"},
		"no keys":             {[]string{"push", "--all", "--title", "x"}, "server key"},
		"no admin token":      {[]string{"app", "list"}, "admin token"},
		"no audience":         {append(keys, "push", "--title", "x"), "to whom"},
		"two audiences":       {append(keys, "push", "--title", "x", "--all", "--user", "a"), "to whom"},
		"no content":          {append(keys, "push", "--all"), "what to push"},
		"wrong priority":      {append(keys, "push", "--all", "--title", "x", "--priority", "urgent"), "--priority"},
		"wrong output":        {append(keys, "devices", "-o", "xml"), "--output"},
		"wrong state":         {append(keys, "get", "deliveries", "x", "--state", "gone"), "--state"},
		"missing argument":    {append(keys, "get", "push"), "accepts 1 arg"},
		"too many devices":    {append(keys, "--client-key", "ck_x", "device", "-n", "1000000"), "-n must be"},
		"wrong bind policy":   {[]string{"--admin-token", "ak_x", "app", "create", "x", "--bind-policy", "any"}, "--bind-policy"},
		"wrong kind of key":   {[]string{"--admin-token", "ak_x", "--app", "x", "key", "create", "--kind", "spare"}, "--kind"},
		"no such channel":     {append(admin, "channel", "set", "pigeon"), `unknown command "pigeon"`},
		"no credential":       {append(admin, "channel", "set", "apns"), "what is the credential"},
		"no app":              {[]string{"--admin-token", "ak_x", "channel", "list"}, "an app is needed"},
		"no such key file":    {append(admin, "channel", "set", "apns", "--key", "/nowhere/key.p8"), "--key: open /nowhere/key.p8"},
		"no JSON credential":  {append(admin, "channel", "set", "huawei", "--credential", os.DevNull), "--credential: " + os.DevNull + " is not a JSON object"},
		"neither yes nor no":  {append(admin, "channel", "set", "huawei", "--urgent", "very"), "--urgent: must be true or false"},
		"two credentials":     {append(admin, "channel", "set", "huawei", "--credential", "x", "--simulator", "y"), "one of them"},
		"no such sender":      {[]string{"up", "--channels", "apns,pigeon", "--check-config"}, `no sender of "pigeon"`},
		"nothing skipped":     {[]string{"restored", "--skip", "0"}, "--skip must be"},
		"wrong configuration": {[]string{"up", "--tls-cert", "x", "--check-config"}, "tls_cert and tls_key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, _, errOut := run(t, "", c.args...)
			if code != cli.ExitUsage {
				t.Errorf("exit code %d, want %d", code, cli.ExitUsage)
			}
			if code == cli.ExitOK || !strings.Contains(errOut, c.want) {
				t.Errorf("exit code %d, %q; want %q", code, errOut, c.want)
			}
		})
	}
}

func TestAServiceThatIsNotThereIsAFailure(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	code, _, errOut := run(t, "", "--app", "demo", "--key", "sk_x", "--grpc", address, "get", "pushes")
	if code != cli.ExitFailed || !strings.Contains(errOut, "is halley up?") {
		t.Errorf("exit code %d, %q", code, errOut)
	}
}

func TestAKeyFileIsNotOverwritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.json")
	if code, _, errOut := run(t, "", "keyring", path); code != cli.ExitOK {
		t.Fatal(errOut)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := run(t, "", "keyring", path); code != cli.ExitFailed || !strings.Contains(errOut, "not overwritten") {
		t.Errorf("exit code %d, %q", code, errOut)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file changed: %v", err)
	}
}

func TestMigrateMakesTheSchemaOrSaysWhichDatabase(t *testing.T) {
	t.Parallel()
	if code, _, errOut := run(t, "", "migrate", "--database-url-file", "/nowhere/url"); code != cli.ExitUsage {
		t.Errorf("no such file: exit code %d, %q", code, errOut)
	}
	path := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(path, []byte(postgrestest.New(t, nil)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		code, out, errOut := run(t, "", "migrate", "--database-url-file", path)
		if code != cli.ExitOK || !strings.Contains(out, "up to date") {
			t.Errorf("exit code %d, %q, %q", code, out, errOut)
		}
	}
	if err := os.WriteFile(path, []byte("postgres://127.0.0.1:1/none"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, errOut := run(t, "", "migrate", "--database-url-file", path, "--within", "100ms")
	if code != cli.ExitFailed || !strings.Contains(errOut, "not done within 100ms") {
		t.Errorf("no PostgreSQL: exit code %d, %q", code, errOut)
	}
}

// up runs a whole Halley in a folder, without vendor channels unless configure asks for some, and returns how to stop it.
func up(t *testing.T, data string, configure ...func(*halley.Config)) (stop func()) {
	t.Helper()
	postgrestest.NotShort(t)
	var c halley.Config
	if err := config.Defaults(&c); err != nil {
		t.Fatal(err)
	}
	free := "127.0.0.1:0"
	c.Data, c.HTTP, c.GRPC, c.Internal, c.MQTT, c.MQTTS, c.Telemetry.Listen = data, free, free, free, free, free, free
	c.Telemetry.LogLevel, c.Out = "error", io.Discard
	c.Channels = []string{"none"}
	for _, f := range configure {
		f(&c)
	}
	ready, done := make(chan struct{}), make(chan error, 1)
	c.Ready = func(site.Demo) { close(ready) }
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	go func() { done <- halley.Up(ctx, c) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatalf("halley up ended: %v", err)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("halley up: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// dataFolder returns a folder that PostgreSQL's own user can walk to.
func dataFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "halley-cli-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A tour of the command line, on a real Halley that is stopped and started in between.
func TestTheCommandLineOnAWholeHalley(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	stop := up(t, data)
	must := func(args ...string) string {
		t.Helper()
		code, out, errOut := run(t, data, args...)
		if code != cli.ExitOK {
			t.Fatalf("halley %s: exit code %d: %s", strings.Join(args, " "), code, errOut)
		}
		return out
	}
	// A simulated phone, bound to alice, prints what arrives.
	phone, out := context.WithCancel(t.Context())
	lines, writer := io.Pipe()
	phoneEnded := make(chan int, 1)
	go func() {
		phoneEnded <- cli.Run(phone, []string{"--data-dir", data, "device", "--user", "alice"}, writer, io.Discard)
		_ = writer.Close() // never fails
	}()
	printed := newLines(lines)
	printed.wait(t, "is bound to alice")
	if shown := must("push", "--user", "alice", "--title", "Hi", "--wait", "10s"); !strings.Contains(shown, "arrived 1") {
		t.Errorf("push --wait printed\n%s", shown)
	}
	printed.wait(t, `title="Hi"`)
	out()
	if code := <-phoneEnded; code != cli.ExitOK {
		t.Errorf("halley device ended with %d", code)
	}
	for range 2 { // the second finds the app
		if said := must("--app", "check", "check"); !strings.Contains(said, "a push went all the way") {
			t.Errorf("check printed\n%s", said)
		}
	}
	if keys := must("--app", "check", "key", "list", "-o", "json"); strings.Count(keys, `"key_id"`) != 6 || strings.Count(keys, `"revoked_at"`) != 6 {
		t.Errorf("keys left:\n%s", keys)
	}
	if code, _, said := run(t, data, "--app", "check", "--mqtt", "127.0.0.1:1", "check", "--within", "2s"); code != cli.ExitNotReached || !strings.Contains(said, "connection refused") {
		t.Errorf("check without phones ended with %d: %s", code, said)
	}

	// JSON, for scripts; and a push for somebody who is not there is not reached in time.
	var devices struct {
		Devices []struct{ Token string }
	}
	if err := json.Unmarshal([]byte(must("devices", "--user", "alice", "-o", "json")), &devices); err != nil || len(devices.Devices) != 1 {
		t.Fatalf("devices -o json: %v, %+v", err, devices)
	}
	token := devices.Devices[0].Token
	if code, _, errOut := run(t, data, "push", "--device", token, "--title", "x", "--wait", "1s"); code != cli.ExitNotReached {
		t.Errorf("a push to a phone that is away: exit code %d, %s", code, errOut)
	}
	id := strings.TrimSpace(must("push", "--device", token, "--title", "kept", "--data", "a=b"))
	if shown := must("get", "deliveries", id); !strings.Contains(shown, token) || !strings.Contains(shown, "PENDING") {
		t.Errorf("get deliveries printed\n%s", shown)
	}

	// Apps and keys.
	if shown := must("app", "create", "shop", "--bind-policy", "server_only"); !strings.Contains(shown, "sk_") {
		t.Errorf("app create printed %s", shown)
	}
	key := strings.TrimSpace(must("--app", "shop", "key", "create", "--note", "second"))
	if code, _, errOut := run(t, data, "--app", "demo", "--key", key, "get", "pushes"); code != cli.ExitRefused {
		t.Errorf("another app's key: exit code %d, %s", code, errOut)
	}
	if code, _, errOut := run(t, data, "app", "create", "shop"); code != cli.ExitRefused || !strings.Contains(errOut, "APP_EXISTS") {
		t.Errorf("an app that exists: exit code %d, %s", code, errOut)
	}

	// After a restart everything is as it was.
	stop()
	up(t, data)
	if shown := must("get", "push", id); !strings.Contains(shown, "kept") || !strings.Contains(shown, "pending 1") {
		t.Errorf("after a restart, get push printed\n%s", shown)
	}
}

// printedLines collects what a command prints.
type printedLines struct {
	mu   sync.Mutex
	text string // guarded by mu
	more chan struct{}
}

func newLines(r io.Reader) *printedLines {
	p := &printedLines{more: make(chan struct{}, 1)}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			p.mu.Lock()
			p.text += string(buf[:n])
			p.mu.Unlock()
			select {
			case p.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *printedLines) wait(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		p.mu.Lock()
		found := strings.Contains(p.text, want)
		text := p.text
		p.mu.Unlock()
		if found {
			return
		}
		select {
		case <-p.more:
		case <-deadline:
			t.Fatalf("%q was not printed; printed was\n%s", want, text)
		}
	}
}

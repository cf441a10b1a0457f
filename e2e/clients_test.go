package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
	pushv1 "github.com/halleypush/halley/proto/halley/push/v1"
)

// silence is after how long without a packet the server lets go of a phone: 1.5 times the keep-alive of 5 s.
const silence = 7500 * time.Millisecond

// client is one of the examples: a phone on a library that nobody here wrote.
type client struct {
	name    string
	command []string
	// env is what it is told beside what all are.
	env []string
	// registers says that it does so itself, over MQTT; the others have registered with curl.
	registers bool
	// yields says that it is told why it is sent away, and goes when another connection takes over. MQTT 3.1.1 says nothing.
	yields bool
}

// clients builds those examples that need it and returns all.
func clients(t *testing.T) []client {
	t.Helper()
	dir, err := filepath.Abs("../examples")
	if err != nil {
		t.Fatal(err)
	}
	bin := rig.Folder(t)
	rig.Command(t, dir, "go", "build", "-o", bin, "./...")
	return []client{
		{name: "mosquitto", command: []string{filepath.Join(dir, "mosquitto/phone.sh")}},
		{name: "paho311", command: []string{filepath.Join(bin, "paho311")}},
		{name: "paho5", command: []string{filepath.Join(bin, "paho5")}, registers: true, yields: true},
		{name: "mqttjs", command: []string{"node", filepath.Join(dir, "mqttjs/phone.js")}, registers: true, yields: true},
	}
}

// TestClients lets each example receive, acknowledge, reconnect, be taken over and lose its keep-alive.
func TestClients(t *testing.T) {
	t.Parallel()
	up := rig.StartUp(t)
	up.Demo(t) // for the admin token
	app := up.CreateApp(t, "clients")
	for _, c := range clients(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := startClient(t, app, c)
			x.receives(t)
			x.reconnects(t)
			if c.yields {
				x.yieldsToTakeover(t)
			} else {
				x.returnsAfterTakeover(t)
			}
			x.losesKeepAlive(t)
			x.checkOnce(t)
		})
	}
}

// exampleClient is a running example with its phone's identity.
type exampleClient struct {
	client
	t       *testing.T // of its whole life, which its steps are part of
	app     *rig.App
	env     []string
	token   string
	dir     string
	program *rig.Program
	pushes  []string
}

func startClient(t *testing.T, app *rig.App, c client) *exampleClient {
	t.Helper()
	x := &exampleClient{client: c, t: t, app: app, dir: rig.Folder(t)}
	file := filepath.Join(x.dir, "phone.json")
	x.env = append(exampleEnv(t, app, file), c.env...)
	if !c.registers {
		registerWithCurl(t, x.env, file)
	}
	x.program = x.start(c.name)
	var phone struct{ Token, Secret string }
	rig.Until(t, 20*time.Second, "registration", func() error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return json.Unmarshal(text, &phone)
	})
	if len(phone.Token) != 23 || len(phone.Secret) != 48 {
		t.Fatalf("token of %d characters, secret of %d", len(phone.Token), len(phone.Secret))
	}
	x.token = phone.Token
	app.AwaitOnline(t, x.token, true, 10*time.Second)
	return x
}

// exampleEnv is what the examples are told: what demo.env holds, the phone's file, and a short keep-alive.
func exampleEnv(t *testing.T, app *rig.App, file string) []string {
	t.Helper()
	modules, err := filepath.Abs("clients/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	return []string{
		"HALLEY_APP=" + app.ID, "HALLEY_KEY=" + app.ServerKey, "HALLEY_CLIENT_KEY=" + app.ClientKey, "HALLEY_URL=" + app.URL,
		"HALLEY_MQTT=" + app.MQTT, "HALLEY_WS=" + app.WebSocket, "HALLEY_PHONE=" + file, "HALLEY_KEEP_ALIVE=5", "NODE_PATH=" + modules,
	}
}

func registerWithCurl(t *testing.T, env []string, file string) {
	t.Helper()
	identity := runExample(t, env, "curl/register.sh")
	if err := os.WriteFile(file, identity, 0o600); err != nil {
		t.Fatal(err)
	}
}

// runExample runs a script of examples to its end and returns what it printed.
func runExample(t *testing.T, env []string, script string, args ...string) []byte {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../examples", script))
	if err != nil {
		t.Fatal(err)
	}
	return rig.Command(t, ".", "env", slices.Concat(env, []string{path}, args)...)
}

func (x *exampleClient) start(name string) *rig.Program {
	x.t.Helper()
	return rig.StartProgram(x.t, x.dir, name, x.env, x.command[0], x.command[1:]...)
}

// times counts the pushes that a program has printed.
func times(t *testing.T, p *rig.Program) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, line := range p.Lines(t) {
		var message struct {
			PushID string `json:"push_id"`
		}
		if json.Unmarshal([]byte(line), &message) == nil && message.PushID != "" {
			counts[message.PushID]++
		}
	}
	return counts
}

// push pushes to the phone.
func (x *exampleClient) push(t *testing.T) string {
	t.Helper()
	id := x.app.Push(t, x.token)
	x.pushes = append(x.pushes, id)
	return id
}

// arrives waits until the program has printed the push, and the ledger has its acknowledgement.
func (x *exampleClient) arrives(t *testing.T, p *rig.Program, id string) {
	t.Helper()
	rig.Until(t, 20*time.Second, "message "+id, func() error {
		if times(t, p)[id] == 0 {
			return fmt.Errorf("%s printed: %s", p.Name, strings.Join(p.Lines(t), "\n"))
		}
		return nil
	})
	x.app.AwaitCounts(t, id, 10*time.Second, &pushv1.Counts{Targeted: 1, Arrived: 1})
}

func (x *exampleClient) receives(t *testing.T) {
	t.Helper()
	x.arrives(t, x.program, x.push(t))
}

// reconnects kills the phone, and starts it again: what was pushed meanwhile comes.
func (x *exampleClient) reconnects(t *testing.T) {
	t.Helper()
	x.program.Kill(t)
	x.app.AwaitOnline(t, x.token, false, 10*time.Second)
	first, second := x.push(t), x.push(t)
	x.app.AwaitCounts(t, second, 10*time.Second, &pushv1.Counts{Targeted: 1, Pending: 1})
	x.program.Start(t)
	x.arrives(t, x.program, second)
	x.arrives(t, x.program, first)
}

// yieldsToTakeover starts the same phone a second time: the first goes, the second gets what comes.
func (x *exampleClient) yieldsToTakeover(t *testing.T) {
	t.Helper()
	second := x.start(x.name + "-second")
	x.program.AwaitEnd(t, 10*time.Second)
	if lines := x.program.Lines(t); !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, "0x8e") }) {
		t.Errorf("it was not told 0x8E: %v", lines)
	}
	id := x.push(t)
	x.arrives(t, second, id)
	x.program, second = second, x.program
	if times(t, second)[id] != 0 {
		t.Error("the one that was taken over got the message, too")
	}
}

// returnsAfterTakeover lets mosquitto_pub take the phone's connection over to say that its user clicked. The phone, which is frozen for that
// moment, so that it does not take the connection back too soon, connects again by itself.
func (x *exampleClient) returnsAfterTakeover(t *testing.T) {
	t.Helper()
	x.program.Freeze(t)
	runExample(t, x.env, "mosquitto/event.sh", x.pushes[0], "clicked")
	x.program.Thaw(t)
	x.app.AwaitCounts(t, x.pushes[0], 10*time.Second, &pushv1.Counts{Targeted: 1, Clicked: 1})
	x.arrives(t, x.program, x.push(t))
}

// losesKeepAlive stops the program without a word: the server lets go of it in time, and keeps what comes until it is back.
func (x *exampleClient) losesKeepAlive(t *testing.T) {
	t.Helper()
	x.app.AwaitOnline(t, x.token, true, 10*time.Second)
	x.program.Freeze(t)
	begun := time.Now()
	x.app.AwaitOnline(t, x.token, false, silence+10*time.Second)
	took := time.Since(begun)
	id := x.push(t)
	x.program.Thaw(t)
	x.arrives(t, x.program, id)
	t.Logf("%s: let go %v after it froze (1.5 times its keep-alive is %v)", x.name, took.Round(100*time.Millisecond), silence)
}

// checkOnce checks that every push was printed once by all runs of the phone.
func (x *exampleClient) checkOnce(t *testing.T) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(x.dir, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range x.pushes {
		printed := 0
		for _, log := range logs {
			text, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			printed += strings.Count(string(text), id)
		}
		if printed != 1 {
			t.Errorf("push %s was printed %d times", id, printed)
		}
	}
}

// TestCurl is the phone without a connection and the business server of the examples, both made of curl.
func TestCurl(t *testing.T) {
	t.Parallel()
	app := rig.StartUp(t).Demo(t)
	file := filepath.Join(rig.Folder(t), "phone.json")
	env := exampleEnv(t, app, file)
	registerWithCurl(t, env, file)
	var pushed struct {
		PushID string `json:"push_id"`
		Counts struct{ Targeted, Pending int }
	}
	if err := json.Unmarshal(runExample(t, env, "curl/push.sh", "kept"), &pushed); err != nil {
		t.Fatal(err)
	}
	if pushed.Counts.Targeted != 1 || pushed.Counts.Pending != 1 {
		t.Errorf("push.sh shows %+v", pushed)
	}
	if out := runExample(t, env, "curl/poll.sh"); strings.Count(string(out), pushed.PushID) != 1 {
		t.Errorf("poll.sh printed %q, not %s", out, pushed.PushID)
	}
	app.AwaitCounts(t, pushed.PushID, 10*time.Second, &pushv1.Counts{Targeted: 1, Arrived: 1})
	if out := runExample(t, env, "curl/poll.sh"); len(out) != 0 {
		t.Errorf("confirmed messages came again: %s", out)
	}
}

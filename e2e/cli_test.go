package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
)

// TestCommandLine is the README's first push: simulated phones in one terminal, the business server in another.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	up := rig.StartUp(t)
	up.Demo(t) // once it is there, the command line finds keys and addresses in the data folder
	halley, dir := rig.Bin(t, "halley"), rig.Folder(t)
	phones := rig.StartProgram(t, dir, "phones", nil, halley, "device", "--data-dir", up.Data, "--number", "2", "--user", "alice")
	rig.Until(t, 20*time.Second, "both phones are alice's", func() error {
		out, err := rig.Try(t, dir, halley, "devices", "--data-dir", up.Data, "--user", "alice", "-o", "json")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		var list struct {
			Devices []struct{ Online bool } `json:"devices"`
		}
		if err := json.Unmarshal(out, &list); err != nil {
			return err
		}
		if len(list.Devices) != 2 || !list.Devices[0].Online || !list.Devices[1].Online {
			return errors.New(string(out))
		}
		return nil
	})
	pushed := rig.Command(t, dir, halley, "push", "--data-dir", up.Data, "--user", "alice", "--title", "It works", "--wait", "20s")
	if strings.Count(strings.Join(phones.Lines(t), "\n"), "It works") != 2 {
		t.Errorf("the phones printed %q; push said %s", phones.Lines(t), pushed)
	}
	for name, c := range map[string]struct {
		code int
		args []string
	}{
		"wrong usage": {2, []string{"push", "--no-such-flag"}},
		"refused":     {3, []string{"push", "--all", "--title", "Hi", "--key", "sk_wrong"}},
		"not reached": {4, []string{"push", "--device", "a0000000000000000000000", "--title", "Hi", "--wait", "1s"}},
	} {
		out, err := rig.Try(t, dir, halley, append(c.args, "--data-dir", up.Data)...)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != c.code {
			t.Errorf("%s: %v, want exit code %d; it said %s", name, err, c.code, out)
		}
	}
	phones.Signal(t, syscall.SIGINT)
	if err := phones.Ended(t, 10*time.Second); err != nil {
		t.Errorf("Ctrl-C ends the phones with %v", err)
	}
}

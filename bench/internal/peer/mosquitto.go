// Package peer is what the gateway is measured beside: other servers, each in a process of its own, as they are by default but
// for what the bench needs to reach them.
package peer

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/halleypush/halley/bench/internal/process"
)

// Mosquitto is a running mosquitto.
type Mosquitto struct {
	*process.Process
	Address string
	dir     string
}

// StartMosquitto starts the mosquitto that is installed. Stop it.
func StartMosquitto(ctx context.Context) (_ *Mosquitto, err error) {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto" // where Debian has it, which an ordinary user's PATH may not
	}
	m := &Mosquitto{}
	if m.dir, err = os.MkdirTemp("", "halley-mosquitto-*"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.Stop()
		}
	}()
	if m.Address, err = process.Address(); err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(m.Address)
	if err != nil {
		return nil, err
	}
	configuration := fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\nset_tcp_nodelay true\n"+
		"log_type error\nlog_type warning\n", port) // not a line per connection, which the gateway does not write, either
	if err := os.WriteFile(filepath.Join(m.dir, "mosquitto.conf"), []byte(configuration), 0o600); err != nil {
		return nil, err
	}
	if m.Process, err = process.Start(m.dir, "mosquitto", nil, path, "-c", "mosquitto.conf"); err != nil {
		return nil, err
	}
	return m, m.Await(ctx, process.Accepts(ctx, m.Address))
}

// Stop ends it and removes what it left.
func (m *Mosquitto) Stop() {
	if m.Process != nil {
		m.Process.Stop()
	}
	_ = os.RemoveAll(m.dir) // in the folder for temporary files
}

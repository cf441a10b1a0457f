package site

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/halleypush/halley/bench/internal/process"
)

// NATS is a running nats-server with Halley's configuration. Stop it.
type NATS struct {
	*process.Process
	URL string
}

// StartNATS starts the nats-server of the folder bin, with its files in dir.
func StartNATS(ctx context.Context, bin, dir string) (*NATS, error) {
	configuration, err := exec.CommandContext(ctx, filepath.Join(bin, "halley"), "nats-config").Output()
	if err != nil {
		return nil, fmt.Errorf("halley nats-config: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "nats.conf"), configuration, 0o600); err != nil {
		return nil, err
	}
	address, err := process.Address()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	env := []string{"HALLEY_NATS_STORE=" + filepath.Join(dir, "nats")}
	for _, user := range []string{"PUSHCORE", "GATEWAY", "SENDER"} {
		env = append(env, "HALLEY_NATS_"+user+"_PASSWORD="+Password)
	}
	n := &NATS{URL: "nats://" + address}
	n.Process, err = process.Start(dir, "nats-server", env, filepath.Join(bin, "nats-server"), "-c", "nats.conf", "-p", port)
	if err != nil {
		return nil, err
	}
	if err := n.Await(ctx, process.Accepts(ctx, address)); err != nil {
		n.Stop()
		return nil, err
	}
	return n, nil
}

// Package crew runs the bench's own servers and clients in processes of their own, because a process may have only so many
// files, and because what a server costs is read from its process. They are the bench's program with a role on the command
// line, and are asked over their standard input and output (net/rpc).
package crew

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/halleypush/halley/bench/internal/process"
)

// Command is the word on the command line that is followed by a role.
const Command = "crew"

// service is the name under which each role's methods are found.
const service = "Role"

// stopWithin is how long a member may take to end.
const stopWithin = 10 * time.Second

// Member is a running process of the crew.
type Member struct {
	role   string
	cmd    *exec.Cmd
	client *rpc.Client
	stop   sync.Once
}

// Start starts a process with a role. The kernel ends it when the bench dies. Stop it.
func Start(role string) (*Member, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	m := &Member{role: role, cmd: exec.Command(self, Command, role)} //nolint:noctx // Stop ends it
	m.cmd.Stderr = os.Stderr
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	in, err := m.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := process.StartLocked(m.cmd); err != nil {
		return nil, fmt.Errorf("%s: %w", role, err)
	}
	m.client = rpc.NewClient(pipe{out, in})
	return m, nil
}

// Ask calls a method of the role and waits for its reply.
func (m *Member) Ask(ctx context.Context, method string, args, reply any) error {
	call := m.client.Go(service+"."+method, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		if call.Error != nil {
			return fmt.Errorf("%s: %s: %w", m.role, method, call.Error)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %s: %w", m.role, method, ctx.Err())
	}
}

// CPU returns the processor time that the member has had.
func (m *Member) CPU() (time.Duration, error) { return process.CPU(m.cmd.Process.Pid) }

// RSS returns the member's resident memory in bytes.
func (m *Member) RSS() (int64, error) { return process.RSS(m.cmd.Process.Pid) }

// Stop ends the process.
func (m *Member) Stop() {
	m.stop.Do(func() {
		_ = m.client.Close() // its input ends, and it with it
		late := time.AfterFunc(stopWithin, func() { _ = m.cmd.Process.Kill() })
		defer late.Stop()
		_ = m.cmd.Wait() // how it ended does not matter any more
	})
}

// Serve answers for a role until the input ends. The role's exported methods have net/rpc's form.
func Serve(role any) error {
	server := rpc.NewServer()
	if err := server.RegisterName(service, role); err != nil {
		return err
	}
	server.ServeConn(pipe{os.Stdin, os.Stdout})
	return nil
}

type pipe struct {
	io.ReadCloser
	io.WriteCloser
}

func (p pipe) Close() error { return errors.Join(p.WriteCloser.Close(), p.ReadCloser.Close()) }

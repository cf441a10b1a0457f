// Package process runs the programs that are measured, and reads what they cost.
package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of processor time in /proc; it is 100 Hz on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// Process is a running program.
type Process struct {
	Name  string
	pid   int
	ended chan struct{}
	err   error // once ended is closed
	log   string
}

// Start runs a program in a folder, with its output in <name>.log there. The kernel kills it when the bench dies.
func Start(dir, name string, env []string, path string, args ...string) (*Process, error) {
	p := &Process{Name: name, ended: make(chan struct{}), log: filepath.Join(dir, name+".log")}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.Command(path, args...) //nolint:noctx // Stop ends it
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Env = dir, log, log, append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := StartLocked(cmd); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	p.pid = cmd.Process.Pid
	return p, nil
}

// starter is the thread that starts processes. The signal that a process asks for, for when its parent dies, comes when the
// thread ends that started it, so this one never does.
var starter = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// StartLocked starts a command from a thread that stays for as long as this process, so that Pdeathsig means the process.
func StartLocked(cmd *exec.Cmd) error {
	failed := make(chan error)
	starter() <- func() { failed <- cmd.Start() }
	return <-failed
}

// Stop ends the process: politely, then, after a while, not.
func (p *Process) Stop() {
	_ = syscall.Kill(p.pid, syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
		<-p.ended
	}
}

// Await waits until a condition holds, and fails when the process ends or ctx does.
func (p *Process) Await(ctx context.Context, condition func() bool) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-p.ended:
			text, _ := os.ReadFile(p.log)
			return fmt.Errorf("%s ended: %w\n%s", p.Name, p.err, text[max(0, len(text)-4000):])
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", p.Name, ctx.Err())
		case <-ticker.C:
		}
	}
	return nil
}

// Ready is a condition: a URL answers 200.
func Ready(ctx context.Context, url string) func() bool {
	return func() bool {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return false
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	}
}

// Accepts is a condition: something listens on an address.
func Accepts(ctx context.Context, address string) func() bool {
	return func() bool {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}
}

// CPU returns the processor time that the process has had, in user space and in the kernel.
func (p *Process) CPU() (time.Duration, error) { return CPU(p.pid) }

// CPU returns the processor time that a process has had.
func CPU(pid int) (time.Duration, error) {
	// The kernel's clock of a process's processor time (clock_getcpuclockid), in nanoseconds; /proc has it in ticks of 10 ms.
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// Busy returns the processor time that the whole machine has spent on anything, also on other machines' account (steal).
func Busy() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(first)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, errors.New("/proc/stat is not what it was")
	}
	var total time.Duration
	for i, field := range fields[1:9] { // user nice system idle iowait irq softirq steal
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		if i != 3 && i != 4 {
			total += time.Duration(n) * tick
		}
	}
	return total, nil
}

// RSS returns the process's resident memory in bytes.
func (p *Process) RSS() (int64, error) { return RSS(p.pid) }

// RSS returns a process's resident memory in bytes.
func RSS(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, errors.New("/proc/<pid>/statm is not what it was")
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// PID returns the process's id.
func (p *Process) PID() int { return p.pid }

// Address returns a free address on loopback.
func Address() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

package rig

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startWithin bounds how long a process may take until it is ready.
const startWithin = time.Minute

// Process is a program that can be killed and started again. Its methods are for one goroutine.
type Process struct {
	// Name is that of its log file, without the ".log".
	Name string
	// Admin is host:port of /healthz, /readyz and /metrics; empty if it has none.
	Admin string

	path string
	args []string
	env  []string
	dir  string

	process *os.Process
	ended   chan struct{} // closed when the process is gone
	err     error         // how it ended, once ended is closed
}

// Start starts the process and returns when it is ready.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	p.Launch(t)
	if p.Admin != "" {
		p.AwaitReady(t)
	}
}

// Launch starts the process without waiting until it is ready.
func (p *Process) Launch(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(p.dir, p.Name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatalf("%s: log: %v", p.Name, err)
	}
	defer log.Close()
	if err := p.run(log); err != nil {
		t.Fatalf("%s: %v", p.Name, err)
	}
}

// run starts the process on a thread of its own that lives as long as it: the kernel kills the process when the thread dies, so
// that a test that is killed leaves nothing behind.
func (p *Process) run(log io.Writer) error {
	cmd := exec.Command(p.path, p.args...) //nolint:noctx // Kill and Stop end it
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Dir = p.dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ended, started := make(chan struct{}), make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(ended)
	}()
	if err := <-started; err != nil {
		return err
	}
	p.process, p.ended = cmd.Process, ended
	return nil
}

// Lines returns what all runs of the process have printed so far, on standard output and error, without a last line that is not whole.
func (p *Process) Lines(t testing.TB) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, p.Name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	var lines []string
	for scanner := bufio.NewScanner(bytes.NewReader(text)); scanner.Scan(); {
		lines = append(lines, scanner.Text())
	}
	return lines
}

// AwaitReady waits until /readyz says that the process is ready.
func (p *Process) AwaitReady(t testing.TB) {
	t.Helper()
	Until(t, startWithin, p.Name+" becomes ready", func() error {
		select {
		case <-p.ended:
			t.Fatalf("%s ended: %v", p.Name, p.err)
		default:
		}
		return p.Probe("/readyz")
	})
}

// Probe asks a path of the admin port; anything but 200 is an error with what was said.
func (p *Process) Probe(path string) error {
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get("http://" + p.Admin + path) //nolint:noctx // bounded by the client
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return err
}

// Metric returns what a counter or gauge stands at, that with a label such as `reason="peer"`.
func (p *Process) Metric(name, label string) (float64, error) {
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get("http://" + p.Admin + "/metrics") //nolint:noctx // bounded by the client
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	for scanner := bufio.NewScanner(response.Body); scanner.Scan(); {
		series, value, _ := strings.Cut(scanner.Text(), "} ")
		if strings.HasPrefix(series, name+"{") && strings.Contains(series, label) {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s with %s", p.Name, name, label)
}

// Signal sends a signal.
func (p *Process) Signal(t testing.TB, signal os.Signal) {
	t.Helper()
	if err := p.process.Signal(signal); err != nil {
		t.Fatalf("%s: signal: %v", p.Name, err)
	}
}

// Kill ends the process with SIGKILL and returns when it is gone.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	p.Signal(t, syscall.SIGKILL)
	_ = p.Ended(t, 10*time.Second) // it was killed
}

// Stop asks the process to end with SIGTERM and returns how long it took. Another exit code than 0 fails the test.
func (p *Process) Stop(t testing.TB, within time.Duration) time.Duration {
	t.Helper()
	begun := time.Now()
	p.Signal(t, syscall.SIGTERM)
	if err := p.Ended(t, within); err != nil {
		t.Errorf("%s: graceful stop: %v", p.Name, err)
	}
	return time.Since(begun)
}

// Ended waits until the process is gone, and returns how it ended.
func (p *Process) Ended(t testing.TB, within time.Duration) error {
	t.Helper()
	select {
	case <-p.ended:
		return p.err
	case <-time.After(within):
		t.Fatalf("%s: has not ended within %v", p.Name, within)
		return nil
	}
}

// end kills what is left of the process when the test is over.
func (p *Process) end() {
	if p.process == nil {
		return
	}
	if err := p.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return
	}
	<-p.ended
}

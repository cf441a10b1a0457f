package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// pollExit is how often an adopted postmaster, which is not our child, is looked at.
	pollExit = 100 * time.Millisecond
	// immediateWait bounds an immediate shutdown, which saves nothing; PostgreSQL itself kills its children after 5 s.
	immediateWait = 10 * time.Second
)

// postmaster is a running PostgreSQL server: its first process, the parent of all others.
type postmaster struct {
	process *os.Process
	exited  chan struct{} // closed when the process has ended
	reason  error         // how it ended, never nil; read after exited
}

// launched watches a child.
func launched(cmd *exec.Cmd) *postmaster {
	p := &postmaster{process: cmd.Process, exited: make(chan struct{})}
	go func() {
		if p.reason = cmd.Wait(); p.reason == nil {
			p.reason = errors.New("exit status 0")
		}
		close(p.exited)
	}()
	return p
}

// adopt returns the postmaster that a killed parent left running in dataDir and the arguments that it was started with, or
// nil if there is none. It believes the pid file only if that process is PostgreSQL, of this data folder and its owner.
func adopt(dataDir string, uid int) (*postmaster, []string, error) {
	pid, err := readPIDFile(dataDir)
	if pid == 0 || err != nil {
		return nil, nil, err
	}
	if pid < 0 { // PostgreSQL's mark for single user mode
		if _, found := procStat(-pid); found {
			return nil, nil, fmt.Errorf("%s is in use by a single user PostgreSQL, pid %d", dataDir, -pid)
		}
		return nil, nil, nil
	}
	// FindProcess holds on to this very process, so that a pid that is used again later gets no signal of ours.
	process, err := os.FindProcess(pid)
	if err != nil {
		return nil, nil, fmt.Errorf("find pid %d: %w", pid, err)
	}
	stat, found := procStat(pid)
	args, isOurs := postmasterArgs(pid, dataDir, uid)
	if !found || !isOurs {
		return nil, nil, process.Release()
	}
	p := &postmaster{process: process, exited: make(chan struct{}), reason: errors.New("unknown, it was adopted")}
	go func() {
		defer close(p.exited)
		tick := time.NewTicker(pollExit)
		defer tick.Stop()
		for range tick.C {
			if now, found := procStat(pid); !found || now.started != stat.started {
				return
			}
		}
	}()
	return p, args, nil
}

// readPIDFile returns the pid in postmaster.pid, 0 if there is none.
func readPIDFile(dataDir string) (int, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the pid file: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return 0, fmt.Errorf("%s/postmaster.pid does not begin with a pid: %w", dataDir, err)
	}
	return pid, nil
}

// disownPIDFile lets PostgreSQL start although the pid in its pid file, of a server that died, exists: as a zombie that
// nobody collects (containers), or as another program. PostgreSQL takes its own parent's pid for a leftover, so we write
// ours. The rest of the file stays, because it tells PostgreSQL whether children of the dead server still live.
func disownPIDFile(dataDir string) error {
	pid, err := readPIDFile(dataDir)
	if err != nil || pid <= 0 || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return err // a process that is gone PostgreSQL sees itself
	}
	if mayServe(pid, dataDir) {
		return fmt.Errorf("another PostgreSQL, pid %d, runs in %s", pid, dataDir)
	}
	path := filepath.Join(dataDir, "postmaster.pid")
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the pid file: %w", err)
	}
	_, rest, _ := bytes.Cut(text, []byte("\n"))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("renew the pid file: %w", err)
	}
	_, err = fmt.Fprintf(f, "%d\n%s", os.Getpid(), rest)
	return errors.Join(err, f.Close())
}

// mayServe tells whether a process can be a postmaster of dataDir, however it was started: whether it lives and is
// PostgreSQL, unless its command line names another folder.
func mayServe(pid int, dataDir string) bool {
	_, found := procStat(pid)
	argv := commandLine(pid)
	if !found || len(argv) == 0 || filepath.Base(argv[0]) != "postgres" {
		return false
	}
	return len(argv) < 3 || argv[1] != "-D" || argv[2] == dataDir
}

// postmasterArgs returns the arguments of a process if it is a postmaster of dataDir, started by us, that runs as uid.
func postmasterArgs(pid int, dataDir string, uid int) ([]string, bool) {
	info, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil || ownerOf(info) != uid {
		return nil, false
	}
	argv := commandLine(pid)
	if len(argv) < 3 || filepath.Base(argv[0]) != "postgres" || argv[1] != "-D" || argv[2] != dataDir {
		return nil, false
	}
	return argv[1:], true
}

// commandLine returns a process's arguments, none if it is gone. Like procStat it reads only what /proc shows to all: root
// in a container may not read the links (exe, cwd) of another user's process.
func commandLine(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

// processStat is what /proc tells of a process.
type processStat struct {
	parent  int
	started string // in clock ticks since boot: with the pid it names a process for good
}

// procStat reads /proc/<pid>/stat; false if there is no such process or it has ended and waits to be collected.
func procStat(pid int) (processStat, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processStat{}, false
	}
	// The name, in parentheses, may hold anything; what follows is: state, parent, ..., and the start as the 20th.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return processStat{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	return processStat{parent: parent, started: fields[19]}, err == nil
}

// stop shuts the server down: open transactions are rolled back, all is saved. When ctx ends first, it stops without
// saving, which the next start recovers from, and returns the context's error.
func (p *postmaster) stop(ctx context.Context) error {
	if err := p.signal(syscall.SIGINT); err != nil {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
	}
	if err := p.signal(syscall.SIGQUIT); err != nil {
		return err
	}
	slow := fmt.Errorf("PostgreSQL was stopped without saving, its next start recovers: %w", ctx.Err())
	select {
	case <-p.exited:
		return slow
	case <-time.After(immediateWait):
		return errors.Join(slow, p.kill())
	}
}

// kill ends the server and all its processes at once, and waits until the first has ended.
func (p *postmaster) kill() error {
	// A stopped parent makes no more children.
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	children, err := childrenOf(p.process.Pid)
	errs := []error{err, p.signal(syscall.SIGKILL)}
	for _, child := range children {
		errs = append(errs, signal(child, syscall.SIGKILL))
	}
	<-p.exited
	return errors.Join(errs...)
}

func (p *postmaster) signal(sig os.Signal) error { return signal(p.process, sig) }

// signal sends a signal; a process that has ended already is no error.
func signal(process *os.Process, sig os.Signal) error {
	if err := process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to pid %d: %w", sig, process.Pid, err)
	}
	return nil
}

// childrenOf returns the processes that pid started and that live. Each is in a session of its own, so no process group
// holds them together.
func childrenOf(pid int) ([]*os.Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var children []*os.Process
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if stat, found := procStat(child); !found || stat.parent != pid {
			continue
		}
		process, err := os.FindProcess(child)
		if err != nil {
			return nil, fmt.Errorf("find pid %d: %w", child, err)
		}
		children = append(children, process)
	}
	return children, nil
}

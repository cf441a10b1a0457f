package rig

import (
	"syscall"
	"testing"
	"time"
)

// Program is a client that nobody here wrote, run as a process. What it prints is read line by line.
type Program struct {
	*Process
}

// StartProgram starts a program in a folder, with further environment. It ends with the test.
func StartProgram(t testing.TB, dir, name string, env []string, path string, args ...string) *Program {
	t.Helper()
	p := &Program{&Process{Name: name, path: path, args: args, env: env, dir: dir}}
	t.Cleanup(p.end)
	p.Launch(t)
	return p
}

// Folder returns a new folder, which stays if the test fails.
func Folder(t testing.TB) string {
	t.Helper()
	return folder(t)
}

// Freeze stops the program where it is, as a phone that has lost its network without a word; Thaw lets it go on.
func (p *Program) Freeze(t testing.TB) {
	t.Helper()
	p.Signal(t, syscall.SIGSTOP)
}

// Thaw lets a frozen program go on.
func (p *Program) Thaw(t testing.TB) {
	t.Helper()
	p.Signal(t, syscall.SIGCONT)
}

// AwaitEnd waits until the program has ended by itself.
func (p *Program) AwaitEnd(t testing.TB, within time.Duration) {
	t.Helper()
	_ = p.Ended(t, within) // with whatever exit code: the test is about that it goes
}

// Package rig starts Halley for the end-to-end tests the way an operator does: the built binaries, with configuration files, on
// ports of this machine. Tests reach it through its public doors only.
//
// HALLEY_E2E_BIN names the folder with the binaries (`make e2e` sets it). Everything of a rig lies in one temporary folder,
// which is removed when the test passes; when it fails, the folder stays and the ends of the logs are shown.
package rig

import (
	"bytes"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Bin returns the path of a built binary.
func Bin(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("HALLEY_E2E_BIN")
	if dir == "" {
		t.Fatal("HALLEY_E2E_BIN is not set: run the end-to-end tests with `make e2e`")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("binary: %v", err)
	}
	return path
}

// folder makes the folder of a rig. PostgreSQL's own user may walk through it.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "halley-e2e-")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatalf("folder: %v", err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			if err := os.RemoveAll(dir); err != nil {
				t.Errorf("remove the rig's folder: %v", err)
			}
			return
		}
		logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
		for _, log := range logs {
			t.Logf("end of %s:\n%s", log, tail(log, 40))
		}
	})
	return dir
}

// tail returns the last lines of a file.
func tail(path string, lines int) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	from := len(text)
	for ; lines >= 0 && from > 0; lines-- {
		from = bytes.LastIndexByte(text[:from], '\n')
		if from < 0 {
			from = 0
		}
	}
	return text[from:]
}

var ports = struct {
	mu    sync.Mutex
	given map[int]bool
}{given: map[int]bool{}}

// Addr returns an address on 127.0.0.1 that nobody listens on. It lies below the kernel's ephemeral ports, so that no outgoing
// connection takes it while a killed process is away.
func Addr(t testing.TB) string {
	t.Helper()
	return AddrOn(t, "127.0.0.1")
}

// AddrOn returns such an address on another of this machine's.
func AddrOn(t testing.TB, host string) string {
	t.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	for range 1000 {
		port := 15000 + rand.IntN(17000)
		addr := net.JoinHostPort(host, strconv.Itoa(port))
		if ports.given[port] {
			continue
		}
		listener, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		_ = listener.Close()
		ports.given[port] = true
		return addr
	}
	t.Fatal("no free port")
	return ""
}

// Until polls a condition until it holds, and fails the test with what the condition said last if it does not in time.
func Until(t testing.TB, within time.Duration, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	pause := 5 * time.Millisecond
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%s: the test ended: %v", what, err)
		case <-time.After(pause):
		}
		pause = min(2*pause, 200*time.Millisecond)
	}
}

package rig

import (
	"bytes"
	"context"
	"os/exec"
	"testing"
	"time"
)

// Command runs a program to its end, within a minute, and returns what it printed. An exit code other than 0 fails the test.
func Command(t testing.TB, dir, path string, args ...string) []byte {
	t.Helper()
	var errors bytes.Buffer
	cmd, cancel := command(t, dir, path, args...)
	defer cancel()
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", path, args, err, errors.Bytes())
	}
	return out
}

// Try runs a program to its end, within a minute, and returns all that it printed, and how it ended.
func Try(t testing.TB, dir, path string, args ...string) ([]byte, error) {
	t.Helper()
	cmd, cancel := command(t, dir, path, args...)
	defer cancel()
	return cmd.CombinedOutput()
}

func command(t testing.TB, dir, path string, args ...string) (*exec.Cmd, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	return cmd, cancel
}

package pressure

import (
	"runtime/debug"
	"testing"
	"time"
)

// ballast keeps the compiler from seeing that nobody reads it.
var ballast []byte //nolint:gochecknoglobals // as said

func TestMemoryIsGivenBackWhenThereIsTime(t *testing.T) { //nolint:paralleltest // the heap is the process's
	// A cycle that happens to run while the garbage is still in use would count it as live.
	percent := debug.SetGCPercent(-1)
	t.Cleanup(func() { debug.SetGCPercent(percent) })
	r := newReleaser()
	release, released := r.release, 0
	r.release = func() { released++; release() }
	now := time.Now()
	garbage := func() {
		ballast = make([]byte, 64<<20)
		ballast = nil
	}
	garbage()
	if r.look(now, quiet+0.01, 0); released != 0 {
		t.Error("it is given back while there is other work")
	}
	if r.look(now, quiet, 1<<40); released != 0 {
		t.Error("it is given back though it is next to nothing")
	}
	if r.look(now, quiet, 0); released != 1 {
		t.Fatal("it is not given back")
	}
	if left := r.spare(); left > 32<<20 {
		t.Errorf("%d bytes are left to give back", left)
	}
	garbage()
	if r.look(now.Add(releaseEvery-1), quiet, 0); released != 1 {
		t.Error("it is given back too often")
	}
	if r.look(now.Add(releaseEvery), quiet, 0); released != 2 {
		t.Error("it is given back only once")
	}
	r.look(now.Add(2*releaseEvery), quiet, 0)
	if released != 2 {
		t.Error("it is given back though there is nothing")
	}
}

package gateway_test

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/halleypush/halley/services/gateway/gatewaytest"
)

func TestThreadsHaveShortSlices(t *testing.T) {
	t.Parallel()
	gatewaytest.Start(t, gatewaytest.Options{})
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	attributes, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := attributes.Runtime; attributes.Policy == unix.SCHED_NORMAL && got != 400_000 && got != 0 { // 0: older than Linux 6.12
		t.Errorf("this thread's slice has %d ns", got)
	}
}

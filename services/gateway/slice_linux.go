package gateway

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// slice is the time slice of the gateway's threads, in ns. With the kernel's own, 1.4 ms where there are two processors, a thread that a
// direct message wakes waits until whoever has the processor has had that much, and a loop that gives way loses as much of its share each
// time: four fifths of the rate of a broadcast are left while direct messages come (make bench-gateway RUN=mixed; Linux 6.18). With
// 0.1 ms broadcasts are faster still, but threads at work are interrupted so often that TLS handshakes cost a tenth more.
const slice = 400_000

// shortSlices asks the kernel for short slices for the threads of this process, and those that they start (sched_setattr(2);
// the kernel takes no notice before Linux 6.12). They get no more of the processors for it.
func shortSlices() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		attributes, err := unix.SchedGetAttr(id, 0)
		if err == nil {
			attributes.Runtime = slice
			err = unix.SchedSetAttr(id, attributes, 0)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
			return err
		}
	}
	return nil
}

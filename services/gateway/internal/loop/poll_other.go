//go:build !linux

package loop

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"time"
)

// poller only waits to be woken: without epoll every connection has a goroutine that reads it and wakes the loop. That is
// for development; Linux is what gateways run on.
type poller struct{ woken chan struct{} }

type ready struct {
	token                    uint64
	readable, writable, gone bool
}

const nativeSockets = false

var errNative = errors.New("not on this system")

func newPoller() (*poller, error) { return &poller{woken: make(chan struct{}, 1)}, nil }

func (p *poller) close() error                        { return nil }
func (p *poller) add(int, uint64, bool, bool) error   { return errNative }
func (p *poller) watch(int, uint64, bool, bool) error { return errNative }
func (p *poller) remove(int) error                    { return errNative }

func (p *poller) wait(out []ready, timeout time.Duration) ([]ready, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.woken:
	case <-timer.C:
	}
	return out, nil
}

func yield() { runtime.Gosched() }

func (p *poller) wake() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

func listenNative(string, int, time.Duration) ([]int, netip.AddrPort, error) {
	return nil, netip.AddrPort{}, errNative
}

func setUp(int, time.Duration) error { return nil }

func acceptNative(int) (int, netip.Addr, bool, error) {
	return -1, netip.Addr{}, false, errNative
}
func detach(net.Conn) (int32, error)            { return none, errNative }
func readNative(int, []byte) (int, bool, error) { return 0, true, errNative }
func writeNative(int, []byte) (int, error)      { return 0, errNative }
func acknowledgeNative(int)                     {}
func shutdownNative(int)                        {}
func closeNative(int)                           {}
func probeNative(int)                           {}

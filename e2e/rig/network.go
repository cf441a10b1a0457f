package rig

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Network is a network that phones are in: a namespace of the kernel for them, and one for the router between them and this machine.
// What a router loses, neither end's kernel hears of, which no relay can imitate: that of a Link acknowledges what it then keeps.
//
//	this machine, Host --- router --- phones
//
// Only root may make one. The namespaces belong to the test's process, and end with it, however it ends.
type Network struct {
	// Host is this machine's address there, which the phones reach; also that of another Network's machine.
	Host string

	router, phones namespace
}

// networks are where the addresses of networks come from: those that are set aside for tests of networks (RFC 2544).
const networks = 198<<24 | 18<<16

// NewNetwork makes a network, whole. It ends with the test.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	home, err := here()
	if err != nil {
		t.Fatal(err)
	}
	defer home.file.Close()
	n := &Network{router: newNamespace(t), phones: newNamespace(t)}
	first := networks | rand.Uint32N(1<<14)<<3 // eight addresses
	address := func(i uint32) string {
		return net.IPv4(byte((first+i)>>24), byte((first+i)>>16), byte((first+i)>>8), byte(first+i)).String()
	}
	n.Host = address(1)
	name := fmt.Sprintf("hly%x", first&0xffffff)
	// The interface of this machine goes with the router's, which it is a pair with.
	n.router.ip(t, "link add north type veth peer name "+name+" netns "+home.path())
	ip(t, "addr add "+n.Host+"/30 dev "+name, "link set "+name+" up", "route add "+address(4)+"/30 via "+address(2))
	n.router.ip(t, "addr add "+address(2)+"/30 dev north", "link set north up", "route add default via "+n.Host,
		"link add south type veth peer name wlan netns "+n.phones.path(), "addr add "+address(5)+"/30 dev south", "link set south up")
	n.phones.ip(t, "addr add "+address(6)+"/30 dev wlan", "link set wlan up", "route add default via "+address(5))
	n.forward(t, "1")
	return n
}

// Cut has the router lose every packet, without a word.
func (n *Network) Cut(t testing.TB) {
	t.Helper()
	n.forward(t, "0")
}

// Mend has it forward again.
func (n *Network) Mend(t testing.TB) {
	t.Helper()
	n.forward(t, "1")
}

func (n *Network) forward(t testing.TB, whether string) {
	t.Helper()
	if err := n.router.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(whether), 0) }); err != nil {
		t.Fatalf("router: %v", err)
	}
}

// Dial opens a connection from where the phones are.
func (n *Network) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	inside := n.phones.do(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, inside
}

// namespace is a network namespace: its file in /proc, which keeps it.
type namespace struct{ file *os.File }

// here returns the namespace of the thread that calls it.
func here() (namespace, error) {
	file, err := os.Open("/proc/thread-self/ns/net")
	return namespace{file}, err
}

func newNamespace(t testing.TB) namespace {
	t.Helper()
	var n namespace
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		n, err = here()
		return err
	})
	if errors.Is(err, os.ErrPermission) {
		err = fmt.Errorf("%w: the tests of networks run as root", err)
	}
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = n.file.Close() })
	return n
}

// path is where programs find the namespace.
func (n namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// do runs f in the namespace; what it opens and starts belongs there.
func (n namespace) do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

func (n namespace) ip(t testing.TB, commands ...string) {
	t.Helper()
	if err := n.do(func() error { return runIP(commands) }); err != nil {
		t.Fatal(err)
	}
}

func ip(t testing.TB, commands ...string) {
	t.Helper()
	if err := runIP(commands); err != nil {
		t.Fatal(err)
	}
}

// runIP runs the program `ip`, which Debian keeps where an ordinary user's PATH may not look, for each command.
func runIP(commands []string) error {
	for _, command := range commands {
		cmd := exec.Command("/sbin/ip", strings.Fields(command)...) //nolint:noctx // it does not wait for anything
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", command, err, out)
		}
	}
	return nil
}

// onThread runs f on a thread of its own that ends with it, so that nothing else comes to run where f has gone.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

package doctor_test

import (
	"net"
	"testing"

	"github.com/halleypush/halley/services/pushcore/doctor"
	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

// listener returns one that takes connections and says nothing, until the test ends.
func listener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// nobody returns an address at which nobody listens, and nobody can until the test ends: a connection comes from there.
func nobody(t *testing.T) string {
	t.Helper()
	conn, err := net.Dial("tcp", listener(t).Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.LocalAddr().String()
}

func TestAddressesOfAPushcore(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	c := configOf(t, core.Site)
	c.HTTP, c.Telemetry.Listen = core.HTTP, core.Admin
	want(t, examine(t, c), "addresses", doctor.OK, "a pushcore listens at "+core.HTTP)
	c.HTTP = nobody(t)
	found := examine(t, c)
	want(t, found, "addresses", doctor.Failed, "nothing listens at "+c.HTTP)
	want(t, found, "addresses", doctor.Failed, "HALLEY_HTTP")
}

func TestAddressesForAPushcore(t *testing.T) {
	t.Parallel()
	c := configOf(t, pushcoretest.NewSite(t))
	c.Telemetry.Listen = nobody(t)
	want(t, examine(t, c), "addresses", doctor.OK, "free for one: "+c.Telemetry.Listen)
	c.GRPC = listener(t).Addr().String()
	found := examine(t, c)
	want(t, found, "addresses", doctor.Failed, c.GRPC+" is taken")
	want(t, found, "addresses", doctor.Failed, "HALLEY_GRPC")
}

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

func TestAddressesOfAPushcore(t *testing.T) {
	t.Parallel()
	core := pushcoretest.Start(t)
	c := configOf(t, core.Site)
	gone := listener(t)
	c.HTTP, c.Telemetry.Listen = core.HTTP, core.Admin
	want(t, examine(t, c), "addresses", doctor.OK, "a pushcore listens at "+core.HTTP)
	_ = gone.Close() // now nothing listens there
	c.HTTP = gone.Addr().String()
	found := examine(t, c)
	want(t, found, "addresses", doctor.Failed, "nothing listens at "+c.HTTP)
	want(t, found, "addresses", doctor.Failed, "HALLEY_HTTP")
}

func TestAddressesForAPushcore(t *testing.T) {
	t.Parallel()
	c := configOf(t, pushcoretest.NewSite(t))
	gone, other := listener(t), listener(t)
	_ = gone.Close() // now it is free
	c.Telemetry.Listen = gone.Addr().String()
	want(t, examine(t, c), "addresses", doctor.OK, "free for one: "+c.Telemetry.Listen)
	c.GRPC = other.Addr().String()
	found := examine(t, c)
	want(t, found, "addresses", doctor.Failed, c.GRPC+" is taken")
	want(t, found, "addresses", doctor.Failed, "HALLEY_GRPC")
}

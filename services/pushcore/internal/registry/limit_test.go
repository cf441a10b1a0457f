package registry

import (
	"slices"
	"testing"

	adminv1 "github.com/halleypush/halley/proto/halley/admin/v1"
	"github.com/halleypush/halley/services/pushcore/internal/fault"
)

func TestRegistrationLimitsAreByAppAddressAndNetwork(t *testing.T) {
	t.Parallel()
	app := func(no, all, address, network uint32) *App {
		return &App{No: no, Settings: &adminv1.Settings{
			RegistrationsPerMinute: all, RegistrationsPerMinuteAddress: address, RegistrationsPerMinuteNetwork: network,
		}}
	}
	for name, c := range map[string]struct {
		app *App
		ips []string // the last one is refused, all others are not
	}{
		"address":               {app(1, 100, 2, 100), []string{"10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.1"}},
		"network of 256":        {app(2, 100, 100, 2), []string{"10.0.0.1", "10.0.1.1", "10.0.0.2", "10.0.0.3"}},
		"IPv6 network of a /48": {app(3, 100, 100, 2), []string{"2001:db8:1::1", "2001:db8:2::1", "2001:db8:1:9::2", "2001:db8:1:8::3"}},
		"an IPv4 address as IPv6": {
			app(4, 100, 1, 100), []string{"10.0.0.1", "::ffff:10.0.0.1"},
		},
		"app":        {app(5, 2, 100, 100), []string{"10.0.0.1", "10.1.0.1", "10.2.0.1"}},
		"no address": {app(6, 2, 1, 1), []string{"", "", ""}},
	} {
		l := newLimits()
		for i, ip := range c.ips {
			err := l.allow(c.app, ip)
			if last := i == len(c.ips)-1; fault.Is(err, "TOO_MANY_REGISTRATIONS") != last {
				t.Errorf("%s: registration %d from %q: %v", name, i, ip, err)
			}
		}
	}
}

func TestLocksOfUsersAreTakenInOneOrderEachOnce(t *testing.T) {
	t.Parallel()
	names := []string{"alice", "bob", "carol", "alice", "dave"}
	forward := LockKeys(7, names)
	slices.Reverse(names)
	if !slices.IsSorted(forward) || !slices.Equal(forward, LockKeys(7, names)) || len(forward) > 4 {
		t.Errorf("%v, %v", forward, LockKeys(7, names))
	}
	if slices.Equal(forward, LockKeys(8, names)) {
		t.Error("two apps share their locks")
	}
}

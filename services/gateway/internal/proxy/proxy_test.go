package proxy_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/halleypush/halley/services/gateway/internal/proxy"
)

const (
	sign = "\r\n\r\n\x00\r\nQUIT\n"
	v4   = sign + "\x21\x11\x00\x0C" + "\xC0\x00\x02\x01" + "\x0A\x00\x00\x01" + "\xD4\x31\x07\x5B"
	v6   = sign + "\x21\x21\x00\x24" + "\x20\x01\x0D\xB8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" + "0123456789ABCDEF" + "\xD4\x31\x07\x5B"
)

func TestHeaders(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		data string
		want string // the client; empty: none
		used int
	}{
		"IPv4":                  {v4, "192.0.2.1", len(v4)},
		"IPv6":                  {v6, "2001:db8::7", len(v6)},
		"IPv4 in IPv6":          {sign + "\x21\x21\x00\x24" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xFF\xFF\xC0\x00\x02\x01" + strings.Repeat("x", 20), "192.0.2.1", 52},
		"more than addresses":   {sign + "\x21\x11\x00\x10" + v4[16:] + "\x04\x00\x01\x00", "192.0.2.1", len(v4) + 4},
		"with bytes behind":     {v4 + "\x10\x0C", "192.0.2.1", len(v4)},
		"a health check":        {sign + "\x20\x00\x00\x00", "", 16},
		"a health check, IPv4":  {sign + "\x20\x11\x00\x0C" + v4[16:], "", len(v4)},
		"a socket of a machine": {sign + "\x21\x31\x00\xD8" + strings.Repeat("x", 216), "", 16 + 216},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, used, err := proxy.Parse([]byte(c.data))
			if err != nil || used != c.used || client.IsValid() != (c.want != "") || client.IsValid() && client.String() != c.want {
				t.Errorf("%v, %d bytes, %v", client, used, err)
			}
			for n := range c.used {
				if _, used, err := proxy.Parse([]byte(c.data[:n])); used != 0 || err != nil {
					t.Fatalf("its first %d bytes: %d used, %v", n, used, err)
				}
			}
		})
	}
}

func TestWhatIsNoHeaderIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"MQTT": "\x10", "TLS": "\x16\x03\x01", "HTTP": "GET /mqtt", "version 1": "PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
		"another version": sign + "\x31\x11\x00\x0C", "another command": sign + "\x22\x11\x00\x0C", "very long": sign + "\x21\x11\x10\x01",
		"no room for IPv4": sign + "\x21\x11\x00\x0B" + v4[16:27], "no room for IPv6": sign + "\x21\x21\x00\x0C" + v4[16:],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, _, err := proxy.Parse([]byte(data)); !errors.Is(err, proxy.ErrHeader) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestNetworks(t *testing.T) {
	t.Parallel()
	networks, err := proxy.ParseNetworks([]string{"10.0.0.0/8", "2001:db8::1"})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{"10.1.2.3": true, "11.0.0.1": false, "2001:db8::1": true, "2001:db8::2": false} {
		if networks.Contain(netip.MustParseAddr(address)) != want {
			t.Errorf("%s: %v", address, !want)
		}
	}
	if networks.Contain(netip.Addr{}) {
		t.Error("an unknown address is believed")
	}
	if _, err := proxy.ParseNetworks([]string{"balancer"}); err == nil {
		t.Error("a name is taken for a network")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{v4, v6, sign, "PROXY", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, used, err := proxy.Parse(data)
		if used < 0 || used > len(data) || used > 0 && err != nil {
			t.Errorf("%d of %d bytes used, %v", used, len(data), err)
		}
	})
}

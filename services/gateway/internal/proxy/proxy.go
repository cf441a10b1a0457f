// Package proxy reads the header that a balancer puts before a connection's bytes to say who the client is: version 2 of the
// PROXY protocol (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt). Version 1, the text form, is refused.
package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

const (
	// Fixed is the length of what every header begins with: signature, version and command, family, length of the rest.
	Fixed = 16
	// maxRest bounds the rest, in bytes: addresses, and what else a balancer says (which is skipped).
	maxRest = 4096
)

// signature begins every header. It is no beginning of MQTT, TLS or HTTP.
var signature = []byte("\r\n\r\n\x00\r\nQUIT\n")

// ErrHeader means that the bytes do not begin with a header of version 2.
var ErrHeader = errors.New("no PROXY header of version 2")

// Networks are the balancers' addresses: only they are believed.
type Networks []netip.Prefix

// ParseNetworks reads networks such as 10.0.0.0/8, or single addresses.
func ParseNetworks(texts []string) (Networks, error) {
	networks := make(Networks, 0, len(texts))
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			address, wrong := netip.ParseAddr(text)
			if wrong != nil {
				return nil, fmt.Errorf("%q is neither a network nor an address", text)
			}
			prefix = netip.PrefixFrom(address, address.BitLen())
		}
		networks = append(networks, prefix.Masked())
	}
	return networks, nil
}

// Contain reports whether an address belongs to a balancer.
func (n Networks) Contain(address netip.Addr) bool {
	for _, prefix := range n {
		if prefix.Contains(address) {
			return true
		}
	}
	return false
}

// Parse reads the header that data begins with. It returns the client's address, invalid if the balancer speaks for itself (a
// health check) or does not say, and the header's length; 0 while data is only its beginning.
func Parse(data []byte) (client netip.Addr, used int, err error) {
	if begin := min(len(data), len(signature)); !bytes.Equal(data[:begin], signature[:begin]) {
		return client, 0, ErrHeader
	}
	if len(data) < Fixed {
		return client, 0, nil
	}
	version, command, family := data[12]>>4, data[12]&0xF, data[13]>>4
	length := Rest(data)
	if version != 2 || command > 1 || length > maxRest {
		return client, 0, ErrHeader
	}
	if len(data) < Fixed+length {
		return client, 0, nil
	}
	rest := data[Fixed : Fixed+length]
	if command == 1 {
		switch {
		case family == 1 && length >= 12:
			client = netip.AddrFrom4([4]byte(rest))
		case family == 2 && length >= 36:
			client = netip.AddrFrom16([16]byte(rest)).Unmap()
		case family == 1 || family == 2:
			return client, 0, ErrHeader
		}
	}
	return client, Fixed + length, nil
}

// Rest returns how long the rest of a header is, by what it begins with: Fixed bytes.
func Rest(data []byte) int { return int(binary.BigEndian.Uint16(data[14:])) }

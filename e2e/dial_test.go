package e2e_test

import (
	"context"
	"net"
)

// dialer opens a TCP connection.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// home returns a dialer that connects to the first of these addresses that accepts.
func home(addresses ...string) dialer {
	return func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
		var d net.Dialer
		for _, address := range addresses {
			if conn, err = d.DialContext(ctx, network, address); err == nil {
				return conn, nil
			}
		}
		return nil, err
	}
}

package doctor

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// metricsMost bounds what is read of a service's metrics.
const metricsMost = 16 << 20

// addresses looks at where the pushcore of this machine listens, or could if none runs. Ports that are free to choose (0) are passed
// over.
func (e *examination) addresses(ctx context.Context) {
	const check = "addresses"
	c := e.config
	if free(c.Telemetry.Listen) {
		return // whether a pushcore runs here cannot be told
	}
	runs := isPushcore(ctx, c.Telemetry.Listen)
	var good []string
	for _, a := range []struct{ key, env, address string }{
		{"http", "HALLEY_HTTP", c.HTTP},
		{"grpc", "HALLEY_GRPC", c.GRPC},
		{"internal", "HALLEY_INTERNAL", c.Internal},
		{"telemetry.listen", "HALLEY_TELEMETRY_LISTEN", c.Telemetry.Listen},
	} {
		taken := isTaken(ctx, a.address)
		switch {
		case free(a.address):
		case taken && !runs:
			e.failed(check, fmt.Sprintf("%s is taken, and not by a pushcore", a.address),
				fmt.Sprintf("stop what listens there, or set %s (%s) to another address", a.key, a.env))
		case runs && !taken:
			e.failed(check, fmt.Sprintf("a pushcore runs here, but nothing listens at %s", a.address),
				fmt.Sprintf("set %s (%s) to what that pushcore was started with, or restart it", a.key, a.env))
		default:
			good = append(good, a.address)
		}
	}
	switch {
	case len(good) == 0:
	case runs:
		e.ok(check, "a pushcore listens at %s", strings.Join(good, ", "))
	default:
		e.ok(check, "no pushcore runs here; free for one: %s", strings.Join(good, ", "))
	}
}

// free reports whether an address leaves the choice of the port to the system.
func free(address string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && (port == "0" || port == "")
}

// isTaken reports whether something listens at an address of this machine.
func isTaken(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was said
	return true
}

// isPushcore reports whether the metrics at an address are a pushcore's.
func isPushcore(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if host, port, err := net.SplitHostPort(address); err == nil && host == "" {
		address = net.JoinHostPort("localhost", port)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	metrics, err := io.ReadAll(io.LimitReader(response.Body, metricsMost))
	return err == nil && bytes.Contains(metrics, []byte(`halley_build_info{service="pushcore"`))
}

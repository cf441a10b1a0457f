package peer

import (
	"crypto/tls"
	"net"

	"github.com/halleypush/halley/bench/internal/crew"
)

// RoleSecure is the role of a process that speaks TLS as Go's programs do: crypto/tls, a goroutine per connection.
const RoleSecure = "crypto/tls"

// Secure is what that process does.
type Secure struct{}

// ServeSecure answers for the role until the input ends.
func ServeSecure() error { return crew.Serve(Secure{}) }

// SecureServer says how to listen.
type SecureServer struct {
	Certificate, Key []byte // PEM
	// Welcome answers a client's first record.
	Welcome []byte
}

// Listen starts the server.
func (Secure) Listen(s SecureServer, address *string) error {
	certificate, err := tls.X509KeyPair(s.Certificate, s.Key)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	*address = listener.Addr().String()
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				panic(err) // there is nothing to measure any more
			}
			go serve(tls.Server(conn, config), s.Welcome)
		}
	}()
	return nil
}

// serve answers what a client says first, then reads with a small buffer until it goes.
func serve(conn *tls.Conn, welcome []byte) {
	defer conn.Close()
	buf := make([]byte, 512)
	if _, err := conn.Read(buf); err != nil {
		return
	}
	if _, err := conn.Write(welcome); err != nil {
		return
	}
	for {
		if _, err := conn.Read(buf); err != nil {
			return
		}
	}
}

package swarm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// handshakes is how many TLS clients connect at a time.
	handshakes = 16
	// serverName is who the certificate is for.
	serverName = "localhost"
)

// Secure is a number of clients that are connected over TLS 1.3 and idle.
type Secure struct{ conns []*tls.Conn }

// ConnectSecure connects clients that trust the certificate's authority, and leaves them idle: what comes is not read.
func ConnectSecure(ctx context.Context, o Options, certificate []byte, p Protocol) (*Secure, error) {
	config, err := clientConfig(certificate)
	if err != nil {
		return nil, err
	}
	s := &Secure{conns: make([]*tls.Conn, p.Clients())}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(handshakes)
	for i := range s.conns {
		group.Go(func() (err error) {
			if s.conns[i], err = dial(ctx, o.Address, [4]byte{127, o.From, byte(i / fromEach), 1}, config); err != nil {
				return fmt.Errorf("client %d: %w", i, err)
			}
			if err := greet(s.conns[i], p, i); err != nil {
				return fmt.Errorf("client %d: %w", i, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close closes the connections.
func (s *Secure) Close() {
	for _, conn := range s.conns {
		if conn != nil {
			_ = conn.NetConn().Close() // without a farewell, as phones do
		}
	}
}

func clientConfig(certificate []byte) (*tls.Config, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(certificate) {
		return nil, errors.New("no certificate")
	}
	return &tls.Config{
		RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519},
	}, nil
}

func dial(ctx context.Context, address string, from [4]byte, config *tls.Config) (*tls.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from[:]}, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
	}}
	raw, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return conn, nil
}

// greet says hello and reads until the client is ready.
func greet(conn *tls.Conn, p Protocol, i int) error {
	if _, err := conn.Write(p.Hello(i)); err != nil {
		return err
	}
	var data []byte
	for buf := make([]byte, 4096); ; {
		packet, err := p.Take(data)
		if err != nil || packet.Kind == Ready {
			return err
		}
		if data = data[packet.Used:]; packet.Used > 0 {
			continue
		}
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		data = append(data, buf[:n]...)
	}
}

// Shake makes TLS connections, count in all. Each takes its leave at once (close_notify) and reads until the server has done so, too, so
// that the server is through with the handshake and has read a record. It returns how many were resumed.
func Shake(ctx context.Context, address string, certificate []byte, count int, resume bool) (resumed int, err error) {
	config, err := clientConfig(certificate)
	if err != nil {
		return 0, err
	}
	if resume {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		if _, err := shake(ctx, address, config); err != nil { // for the first ticket
			return 0, err
		}
	}
	var total atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(handshakes)
	for range count {
		group.Go(func() error {
			again, err := shake(ctx, address, config)
			if again {
				total.Add(1)
			}
			return err
		})
	}
	err = group.Wait()
	return int(total.Load()), err
}

func shake(ctx context.Context, address string, config *tls.Config) (resumed bool, err error) {
	conn, err := dial(ctx, address, [4]byte{127, 0, 2, 1}, config)
	if err != nil {
		return false, err
	}
	defer conn.NetConn().Close()
	if err := conn.CloseWrite(); err != nil {
		return false, err
	}
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) {
		return false, err
	}
	return conn.ConnectionState().DidResume, nil
}

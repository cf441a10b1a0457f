// Package tlsconfig makes the TLS settings of servers and clients from files, and follows the files when they change.
package tlsconfig

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// lookEvery bounds how often a certificate's file is looked at.
const lookEvery = time.Second

// Pair is a certificate's file and that of its key.
type Pair struct{ Cert, Key string }

// Events tell of certificates that are followed; nil functions are not called. They are called during a handshake and must not block.
type Events struct {
	// Loaded is called for each certificate that is served from now on, the first ones, too.
	Loaded func(p Pair, expires time.Time)
	// Failed is called once for each change of the files after which they do not make a certificate; the one before is served on.
	Failed func(p Pair, err error)
}

// Server returns the settings of a server with a certificate; if clientCA is not empty, every client must show a certificate
// that one of those in the file has signed. It returns nil for no certificate at all: plain text. A certificate whose file
// changes is used within seconds, without a restart; one that cannot be read leaves the one before.
func Server(cert, key, clientCA string) (*tls.Config, error) {
	if cert == "" {
		return nil, nil
	}
	config, err := ServerNames(Events{}, Pair{cert, key})
	if err != nil {
		return nil, err
	}
	if clientCA != "" {
		pool, err := certificates(clientCA)
		if err != nil {
			return nil, err
		}
		config.ClientCAs, config.ClientAuth = pool, tls.RequireAndVerifyClientCert
	}
	return config, nil
}

// ServerNames returns the settings of a server with several certificates, which are followed in the same way. A client gets the
// first one that fits the name it asks for and the signatures it knows; the very first one if none does, or if it asks for none.
func ServerNames(events Events, pairs ...Pair) (*tls.Config, error) {
	var followers []*follower
	for _, p := range pairs {
		follow := &follower{Pair: p, events: events}
		if _, err := follow.get(); err != nil {
			return nil, err
		}
		followers = append(followers, follow)
	}
	if len(followers) == 0 {
		return nil, errors.New("a server needs a certificate")
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return choose(followers, hello) },
	}, nil
}

func choose(followers []*follower, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if len(followers) > 1 {
		for _, f := range followers {
			if c, err := f.get(); err == nil && hello.SupportsCertificate(c) == nil {
				return c, nil
			}
		}
	}
	return followers[0].get()
}

// Client returns the settings of a client that believes servers whose certificate one of those in the file ca has signed (the
// system's, if it is empty), and shows a certificate of its own if cert is not empty.
func Client(ca, cert, key string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pool, err := certificates(ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = pool
	}
	if cert != "" {
		follow := &follower{Pair: Pair{cert, key}}
		if _, err := follow.get(); err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return follow.get() }
	}
	return config, nil
}

func certificates(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New(path + " holds no certificate")
	}
	return pool, nil
}

// follower is a certificate that follows its files.
type follower struct {
	Pair
	events Events

	mu     sync.Mutex
	loaded *tls.Certificate // guarded by mu
	seen   [2]stamp         // guarded by mu: of the files when they were last read
	looked time.Time        // guarded by mu
}

// stamp changes with a file; zero for one that is not there.
type stamp struct {
	written time.Time
	size    int64
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info.ModTime(), info.Size()}
}

func (f *follower) get() (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.loaded != nil && time.Since(f.looked) < lookEvery {
		return f.loaded, nil
	}
	f.looked = time.Now()
	now := [2]stamp{stampOf(f.Cert), stampOf(f.Key)}
	if f.loaded != nil && now == f.seen {
		return f.loaded, nil
	}
	f.seen = now
	fresh, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	switch {
	case err == nil:
		f.loaded = &fresh
		if f.events.Loaded != nil {
			f.events.Loaded(f.Pair, fresh.Leaf.NotAfter)
		}
	case f.loaded == nil:
		return nil, fmt.Errorf("load certificate: %w", err)
	case f.events.Failed != nil:
		f.events.Failed(f.Pair, err)
	}
	return f.loaded, nil
}

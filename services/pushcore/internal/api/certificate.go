package api

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// lookEvery bounds how often the certificate file is looked at.
const lookEvery = 10 * time.Second

// certificate is a certificate that follows its file.
type certificate struct {
	cert, key string

	mu      sync.Mutex
	loaded  *tls.Certificate // guarded by mu
	written time.Time        // guarded by mu: of the loaded file
	looked  time.Time        // guarded by mu
}

// get returns the certificate; the one before if the new file cannot be read.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.loaded != nil && time.Since(c.looked) < lookEvery {
		return c.loaded, nil
	}
	c.looked = time.Now()
	info, err := os.Stat(c.cert)
	if err == nil && c.loaded != nil && info.ModTime().Equal(c.written) {
		return c.loaded, nil
	}
	fresh, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		if c.loaded != nil {
			return c.loaded, nil
		}
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	c.loaded = &fresh
	if info != nil {
		c.written = info.ModTime()
	}
	return c.loaded, nil
}

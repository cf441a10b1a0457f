// Package site is the data folder of a Halley that runs in one process: its secrets, keys and certificates, made at the first
// start and kept.
package site

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/halleypush/halley/pkg/config"
)

// Site is a data folder that this process holds.
type Site struct {
	// Dir is the folder, an absolute path.
	Dir     string
	Secrets Secrets
	lock    *os.File
}

// Secrets are what the parts of the process show to each other, and the admin token.
type Secrets struct {
	AdminToken   config.Secret
	ServiceToken config.Secret
	NATS         map[string]config.Secret
}

// stored is how secrets are written: config.Secret would hide itself.
type stored struct {
	AdminToken   string            `json:"admin_token"`
	ServiceToken string            `json:"service_token"`
	NATS         map[string]string `json:"nats"`
}

// natsUsers are the users of nats.conf.
var natsUsers = []string{"pushcore", "gateway", "sender"}

// ErrHeld means that another process runs in the folder.
var ErrHeld = errors.New("another halley runs in this data folder")

// Open takes a data folder, and makes it and its secrets if it is new. It fails with ErrHeld if another process has it.
func Open(dir string) (*Site, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	// PostgreSQL's own user must be able to walk through to its part; what is secret has mode 0600.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrHeld, dir), lock.Close())
	}
	s := &Site{Dir: dir, lock: lock}
	if s.Secrets, err = openSecrets(s.Path("secrets.json")); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// Close lets another process have the folder.
func (s *Site) Close() error { return s.lock.Close() }

// Path returns the path of a file in the folder.
func (s *Site) Path(name string) string { return filepath.Join(s.Dir, name) }

func openSecrets(path string) (Secrets, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if content, err = newSecrets(); err == nil {
			err = WriteFile(path, content)
		}
	}
	if err != nil {
		return Secrets{}, fmt.Errorf("secrets: %w", err)
	}
	var f stored
	if err := json.Unmarshal(content, &f); err != nil {
		return Secrets{}, fmt.Errorf("secrets: %s: %w", path, err)
	}
	s := Secrets{
		AdminToken: config.Secret(f.AdminToken), ServiceToken: config.Secret(f.ServiceToken), NATS: map[string]config.Secret{},
	}
	for user, password := range f.NATS {
		s.NATS[user] = config.Secret(password)
	}
	return s, nil
}

func newSecrets() ([]byte, error) {
	f := stored{AdminToken: "ak_" + random(), ServiceToken: random(), NATS: map[string]string{}}
	for _, user := range natsUsers {
		f.NATS[user] = random()
	}
	return json.MarshalIndent(f, "", "  ")
}

func random() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// WriteFile writes a private file (mode 0600) at once: a crash leaves the old one or the new one.
func WriteFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

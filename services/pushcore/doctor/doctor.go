// Package doctor examines what a pushcore stands on: its configuration, keys, certificates, PostgreSQL and NATS. It changes
// nothing there.
package doctor

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/halleypush/halley/services/pushcore"
	"github.com/halleypush/halley/services/pushcore/internal/keyring"
)

// Level is how bad a finding is.
type Level string

// The levels.
const (
	OK      Level = "ok"
	Warning Level = "warning" // it works, but not for long, or not as well as it could
	Failed  Level = "failed"  // it does not work
)

// Finding is what one check has found.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	Text  string `json:"text"`
	// Do is what to do about it, empty if that is nothing.
	Do string `json:"do,omitempty"`
}

// patience bounds each connection, and each of what is asked over it.
const patience = 10 * time.Second

// Examine checks everything, tells each finding as it is made, and returns the vendor channels that apps have credentials for.
// Each check that cannot be made is a finding, too.
func Examine(ctx context.Context, c *pushcore.Config, tell func(Finding)) (channels []string) {
	e := &examination{config: c, tell: tell}
	if err := c.Validate(); err != nil {
		e.failed("configuration", err.Error(), "correct the configuration; pushcore -h lists its keys")
	} else {
		e.ok("configuration", "complete")
	}
	ring := e.keys()
	e.certificates()
	e.addresses(ctx)
	e.postgres(ctx, ring)
	e.nats(ctx)
	return e.channels
}

type examination struct {
	config   *pushcore.Config
	tell     func(Finding)
	channels []string
}

func (e *examination) ok(check, format string, args ...any) {
	e.tell(Finding{Check: check, Level: OK, Text: fmt.Sprintf(format, args...)})
}

func (e *examination) warn(check, text, do string) {
	e.tell(Finding{Check: check, Level: Warning, Text: text, Do: do})
}

func (e *examination) failed(check, text, do string) {
	e.tell(Finding{Check: check, Level: Failed, Text: text, Do: do})
}

// keys reads the key file. It returns nil if it cannot be used.
func (e *examination) keys() *keyring.Ring {
	const check = "keys"
	path := e.config.KeyFile
	ring, err := keyring.Load(path)
	if err != nil {
		e.failed(check, err.Error(), "put the key file of this installation back as "+path+": no device can come back with another one. Only a new installation makes one: halley keyring "+path)
		return nil
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o007 != 0 {
		e.warn(check, fmt.Sprintf("%s can be read by everybody on this machine (%v)", path, info.Mode().Perm()), "chmod o-rwx "+path)
	}
	e.ok(check, "new tokens are made with key %c, secrets are encrypted with key %d", ring.Letter(), ring.SealKey())
	return ring
}

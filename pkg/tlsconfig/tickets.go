package tlsconfig

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"time"
)

const (
	// ticketsFor is how long one key seals session tickets, ticketsBack how many keys before it still open them: tickets are
	// good for a week.
	ticketsFor  = 24 * time.Hour
	ticketsBack = 7
	// MinTicketSecret is the shortest secret that ticket keys are derived from, in bytes.
	MinTicketSecret = 32
)

// SetTicketKeys has a server seal its session tickets with the key that a secret gives for a moment: sessions resume with any
// server that has the same secret. Keys change every day, so call it again from time to time. A server whose clock goes up to
// a day ahead is understood.
func SetTicketKeys(config *tls.Config, secret string, now time.Time) error {
	if len(secret) < MinTicketSecret {
		return fmt.Errorf("the secret of session tickets needs at least %d bytes", MinTicketSecret)
	}
	today := now.Unix() / int64(ticketsFor.Seconds())
	days := []int64{today, today + 1} // the first one seals, all open
	for n := int64(1); n <= ticketsBack; n++ {
		days = append(days, today-n)
	}
	keys := make([][32]byte, len(days))
	for i, day := range days {
		key, err := hkdf.Key(sha256.New, []byte(secret), nil, fmt.Sprintf("halley tls ticket %d", day), 32)
		if err != nil {
			return fmt.Errorf("derive ticket key: %w", err)
		}
		keys[i] = [32]byte(key)
	}
	config.SetSessionTicketKeys(keys)
	return nil
}

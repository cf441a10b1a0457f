package api

import (
	"encoding/base64"
	"encoding/json"

	"github.com/halleypush/halley/services/pushcore/internal/fault"
	"github.com/halleypush/halley/services/pushcore/internal/keyring"
)

// cursors seals page tokens: they hold ordinals, which never leave the system readable, and a caller cannot make one up.
type cursors struct{ ring *keyring.Ring }

// seal returns the page token of a position in one listing of one app.
func (c cursors) seal(listing, app string, position any) (string, error) {
	plain, err := json.Marshal(position)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(c.ring.Seal("cursor "+listing+" "+app, plain)), nil
}

// open reads a page token back into position, and leaves position as it is for an empty one.
func (c cursors) open(listing, app, pageToken string, position any) error {
	if pageToken == "" {
		return nil
	}
	sealed, err := base64.RawURLEncoding.DecodeString(pageToken)
	if err == nil {
		var plain []byte
		if plain, err = c.ring.Open("cursor "+listing+" "+app, sealed); err == nil {
			err = json.Unmarshal(plain, position)
		}
	}
	if err != nil {
		return fault.Invalid("page_token", "must be a next_page_token of the same listing")
	}
	return nil
}

// pageSize returns how many a page has.
func pageSize(asked int32, byDefault int) int {
	if asked == 0 {
		return byDefault
	}
	return int(asked)
}

package keyring_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/halleypush/halley/pkg/token"
	"github.com/halleypush/halley/services/pushcore/internal/keyring"
)

func create(t *testing.T) (path string, ring *keyring.Ring) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "keys.json")
	if err := keyring.Create(path); err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, ring
}

func TestSealedValuesOpenForTheirPurposeOnly(t *testing.T) {
	t.Parallel()
	_, ring := create(t)
	sealed := ring.Seal("api key", []byte("sk_x"))
	if got, err := ring.Open("api key", sealed); err != nil || string(got) != "sk_x" {
		t.Errorf("Open = %q, %v", got, err)
	}
	if _, err := ring.Open("cursor", sealed); !errors.Is(err, keyring.ErrSealed) {
		t.Errorf("for another purpose: %v", err)
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := ring.Open("api key", sealed); !errors.Is(err, keyring.ErrSealed) {
		t.Errorf("damaged: %v", err)
	}
	_, other := create(t)
	if _, err := other.Open("api key", ring.Seal("api key", nil)); !errors.Is(err, keyring.ErrSealed) {
		t.Errorf("by another ring: %v", err)
	}
}

func TestCreateNeverOverwritesAndIsPrivate(t *testing.T) {
	t.Parallel()
	path, _ := create(t)
	if err := keyring.Create(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second Create: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// A key that is added serves from then on; what older keys made stays good.
func TestAddedKeysLeaveOldTokensSealsAndUserIDsValid(t *testing.T) {
	t.Parallel()
	path, old := create(t)
	sealed, user := old.Seal("api key", []byte("x")), old.UserID(1, "alice")
	oldToken := makeToken(t, old)

	var first, second map[string][]map[string]any
	read(t, path, &first)
	otherPath, _ := create(t)
	read(t, otherPath, &second)
	second["device_keys"][0]["letter"], second["encryption_keys"][0]["id"] = "b", 2
	for k := range first {
		first[k] = append(first[k], second[k]...)
	}
	content, _ := json.Marshal(first)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}

	ring, err := keyring.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Open("api key", sealed); err != nil {
		t.Errorf("old seal: %v", err)
	}
	if got := ring.UserID(1, "alice"); got != user {
		t.Errorf("the user's id changed from %s to %s", user, got)
	}
	keys, _ := ring.AppKeys(1)
	codec, err := token.NewCodec(1, keys...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := codec.Ordinal(oldToken); err != nil {
		t.Errorf("old token: %v", err)
	}
	if got := makeToken(t, ring)[0]; got != 'b' {
		t.Errorf("new tokens have letter %c, want b", got)
	}
}

func makeToken(t *testing.T, ring *keyring.Ring) string {
	t.Helper()
	keys, err := ring.AppKeys(1)
	if err != nil {
		t.Fatal(err)
	}
	codec, err := token.NewCodec(1, keys...)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := codec.Token(ring.Letter(), 7)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func read(t *testing.T, path string, into any) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, into); err != nil {
		t.Fatal(err)
	}
}

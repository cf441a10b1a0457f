// Package keyring holds the secrets of an installation that are not in the database: the master keys of device tokens and
// the keys that encrypt at rest.
package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/halleypush/halley/pkg/token"
)

const keySize = 32

// ErrSealed means that a sealed value is damaged, was sealed for another purpose, or by a key that is not in the ring.
var ErrSealed = errors.New("sealed value cannot be opened")

// Ring is an installation's keys. It is immutable and safe for concurrent use.
type Ring struct {
	device     map[byte][]byte
	letter     byte
	encryption map[uint32]cipher.AEAD
	sealKey    uint32
	userID     []byte
	tokens     *token.Codec // reads the tokens of every app
}

// file is the key file: JSON, mode 0600. Keys are only ever added; the last of each list is the one that new tokens and
// sealed values use.
type file struct {
	DeviceKeys     []deviceKey     `json:"device_keys"`
	EncryptionKeys []encryptionKey `json:"encryption_keys"`
}

type deviceKey struct {
	Letter string `json:"letter"` // a to z
	Key    string `json:"key"`    // base64, 32 bytes
}

type encryptionKey struct {
	ID  uint32 `json:"id"`
	Key string `json:"key"` // base64, 32 bytes
}

// Create writes a new key file with one key of each kind. It fails if the file exists.
func Create(path string) error {
	random := func() string {
		key := make([]byte, keySize)
		_, _ = rand.Read(key) // never fails
		return base64.StdEncoding.EncodeToString(key)
	}
	content, err := json.MarshalIndent(file{
		DeviceKeys:     []deviceKey{{Letter: "a", Key: random()}},
		EncryptionKeys: []encryptionKey{{ID: 1, Key: random()}},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode key file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create key file: %w", err)
	}
	if _, err := f.Write(append(content, '\n')); err != nil {
		return errors.Join(fmt.Errorf("write key file: %w", err), f.Close())
	}
	return f.Close()
}

// Load reads a key file.
func Load(path string) (*Ring, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	var f file
	if err := json.Unmarshal(content, &f); err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	ring, err := newRing(f)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return ring, nil
}

func newRing(f file) (*Ring, error) {
	if len(f.DeviceKeys) == 0 || len(f.EncryptionKeys) == 0 {
		return nil, errors.New("device_keys and encryption_keys need at least one key each")
	}
	r := &Ring{device: map[byte][]byte{}, encryption: map[uint32]cipher.AEAD{}}
	for _, k := range f.DeviceKeys {
		key, err := decodeKey(k.Key)
		if err != nil {
			return nil, fmt.Errorf("device key %q: %w", k.Letter, err)
		}
		if len(k.Letter) != 1 || k.Letter < "a" || k.Letter > "z" {
			return nil, fmt.Errorf("device key letter %q is not one of a-z", k.Letter)
		}
		r.letter = k.Letter[0]
		if r.device[r.letter] != nil {
			return nil, fmt.Errorf("device key letter %q stands twice", k.Letter)
		}
		r.device[r.letter] = key
	}
	for _, k := range f.EncryptionKeys {
		key, err := decodeKey(k.Key)
		if err != nil {
			return nil, fmt.Errorf("encryption key %d: %w", k.ID, err)
		}
		if r.encryption[k.ID] != nil {
			return nil, fmt.Errorf("encryption key %d stands twice", k.ID)
		}
		if r.encryption[k.ID], err = newAEAD(key); err != nil {
			return nil, fmt.Errorf("encryption key %d: %w", k.ID, err)
		}
		r.sealKey = k.ID
	}
	// The opaque user ids must stay when keys are added, so they hang on the first key.
	first, err := decodeKey(f.EncryptionKeys[0].Key)
	if err != nil {
		return nil, err
	}
	if r.userID, err = hkdf.Key(sha256.New, first, nil, "halley user ids v1", keySize); err != nil {
		return nil, fmt.Errorf("derive the user id key: %w", err)
	}
	keys, err := r.AppKeys(0)
	if err != nil {
		return nil, err
	}
	r.tokens, err = token.NewCodec(0, keys...)
	return r, err
}

func decodeKey(s string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(key) != keySize {
		return nil, fmt.Errorf("a key is base64 of %d bytes", keySize)
	}
	return key, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Letter returns the key letter of new tokens.
func (r *Ring) Letter() byte { return r.letter }

// AppKeys returns an app's device keys, one per letter.
func (r *Ring) AppKeys(app uint32) ([]token.AppKeys, error) {
	var keys []token.AppKeys
	for letter := byte('a'); letter <= 'z'; letter++ {
		master := r.device[letter]
		if master == nil {
			continue
		}
		k, err := token.Derive(master, letter, app)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// AppOf returns the app that a device token is of, or token.ErrMalformed.
func (r *Ring) AppOf(tok string) (app uint32, err error) {
	app, _, err = r.tokens.Locate(tok)
	return app, err
}

// Seal encrypts a value for one purpose with AES-256-GCM: key id (4 bytes) ‖ nonce ‖ ciphertext. What was sealed for one
// purpose does not open for another.
func (r *Ring) Seal(purpose string, value []byte) []byte {
	out := binary.BigEndian.AppendUint32(nil, r.sealKey)
	return r.encryption[r.sealKey].Seal(out, nil, value, []byte(purpose))
}

// SealKey returns the id of the key that Seal uses.
func (r *Ring) SealKey() uint32 { return r.sealKey }

// Opens reports whether the key with an id is in the ring.
func (r *Ring) Opens(id uint32) bool { return r.encryption[id] != nil }

// Open decrypts what Seal returned for the same purpose, or fails with ErrSealed.
func (r *Ring) Open(purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) < 4 {
		return nil, ErrSealed
	}
	aead := r.encryption[binary.BigEndian.Uint32(sealed)]
	if aead == nil {
		return nil, ErrSealed
	}
	value, err := aead.Open(nil, nil, sealed[4:], []byte(purpose))
	if err != nil {
		return nil, ErrSealed
	}
	return value, nil
}

// UserID returns the opaque id that phones know a user by: "u_" and 22 characters.
func (r *Ring) UserID(app uint32, user string) string {
	mac := hmac.New(sha256.New, r.userID)
	mac.Write(binary.BigEndian.AppendUint32(nil, app))
	mac.Write([]byte(user))
	return "u_" + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

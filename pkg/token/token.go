// Package token makes and checks device tokens and secrets without a database.
//
// A token is one lower-case letter, which names the keys, and base64url (no padding) of one AES-128 block over
//
//	app number (4 bytes) ‖ ordinal (5 bytes) ‖ zero (7 bytes)
//
// so it is 23 characters, opaque, and a made-up one decodes with probability 2^-56. A secret is base64url of
//
//	generation (4 bytes) ‖ HMAC-SHA-256(secret key, token ‖ generation) (32 bytes)
//
// so it is 48 characters. Integers are big-endian. Both keys are derived from the letter's master key with HKDF-SHA-256: the
// token key is the same for all apps, so that a token tells its app; the secret key is the app's own, so that a gateway can
// check secrets only of the apps it serves.
package token

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/halleypush/halley/pkg/ordinal"
)

const (
	// Length is the number of characters of a token.
	Length = 1 + 22
	// SecretLength is the number of characters of a secret.
	SecretLength = 48
	// MasterSize is the number of bytes of a master key.
	MasterSize = 32

	macSize = sha256.Size
)

var (
	// ErrMalformed means that a string is no token of this app: wrong length or alphabet, an unknown key letter, or a block
	// that does not decode.
	ErrMalformed = errors.New("malformed device token")
	// ErrSecret means that a secret does not belong to the token, or is no secret at all.
	ErrSecret = errors.New("wrong device secret")
)

// AppKeys are one letter's keys for one app.
type AppKeys struct {
	Letter    byte
	TokenKey  [16]byte
	SecretKey [32]byte
}

// Derive derives an app's keys from a letter's master key of MasterSize bytes.
func Derive(master []byte, letter byte, app uint32) (AppKeys, error) {
	if len(master) != MasterSize {
		return AppKeys{}, fmt.Errorf("master key %q has %d bytes, want %d", letter, len(master), MasterSize)
	}
	if letter < 'a' || letter > 'z' {
		return AppKeys{}, fmt.Errorf("key letter %q is not one of a-z", letter)
	}
	keys := AppKeys{Letter: letter}
	tokenKey, err := hkdf.Key(sha256.New, master, nil, fmt.Sprintf("halley token key v1 %c", letter), len(keys.TokenKey))
	if err != nil {
		return AppKeys{}, fmt.Errorf("derive token key: %w", err)
	}
	secretKey, err := hkdf.Key(sha256.New, master, nil, fmt.Sprintf("halley secret key v1 %c %d", letter, app), len(keys.SecretKey))
	if err != nil {
		return AppKeys{}, fmt.Errorf("derive secret key: %w", err)
	}
	copy(keys.TokenKey[:], tokenKey)
	copy(keys.SecretKey[:], secretKey)
	return keys, nil
}

// Codec makes and checks the tokens and secrets of one app. It is immutable and safe for concurrent use.
type Codec struct {
	app     uint32
	letters map[byte]letterKeys
}

type letterKeys struct {
	block  cipher.Block
	secret [32]byte
}

// NewCodec returns a codec for an app that accepts tokens of every letter in keys.
func NewCodec(app uint32, keys ...AppKeys) (*Codec, error) {
	if len(keys) == 0 {
		return nil, errors.New("no device keys")
	}
	c := &Codec{app: app, letters: make(map[byte]letterKeys, len(keys))}
	for _, k := range keys {
		block, err := aes.NewCipher(k.TokenKey[:])
		if err != nil {
			return nil, fmt.Errorf("token key %q: %w", k.Letter, err)
		}
		c.letters[k.Letter] = letterKeys{block: block, secret: k.SecretKey}
	}
	return c, nil
}

// Token returns the token of an ordinal under a letter's key.
func (c *Codec) Token(letter byte, number uint64) (string, error) {
	keys, ok := c.letters[letter]
	if !ok {
		return "", fmt.Errorf("no device keys for letter %q", letter)
	}
	if number > ordinal.Max {
		return "", fmt.Errorf("ordinal %d is over %d", number, uint64(ordinal.Max))
	}
	var plain, sealed [aes.BlockSize]byte
	binary.BigEndian.PutUint32(plain[0:4], c.app)
	plain[4] = byte(number >> 32)
	binary.BigEndian.PutUint32(plain[5:9], uint32(number))
	keys.block.Encrypt(sealed[:], plain[:])
	var out [Length]byte
	out[0] = letter
	base64.RawURLEncoding.Encode(out[1:], sealed[:])
	return string(out[:]), nil
}

// Ordinal returns the ordinal inside a token of the codec's app, or ErrMalformed. It does not say whether the device exists.
func (c *Codec) Ordinal(token string) (uint64, error) {
	app, number, err := c.Locate(token)
	if err != nil || app != c.app {
		return 0, ErrMalformed
	}
	return number, nil
}

// Locate returns the app and the ordinal inside a token of any app of the installation, or ErrMalformed.
func (c *Codec) Locate(token string) (app uint32, number uint64, err error) {
	if len(token) != Length {
		return 0, 0, ErrMalformed
	}
	keys, ok := c.letters[token[0]]
	if !ok {
		return 0, 0, ErrMalformed
	}
	var sealed [aes.BlockSize + 2]byte // base64 decoding of 22 characters writes 16 bytes, but asks for room
	n, err := strictBase64.Decode(sealed[:], []byte(token[1:]))
	if err != nil || n != aes.BlockSize {
		return 0, 0, ErrMalformed
	}
	var plain [aes.BlockSize]byte
	keys.block.Decrypt(plain[:], sealed[:aes.BlockSize])
	if [7]byte(plain[9:]) != [7]byte{} {
		return 0, 0, ErrMalformed
	}
	return binary.BigEndian.Uint32(plain[:4]), uint64(plain[4])<<32 | uint64(binary.BigEndian.Uint32(plain[5:9])), nil
}

// Secret returns the secret of a token in a generation.
func (c *Codec) Secret(token string, generation uint32) (string, error) {
	mac, err := c.mac(token, generation)
	if err != nil {
		return "", err
	}
	var raw [4 + macSize]byte
	binary.BigEndian.PutUint32(raw[:4], generation)
	copy(raw[4:], mac[:])
	return base64.RawURLEncoding.EncodeToString(raw[:]), nil
}

// Verify returns the ordinal inside a token and the generation of its secret; ErrMalformed if the token is none of this
// app, ErrSecret if the secret is not the token's. Whether the generation is still the device's own is for the registry.
func (c *Codec) Verify(token, secret string) (number uint64, generation uint32, err error) {
	number, err = c.Ordinal(token)
	if err != nil {
		return 0, 0, err
	}
	if len(secret) != SecretLength {
		return 0, 0, ErrSecret
	}
	var raw [4 + macSize]byte
	if n, err := strictBase64.Decode(raw[:], []byte(secret)); err != nil || n != len(raw) {
		return 0, 0, ErrSecret
	}
	generation = binary.BigEndian.Uint32(raw[:4])
	want, err := c.mac(token, generation)
	if err != nil {
		return 0, 0, err
	}
	if !hmac.Equal(raw[4:], want[:]) {
		return 0, 0, ErrSecret
	}
	return number, generation, nil
}

// strictBase64 refuses non-zero trailing bits, so that a token and a secret have one spelling each.
var strictBase64 = base64.RawURLEncoding.Strict()

func (c *Codec) mac(token string, generation uint32) (sum [macSize]byte, err error) {
	if token == "" {
		return sum, ErrMalformed
	}
	keys, ok := c.letters[token[0]]
	if !ok {
		return sum, ErrMalformed
	}
	h := hmac.New(sha256.New, keys.secret[:])
	h.Write([]byte(token))
	h.Write(binary.BigEndian.AppendUint32(nil, generation))
	h.Sum(sum[:0])
	return sum, nil
}

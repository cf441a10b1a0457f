package webpush

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
)

// Lengths of RFC 8188 and 8291, in bytes.
const (
	saltLength  = 16
	keyLength   = 65 // of a public key, uncompressed
	authLength  = 16
	headLength  = saltLength + 4 + 1 + keyLength
	minRecord   = 18
	lastRecord  = 2 // the delimiter before the padding of the last record
	secretBytes = 32
)

// browser holds a subscription's secrets.
type browser struct {
	private *ecdh.PrivateKey
	auth    []byte
}

// subscriber derives a subscription's secrets from its id, so that there is nothing to store.
func subscriber(seed, id string) (browser, error) {
	auth, err := hkdf.Key(sha256.New, []byte(seed), nil, "auth "+id, authLength)
	if err != nil {
		return browser{}, fmt.Errorf("derive auth: %w", err)
	}
	for i := range 8 { // a scalar that is not valid is as good as impossible
		scalar, err := hkdf.Key(sha256.New, []byte(seed), nil, fmt.Sprintf("key %d %s", i, id), secretBytes)
		if err != nil {
			return browser{}, fmt.Errorf("derive a key: %w", err)
		}
		if private, err := ecdh.P256().NewPrivateKey(scalar); err == nil {
			return browser{private: private, auth: auth}, nil
		}
	}
	return browser{}, errors.New("derive a key: no valid scalar")
}

// decrypt opens a body in aes128gcm with a single record (RFC 8291).
func (b browser) decrypt(body []byte) ([]byte, error) {
	if len(body) < headLength {
		return nil, errors.New("the body is shorter than its header")
	}
	salt, size, idLength := body[:saltLength], binary.BigEndian.Uint32(body[saltLength:]), body[saltLength+4]
	if idLength != keyLength {
		return nil, errors.New("the key id is not a public key")
	}
	record := body[headLength:]
	if size < minRecord || uint64(len(record)) > uint64(size) {
		return nil, errors.New("the body is not a single record")
	}
	sender, err := ecdh.P256().NewPublicKey(body[saltLength+5 : headLength])
	if err != nil {
		return nil, fmt.Errorf("the sender's key: %w", err)
	}
	secret, err := b.private.ECDH(sender)
	if err != nil {
		return nil, fmt.Errorf("agree on a secret: %w", err)
	}
	info := "WebPush: info\x00" + string(b.private.PublicKey().Bytes()) + string(sender.Bytes())
	material, err := hkdf.Key(sha256.New, secret, b.auth, info, secretBytes)
	if err != nil {
		return nil, fmt.Errorf("derive the input key: %w", err)
	}
	key, err := hkdf.Key(sha256.New, material, salt, "Content-Encoding: aes128gcm\x00", 16)
	if err != nil {
		return nil, fmt.Errorf("derive the key: %w", err)
	}
	nonce, err := hkdf.Key(sha256.New, material, salt, "Content-Encoding: nonce\x00", 12)
	if err != nil {
		return nil, fmt.Errorf("derive the nonce: %w", err)
	}
	return open(key, nonce, record)
}

// open decrypts the last record and takes its padding away.
func open(key, nonce, record []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make the cipher: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("make the cipher: %w", err)
	}
	plain, err := gcm.Open(nil, nonce, record, nil)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	for i := len(plain) - 1; i >= 0; i-- {
		switch plain[i] {
		case 0:
		case lastRecord:
			return plain[:i], nil
		default:
			return nil, errors.New("the record has no delimiter")
		}
	}
	return nil, errors.New("the record has no delimiter")
}

// publicKey parses a VAPID key.
func publicKey(text string) (*ecdsa.PublicKey, error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("VAPID key: %w", err)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
	if err != nil {
		return nil, fmt.Errorf("VAPID key: %w", err)
	}
	return key, nil
}

package webpush

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

const (
	// recordSize is the size of the one record (RFC 8188), maxPlaintext what fits into it beside header, delimiter and tag.
	recordSize   = 4096
	maxPlaintext = recordSize - saltSize - 4 - 1 - pointSize - 1 - 16
	saltSize     = 16
	pointSize    = 65
	authSize     = 16
	// last marks the last record.
	last = 2
)

// encrypt returns the body of a push message (RFC 8291): one record of aes128gcm for a browser's key and secret. The key pair and
// the salt must be fresh.
func encrypt(plaintext []byte, browser *ecdh.PublicKey, auth []byte, own *ecdh.PrivateKey, salt []byte) ([]byte, error) {
	shared, err := own.ECDH(browser)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	point := own.PublicKey().Bytes()
	info := "WebPush: info\x00" + string(browser.Bytes()) + string(point)
	keying, err := hkdf.Key(sha256.New, shared, auth, info, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	key, err := hkdf.Key(sha256.New, keying, salt, "Content-Encoding: aes128gcm\x00", 16)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	nonce, err := hkdf.Key(sha256.New, keying, salt, "Content-Encoding: nonce\x00", 12)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	body := binary.BigEndian.AppendUint32(append(make([]byte, 0, recordSize), salt...), recordSize)
	body = append(append(body, byte(len(point))), point...)
	return gcm.Seal(body, nonce, append(plaintext[:len(plaintext):len(plaintext)], last), nil), nil
}

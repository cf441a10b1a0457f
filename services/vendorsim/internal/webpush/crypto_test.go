package webpush

import (
	"crypto/ecdh"
	"encoding/base64"
	"strings"
	"testing"
)

func decode(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The example of RFC 8291, appendix A.
func TestTheExampleOfTheStandardIsDecrypted(t *testing.T) {
	t.Parallel()
	private, err := ecdh.P256().NewPrivateKey(decode(t, "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"))
	if err != nil {
		t.Fatal(err)
	}
	b := browser{private: private, auth: decode(t, "BTBZMqHH6r4Tts7J_aSIgg")}
	body := decode(t, `DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27ml
		mlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT
		pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN`)
	plain, err := b.decrypt(body)
	if err != nil || string(plain) != "When I grow up, I want to be a watermelon" {
		t.Errorf("decrypted %q, %v", plain, err)
	}
	for name, change := range map[string]func([]byte) []byte{
		"short":          func(b []byte) []byte { return b[:80] },
		"salt":           func(b []byte) []byte { b[0] ^= 1; return b },
		"record size":    func(b []byte) []byte { b[18] = 0; b[19] = 20; return b },
		"key id":         func(b []byte) []byte { b[20] = 64; return b },
		"key":            func(b []byte) []byte { b[30] ^= 1; return b },
		"text":           func(b []byte) []byte { b[90] ^= 1; return b },
		"authentication": func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
	} {
		if plain, err := b.decrypt(change(append([]byte(nil), body...))); err == nil {
			t.Errorf("%s: decrypted %q", name, plain)
		}
	}
}

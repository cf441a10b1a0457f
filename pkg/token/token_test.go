package token_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/halleypush/halley/pkg/ordinal"
	"github.com/halleypush/halley/pkg/token"
)

func codec(t testing.TB, app uint32, letters string) *token.Codec {
	t.Helper()
	var keys []token.AppKeys
	for _, letter := range []byte(letters) {
		k, err := token.Derive(bytes.Repeat([]byte{letter}, token.MasterSize), letter, app)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	c, err := token.NewCodec(app, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The vectors bind every later version: phones keep their token and secret for years.
func TestVectors(t *testing.T) {
	t.Parallel()
	for _, v := range []struct {
		letter     byte
		app        uint32
		ordinal    uint64
		generation uint32
		token      string
		secret     string
	}{
		{'a', 1, 0, 1, "aKF1qrcx0cVH_Gvt5tFkEPA", "AAAAAWudEQHpb_IKemw4ekvFlw8arego55gmBj2CemY_GvP7"},
		{'a', 1, 1, 2, "a-2BYz-p5Xg35nkA3xb4s_g", "AAAAAirpDuQ6eR3zvFgR7Ee5hQbNu65I5OZnUmKhfjnc_3WO"},
		{'b', 1, 1, 2, "bHX-FLJO2c-QKgcZYBMGRyA", "AAAAAre_PVClLFQwsi4vq9je_Ir6zCQ6Qpb6Q_1JE9-9mNy6"},
		{'a', 4294967295, ordinal.Max, 4294967295, "arSazT902In_qLq-zXHczbw", "_____0nD0BhQPYTs-Z7Y_dCqPCdjtXJPmx1srMJPQ-5D8xjh"},
	} {
		c := codec(t, v.app, "ab")
		tok, err := c.Token(v.letter, v.ordinal)
		if err != nil || tok != v.token {
			t.Errorf("Token(%c, %d) = %q, %v, want %q", v.letter, v.ordinal, tok, err, v.token)
		}
		sec, err := c.Secret(tok, v.generation)
		if err != nil || sec != v.secret {
			t.Errorf("Secret(%q, %d) = %q, %v, want %q", tok, v.generation, sec, err, v.secret)
		}
		n, g, err := c.Verify(tok, sec)
		if err != nil || n != v.ordinal || g != v.generation {
			t.Errorf("Verify(%q, %q) = %d, %d, %v", tok, sec, n, g, err)
		}
		if len(tok) != token.Length || len(sec) != token.SecretLength {
			t.Errorf("token has %d characters, secret %d", len(tok), len(sec))
		}
	}
}

func TestATokenIsForOneAppOnly(t *testing.T) {
	t.Parallel()
	tok, err := codec(t, 1, "a").Token('a', 7)
	if err != nil {
		t.Fatal(err)
	}
	other := codec(t, 2, "a")
	if _, err := other.Ordinal(tok); !errors.Is(err, token.ErrMalformed) {
		t.Errorf("another app's codec says %v", err)
	}
	if app, n, err := other.Locate(tok); err != nil || app != 1 || n != 7 {
		t.Errorf("Locate = app %d, ordinal %d, %v", app, n, err)
	}
}

func TestAnAppsSecretsAreMadeWithItsOwnKey(t *testing.T) {
	t.Parallel()
	one, two := codec(t, 1, "a"), codec(t, 2, "a")
	tok, _ := one.Token('a', 7)
	forged, _ := two.Secret(tok, 1)
	if _, _, err := one.Verify(tok, forged); !errors.Is(err, token.ErrSecret) {
		t.Errorf("a secret made with another app's key: %v", err)
	}
}

func TestBothLiveKeysAreAcceptedAndARetiredOneIsNot(t *testing.T) {
	t.Parallel()
	both := codec(t, 1, "ab")
	for _, letter := range []byte("ab") {
		tok, err := both.Token(letter, 7)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := both.Ordinal(tok); err != nil || n != 7 {
			t.Errorf("letter %c: %d, %v", letter, n, err)
		}
		if _, err := codec(t, 1, "c").Ordinal(tok); !errors.Is(err, token.ErrMalformed) {
			t.Errorf("letter %c without its key: %v", letter, err)
		}
	}
}

func TestASecretOfAnotherTokenOrGenerationIsRefused(t *testing.T) {
	t.Parallel()
	c := codec(t, 1, "a")
	one, _ := c.Token('a', 1)
	two, _ := c.Token('a', 2)
	secret, _ := c.Secret(one, 1)
	if _, _, err := c.Verify(two, secret); !errors.Is(err, token.ErrSecret) {
		t.Errorf("the other device's secret: %v", err)
	}
	forged := []byte(secret)
	forged[5]++ // inside the generation
	if _, _, err := c.Verify(one, string(forged)); !errors.Is(err, token.ErrSecret) {
		t.Errorf("a changed generation: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	c := codec(f, 1, "ab")
	tok, _ := c.Token('a', 1)
	sec, _ := c.Secret(tok, 1)
	f.Add(tok, sec)
	f.Add("", "")
	f.Add("a", "x")
	f.Add(tok[:22]+"=", sec)
	f.Fuzz(func(t *testing.T, tok, sec string) {
		n, g, err := c.Verify(tok, sec)
		if err != nil {
			return
		}
		again, err := c.Token(tok[0], n)
		if err != nil || again != tok {
			t.Errorf("%q verifies, but its ordinal's token is %q, %v", tok, again, err)
		}
		secret, err := c.Secret(tok, g)
		if err != nil || secret != sec {
			t.Errorf("%q verifies, but the secret is %q, %v", sec, secret, err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	c := codec(b, 1, "ab")
	tok, _ := c.Token('a', 1)
	sec, _ := c.Secret(tok, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := c.Verify(tok, sec); err != nil {
			b.Fatal(err)
		}
	}
}

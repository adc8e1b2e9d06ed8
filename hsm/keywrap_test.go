package hsm

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"testing"
)

func unhexed(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestUnwrapKWPVector(t *testing.T) {
	// RFC 5649, section 6, the key of 20 bytes.
	kek, err := aes.NewCipher(unhexed(t, "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8"))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := unwrapKWP(kek, nil, unhexed(t, "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a"))
	if err != nil || hex.EncodeToString(plain) != "c37b7e6492584340bed12207808941155068f738" {
		t.Errorf("%x, %v", plain, err)
	}
}

// wrapBlocks is RFC 3394, section 2.2.1: the inverse of unwrapBlocks.
func wrapBlocks(kek cipher.Block, iv uint64, plain []byte) []byte {
	out := binary.BigEndian.AppendUint64(nil, iv)
	out = append(out, plain...)
	var block [16]byte
	n := len(plain) / 8
	copy(block[:8], out)
	for j := range 6 {
		for i := 1; i <= n; i++ {
			copy(block[8:], out[i*8:])
			kek.Encrypt(block[:], block[:])
			binary.BigEndian.PutUint64(block[:8], binary.BigEndian.Uint64(block[:8])^uint64(n*j+i))
			copy(out[i*8:], block[8:])
		}
	}
	copy(out, block[:8])
	return out
}

func padded(plain []byte, block int) []byte {
	n := block - len(plain)%block
	return append(bytes.Clone(plain), bytes.Repeat([]byte{byte(n)}, n)...)
}

// schemes wraps by each scheme that the unwrappers undo.
func schemes(kek cipher.Block, iv []byte) map[string]struct {
	unwrap unwrapper
	wrap   func([]byte) []byte
} {
	type scheme = struct {
		unwrap unwrapper
		wrap   func([]byte) []byte
	}
	return map[string]scheme{
		"KWP": {unwrapKWP, func(plain []byte) []byte {
			zeros := make([]byte, (8-len(plain)%8)%8)
			return wrapBlocks(kek, 0xA65959A6<<32|uint64(len(plain)), append(bytes.Clone(plain), zeros...))
		}},
		"PKCS#7 by 8":  {unwrapPKCS7, func(plain []byte) []byte { return wrapBlocks(kek, 0xA6A6A6A6A6A6A6A6, padded(plain, 8)) }},
		"PKCS#7 by 16": {unwrapPKCS7, func(plain []byte) []byte { return wrapBlocks(kek, 0xA6A6A6A6A6A6A6A6, padded(plain, 16)) }},
		"CBC": {unwrapCBC, func(plain []byte) []byte {
			out := padded(plain, 16)
			cipher.NewCBCEncrypter(kek, iv).CryptBlocks(out, out)
			return out
		}},
	}
}

func TestUnwrapUndoesWrap(t *testing.T) {
	secret, iv := make([]byte, 32), make([]byte, 16)
	rand.Read(secret)
	rand.Read(iv)
	kek, err := aes.NewCipher(secret)
	if err != nil {
		t.Fatal(err)
	}
	for name, scheme := range schemes(kek, iv) {
		for n := 17; n < 160; n++ {
			plain := make([]byte, n)
			rand.Read(plain)
			wrapped := scheme.wrap(plain)
			if got, err := scheme.unwrap(kek, iv, wrapped); err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%s, %d bytes: %v", name, n, err)
			}
			if name == "CBC" {
				continue // which notices nothing; the comparison of keys does
			}
			wrapped[n/2] ^= 1
			if _, err := scheme.unwrap(kek, iv, wrapped); err == nil {
				t.Fatalf("%s, %d bytes: a flipped bit went unnoticed", name, n)
			}
		}
		for other, wrong := range schemes(kek, iv) {
			if name[:3] == other[:3] || other == "CBC" {
				continue
			}
			if _, err := wrong.unwrap(kek, iv, scheme.wrap(make([]byte, 138))); err == nil {
				t.Errorf("%s takes what %s wrapped", other, name)
			}
		}
	}
}

func FuzzUnwrap(f *testing.F) {
	kek, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	iv := make([]byte, 16)
	for _, scheme := range schemes(kek, iv) {
		f.Add(scheme.wrap(make([]byte, 67)))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, wrapped []byte) {
		before := bytes.Clone(wrapped)
		for name, scheme := range schemes(kek, iv) {
			plain, err := scheme.unwrap(kek, iv, wrapped)
			if err == nil && len(plain) >= len(wrapped) {
				t.Errorf("%s: %d bytes of %d", name, len(plain), len(wrapped))
			}
			if !bytes.Equal(before, wrapped) {
				t.Fatalf("%s changed its input", name)
			}
		}
	})
}

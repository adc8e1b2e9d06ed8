package hsm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// withoutPoint writes a P-256 key as SoftHSM does: no public point, the scalar
// as given, zeros behind.
func withoutPoint(t testing.TB, scalar []byte, zeros int) []byte {
	t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(0)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes([]byte("\x06\x07\x2a\x86\x48\xce\x3d\x02\x01" + p256DER.oid))
		})
		b.AddASN1(asn1.OCTET_STRING, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				b.AddASN1OctetString(scalar)
			})
		})
	})
	return append(b.BytesOrPanic(), make([]byte, zeros)...)
}

func TestNormaliseTakesWhatTokensMake(t *testing.T) {
	for _, alg := range []Algorithm{Ed25519, ECDSAP256, ECDSAP384, RSA2048} {
		source, err := Software(alg)
		if err != nil {
			t.Fatal(err)
		}
		private, public, err := source.Generate(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		der, ok := pemDER(private)
		if !ok {
			t.Fatal("no PEM")
		}
		_, other, _ := source.Generate(t.Context(), "")
		for zeros := range 9 {
			got, err := normalise(alg, append(bytes.Clone(der), make([]byte, zeros)...), public)
			if err != nil || !bytes.Equal(got, der) {
				t.Errorf("%s with %d zeros: %v", alg, zeros, err)
			}
		}
		if _, err := normalise(alg, der, other); !errors.Is(err, errOtherKey) {
			t.Errorf("%s: another key: %v", alg, err)
		}
		if _, err := normalise(alg, append(bytes.Clone(der), 1), public); err == nil {
			t.Errorf("%s: trailing rubbish accepted", alg)
		}
		if _, err := normalise(alg, der[:len(der)-1], public); err == nil {
			t.Errorf("%s: a cut key accepted", alg)
		}
	}
}

// A scalar with leading zeros comes out of tokens shortened, or with a sign byte.
func TestNormalisePadsScalars(t *testing.T) {
	scalar := make([]byte, 32)
	rand.Read(scalar[2:])
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := x509.MarshalPKCS8PrivateKey(key)
	public, _ := x509.MarshalPKIXPublicKey(&key.PublicKey)
	for _, form := range [][]byte{scalar, scalar[2:], append([]byte{0}, scalar...)} {
		if got, err := normalise(ECDSAP256, withoutPoint(t, form, 5), public); err != nil || !bytes.Equal(got, want) {
			t.Errorf("scalar of %d bytes: %v", len(form), err)
		}
	}
	for _, bad := range [][]byte{{}, make([]byte, 32), bytes.Repeat([]byte{0xff}, 32), bytes.Repeat([]byte{1}, 33)} {
		if _, err := normalise(ECDSAP256, withoutPoint(t, bad, 0), public); err == nil {
			t.Errorf("scalar %x accepted", bad)
		}
	}
}

func FuzzNormalise(f *testing.F) {
	public := make([][]byte, 0, 4)
	algorithms := []Algorithm{Ed25519, ECDSAP256, ECDSAP384, RSA2048}
	for _, alg := range algorithms {
		source, _ := Software(alg)
		private, spki, err := source.Generate(f.Context(), "")
		if err != nil {
			f.Fatal(err)
		}
		der, _ := pemDER(private)
		f.Add(der)
		public = append(public, spki)
	}
	f.Add(withoutPoint(f, []byte{1}, 3))
	f.Fuzz(func(t *testing.T, plain []byte) {
		for i, alg := range algorithms {
			der, err := normalise(alg, plain, public[i])
			if err != nil {
				continue
			}
			if again, err := normalise(alg, der, public[i]); err != nil || !bytes.Equal(again, der) {
				t.Errorf("%s: the result isn't its own normal form: %v", alg, err)
			}
		}
	})
}

// pemDER decodes what privatePEM wrote.
func pemDER(private []byte) ([]byte, bool) {
	body, ok := bytes.CutPrefix(private, []byte(pemBegin))
	if !ok {
		return nil, false
	}
	if body, ok = bytes.CutSuffix(body, []byte(pemEnd)); !ok {
		return nil, false
	}
	der := make([]byte, base64.StdEncoding.DecodedLen(len(body)))
	n, err := base64.StdEncoding.Decode(der, body) // skips the newlines
	return der[:n], err == nil
}

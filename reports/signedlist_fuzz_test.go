package reports

import (
	"crypto/ed25519"
	"testing"
)

// FuzzSignedListing: nothing but the bytes that were signed opens.
func FuzzSignedListing(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	signed, err := signList(f.Context(), signedFile{name: fileAffected, predicateType: PredicateAffected, predicate: struct{}{}}, "00", key)
	if err != nil {
		f.Fatal(err)
	}
	keys := []PublicKey{{Key: key.Public()}}
	if _, _, err := openList(f.Context(), signed, keys); err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add([]byte(`{"payloadType":"","payload":"","signatures":[]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, _, err := openList(t.Context(), data, keys); err == nil && string(data) != string(signed) {
			t.Errorf("opens %q", data)
		}
	})
}

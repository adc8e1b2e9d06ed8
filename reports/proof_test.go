package reports

import (
	"bytes"
	"context"
	"testing"
)

// VerifyDevice checks a proof alone.
func VerifyDevice(proof []byte, trust Trust, spki []byte) (*Device, error) {
	return VerifyUnit(context.Background(), &DeviceProof{Proof: proof}, Unit{SPKI: spki}, trust)
}

// TestEveryByteOfAProofCounts flips each bit of a proof.
func TestEveryByteOfAProofCounts(t *testing.T) {
	l, key := newLedger(t), stationKey("a")
	l.fill("lot-1", 9)
	p, err := ProveDevice(t.Context(), l, "lot-1", 4, Signing{Station: "line-3", Signer: key, Journal: l})
	if err != nil {
		t.Fatal(err)
	}
	good := p.Proof
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if d, err := VerifyDevice(bad, trusted(key), l.records["lot-1"][2].PublicKey); err != nil || d.OK() {
				t.Fatalf("bit %d of byte %d changed unnoticed (%v): %q", bit, i, err, bad[max(0, i-20):min(len(bad), i+20)])
			}
		}
	}
}

func FuzzParseProof(f *testing.F) {
	f.Add([]byte("c2sp.org/tlog-proof@v1\nextra e30=\nindex 0\n\nkeymill/a\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n"))
	f.Add([]byte("c2sp.org/tlog-proof@v1\nindex 7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\nx\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseProof(data)
		if err == nil && !bytes.Equal(p.Marshal(), data) && len(p.Event) > 0 {
			t.Errorf("%q reads as %q", data, p.Marshal())
		}
	})
}

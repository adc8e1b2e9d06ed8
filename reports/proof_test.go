package reports

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keymill/pipeline"
)

// VerifyDevice checks a proof alone.
func VerifyDevice(proof []byte, trust Trust, spki []byte) (*Device, error) {
	return VerifyUnit(context.Background(), &DeviceProof{Proof: proof}, Unit{SPKI: spki}, trust)
}

func TestProofOfADevice(t *testing.T) {
	l, key := newLedger(t), stationKey("a")
	l.fill("lot-0", 11)
	l.fill("lot-1", 60)
	l.fill("lot-2", 13)
	dir, _ := exportLot(t, l, "lot-1", signedOptions(l, key, "jsonl"))
	record := l.records["lot-1"][9] // released at the second attempt
	fromLedger, err := Prove(t.Context(), l, "lot-1", record.Row, key)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{record.Identity.Name(), strings.ToUpper(record.Identity.Name()), "SN0000009"} {
		p, err := ProveFromBundle(t.Context(), dir, name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p.Marshal(), fromLedger.Marshal()) {
			t.Errorf("%s: bundle and ledger give different proofs:\n%s\n%s", name, p.Marshal(), fromLedger.Marshal())
		}
	}
	d, err := VerifyDevice(fromLedger.Marshal(), trusted(key), record.PublicKey)
	if err != nil || !d.OK() {
		t.Fatalf("%v, %+v", err, d)
	}
	if d.Row != record.Row || d.Lot != "lot-1" || d.Identity["mac"] != record.Identity.Name() || d.SPKISHA256 != record.Fingerprint() {
		t.Errorf("proof of %+v", d)
	}
	for name, c := range map[string]struct {
		proof []byte
		trust Trust
		spki  []byte
		says  string
	}{
		"another key in the image": {fromLedger.Marshal(), trusted(key), l.records["lot-1"][10].PublicKey, "another one"},
		"another station key":      {fromLedger.Marshal(), trusted(stationKey("b")), record.PublicKey, "none of the given keys"},
		"no proof":                 {[]byte("hello"), trusted(key), nil, "cannot be read"},
	} {
		d, err := VerifyDevice(c.proof, c.trust, c.spki)
		if err != nil || d.OK() || !strings.Contains(d.Problems[0].Text, c.says) {
			t.Errorf("%s: %v, %+v", name, err, d)
		}
	}
	if _, err := Prove(t.Context(), l, "lot-1", 51, key); err == nil || pipeline.Hint(err) == "" {
		t.Errorf("a failed device was proved: %v", err)
	}
	if _, err := ProveFromBundle(t.Context(), dir, "nobody"); err == nil || pipeline.Hint(err) == "" {
		t.Errorf("a stranger was proved: %v", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ProveFromBundle(canceled, dir, record.Identity.Name()); err == nil {
		t.Error("a cancelled proof is no error")
	}
}

func TestProofWithCosignature(t *testing.T) {
	l, key, witness := newLedger(t), stationKey("a"), stationKey("w")
	l.fill("lot-1", 5)
	dir, res := exportLot(t, l, "lot-1", signedOptions(l, key, "jsonl"))
	cosigned, err := Cosign(res.Checkpoint, "witness.example/w1", witness, time.Unix(1773475200, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "log/line-3/checkpoint.cosigned"), cosigned, 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := ParseWitness(WitnessKey("witness.example/w1", witness.Public().(ed25519.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	p, err := ProveFromBundle(t.Context(), dir, "SN0000003")
	if err != nil {
		t.Fatal(err)
	}
	trust := trusted(key)
	trust.Witnesses = []*Witness{w}
	if d, err := VerifyDevice(p.Marshal(), trust, nil); err != nil || !d.OK() {
		t.Errorf("%v, %+v", err, d)
	}
	p.Checkpoint = res.Checkpoint
	if d, err := VerifyDevice(p.Marshal(), trust, nil); err != nil || d.OK() {
		t.Errorf("without its cosignature: %v, %+v", err, d)
	}
}

// TestEveryByteOfAProofCounts flips each bit of a proof.
func TestEveryByteOfAProofCounts(t *testing.T) {
	l, key := newLedger(t), stationKey("a")
	l.fill("lot-1", 9)
	p, err := Prove(t.Context(), l, "lot-1", 4, key)
	if err != nil {
		t.Fatal(err)
	}
	good := p.Marshal()
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

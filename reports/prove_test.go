package reports

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keymill/pipeline"
)

func TestTheTwoStepsOfAProof(t *testing.T) {
	key, witness := stationKey("a"), stationKey("w")
	b, dir := honest(t, key)
	r := b.records["lot-1"][4]
	fromLedger, err := ProveDevice(t.Context(), b, "lot-1", r.Row, Signing{Station: "line-3", Signer: key, Journal: b})
	if err != nil {
		t.Fatal(err)
	}
	p, err := ProveDeviceFromBundle(t.Context(), dir, "SN0000004")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.Proof, fromLedger.Proof) || !bytes.Equal(p.Head, fromLedger.Head) {
		t.Error("bundle and ledger give different proofs")
	}
	unit := Unit{SPKI: r.PublicKey, Identity: map[string]string{"mac": strings.ToUpper(r.Identity.Name())}, Bundle: dir}
	d, err := VerifyUnit(t.Context(), p, unit, trusted(key))
	if err != nil || !d.OK() || d.Row != r.Row || d.Now != pipeline.Released {
		t.Fatalf("%v, %+v", err, d)
	}
	w, err := ParseWitness(WitnessKey("witness.example/w1", witness.Public().(ed25519.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	withWitness := trusted(key)
	withWitness.Witnesses = []*Witness{w}
	vkey, err := VerifierKey("line-4", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	other, err := ParsePublicKey([]byte(vkey))
	if err != nil {
		t.Fatal(err)
	}
	earlier, err := ProveDeviceFromBundle(t.Context(), dir, "SN0000005")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		proof *DeviceProof
		unit  Unit
		trust Trust
		says  string
	}{
		"another key":            {p, Unit{SPKI: b.records["lot-1"][5].PublicKey}, trusted(key), "another one"},
		"a copy in another unit": {p, Unit{SPKI: r.PublicKey, Identity: map[string]string{"mac": "02:00"}}, trusted(key), "a copy in another unit"},
		"an unknown value":       {p, Unit{Identity: map[string]string{"imei": "1"}}, trusted(key), `no "imei"`},
		"no witness":             {p, unit, withWitness, "has not cosigned"},
		"no head for a witness":  {&DeviceProof{Proof: p.Proof}, unit, withWitness, "proof of the lot's head is missing"},
		"a key of another line":  {p, unit, Trust{Keys: []PublicKey{other}}, "none of the given keys is for this station"},
		"the head of the event":  {&DeviceProof{Proof: p.Proof, Head: p.Proof}, unit, trusted(key), "something else"},
		"proofs swapped":         {&DeviceProof{Proof: p.Head, Head: p.Proof}, unit, trusted(key), "not released by it"},
		"another device's":       {earlier, unit, trusted(key), "another unit's proof"},
	} {
		if d, err := VerifyUnit(t.Context(), c.proof, c.unit, c.trust); err != nil || d.OK() || !strings.Contains(fmt.Sprint(d.Problems), c.says) {
			t.Errorf("%s: %v, %+v", name, err, d)
		}
	}
	for i := range p.Head {
		bad := bytes.Clone(p.Head)
		bad[i] ^= 1
		if d, err := VerifyUnit(t.Context(), &DeviceProof{Proof: p.Proof, Head: bad}, Unit{}, trusted(key)); err != nil || d.OK() {
			t.Fatalf("byte %d of the head's proof changed unnoticed", i)
		}
	}
}

// TestAStateThatIsOver: a proof that was made before a device was undone holds, but
// a newer bundle says what became of it, and no new proof is made.
func TestAStateThatIsOver(t *testing.T) {
	key := stationKey("a")
	b, dir := honest(t, key)
	p, err := ProveDeviceFromBundle(t.Context(), dir, "SN0000004")
	if err != nil {
		t.Fatal(err)
	}
	r := b.records["lot-1"][4]
	b.append(pipeline.Event{Lot: "lot-1", Action: pipeline.ActionUndo, Row: r.Row, Device: r.Identity, From: r.State, To: pipeline.Undone,
		SPKI: r.Fingerprint(), Algorithm: r.Algorithm, Key: "destroyed", Attempt: r.Attempts, Serial: "SN0000004"})
	r.State, r.KeysDestroyed, r.Output, r.Pack, r.Updated = pipeline.Undone, r.KeysGenerated, pipeline.Output{}, pipeline.PackRef{}, b.clock
	r.Auth.Status = ""
	newer, _ := exportLot(t, b, "lot-1", Options{Signer: key, Station: "line-3", Journal: b})
	wantValid(t, verify(t, newer, trusted(key)))
	d, err := VerifyUnit(t.Context(), p, Unit{SPKI: r.PublicKey}, trusted(key))
	if err != nil || !d.OK() || !strings.Contains(strings.Join(d.Notes, " "), "how the device stands since") {
		t.Errorf("the proof alone: %v, %+v", err, d)
	}
	d, err = VerifyUnit(t.Context(), p, Unit{SPKI: r.PublicKey, Bundle: newer}, trusted(key))
	if err != nil || d.OK() || !strings.Contains(d.Problems[0].Text, "undone since") {
		t.Errorf("with a newer bundle: %v, %+v", err, d)
	}
	if _, err := ProveDeviceFromBundle(t.Context(), newer, "SN0000004"); err == nil || !strings.Contains(err.Error(), "undone since") {
		t.Errorf("proves what is over: %v", err)
	}
	if _, err := ProveDevice(t.Context(), b, "lot-1", r.Row, Signing{Station: "line-3", Signer: key, Journal: b}); err == nil {
		t.Error("proves from the ledger what is over")
	}
}

func TestAStampedProof(t *testing.T) {
	key, tsa := stationKey("a"), newAuthority(t, "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	b := newBooks(t)
	b.fill("lot-1", 5)
	dir, _ := exportLot(t, b, "lot-1", Options{Signer: key, Station: "line-3", Journal: b, Timestamp: TimestampAuthority(http.DefaultClient, tsa.url)})
	p, err := ProveDeviceFromBundle(t.Context(), dir, "SN0000003")
	if err != nil {
		t.Fatal(err)
	}
	trust := trusted(key)
	trust.Authorities = tsa.roots
	wantValid(t, verify(t, dir, trust))
	if d, err := VerifyUnit(t.Context(), p, Unit{}, trust); err != nil || !d.OK() {
		t.Errorf("%v, %+v", err, d)
	}
	cosigned, err := Cosign(readFile(t, filepath.Join(dir, "log/line-3/checkpoint")), "w.example/1", stationKey("w"), time.Unix(1773475200, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "log/line-3/checkpoint.cosigned"), cosigned, 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err = ProveDeviceFromBundle(t.Context(), dir, "SN0000003"); err != nil {
		t.Fatal(err)
	}
	if d, err := VerifyUnit(t.Context(), p, Unit{}, trust); err != nil || !d.OK() {
		t.Errorf("cosigned: %v, %+v", err, d)
	}
	p.Timestamp = nil
	if d, err := VerifyUnit(t.Context(), p, Unit{}, trust); err != nil || d.OK() {
		t.Errorf("without its time stamp: %v, %+v", err, d)
	}
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

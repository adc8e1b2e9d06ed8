package reports

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keymill/pipeline"
)

// stationKey is an Ed25519 key that is the same in every run.
func stationKey(seed string) ed25519.PrivateKey {
	sum := sha256.Sum256([]byte(seed))
	return ed25519.NewKeyFromSeed(sum[:])
}

func trusted(keys ...crypto.Signer) Trust {
	var t Trust
	for _, k := range keys {
		t.Keys = append(t.Keys, PublicKey{Key: k.Public()})
	}
	return t
}

// signedOptions exports with evidence and records it in the ledger.
func signedOptions(l *fakeLedger, key crypto.Signer, formats ...string) Options {
	return Options{Formats: formats, Signer: key, Station: "line-3", Record: l.Append}
}

func verify(t testing.TB, dir string, trust Trust) *Report {
	t.Helper()
	r, err := VerifyBundle(t.Context(), dir, trust)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantValid(t testing.TB, r *Report) {
	t.Helper()
	for _, p := range r.Problems {
		t.Errorf("a sound bundle: %s", p)
	}
}

func wantProblem(t testing.TB, r *Report, text string) {
	t.Helper()
	if !slices.ContainsFunc(r.Problems, func(p Problem) bool { return strings.Contains(p.String(), text) }) {
		t.Errorf("problems %q, want %q among them", r.Problems, text)
	}
}

func TestBundleVerifies(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ed25519": stationKey("a"), "rsa": rsaKey, "p256": p256, "p384": p384} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			l.fill("lot-0", 7)
			l.fill("lot-1", 120)
			l.fill("lot-2", 9)
			dir, res := exportLot(t, l, "lot-1", signedOptions(l, key))
			r := verify(t, dir, trusted(key))
			wantValid(t, r)
			if r.Devices != 120 || r.Events != res.Events || r.Lot != "lot-1" || r.Files != len(res.Files)-1 {
				t.Errorf("report %+v", r)
			}
			vkey, err := VerifierKey("line-3", key.Public())
			if err != nil {
				t.Fatal(err)
			}
			pub, err := ParsePublicKey([]byte(vkey + "\n"))
			if err != nil {
				t.Fatal(err)
			}
			wantValid(t, verify(t, dir, Trust{Keys: []PublicKey{pub}}))
			other, err := VerifierKey("line-4", key.Public())
			if err != nil {
				t.Fatal(err)
			}
			if pub, err = ParsePublicKey([]byte(other)); err != nil {
				t.Fatal(err)
			}
			wantProblem(t, verify(t, dir, Trust{Keys: []PublicKey{pub}}), "keymill/line-4's")
			wantProblem(t, verify(t, dir, trusted(stationKey("b"))), "another key")
		})
	}
}

func TestSignedExportIsReproducible(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-0", 5)
	exportLot(t, l, "lot-0", signedOptions(l, stationKey("a")))
	l.fill("lot-1", 50)
	_, first := exportLot(t, l, "lot-1", signedOptions(l, stationKey("a")))
	_, second := exportLot(t, l, "lot-1", signedOptions(l, stationKey("a")))
	if !slices.Equal(first.Files, second.Files) {
		t.Errorf("the second export differs:\n%v\n%v", first.Files, second.Files)
	}
}

func TestLogContinuesAcrossLots(t *testing.T) {
	l, key := newLedger(t), stationKey("a")
	l.fill("lot-1", 30)
	_, first := exportLot(t, l, "lot-1", signedOptions(l, key))
	l.fill("lot-2", 33)
	dir, second := exportLot(t, l, "lot-2", signedOptions(l, key))
	previous, err := os.ReadFile(filepath.Join(dir, "log/line-3/previous"))
	if err != nil || !bytes.Equal(previous, first.Checkpoint) {
		t.Fatalf("the previous checkpoint is not the first export's: %v", err)
	}
	trust := trusted(key)
	trust.Since = [][]byte{first.Checkpoint, second.Checkpoint}
	wantValid(t, verify(t, dir, trust))

	// A bundle of the first lot from the ledger as it stands now covers both.
	again, _ := exportLot(t, l, "lot-1", signedOptions(l, key))
	wantValid(t, verify(t, again, trust))
}

// TestUnrecordedCheckpointsCanBeChecked hands out checkpoints that the ledger
// never hears of, as after a crash between export and record.
func TestUnrecordedCheckpointsCanBeChecked(t *testing.T) {
	l, key := newLedger(t), stationKey("a")
	opt := signedOptions(l, key, "jsonl")
	opt.Record = nil
	trust := trusted(key)
	for i := range 4 {
		l.fill(fmt.Sprint("lot-", i), 20)
		_, res := exportLot(t, l, fmt.Sprint("lot-", i), opt)
		trust.Since = append(trust.Since, res.Checkpoint)
	}
	for i := range 4 {
		dir, _ := exportLot(t, l, fmt.Sprint("lot-", i), opt)
		wantValid(t, verify(t, dir, trust))
	}
}

func TestRolledBackLedgerIsNoticed(t *testing.T) {
	l, key := newLedger(t), stationKey("a")
	l.fill("lot-1", 30)
	backup := slices.Clone(l.events)
	records := slices.Clone(l.records["lot-1"])
	l.fill("lot-2", 30)
	_, late := exportLot(t, l, "lot-2", signedOptions(l, key))

	// The whole ledger is set back to its backup, and the lot exported anew.
	l.events, l.records["lot-1"] = backup, records
	dir, _ := exportLot(t, l, "lot-1", signedOptions(l, key))
	trust := trusted(key)
	wantValid(t, verify(t, dir, trust)) // by itself it is sound
	trust.Since = [][]byte{late.Checkpoint}
	wantProblem(t, verify(t, dir, trust), "rolled back")

	// Rewriting history to the same length does not help either.
	l.fill("lot-2", 30)
	l.fill("lot-3", 30)
	dir, _ = exportLot(t, l, "lot-3", signedOptions(l, key))
	wantProblem(t, verify(t, dir, trust), "checkpoint")
}

func TestExportRefusesAChangedLedger(t *testing.T) {
	setUp := func(t *testing.T) *fakeLedger {
		l := newLedger(t)
		l.fill("lot-1", 20)
		exportLot(t, l, "lot-1", signedOptions(l, stationKey("a")))
		l.fill("lot-2", 5)
		return l
	}
	for name, c := range map[string]struct {
		spoil func(l *fakeLedger)
		says  string
	}{
		"event changed": {func(l *fakeLedger) {
			l.events[7].Canonical = bytes.Replace(l.events[7].Canonical, []byte("ed25519"), []byte("rsa2048"), 1)
		}, "not what was logged"},
		"event and leaf changed": {func(l *fakeLedger) {
			e := &l.events[7]
			e.Canonical = bytes.Replace(e.Canonical, []byte("ed25519"), []byte("rsa2048"), 1)
			e.Leaf = pipeline.LeafHash(e.Canonical)
		}, "no longer agrees"},
		"event removed": {func(l *fakeLedger) { l.events = slices.Delete(l.events, 7, 8) }, "lacks event 8"},
		"tail removed": {func(l *fakeLedger) {
			last := l.events[len(l.events)-1]
			exported := slices.IndexFunc(l.events, func(e pipeline.StoredEvent) bool { return isAction(e.Canonical, pipeline.ActionExport) })
			e := l.events[exported]
			e.Seq, last.Seq = 5, 6
			l.events = append(l.events[:4:4], e, last)
		}, "rolled back"},
	} {
		t.Run(name, func(t *testing.T) {
			l := setUp(t)
			c.spoil(l)
			_, err := Export(t.Context(), l, "lot-1", filepath.Join(t.TempDir(), "report"), signedOptions(l, stationKey("a")))
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("says %v, want %q", err, c.says)
			}
		})
	}
}

// resign makes a bundle's statement anew after somebody with the station's key
// changed files: what a dishonest factory can do.
func resign(t testing.TB, dir string, key crypto.Signer, change func(st *Statement)) {
	t.Helper()
	resignBy(t, dir, key, key, change)
}

// resignBy signs a bundle of was anew with key.
func resignBy(t testing.TB, dir string, was, key crypto.Signer, change func(st *Statement)) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, fileStatement))
	if err != nil {
		t.Fatal(err)
	}
	st, _, err := openStatement(t.Context(), data, trusted(was).Keys)
	if err != nil {
		t.Fatal(err)
	}
	others := slices.DeleteFunc(st.Subject, func(s statementSubject) bool { return strings.HasPrefix(s.Name, bundlePrefix) })
	st.Subject = nil
	for range 2 { // the second time with the hash of SHA256SUMS
		files, err := listFiles(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fileSums), sums(files), 0o600); err != nil {
			t.Fatal(err)
		}
		st.Subject = nil
		for _, f := range files {
			if f.Name != fileStatement {
				st.Subject = append(st.Subject, statementSubject{bundlePrefix + f.Name, map[string]string{"sha256": f.SHA256}})
			}
		}
	}
	st.Subject = append(st.Subject, others...)
	if change != nil {
		change(st)
	}
	envelope, err := signStatement(t.Context(), st, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fileStatement), envelope, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDishonestFactory re-signs changed bundles with the station's own key: what
// is left is that the log, the events, the devices and the totals must agree.
func TestDishonestFactory(t *testing.T) {
	edit := func(name string, f func([]string) []string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := f(strings.SplitAfter(strings.TrimSuffix(string(data), "\n"), "\n"))
			if err := os.WriteFile(path, []byte(strings.TrimSuffix(strings.Join(lines, ""), "\n")+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	swap := func(i, j int) func([]string) []string {
		return func(l []string) []string { l[i], l[j] = l[j], l[i]; return l }
	}
	for name, c := range map[string]struct {
		change    func(t *testing.T, dir string)
		statement func(st *Statement)
		says      string
	}{
		"an event changed": {edit(fileEvents, func(l []string) []string {
			l[5] = strings.Replace(l[5], `"attempt":1`, `"attempt":2`, 1)
			return l
		}), nil, "not the one that the checkpoint vouches for"},
		"an event removed":   {edit(fileEvents, func(l []string) []string { return slices.Delete(l, 5, 6) }), nil, "leaf"},
		"two events swapped": {edit(fileEvents, swap(5, 6)), nil, "leaf"},
		"a device removed":   {edit(fileDevices, func(l []string) []string { return slices.Delete(l, 5, 6) }), nil, "not listed"},
		"a device twice":     {edit(fileDevices, func(l []string) []string { return slices.Insert(l, 5, l[5]) }), nil, "comes after"},
		"two devices' keys swapped": {edit(fileDevices, func(l []string) []string {
			cut := func(s, member string) (a, v, b string) {
				i := strings.Index(s, `"`+member+`":"`)
				j := i + len(member) + 4
				k := j + strings.Index(s[j:], `"`)
				return s[:j], s[j:k], s[k:]
			}
			for _, member := range []string{"public_key", "spki_sha256"} {
				a1, v1, b1 := cut(l[3], member)
				a2, v2, b2 := cut(l[4], member)
				l[3], l[4] = a1+v2+b1, a2+v1+b2
			}
			return l
		}), nil, "another key than its events say"},
		"a failure hidden": {edit(fileDevices, func(l []string) []string {
			l[49] = strings.Replace(l[49], `"failed"`, `"released"`, 1)
			return l
		}), nil, "its events say failed"},
		"an image changed": {edit(fileDevices, func(l []string) []string {
			i := strings.Index(l[3], `"output_sha256":"`) + 17
			l[3] = l[3][:i] + strings.Repeat("0", 64) + l[3][i+64:]
			return l
		}), nil, "another image"},
		"an extra device": {edit(fileDevices, func(l []string) []string {
			d := strings.Replace(l[0], `"row":2`, `"row":9999`, 1)
			return append(l, "\n", strings.ReplaceAll(d, "02:12", "02:99"))
		}), nil, "devices.jsonl"},
		"totals changed":   {nil, func(st *Statement) { st.Predicate.Totals.Failed-- }, "other totals"},
		"balance changed":  {nil, func(st *Statement) { st.Predicate.Balance.KeysDestroyed++ }, "another balance"},
		"said to be sound": {nil, func(st *Statement) { st.Predicate.Reconciles = false }, "reconciles"},
		"head changed":     {nil, func(st *Statement) { st.Predicate.Logs[0].Size++ }, "not the head"},
		"log hidden":       {nil, func(st *Statement) { st.Predicate.Logs = nil }, "in no log"},
		"other manifest": {nil, func(st *Statement) {
			for i := range st.Subject {
				if st.Subject[i].Name == "manifest" {
					st.Subject[i].Digest["sha256"] = strings.Repeat("0", 64)
				}
			}
		}, "the manifest was another one"},
		"a checkpoint by somebody else": {func(t *testing.T, dir string) {
			signed, err := LogHead{Origin: Origin("line-3"), Size: 1, Root: strings.Repeat("A", 43) + "="}.sign(stationKey("b"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "log/line-3/checkpoint"), signed, 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil, "none of the given keys"},
	} {
		t.Run(name, func(t *testing.T) {
			l, key := newLedger(t), stationKey("a")
			l.fill("lot-0", 3)
			l.fill("lot-1", 60)
			dir, _ := exportLot(t, l, "lot-1", signedOptions(l, key, "jsonl"))
			if c.change != nil {
				c.change(t, dir)
			}
			resign(t, dir, key, c.statement)
			wantProblem(t, verify(t, dir, trusted(key)), c.says)
		})
	}
}

func TestWitnesses(t *testing.T) {
	l, key, witness := newLedger(t), stationKey("a"), stationKey("w")
	l.fill("lot-1", 20)
	dir, res := exportLot(t, l, "lot-1", signedOptions(l, key, "jsonl"))
	w, err := ParseWitness(WitnessKey("witness.example/w1", witness.Public().(ed25519.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	trust := trusted(key)
	trust.Witnesses = []*Witness{w}
	wantProblem(t, verify(t, dir, trust), "no witness")

	cosigned, err := Cosign(res.Checkpoint, "witness.example/w1", witness, time.Unix(1773475200, 0))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "log/line-3/checkpoint.cosigned")
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(cosigned)
	wantValid(t, verify(t, dir, trust))
	wantValid(t, verify(t, dir, trusted(key))) // signatures of others are ignored, as C2SP says

	for i := range 8 * len(cosigned) {
		changed := bytes.Clone(cosigned)
		changed[i/8] ^= 1 << (i % 8)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		write(changed)
		if verify(t, dir, trust).OK() {
			t.Fatalf("bit %d of a cosigned checkpoint changed unnoticed", i)
		}
	}
	bad := *w
	bad.key = stationKey("x").Public().(ed25519.PublicKey)
	write(cosigned)
	wantProblem(t, verify(t, dir, Trust{Keys: trust.Keys, Witnesses: []*Witness{&bad}}), "invalid signature")
}

func TestAnUnsignedFolderIsNotABundle(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 5)
	dir, _ := exportLot(t, l, "lot-1", Options{Formats: []string{"csv"}})
	wantProblem(t, verify(t, dir, trusted(stationKey("a"))), "not signed")
	if _, err := VerifyBundle(t.Context(), filepath.Join(dir, "no"), trusted(stationKey("a"))); err == nil {
		t.Error("a missing folder is no error")
	}
	if _, err := VerifyBundle(t.Context(), dir, Trust{}); err == nil || pipeline.Hint(err) == "" {
		t.Errorf("without keys: %v", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	signed, _ := exportLot(t, l, "lot-1", signedOptions(l, stationKey("a")))
	if _, err := VerifyBundle(canceled, signed, trusted(stationKey("a"))); err == nil {
		t.Error("a cancelled verification is no error")
	}
}

func TestClose(t *testing.T) {
	l, key := newLedger(t), stationKey("a")
	l.fill("lot-1", 40)
	event, err := Close(t.Context(), l, "lot-1", "line-3", key)
	if err != nil {
		t.Fatal(err)
	}
	l.append(event)
	dir, _ := exportLot(t, l, "lot-1", signedOptions(l, key, "jsonl"))
	wantValid(t, verify(t, dir, trusted(key)))
	previous, err := os.ReadFile(filepath.Join(dir, "log/line-3/previous"))
	if err != nil || !strings.Contains(string(l.events[len(l.events)-2].Canonical), "lot-closed") {
		t.Fatalf("the checkpoint at the close is not the previous one: %v", err)
	}
	trust := trusted(key)
	trust.Since = [][]byte{previous}
	wantValid(t, verify(t, dir, trust))

	l.records["lot-1"][3].KeysGenerated++
	_, err = Close(t.Context(), l, "lot-1", "line-3", key)
	if err == nil || !strings.Contains(err.Error(), "over-production") || pipeline.Hint(err) == "" {
		t.Errorf("a lot with a key too many closes: %v", err)
	}
}

func TestManyStations(t *testing.T) {
	l, key := newLedger(t), stationKey("a")
	l.fill("lot-1", 40)
	// Half of the events come from another station, whose name is no file name.
	var moved []pipeline.StoredEvent
	keep := l.events[:0:0]
	for _, e := range l.events {
		line, err := parseEvent(e.Canonical)
		if err != nil {
			t.Fatal(err)
		}
		if line.Row%2 == 1 {
			from, to := fmt.Sprintf(`"seq":%d,`, e.Seq), fmt.Sprintf(`"seq":%d,`, len(moved)+1)
			e.Station, e.Seq = "werk 2/../b", int64(len(moved)+1)
			e.Canonical = []byte(strings.Replace(strings.Replace(string(e.Canonical), from, to, 1), `"line-3"`, `"werk 2/../b"`, 1))
			e.Leaf = pipeline.LeafHash(e.Canonical)
			moved = append(moved, e)
			continue
		}
		from, to := fmt.Sprintf(`"seq":%d,`, e.Seq), fmt.Sprintf(`"seq":%d,`, len(keep)+1)
		e.Seq = int64(len(keep) + 1)
		e.Canonical = []byte(strings.Replace(string(e.Canonical), from, to, 1))
		e.Leaf = pipeline.LeafHash(e.Canonical)
		keep = append(keep, e)
	}
	l.events = append(keep, moved...)
	dir, _ := exportLot(t, l, "lot-1", signedOptions(l, key, "jsonl"))
	r := verify(t, dir, trusted(key))
	wantValid(t, r)
	if len(r.Logs) != 2 || r.Logs[1].Origin != "keymill/werk%202%2F..%2Fb" {
		t.Errorf("logs %+v", r.Logs)
	}
}

// listFiles returns the files below dir with their hashes, by name.
func listFiles(dir string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		sum, err := hashFile(path)
		files = append(files, File{filepath.ToSlash(rel), info.Size(), sum})
		return err
	})
	return files, err
}

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
	"encoding/hex"
	"fmt"
	"io"
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
	return Options{Formats: formats, Signer: key, Station: "line-3", Journal: l}
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

func TestExportRefusesAChangedLedger(t *testing.T) {
	const origin = "line-3/lot-1"
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
			e := &l.logs[origin][7]
			e.Canonical = bytes.Replace(e.Canonical, []byte("ed25519"), []byte("rsa2048"), 1)
		}, "not what was logged"},
		"event and leaf changed": {func(l *fakeLedger) {
			e := &l.logs[origin][7]
			e.Canonical = bytes.Replace(e.Canonical, []byte("ed25519"), []byte("rsa2048"), 1)
			e.Leaf = pipeline.LeafHash(e.Canonical)
		}, "the ledger was changed"},
		"event removed": {func(l *fakeLedger) { l.logs[origin] = slices.Delete(l.logs[origin], 7, 8) }, "lacks event 8"},
		"tail removed":  {func(l *fakeLedger) { l.logs[origin] = l.logs[origin][:9] }, "older copy of the ledger"},
		"station log cut": {func(l *fakeLedger) {
			l.logs["line-3"] = l.logs["line-3"][:1]
		}, "older copy of the ledger"},
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
	l.close("lot-1")
	dir, _ := exportLot(t, l, "lot-1", signedOptions(l, key, "jsonl"))
	wantValid(t, verify(t, dir, trusted(key)))
	l.records["lot-1"][3].KeysGenerated++
	_, err := Close(t.Context(), l, "lot-1", "line-3")
	if err == nil || !strings.Contains(err.Error(), "over-production") || pipeline.Hint(err) == "" {
		t.Errorf("a lot with a key too many closes: %v", err)
	}
}

// TestManyStations makes one lot at two stations, each with a key of its own. The
// other one's clock is a second ahead.
func TestManyStations(t *testing.T) {
	l, key, other := newLedger(t), stationKey("a"), stationKey("b")
	l.fill("lot-1", 40)
	const station = "werk 2-b"
	name := LotOrigin(station, "lot-1", 1)
	// Half of the devices are made there.
	events := l.logs[LotOrigin("line-3", "lot-1", 1)]
	l.logs[LotOrigin("line-3", "lot-1", 1)] = nil
	l.order = append(l.order, Log{Kind: pipeline.LogLot, Station: station, Lot: "lot-1", Epoch: 1, Origin: name})
	run := int64(0)
	for _, e := range events {
		line, err := parseEvent(e.Canonical)
		if err != nil {
			t.Fatal(err)
		}
		origin, at := LotOrigin("line-3", "lot-1", 1), line.Time
		if line.Action == pipeline.ActionRunEnd {
			continue
		}
		if line.Row%2 == 1 {
			origin, at = name, line.Time.Add(time.Second)
			e.Canonical = []byte(strings.Replace(string(e.Canonical), `"line-3"`, `"`+station+`"`, 1))
			if run == 0 {
				run = 1
				start := pipeline.Event{Station: station, Lot: "lot-1", Action: pipeline.ActionRun, Seq: 1, Time: at}
				c := start.Canonical()
				l.logs[name] = append(l.logs[name], pipeline.StoredEvent{Station: station, Seq: 1, Lot: "lot-1", Canonical: c, Leaf: pipeline.LeafHash(c)})
			}
			e.Canonical = []byte(strings.Replace(string(e.Canonical), `"run":2`, `"run":1`, 1))
			l.records["lot-1"][line.Row-2].Station = station
		}
		e.Seq = int64(len(l.logs[origin])) + 1
		text := strings.Replace(string(e.Canonical), fmt.Sprintf(`"seq":%d,`, line.Seq), fmt.Sprintf(`"seq":%d,`, e.Seq), 1)
		text = strings.Replace(text, line.Time.Format(timeForm), at.Format(timeForm), 1)
		e.Canonical = []byte(text)
		e.Leaf = pipeline.LeafHash(e.Canonical)
		l.logs[origin] = append(l.logs[origin], e)
	}
	both := trusted(key, other)
	opt := signedOptions(l, key, "jsonl")
	if _, err := Export(t.Context(), l, "lot-1", filepath.Join(t.TempDir(), "r"), opt); err == nil || !strings.Contains(err.Error(), "has not signed its part") {
		t.Fatalf("exported without the other station's signature: %v", err)
	}
	if err := SignLot(t.Context(), l, "lot-1", Signing{Station: station, Signer: other, Journal: l}); err != nil {
		t.Fatal(err)
	}
	l.close("lot-1")
	dir, _ := exportLot(t, l, "lot-1", opt)
	r := verify(t, dir, both)
	wantValid(t, r)
	if len(r.Logs) != 4 || r.Logs[3].Origin != "werk%202-b/lot-1" {
		t.Errorf("logs %+v", r.Logs)
	}
	wantProblem(t, verify(t, dir, trusted(key)), "none of the given keys")
	f := openForge(t, copyBundle(t, dir), key)
	f.st.Predicate.Logs = slices.DeleteFunc(f.st.Predicate.Logs, func(h LogHead) bool { return h.Station == station })
	f.st.Predicate.Events = int(f.st.Predicate.Logs[1].Events)
	f.write(fileEvents, []byte(strings.Join(f.events[:f.st.Predicate.Events], "\n")+"\n"))
	if err := os.RemoveAll(filepath.Join(f.dir, "log", escapeName(station))); err != nil {
		t.Fatal(err)
	}
	resign(t, f.dir, key, func(st *Statement) {
		st.Predicate.Logs, st.Predicate.Events = f.st.Predicate.Logs, f.st.Predicate.Events
		st.Predicate.Files[fileEvents], st.Predicate.Files[fileSums] = int64(len(f.read(fileEvents))), int64(len(f.read(fileSums)))
		for name := range st.Predicate.Files {
			if strings.Contains(name, escapeName(station)) {
				delete(st.Predicate.Files, name)
			}
		}
	})
	wantProblem(t, verify(t, f.dir, both), "which the bundle does not have") // the close names the log
}

// TestARetiredStationsLogIsSignedForIt: another station signs its last head, and
// says why.
func TestARetiredStationsLogIsSignedForIt(t *testing.T) {
	l, key := newLedger(t), stationKey("a")
	l.fill("lot-1", 10)
	l.append(pipeline.Event{Station: "line-9", Lot: "lot-1", Action: pipeline.ActionRun})
	s := Signing{Station: "line-3", Signer: key, Journal: l}
	if err := SignFor(t.Context(), l, "lot-1", "line-9", "its disk broke", s); err != nil {
		t.Fatal(err)
	}
	dir, _ := exportLot(t, l, "lot-1", signedOptions(l, key, "jsonl"))
	r := verify(t, dir, trusted(key))
	wantValid(t, r)
	if !strings.Contains(strings.Join(r.Notes, " "), "line-3 signed the log line-9/lot-1 for station line-9: its disk broke") {
		t.Errorf("notes %q", r.Notes)
	}
	if line := stranger(t, key, dir)[0]; !strings.Contains(line, ": valid") {
		t.Error(line)
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

// hashFile returns a file's SHA-256 in hexadecimal.
func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

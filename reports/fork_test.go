package reports

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"keymill/pipeline"
)

// snapshot copies a ledger, as a backup does.
func (b *bookLedger) snapshot() *bookLedger {
	c := *b
	c.lots, c.records = maps.Clone(b.lots), map[string][]*pipeline.Record{}
	for lot, records := range b.records {
		for _, r := range records {
			clone := *r
			c.records[lot] = append(c.records[lot], &clone)
		}
	}
	c.order, c.logs, c.heads, c.epoch = slices.Clone(b.order), map[string][]pipeline.StoredEvent{}, maps.Clone(b.heads), maps.Clone(b.epoch)
	for origin, events := range b.logs {
		c.logs[origin] = slices.Clone(events)
	}
	return &c
}

// TestWhatOneBundleCannotShow: a station that makes its whole history anew is found
// by whoever has seen the other one. Each bundle by itself is sound.
func TestWhatOneBundleCannotShow(t *testing.T) {
	key := stationKey("a")
	opt := func(b *bookLedger) Options {
		return Options{Signer: key, Station: "line-3", Journal: b, Formats: []string{"csv"}}
	}
	for name, cheat := range map[string]func(b *bookLedger) *bookLedger{
		"fork": func(b *bookLedger) *bookLedger {
			other := newBooks(t)
			other.clock = other.clock.Add(time.Second)
			other.fill("lot-1", 20)
			return other
		},
		"roll back": func(b *bookLedger) *bookLedger {
			events := b.logs[LotOrigin("line-3", "lot-1", 1)]
			b.logs[LotOrigin("line-3", "lot-1", 1)] = events[:len(events)-1]
			return b
		},
		"hide the close": func(b *bookLedger) *bookLedger {
			events := b.logs[LotOrigin("line-3", "lot-1", 1)]
			b.logs[LotOrigin("line-3", "lot-1", 1)] = events[:len(events)-1]
			l := b.lots["lot-1"]
			l.Closed = time.Time{}
			b.lots["lot-1"] = l
			return b
		},
		"claim HSM keys from the start": func(b *bookLedger) *bookLedger {
			b.rewrite(`"keys":"software"`, `"keys":"hsm"`)
			l := b.lots["lot-1"]
			l.Keys = "hsm"
			b.lots["lot-1"] = l
			return b
		},
		"back-date everything": func(b *bookLedger) *bookLedger {
			b.rewrite(`"time":"2026-03-14`, `"time":"2026-03-01`)
			for _, r := range b.records["lot-1"] {
				r.Updated = r.Updated.AddDate(0, 0, -13)
			}
			l := b.lots["lot-1"]
			l.Created = l.Created.AddDate(0, 0, -13)
			if !l.Closed.IsZero() {
				l.Closed = l.Closed.AddDate(0, 0, -13)
			}
			b.lots["lot-1"] = l
			b.clock = b.clock.AddDate(0, 0, -13)
			return b
		},
		"renumber, with all heads stripped": func(b *bookLedger) *bookLedger {
			b.append(pipeline.Event{Lot: "lot-1", Action: pipeline.ActionVerify})
			events := b.logs[LotOrigin("line-3", "lot-1", 1)]
			n := len(events) - 1
			events[n-1], events[n] = events[n], events[n-1]
			at := regexp.MustCompile(`"time":"[^"]*"`)
			was := at.Find(events[n].Canonical)
			events[n].Canonical = at.ReplaceAll(events[n].Canonical, at.Find(events[n-1].Canonical))
			events[n-1].Canonical = at.ReplaceAll(events[n-1].Canonical, was)
			b.rewrite("~", "~")
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBooks(t)
			b.fill("lot-1", 20)
			if name == "hide the close" {
				b.close("lot-1")
			}
			honestDir, res := exportLot(t, b, "lot-1", opt(b))
			lotHead := readFile(t, filepath.Join(honestDir, "log/line-3/lot/checkpoint"))
			heads := stateOf(t, res.Checkpoint)
			station := b.logs[StationOrigin("line-3", 1)]
			b.logs[StationOrigin("line-3", 1)], b.heads = nil, map[string][]byte{}
			forged := cheat(b)
			dir, _ := exportLot(t, forged, "lot-1", opt(forged))
			wantValid(t, verify(t, dir, trusted(key)))
			for what, since := range map[string][]byte{"the station log's": res.Checkpoint, "the lot log's": lotHead} {
				trust := trusted(key)
				trust.Since = [][]byte{since}
				if verify(t, dir, trust).OK() {
					t.Errorf("an earlier checkpoint of %s does not find it", what)
				}
			}
			_, _, err := CosignBundle(t.Context(), dir, trusted(key), Cosigning{Name: "w.example/1", Key: stationKey("w"), State: heads})
			report, all, _ := CosignBundle(t.Context(), dir, trusted(key), Cosigning{Name: "w.example/1", Key: stationKey("w"), State: heads})
			if err == nil && (report.OK() || len(all) > 0) {
				t.Errorf("a witness cosigns both histories")
			}
			// Where the station kept its heads file, it cannot even be signed.
			o := opt(forged)
			o.Heads = stateOf(t, res.Checkpoint)
			forged.logs[StationOrigin("line-3", 1)], forged.heads = station[:1], map[string][]byte{}
			_, err = Export(t.Context(), forged, "lot-1", filepath.Join(t.TempDir(), "report"), o)
			if _, ok := errors.AsType[*RolledBackError](err); !ok {
				t.Errorf("the heads file lets it pass: %v", err)
			}
		})
	}
}

// rewrite changes every event and numbers the logs anew.
func (b *bookLedger) rewrite(from, to string) {
	seq := regexp.MustCompile(`"seq":\d+`)
	for origin, events := range b.logs {
		for i := range events {
			e := &events[i]
			e.Seq = int64(i) + 1
			e.Canonical = []byte(strings.ReplaceAll(string(seq.ReplaceAll(e.Canonical, []byte(`"seq":`+itoa(i+1)))), from, to))
			e.Leaf = pipeline.LeafHash(e.Canonical)
		}
		b.logs[origin] = events
	}
}

func stateOf(t testing.TB, signed ...[]byte) *Heads {
	t.Helper()
	heads, err := OpenHeads(filepath.Join(t.TempDir(), "witness.seen"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range signed {
		if err := heads.Append(s); err != nil {
			t.Fatal(err)
		}
	}
	return heads
}

// TestEarlierCheckpointsCanAllBeChecked hands out a checkpoint in the middle of a
// run: whoever has it can check every later bundle against it.
func TestEarlierCheckpointsCanAllBeChecked(t *testing.T) {
	key := stationKey("a")
	b := newBooks(t)
	opt := Options{Signer: key, Station: "line-3", Journal: b, Formats: []string{"csv"}}
	trust := trusted(key)
	b.fill("lot-1", 20)
	for i := range 4 {
		dir, res := exportLot(t, b, "lot-1", opt)
		trust.Since = append(trust.Since, res.Checkpoint, readFile(t, filepath.Join(dir, "log/line-3/lot/checkpoint")))
		b.append(pipeline.Event{Lot: "lot-1", Action: pipeline.ActionVerify, Reason: itoa(i)})
		b.fill("other-"+itoa(i), 3)
		exportLot(t, b, "other-"+itoa(i), opt)
	}
	dir, _ := exportLot(t, b, "lot-1", opt)
	r := verify(t, dir, trust)
	wantValid(t, r)
	if len(r.Lots) != 5 {
		t.Errorf("the bundle shows %d lots, want 5: %+v", len(r.Lots), r.Lots)
	}
	again, _ := exportLot(t, b, "lot-1", opt)
	for name, data := range load(t, dir) {
		if !bytes.Equal(data, readFile(t, filepath.Join(again, name))) {
			t.Errorf("%s differs in a second export", name)
		}
	}
}

func TestHeadsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.heads")
	sign := func(origin string, lines ...string) []byte {
		t.Helper()
		signed, err := LogHead{Origin: origin, Size: int64(len(lines)), Root: rootOf(lines, len(lines))}.sign(stationKey("a"))
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	heads, err := OpenHeads(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, signed := range [][]byte{sign("s", "a"), sign("s", "a", "b"), sign("t", "x"), sign("s", "a", "b")} {
		if err := heads.Append(signed); err != nil {
			t.Fatal(err)
		}
	}
	for what, signed := range map[string][]byte{"older": sign("s", "a"), "other": sign("s", "a", "c")} {
		if err := heads.Append(signed); err == nil || !strings.Contains(err.Error(), "log s") {
			t.Errorf("a head that is %s: %v", what, err)
		}
	}
	whole := readFile(t, path)
	for cut := range whole { // a crash at each byte
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		torn, err := OpenHeads(path)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if err := torn.Append(sign("u", "1", "2")); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		again, err := OpenHeads(path)
		if err != nil {
			t.Fatalf("cut at %d, then written: %v", cut, err)
		}
		if size, _, ok := again.Last("u"); !ok || size != 2 || len(again.last) != len(torn.last) {
			t.Fatalf("cut at %d: %v, before %v", cut, again.last, torn.last)
		}
	}
}

func FuzzHeads(f *testing.F) {
	signed, err := LogHead{Origin: "s", Size: 1, Root: rootOf([]string{"a"}, 1)}.sign(stationKey("a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(signed, '\n'))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "heads")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if heads, err := OpenHeads(path); err == nil {
			_ = heads.Append(signed)
		}
	})
}

// TestRotation: whoever trusts the old key can verify what the new one signed, and
// nobody else can bring a key in.
func TestRotation(t *testing.T) {
	b, old, next := newBooks(t), stationKey("a"), stationKey("b")
	opt := Options{Signer: old, Station: "line-3", Journal: b, Formats: []string{"csv"}}
	b.fill("lot-1", 10)
	_, res := exportLot(t, b, "lot-1", opt)
	opt.Signer = next
	if _, err := Export(t.Context(), b, "lot-1", filepath.Join(t.TempDir(), "r"), opt); err == nil || !strings.Contains(err.Error(), "signs with key") {
		t.Fatalf("another key signs without a rotation: %v", err)
	}
	opt.Custody = Custody{Kind: "hsm", Token: "ACME/1234", Extractable: "no"}
	e, err := RotateKey("line-3", old, next, opt.Custody)
	if err != nil {
		t.Fatal(err)
	}
	b.append(e)
	dir, _ := exportLot(t, b, "lot-1", opt)
	trust := trusted(old)
	trust.Since = [][]byte{res.Checkpoint}
	r := verify(t, dir, trust)
	wantValid(t, r)
	if !strings.Contains(strings.Join(r.Checks, " "), "signed by both") || r.Custody == nil || r.Custody.Kind != "hsm" {
		t.Errorf("%+v", r)
	}
	wantValid(t, verify(t, dir, trusted(next)))
	wantProblem(t, verify(t, dir, trusted(stationKey("c"))), "another key")
	for key, want := range map[string]bool{"a": true, "b": true, "c": false} {
		if line := stranger(t, stationKey(key), dir)[0]; strings.Contains(line, ": valid") != want {
			t.Error(line)
		}
	}
	// A rotation that the old key has not signed brings nobody in.
	forged := copyBundle(t, dir)
	f := openForge(t, forged, next)
	for i, line := range f.leaves {
		if strings.Contains(line, actionRotated) {
			f.leaves[i] = setFact(line, "signature_old", "AAAA")
		}
	}
	f.seal()
	wantProblem(t, verify(t, forged, trusted(old)), "another key")
	wantProblem(t, verify(t, forged, trusted(next)), "signature_old")
}

// TestEpochs: a ledger that was put back goes on under a new epoch, and the bundle
// says what was lost.
func TestEpochs(t *testing.T) {
	key := stationKey("a")
	b := newBooks(t)
	heads := stateOf(t)
	opt := Options{Signer: key, Station: "line-3", Journal: b, Formats: []string{"csv"}, Heads: heads}
	b.fill("lot-1", 10)
	exportLot(t, b, "lot-1", opt)
	backup := b.snapshot()
	b.append(pipeline.Event{Lot: "lot-1", Action: pipeline.ActionVerify})
	_, late := exportLot(t, b, "lot-1", opt)

	b = backup
	opt.Journal = b
	b.append(pipeline.Event{Lot: "lot-1", Action: pipeline.ActionVerify, Reason: "again"})
	_, err := Export(t.Context(), b, "lot-1", filepath.Join(t.TempDir(), "r"), opt)
	if _, ok := errors.AsType[*RolledBackError](err); !ok {
		t.Fatalf("a second history is signed: %v", err)
	}
	b = backup.snapshot()
	opt.Journal = b
	origin := LotOrigin("line-3", "lot-1", 1)
	b.logs[origin] = b.logs[origin][:len(b.logs[origin])-1]
	restarts, err := Restarts(t.Context(), b, heads, "line-3", "lot-1")
	if err != nil || len(restarts) != 2 {
		t.Fatalf("%v, %+v", err, restarts)
	}
	for _, one := range restarts {
		b.epoch["line-3/"+one.Event.Lot] = 2
		b.append(one.Event)
	}
	dir, _ := exportLot(t, b, "lot-1", opt)
	r := verify(t, dir, trusted(key))
	wantValid(t, r)
	if !strings.Contains(strings.Join(r.Notes, " "), "were lost") {
		t.Errorf("it does not say what was lost: %q", r.Notes)
	}
	trust := trusted(key)
	trust.Since = [][]byte{late.Checkpoint}
	r = verify(t, dir, trust)
	wantValid(t, r)
	if !strings.Contains(strings.Join(r.Notes, " "), "cannot be checked") {
		t.Errorf("it does not say what cannot be checked: %q", r.Notes)
	}
	if line := stranger(t, key, dir)[0]; !strings.Contains(line, ": valid") {
		t.Error(line)
	}
	_ = context.Canceled
}

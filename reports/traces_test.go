package reports

import (
	"crypto/sha256"
	"strings"
	"testing"
	"unsafe"

	"keymill/pipeline"
)

// TestTraceIsSmall holds what lets a million devices be verified in 300 MB.
func TestTraceIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(trace{}); size > 128 {
		t.Errorf("a trace takes %d bytes", size)
	}
}

func TestTraces(t *testing.T) {
	all := newTraces()
	const rows = 5 * traceChunk
	for row := rows; row > 0; row-- {
		one, err := all.add(row)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte{byte(row), byte(row >> 8)})
		one.identity, one.marks = all.short(sum[:]), traceListed
	}
	identity := func(t *trace) *short { return &t.identity }
	if a, b, found := all.twins(traceListed, identity); found {
		t.Errorf("rows %d and %d are twins", a, b)
	}
	all.of(4000).identity, all.of(17).identity = all.of(2000).identity, all.of(3).identity
	if a, b, found := all.twins(traceListed, identity); a != 3 || b != 17 || !found {
		t.Errorf("twins %d and %d", a, b)
	}
	if _, _, found := all.twins(traceKeyed, identity); found {
		t.Error("twins among those that have no key")
	}
	all.of(rows).marks, all.of(9).marks = 0, tracePreauthorized
	if row, found := all.unlisted(); row != 9 || !found {
		t.Errorf("unlisted is %d", row)
	}
	if all.of(0) != nil || all.of(rows+1) != nil || all.of(1<<32+9) != nil || all.of(-1) != nil {
		t.Error("rows that nobody added")
	}
	if _, err := all.add(1 << 32); err == nil {
		t.Error("row 2^32 was taken")
	}
}

// TestTwinsAreNoticed exports lots whose ledger is in agreement with itself, but
// gives two devices one identity or one key.
func TestTwinsAreNoticed(t *testing.T) {
	for says, replace := range map[string]func(a, b *pipeline.Record) (string, string){
		"are the same device": func(a, b *pipeline.Record) (string, string) {
			was := a.Identity[0].Value
			a.Identity, a.Attrs[0] = b.Identity, b.Attrs[0]
			return was, b.Identity[0].Value
		},
		"have the same key": func(a, b *pipeline.Record) (string, string) {
			was := a.Fingerprint()
			a.PublicKey = b.PublicKey
			return was, b.Fingerprint()
		},
	} {
		l, key := newLedger(t), stationKey("a")
		l.fill("lot-1", 20)
		records := l.records["lot-1"]
		was, is := replace(records[4], records[11])
		events := l.logs[LotOrigin("line-3", "lot-1", 1)]
		for i := range events {
			e := &events[i]
			e.Canonical = []byte(strings.ReplaceAll(string(e.Canonical), was, is))
			e.Leaf = pipeline.LeafHash(e.Canonical)
		}
		dir, _ := exportLot(t, l, "lot-1", signedOptions(l, key, "jsonl"))
		wantProblem(t, verify(t, dir, trusted(key)), "rows 6 and 13 "+says)
	}
}

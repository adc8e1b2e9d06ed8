package reports

import (
	"path/filepath"
	"testing"
)

// bookLedger and newBooks are what fakeLedger was called beside the first format.
type bookLedger = fakeLedger

func newBooks(t testing.TB) *bookLedger { return newLedger(t) }

func TestABundleOfTheSecondFormatVerifies(t *testing.T) {
	b, key := newBooks(t), stationKey("a")
	b.fill("lot-0", 7)
	b.fill("lot-1", 120)
	b.close("lot-1")
	b.fill("lot-2", 9)
	heads, err := OpenHeads(filepath.Join(t.TempDir(), "key.heads"))
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{Signer: key, Station: "line-3", Journal: b, Heads: heads}
	exportLot(t, b, "lot-0", opt)
	dir, res := exportLot(t, b, "lot-1", opt)
	r := verify(t, dir, trusted(key))
	wantValid(t, r)
	if r.Devices != 120 || r.Events != res.Events || r.Lot != "lot-1" || r.Files != len(res.Files)-1 || len(r.Lots) != 2 {
		t.Errorf("report %+v", r)
	}
	t.Log(r.Checks, r.Notes)
}

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

// TestClosingAndExportingCostWhatTheLotCosts counts the events that are read: of a
// lot beside 60 others they are those of the lot, and one leaf of the station log
// for each head that was signed.
func TestClosingAndExportingCostWhatTheLotCosts(t *testing.T) {
	cost := func(others int) (read, leaves int) {
		l, key := newLedger(t), stationKey("a")
		for i := range others {
			l.fill("other-"+itoa(i), 20)
			if err := SignLot(t.Context(), l, "other-"+itoa(i), Signing{Station: "line-3", Signer: key, Journal: l}); err != nil {
				t.Fatal(err)
			}
		}
		l.fill("lot-1", 20)
		l.read = 0
		l.close("lot-1")
		exportLot(t, l, "lot-1", signedOptions(l, key, "csv"))
		return l.read, len(l.logs["line-3"])
	}
	alone, few := cost(0)
	beside, many := cost(60)
	if beside-alone != many-few {
		t.Errorf("alone %d events are read, beside 60 lots %d; the station log has %d and %d leaves", alone, beside, few, many)
	}
}

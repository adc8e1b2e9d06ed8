package station

import (
	"slices"
	"strings"
	"testing"

	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
)

// TestRMA: a returned unit is scrapped and its device gets a new key, in the place
// of the old one on the server and in the pack; the other devices keep theirs.
func TestRMA(t *testing.T) {
	c := newCustodian(t, "pack", nil)
	c.half()
	l, err := OpenPlanned(t.Context(), c.o, "lot")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	rec := records(t, l)[3]
	old := rec.Fingerprint()
	device := rec.Identity.Name()
	changes := pipeline.Transitions{Ledger: l.Ledger, Station: l.Config.Audit.Station}
	unit := &pipeline.Unit{Lot: "lot", Row: rec.Row, Medium: "card", Owner: pipeline.Owner{Station: l.Config.Audit.Station}}
	if err := changes.ReserveUnit(t.Context(), l.Ledger, rec, unit); err != nil {
		t.Fatal(err)
	}
	before := c.serverKeys()

	// While the unit is written, and for another board, nothing changes.
	if _, err := RMA(t.Context(), c.o, "lot", Return{Device: device, Reason: "RMA 7"}); fault.KindOf(err) != fault.Usage || fault.Hint(err) == "" {
		t.Errorf("with a unit under way: %v", err)
	}
	if _, err := RMA(t.Context(), c.o, "lot", Return{Device: device, Reason: "RMA 7", Board: "AC:DE:48:00:99:99"}); fault.KindOf(err) != fault.Usage || fault.Hint(err) == "" {
		t.Errorf("with another board: %v", err)
	}
	if _, err := RMA(t.Context(), c.o, "lot", Return{Device: device, Reason: " "}); fault.KindOf(err) != fault.Usage {
		t.Errorf("without a reason: %v", err)
	}
	c.nothingLost(before, before)

	for _, to := range []pipeline.UnitState{pipeline.UnitWriting, pipeline.UnitVerified} {
		if err := changes.MoveUnit(t.Context(), l.Ledger, rec, unit, to, nil); err != nil {
			t.Fatal(err)
		}
	}
	out, err := RMA(t.Context(), c.o, "lot", Return{Device: device, Reason: "RMA 7", Board: rec.Identity[0].Value})
	if err != nil || out.Totals.Released != 12 || out.Totals.Keys.Generated != 13 || out.Totals.Keys.Destroyed != 1 {
		t.Fatalf("%v: %+v", err, out.Totals)
	}
	now := c.serverKeys()
	if slices.Contains(now, old) || len(now) != 12 {
		t.Errorf("the server knows %d keys, the old one among them: %v", len(now), slices.Contains(now, old))
	}
	c.nothingLost(now, now)
	again := records(t, l)[3]
	if again.State != pipeline.Released || again.Fingerprint() == old || !again.Stale.IsZero() {
		t.Errorf("%s with the key %.16s", again.State, again.Fingerprint())
	}
	was, err := l.Ledger.Unit(t.Context(), "lot", unit.Number)
	if err != nil || was.State != pipeline.UnitScrapped || was.Reason != "RMA 7" {
		t.Errorf("%v: %+v", err, was)
	}
	said := 0
	for e, err := range l.Ledger.Events(t.Context(), "lot") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(e.Canonical), `"action":"rma"`) && strings.Contains(string(e.Canonical), `"reason":"RMA 7"`) {
			said++
		}
	}
	if said != 1 {
		t.Errorf("%d events say it", said)
	}
}

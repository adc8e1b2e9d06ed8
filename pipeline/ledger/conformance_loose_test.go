package ledger

import (
	"slices"
	"testing"
	"time"

	"keymill/pipeline"
)

// testLoose looks for rows that nobody works on, as leases, states and packs
// change.
func testLoose(t *testing.T, open opener) {
	l := open(t)
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	l.backend = clocked{l.backend, &now}
	plan(t, l, "before", 20, 30)
	plan(t, l, "lot", 0, 10) // rows 2 to 11
	loose := func(want ...Loose) {
		t.Helper()
		if got, err := l.Loose(t.Context(), "lot", 4); err != nil || !slices.Equal(got, want) {
			t.Errorf("loose: %v %v, not %v", got, err, want)
		}
	}
	due := func(station string, want bool) {
		t.Helper()
		if got, err := l.Due(t.Context(), "lot", station); err != nil || got != want {
			t.Errorf("due at %s: %v %v", station, got, err)
		}
	}
	if first, last, err := l.Rows(t.Context(), "lot"); err != nil || first != 2 || last != 11 {
		t.Errorf("rows %d to %d, %v", first, last, err)
	}
	loose(Loose{2, 5, ""}, Loose{6, 9, ""}, Loose{10, 11, ""})
	records, err := l.Claim(t.Context(), "lot", 2, 9, "a/1", time.Minute)
	if err != nil || len(records) != 8 {
		t.Fatalf("claimed %d, %v", len(records), err)
	}
	loose(Loose{10, 11, ""})
	// Station a stages one and dies; another fails and waits to be asked for.
	records[0].PackStation, records[0].Pack = "a", pipeline.PackRef{Offset: 100, Length: 10}
	mustMove(t, l, records[0], pipeline.Staged)
	mustMove(t, l, records[4], pipeline.Failed)
	now = now.Add(2 * time.Minute)
	loose(Loose{2, 5, ""}, Loose{2, 5, "a"}, Loose{6, 9, ""}, Loose{10, 11, ""})
	due("b", true)
	claimed, err := l.Claim(t.Context(), "lot", 2, 11, "b/1", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range claimed {
		mustMove(t, l, r, pipeline.Released)
	}
	loose(Loose{2, 5, "a"})
	due("b", false)
	due("a", true)
}

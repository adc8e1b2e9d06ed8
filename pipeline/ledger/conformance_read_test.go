package ledger

import (
	"fmt"
	"slices"
	"testing"

	"keymill/pipeline"
)

func testTaken(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "a", 0, 600)
	plan(t, l, "b", 600, 610)
	mustMove(t, l, record(t, l, "a", 3), pipeline.Failed)
	mustMove(t, l, record(t, l, "a", 4), pipeline.Conflicted)
	mustMove(t, l, record(t, l, "a", 5), pipeline.Released)
	var ids []pipeline.IdentitySum
	for i := range 700 {
		ids = append(ids, mac(i).Sum())
	}
	for lot, want := range map[string]int{"a": 10, "b": 598, "new": 608} {
		got, err := l.Taken(t.Context(), lot, ids)
		if err != nil || len(got) != want {
			t.Errorf("lot %s: %d taken, %v", lot, len(got), err)
		}
		if lot != "a" && got[mac(5).Sum()] != (Holder{"a", device(5).Row, pipeline.Released}) {
			t.Errorf("holder: %+v", got[mac(5).Sum()])
		}
	}
	got, err := l.Holders(t.Context(), ids)
	if err != nil || len(got) != 610 || got[mac(3).Sum()].State != pipeline.Failed {
		t.Errorf("%d holders, %v", len(got), err)
	}
	if got, err := l.Taken(t.Context(), "new", nil); err != nil || len(got) != 0 {
		t.Errorf("%v %v", got, err)
	}
}

func testFind(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "a", 0, 300)
	two := pipeline.Device{Row: 2, Identity: pipeline.Identity{{Name: "mac", Value: "02:ab:cd:00:00:01"}, {Name: "board", Value: "SN000007"}},
		Attrs: []pipeline.Attr{{Name: "board", Value: "SN000007"}, {Name: "serial", Value: "SN000007"}, {Name: "colour", Value: "red"}}}
	err := l.Plan(t.Context(), pipeline.Lot{Name: "b"}, station("line-1", pipeline.ActionPlan), func(yield func(pipeline.Device, error) bool) { yield(two, nil) })
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		lot, value string
		want       []string
	}{
		{"a", "02:00:00:00:01:00", []string{"a 258"}},
		{"", "02:AB:CD:00:00:01", []string{"b 2"}},
		{"", "SN000007", []string{"a 9", "b 2"}},
		{"b", "SN000007", []string{"b 2"}},
		{"a", "02:ab:cd:00:00:01", nil},
		{"", "sn000007", nil}, // serials are exact
		{"", "red", nil},
		{"", "02:00:00:00:01", nil},
		{"", "", nil},
	} {
		found, err := l.Find(t.Context(), tt.lot, tt.value)
		var got []string
		for _, r := range found {
			got = append(got, fmt.Sprint(r.Lot, " ", r.Row))
		}
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s in %q: %v, %v", tt.value, tt.lot, got, err)
		}
	}
}

func testPacked(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "lot", 0, 600)
	for i := range 600 {
		if i%3 == 0 {
			continue
		}
		rec := record(t, l, "lot", i)
		rec.Pack = pipeline.PackRef{Offset: int64(i * 7919 % 600), Length: int64(i)}
		mustMove(t, l, rec, pipeline.Staged)
	}
	last, n := int64(-1), 0
	for p, err := range l.Packed(t.Context(), "lot", "") {
		if err != nil {
			t.Fatal(err)
		}
		i := int(p.Ref.Length)
		if p.Ref.Offset <= last || p.Identity != mac(i).Sum() || p.State != pipeline.Staged || p.Superseded != "" {
			t.Fatalf("after %d: %+v", last, p)
		}
		last = p.Ref.Offset
		n++
	}
	if n != 400 {
		t.Errorf("%d packed", n)
	}
}

func testPages(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "before", 2000, 2010)
	plan(t, l, "lot", 0, 1000)
	plan(t, l, "after", 2010, 2020)
	for i := 0; i < 1000; i += 3 {
		mustMove(t, l, record(t, l, "lot", i), pipeline.Staged)
	}
	// Changes while reading must neither block nor repeat a record.
	row := 0
	for rec, err := range l.Records(t.Context(), "lot", pipeline.Staged, pipeline.Failed) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Row <= row || (rec.Row-2)%3 != 0 || rec.Lot != "lot" {
			t.Fatalf("row %d of %s after row %d", rec.Row, rec.Lot, row)
		}
		row = rec.Row
		mustMove(t, l, rec, pipeline.Released)
		rec.Row = 0
	}
	if got := totals(t, l, "lot"); got.Released != 334 || got.Planned != 666 || got.Keys.Released != 334 {
		t.Errorf("%+v", got)
	}
	if got := all(t, l.Records(t.Context(), "lot")); len(got) != 1000 {
		t.Errorf("%d records", len(got))
	}
}

package ledger

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keymill/pipeline"
)

func testPlan(t *testing.T, open opener) {
	l := open(t)
	at := time.Date(2026, 11, 22, 1, 2, 3, 456789000, time.UTC)
	l.clock = func() time.Time { return at }
	lot := pipeline.Lot{
		Name: "night/1", ManifestPath: "/m.csv", ManifestSHA256: "aa", Devices: 3, GoldenPath: "/g", GoldenSHA256: "bb",
		GoldenBytes: 1 << 40, InjectSHA256: "cc", Format: "raw", Keys: "software", Algorithm: "ed25519",
		Server: "https://s", Out: "/out", Station: "line-1", ServerMode: "x", Unique: []string{"serial", "colour 2"}, Settings: `{"a":1}`,
	}
	if err := l.Plan(t.Context(), lot, station("line-1", pipeline.ActionPlan), devices(0, 3)); err != nil {
		t.Fatal(err)
	}
	lot.Created = at
	got, err := l.Lot(t.Context(), lot.Name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(lot, got); d != "" {
		t.Error(d)
	}
	var want []*pipeline.Record
	for i := range 3 {
		want = append(want, &pipeline.Record{Lot: lot.Name, Device: device(i), State: pipeline.Planned, Updated: at})
	}
	if d := cmp.Diff(want, all(t, l.Records(t.Context(), lot.Name))); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(pipeline.Totals{Lot: lot.Name, Devices: 3, Planned: 3}, totals(t, l, lot.Name)); d != "" {
		t.Error(d)
	}
	events := all(t, l.Events(t.Context(), lot.Name))
	roster := sha256.New()
	for i := range 3 {
		fmt.Fprintf(roster, "%d\t{\"mac\":\"02:00:00:00:00:0%d\"}\t{\"colour\":\"grün \\\"matt\\\"\",\"mac\":\"02:00:00:00:00:0%d\",\"serial\":\"SN00000%d\"}\n", i+2, i, i, i)
	}
	schema := map[bool]string{false: "1", true: "2"}[l.lotLogs]
	if len(events) != 1 || string(events[0].Canonical) != fmt.Sprintf(`{"action":"lot-planned","facts":{"roster_sha256":"%x","server_mode":"x",`+
		`"unique":"serial,colour 2"},"lot":"night/1","schema":"keymill.event/%s","seq":1,"station":"line-1","time":"2026-11-22T01:02:03.456789Z"}`,
		roster.Sum(nil), schema) {
		t.Errorf("events: %s", events[0].Canonical)
	}
	plan(t, l, "night/2", 10, 12) // its devices were not announced, but counted
	lots, err := l.Lots(t.Context())
	if err != nil || len(lots) != 2 || lots[0].Name != "night/1" || lots[1].Devices != 2 {
		t.Errorf("lots: %v %v", lots, err)
	}
}

var errYielded = errors.New("row 7: bad")

func testPlanRefused(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "held", 100, 102)
	mustMove(t, l, record(t, l, "held", 101), pipeline.Staged)
	list := func(ds ...pipeline.Device) iter.Seq2[pipeline.Device, error] {
		return func(yield func(pipeline.Device, error) bool) {
			for _, d := range ds {
				if !yield(d, nil) {
					return
				}
			}
		}
	}
	again := device(1)
	again.Row = 9
	for name, tt := range map[string]struct {
		lot     pipeline.Lot
		devices iter.Seq2[pipeline.Device, error]
		is      error
		says    string
	}{
		"name taken":       {pipeline.Lot{Name: "held"}, devices(0, 2), ErrLotExists, ""},
		"wrong total":      {pipeline.Lot{Name: "new", Devices: 3}, devices(0, 2), nil, "the lot has 2 devices, not 3 as announced"},
		"rows go back":     {pipeline.Lot{Name: "new"}, list(device(2), device(1)), nil, "row 3 follows row 4: the rows of a lot must increase"},
		"same row twice":   {pipeline.Lot{Name: "new"}, list(device(2), device(2)), nil, "row 4 follows row 4: the rows of a lot must increase"},
		"held, planned":    {pipeline.Lot{Name: "new"}, devices(99, 101), nil, "row 102 (mac=02:00:00:00:00:64) is held by lot held, row 102, where it is planned"},
		"held, staged":     {pipeline.Lot{Name: "new"}, list(device(101)), nil, "row 103 (mac=02:00:00:00:00:65) is held by lot held, row 103, where it is staged"},
		"twice in the lot": {pipeline.Lot{Name: "new"}, list(device(1), again), nil, "row 9 (mac=02:00:00:00:00:01) is on row 3 already"},
		"manifest breaks": {pipeline.Lot{Name: "new"}, func(yield func(pipeline.Device, error) bool) {
			_ = yield(device(0), nil) && yield(pipeline.Device{}, errYielded)
		}, errYielded, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := l.Plan(t.Context(), tt.lot, station("line-1", pipeline.ActionPlan), tt.devices)
			if _, outage := errors.AsType[*pipeline.Outage](err); err == nil || outage {
				t.Fatalf("got %v", err)
			}
			if tt.is != nil && !errors.Is(err, tt.is) || tt.says != "" && err.Error() != tt.says {
				t.Errorf("got %q", err)
			}
			if lots, err := l.Lots(t.Context()); err != nil || len(lots) != 1 {
				t.Errorf("left behind: %v %v", lots, err)
			}
			if _, err := l.Lot(t.Context(), "new"); !errors.Is(err, ErrNoLot) {
				t.Errorf("lot: %v", err)
			}
		})
	}
	if got := checkLog(t, l); got["line-1"] != 2 {
		t.Errorf("events: %v", got)
	}
	plan(t, l, "new", 0, 3) // nothing of the refused ones holds a device
}

func testSupersede(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "monday", 0, 4)
	failed := record(t, l, "monday", 0)
	failed.PublicKey, failed.Pack, failed.KeysGenerated = []byte("key A"), pipeline.PackRef{Offset: 4096, Length: 10}, 1
	mustMove(t, l, failed, pipeline.Staged)
	mustMove(t, l, failed, pipeline.Failed)
	mustMove(t, l, record(t, l, "monday", 1), pipeline.Conflicted) // never had a key
	mustMove(t, l, record(t, l, "monday", 2), pipeline.Failed)
	mustMove(t, l, record(t, l, "monday", 3), pipeline.Undone)
	plan(t, l, "again", 3, 4)
	if rec := record(t, l, "monday", 3); rec.Superseded != "again" || rec.State != pipeline.Undone {
		t.Errorf("%+v", rec)
	}

	plan(t, l, "tuesday", 0, 2)
	old, heir := record(t, l, "monday", 0), record(t, l, "tuesday", 0)
	if old.Superseded != "tuesday" || old.State != pipeline.Failed || string(heir.Replaces) != "key A" || heir.State != pipeline.Planned {
		t.Errorf("old %+v\nnew %+v", old, heir)
	}
	if heir := record(t, l, "tuesday", 1); heir.Replaces != nil || heir.Superseded != "" {
		t.Errorf("%+v", heir)
	}
	if got := totals(t, l, "monday"); got.Failed != 2 || got.Conflict != 1 || got.Undone != 1 || got.Keys.Generated != 1 {
		t.Errorf("the old lot's totals changed: %+v", got)
	}
	if got := all(t, l.Records(t.Context(), "monday", pipeline.Failed, pipeline.Conflicted)); len(got) != 1 || got[0].Row != device(2).Row {
		t.Errorf("would be retried: %v", got)
	}
	if got := all(t, l.Records(t.Context(), "monday")); len(got) != 4 {
		t.Errorf("reports see %d", len(got))
	}
	found, err := l.Find(t.Context(), "", mac(0)[0].Value)
	if err != nil || len(found) != 2 || found[0].Lot != "tuesday" || found[1].Lot != "monday" {
		t.Errorf("found %v, %v", found, err)
	}
	// The worker of the old lot that was on it has lost it.
	if err := move(t.Context(), l, failed, pipeline.Released, "line-1"); !errors.Is(err, pipeline.ErrLost) {
		t.Errorf("got %v", err)
	}

	// The old key is destroyed; that is the one change a superseded record may see.
	for by, n := range map[string]int{"": 1, "tuesday": 1, "monday": 0} {
		if keys := all(t, l.SupersededKeys(t.Context(), by)); len(keys) != n {
			t.Fatalf("by %q: %v", by, keys)
		}
	}
	for _, rec := range all(t, l.SupersededKeys(t.Context(), "tuesday")) {
		rec.Pack, rec.KeysDestroyed = pipeline.PackRef{}, 1
		mustMove(t, l, rec, rec.State)
	}
	if keys := all(t, l.SupersededKeys(t.Context(), "")); len(keys) != 0 {
		t.Errorf("left: %v", keys)
	}

	// It fails again before it has a key of its own: the first key is still to be replaced.
	mustMove(t, l, heir, pipeline.Failed)
	plan(t, l, "wednesday", 0, 1)
	if rec := record(t, l, "wednesday", 0); string(rec.Replaces) != "key A" {
		t.Errorf("%+v", rec)
	}
	if old := record(t, l, "monday", 0); old.Superseded != "tuesday" || old.KeysDestroyed != 1 {
		t.Errorf("found through two lots: %+v", old)
	}
	if rec := record(t, l, "tuesday", 0); rec.Superseded != "wednesday" {
		t.Errorf("%+v", rec)
	}
}

func testSupersedeRefused(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "monday", 0, 3)
	for i := range 2 {
		mustMove(t, l, record(t, l, "monday", i), pipeline.Failed)
	}
	err := l.Plan(t.Context(), pipeline.Lot{Name: "tuesday"}, station("line-1", pipeline.ActionPlan), devices(0, 3))
	taken, ok := errors.AsType[*TakenError](err)
	if !ok || len(taken.Devices) != 1 || taken.Devices[0].Holder != (Holder{"monday", device(2).Row, pipeline.Planned}) {
		t.Fatalf("got %v", err)
	}
	if rec := record(t, l, "monday", 0); rec.Superseded != "" {
		t.Errorf("superseded by a lot that was refused: %+v", rec)
	}
	// The same failed device twice in one manifest.
	twice := func(yield func(pipeline.Device, error) bool) {
		d := device(0)
		_ = yield(d, nil)
		d.Row++
		_ = yield(d, nil)
	}
	err = l.Plan(t.Context(), pipeline.Lot{Name: "tuesday"}, station("line-1", pipeline.ActionPlan), twice)
	if _, ok := errors.AsType[*TakenError](err); !ok {
		t.Errorf("got %v", err)
	}
	plan(t, l, "tuesday", 0, 2)
}

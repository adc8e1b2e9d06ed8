package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keymill/pipeline"
)

// opener opens the same database each time it is called; the test's cleanup
// closes what it returns.
type opener func(t *testing.T) *Ledger

// conform is what every kind of ledger must hold. fresh makes an empty database.
func conform(t *testing.T, fresh func(t *testing.T) opener) {
	for name, test := range map[string]func(t *testing.T, open opener){
		"plan":                testPlan,
		"plan refused":        testPlanRefused,
		"every field kept":    testEveryField,
		"compare and set":     testCompareAndSet,
		"supersede":           testSupersede,
		"supersede refused":   testSupersedeRefused,
		"taken":               testTaken,
		"find":                testFind,
		"packed":              testPacked,
		"pages":               testPages,
		"clock goes back":     testClock,
		"many committers":     testManyCommitters,
		"two processes":       testTwoProcesses,
		"closing a lot":       testCloseLot,
		"refused events":      testRefusedEvents,
		"context ends":        testContextEnds,
		"closed ledger":       testClosedLedger,
		"survives reopening":  testReopen,
		"stop in the middle":  testStopIterating,
		"no lot of that name": testNoLot,
	} {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
}

func mac(i int) pipeline.Identity {
	return pipeline.Identity{{Name: "mac", Value: fmt.Sprintf("02:00:00:%02x:%02x:%02x", i>>16&255, i>>8&255, i&255)}}
}

// device returns the ith device, at row i+2.
func device(i int) pipeline.Device {
	id := mac(i)
	return pipeline.Device{Row: i + 2, Identity: id, Attrs: []pipeline.Attr{
		{Name: "serial", Value: fmt.Sprintf("SN%06d", i)}, id[0], {Name: "colour", Value: "grün \"matt\""},
	}}
}

func devices(from, to int) iter.Seq2[pipeline.Device, error] {
	return func(yield func(pipeline.Device, error) bool) {
		for i := from; i < to; i++ {
			if !yield(device(i), nil) {
				return
			}
		}
	}
}

func station(name, action string) pipeline.Event {
	return pipeline.Event{Station: name, Action: action}
}

func plan(t *testing.T, l *Ledger, lot string, from, to int) {
	t.Helper()
	err := l.Plan(t.Context(), pipeline.Lot{Name: lot, Station: "line-1"}, station("line-1", pipeline.ActionPlan), devices(from, to))
	if err != nil {
		t.Fatalf("plan %s: %v", lot, err)
	}
}

func record(t *testing.T, l *Ledger, lot string, i int) *pipeline.Record {
	t.Helper()
	rec, err := l.Record(t.Context(), lot, mac(i).Sum())
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// move commits rec's change to a state, with an event of the given station.
func move(ctx context.Context, l *Ledger, rec *pipeline.Record, to pipeline.State, by string) error {
	from := rec.State
	rec.State = to
	return l.Commit(ctx, pipeline.Change{From: from, Record: rec, Event: pipeline.Event{
		Station: by, Lot: rec.Lot, Action: string(to), Row: rec.Row, Device: rec.Identity, From: from, To: to,
	}})
}

func mustMove(t *testing.T, l *Ledger, rec *pipeline.Record, to pipeline.State) {
	t.Helper()
	if err := move(t.Context(), l, rec, to, "line-1"); err != nil {
		t.Fatalf("%s row %d to %s: %v", rec.Lot, rec.Row, to, err)
	}
}

func all[T any](t *testing.T, seq iter.Seq2[T, error]) []T {
	t.Helper()
	var got []T
	for v, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, v)
	}
	return got
}

// checkLog fails unless every station's events are numbered from 1 without
// gaps, in order of time, and hash to their leaves. It returns how many each has.
func checkLog(t *testing.T, l *Ledger) map[string]int64 {
	t.Helper()
	last, times := map[string]int64{}, map[string]time.Time{}
	for e, err := range l.Events(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq != last[e.Station]+1 {
			t.Fatalf("station %s: event %d follows %d", e.Station, e.Seq, last[e.Station])
		}
		last[e.Station] = e.Seq
		if e.Leaf != pipeline.LeafHash(e.Canonical) {
			t.Fatalf("station %s, event %d: wrong leaf", e.Station, e.Seq)
		}
		var body struct {
			Seq     int64
			Station string
			Lot     string
			Time    time.Time
		}
		if err := json.Unmarshal(e.Canonical, &body); err != nil {
			t.Fatal(err)
		}
		if body.Seq != e.Seq || body.Station != e.Station || body.Lot != e.Lot {
			t.Fatalf("%s/%d in lot %q says %+v", e.Station, e.Seq, e.Lot, body)
		}
		if body.Time.Before(times[e.Station]) {
			t.Fatalf("station %s, event %d is older than the one before", e.Station, e.Seq)
		}
		times[e.Station] = body.Time
	}
	return last
}

func totals(t *testing.T, l *Ledger, lot string) pipeline.Totals {
	t.Helper()
	got, err := l.Totals(t.Context(), lot)
	if err != nil {
		t.Fatal(err)
	}
	if sum := got.Planned + got.Staged + got.Preauthorized + got.Released + got.Failed + got.Conflict; sum != got.Devices {
		t.Fatalf("totals of %s don't add up: %+v", lot, got)
	}
	return got
}

func testPlan(t *testing.T, open opener) {
	l := open(t)
	at := time.Date(2026, 11, 22, 1, 2, 3, 456789000, time.UTC)
	l.clock = func() time.Time { return at }
	lot := pipeline.Lot{
		Name: "night/1", ManifestPath: "/m.csv", ManifestSHA256: "aa", Devices: 3, GoldenPath: "/g", GoldenSHA256: "bb",
		GoldenBytes: 1 << 40, InjectSHA256: "cc", Format: "raw", Keys: "software", Algorithm: "ed25519",
		Server: "https://s", Out: "/out", Station: "line-1",
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
	if len(events) != 1 || string(events[0].Canonical) != `{"action":"lot-planned","lot":"night/1","schema":"keymill.event/1","seq":1,`+
		`"station":"line-1","time":"2026-11-22T01:02:03.456789Z"}` {
		t.Errorf("events: %v", events)
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

func fullRecord(rec *pipeline.Record) {
	rec.State, rec.Reason = pipeline.Failed, "the server said \"no\"\x00\n"
	rec.PublicKey, rec.Algorithm, rec.Replaces = []byte{0x30, 0, 0xff}, "ed25519", []byte("an older key")
	rec.Pack = pipeline.PackRef{Offset: 1 << 40, Length: 12345}
	rec.Auth = pipeline.AuthSet{DeviceID: "d", AuthSetID: "a", Status: "preauthorized", RequestID: "r", HTTPStatus: 201, Attempts: 3}
	rec.Output = pipeline.Output{Name: "n.img", Bytes: 1 << 41, SHA256: "00ff"}
	rec.Attempts, rec.KeysGenerated, rec.KeysDestroyed = 4, 3, 2
	rec.Station = "line-2"
}

func testEveryField(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "lot", 0, 2)
	at := time.Date(2027, 1, 1, 0, 0, 0, 1000, time.UTC)
	l.writer.clock = func() time.Time { return at }
	want := record(t, l, "lot", 1)
	fullRecord(want)
	event := pipeline.Event{
		Station: "line-2", Lot: "lot", Run: 7, Action: pipeline.ActionFail, Reason: want.Reason, Row: want.Row, Device: want.Identity,
		From: pipeline.Planned, To: pipeline.Failed, Auth: want.Auth, Output: want.Output, Facts: []pipeline.Attr{{Name: "a", Value: "b"}},
		Seq: 99, // is overwritten
	}
	if err := l.Commit(t.Context(), pipeline.Change{From: pipeline.Planned, Record: want, Event: event}); err != nil {
		t.Fatal(err)
	}
	want.Updated = at
	if d := cmp.Diff(want, record(t, l, "lot", 1)); d != "" {
		t.Error(d)
	}
	event.Seq, event.Time = 1, at
	events := all(t, l.Events(t.Context(), "lot"))
	wantEvent := pipeline.StoredEvent{Station: "line-2", Seq: 1, Lot: "lot", Canonical: event.Canonical(), Leaf: pipeline.LeafHash(event.Canonical())}
	if d := cmp.Diff(wantEvent, events[1]); d != "" {
		t.Error(d)
	}
	// Fields that become empty are emptied.
	rec := record(t, l, "lot", 1)
	*rec = pipeline.Record{Lot: "lot", Device: rec.Device, State: rec.State}
	mustMove(t, l, rec, pipeline.Planned)
	rec.Updated = at
	if d := cmp.Diff(rec, record(t, l, "lot", 1)); d != "" {
		t.Error(d)
	}
}

func testCompareAndSet(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "lot", 0, 5)
	plan(t, l, "other", 10, 11)
	mustMove(t, l, record(t, l, "lot", 0), pipeline.Staged)
	before := all(t, l.Records(t.Context(), "lot"))
	changes := map[string]func(r *pipeline.Record){
		"state":      func(r *pipeline.Record) { *r = *record(t, l, "lot", 0); r.State = pipeline.Planned },
		"lease":      func(r *pipeline.Record) { r.Lease = "not mine" },
		"superseded": func(r *pipeline.Record) { r.Superseded = "other" },
		"no such":    func(r *pipeline.Record) { r.Row = 77 },
	}
	// All at once, among changes that must go through.
	var wg sync.WaitGroup
	for name, change := range changes {
		wg.Go(func() {
			rec := record(t, l, "lot", 1)
			change(rec)
			if err := move(t.Context(), l, rec, pipeline.Released, "line-1"); !errors.Is(err, pipeline.ErrLost) {
				t.Errorf("%s: got %v", name, err)
			}
		})
	}
	for i := 2; i < 5; i++ {
		wg.Go(func() { mustMove(t, l, record(t, l, "lot", i), pipeline.Staged) })
	}
	wg.Wait()
	after := all(t, l.Records(t.Context(), "lot"))
	if d := cmp.Diff(before[:2], after[:2]); d != "" {
		t.Errorf("a lost change was written: %s", d)
	}
	if got := checkLog(t, l)["line-1"]; got != 2+1+3 {
		t.Errorf("%d events", got)
	}
	if got := totals(t, l, "lot"); got.Staged != 4 || got.Planned != 1 {
		t.Errorf("%+v", got)
	}
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

	plan(t, l, "tuesday", 0, 2)
	old, heir := record(t, l, "monday", 0), record(t, l, "tuesday", 0)
	if old.Superseded != "tuesday" || old.State != pipeline.Failed || string(heir.Replaces) != "key A" || heir.State != pipeline.Planned {
		t.Errorf("old %+v\nnew %+v", old, heir)
	}
	if heir := record(t, l, "tuesday", 1); heir.Replaces != nil || heir.Superseded != "" {
		t.Errorf("%+v", heir)
	}
	if got := totals(t, l, "monday"); got.Failed != 2 || got.Conflict != 1 || got.Planned != 1 || got.Keys.Generated != 1 {
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
	for rec := range l.SupersededKeys(t.Context(), "tuesday") {
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
	for p, err := range l.Packed(t.Context(), "lot") {
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

func testClock(t *testing.T, open opener) {
	l := open(t)
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.FixedZone("", 3600))
	l.writer.clock = func() time.Time { return now }
	for _, step := range []time.Duration{0, time.Second, -time.Hour, 0, time.Minute} {
		now = now.Add(step)
		if _, err := l.Append(t.Context(), station("line-1", pipeline.ActionRun)); err != nil {
			t.Fatal(err)
		}
	}
	if got := checkLog(t, l); got["line-1"] != 5 {
		t.Errorf("%v", got)
	}
	events := all(t, l.Events(t.Context(), ""))
	var first struct{ Time string }
	if err := json.Unmarshal(events[0].Canonical, &first); err != nil || first.Time != "2026-11-22T09:00:00.000000Z" {
		t.Errorf("%s %v", events[0].Canonical, err)
	}
}

func testManyCommitters(t *testing.T, open opener) {
	l := open(t)
	const n = 300
	plan(t, l, "lot", 0, n)
	var wg sync.WaitGroup
	for g := range 30 {
		wg.Go(func() {
			for i := g; i < n; i += 30 {
				rec := record(t, l, "lot", i)
				for _, to := range []pipeline.State{pipeline.Staged, pipeline.Preauthorized, pipeline.Released} {
					rec.KeysGenerated = 1
					if err := move(t.Context(), l, rec, to, fmt.Sprintf("line-%d", i%3)); err != nil {
						t.Error(err)
					}
				}
				if _, err := l.Append(t.Context(), station("line-3", pipeline.ActionRun)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want := map[string]int64{"line-0": 300, "line-1": 301, "line-2": 300, "line-3": 300}
	if got := checkLog(t, l); !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if got := totals(t, l, "lot"); got.Released != n || got.Keys.Generated != n {
		t.Errorf("%+v", got)
	}
	if got := all(t, l.Events(t.Context(), "lot")); len(got) != 3*n+1 {
		t.Errorf("%d events of the lot", len(got))
	}
}

// Two processes race for the same devices with the same station's name.
func testTwoProcesses(t *testing.T, open opener) {
	ledgers := []*Ledger{open(t), open(t)}
	const n = 60
	plan(t, ledgers[0], "lot", 0, n)
	var won [2]int
	var wg sync.WaitGroup
	for p, l := range ledgers {
		wg.Go(func() {
			for i := range n {
				err := move(t.Context(), l, &pipeline.Record{Lot: "lot", Device: device(i), State: pipeline.Planned}, pipeline.Staged, "line-1")
				if err == nil {
					won[p]++
				} else if !errors.Is(err, pipeline.ErrLost) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if won[0]+won[1] != n {
		t.Errorf("won %v of %d", won, n)
	}
	if got := checkLog(t, ledgers[1])["line-1"]; got != n+1 {
		t.Errorf("%d events", got)
	}
}

func testCloseLot(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "lot", 0, 1)
	at := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	l.clock = func() time.Time { return at }
	if err := l.CloseLot(t.Context(), "lot", station("line-9", pipeline.ActionClose)); err != nil {
		t.Fatal(err)
	}
	if lot, err := l.Lot(t.Context(), "lot"); err != nil || !lot.Closed.Equal(at) {
		t.Errorf("%+v %v", lot, err)
	}
	if err := l.CloseLot(t.Context(), "lot", station("line-9", pipeline.ActionClose)); !errors.Is(err, ErrLotClosed) {
		t.Errorf("got %v", err)
	}
	if got := checkLog(t, l)["line-9"]; got != 1 {
		t.Errorf("%d events", got)
	}
}

func testRefusedEvents(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "lot", 0, 1)
	if _, err := l.Append(t.Context(), pipeline.Event{Station: "line-1", Lot: "nope"}); !errors.Is(err, ErrNoLot) {
		t.Errorf("got %v", err)
	}
	rec := record(t, l, "lot", 0)
	for name, err := range map[string]error{
		"append": func() error { _, err := l.Append(t.Context(), pipeline.Event{}); return err }(),
		"commit": l.Commit(t.Context(), pipeline.Change{From: rec.State, Record: rec}),
		"close":  l.CloseLot(t.Context(), "lot", pipeline.Event{}),
		"plan":   l.Plan(t.Context(), pipeline.Lot{Name: "x"}, pipeline.Event{}, devices(5, 6)),
	} {
		if !errors.Is(err, errNoStation) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if seq, err := l.Append(t.Context(), station("line-1", pipeline.ActionExport)); err != nil || seq != 2 {
		t.Errorf("%d %v", seq, err)
	}
}

func testContextEnds(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "lot", 0, 300)
	ended, end := context.WithCancel(t.Context())
	end()
	rec := record(t, l, "lot", 0)
	if err := move(ended, l, rec, pipeline.Staged, "line-1"); !errors.Is(err, context.Canceled) {
		t.Errorf("commit: %v", err)
	}
	if err := l.Plan(ended, pipeline.Lot{Name: "x"}, station("line-1", pipeline.ActionPlan), devices(500, 501)); !errors.Is(err, context.Canceled) {
		t.Errorf("plan: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for _, err := range l.Records(ctx, "lot") {
		if err != nil {
			if _, outage := errors.AsType[*pipeline.Outage](err); outage || !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			break
		}
		if n++; n == 10 {
			cancel()
		}
	}
	if n == 300 {
		t.Error("read on")
	}
	mustMove(t, l, record(t, l, "lot", 0), pipeline.Staged) // the ledger works on
}

func testClosedLedger(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "lot", 0, 1)
	rec := record(t, l, "lot", 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := move(t.Context(), l, rec, pipeline.Staged, "line-1"); !errors.Is(err, errClosed) {
		t.Errorf("got %v", err)
	}
}

func testReopen(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "lot", 0, 3)
	mustMove(t, l, record(t, l, "lot", 0), pipeline.Staged)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t)
	mustMove(t, l, record(t, l, "lot", 1), pipeline.Failed)
	if got := checkLog(t, l)["line-1"]; got != 3 {
		t.Errorf("%d events", got)
	}
	if got := totals(t, l, "lot"); got.Staged != 1 || got.Failed != 1 {
		t.Errorf("%+v", got)
	}
}

func testStopIterating(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "lot", 0, 3)
	for i := range 2 {
		rec := record(t, l, "lot", i)
		rec.Pack.Length = 1
		mustMove(t, l, rec, pipeline.Staged)
	}
	for range 20 { // more often than there are connections
		for range l.Records(t.Context(), "lot") {
			break
		}
		for range l.Packed(t.Context(), "lot") {
			break
		}
		for range l.Events(t.Context(), "") {
			break
		}
	}
}

func testNoLot(t *testing.T, open opener) {
	l := open(t)
	one := func(seq iter.Seq2[*pipeline.Record, error]) (err error) {
		for _, err = range seq {
		}
		return err
	}
	ctx := t.Context()
	_, totalsErr := l.Totals(ctx, "x")
	_, lotErr := l.Lot(ctx, "x")
	_, findErr := l.Find(ctx, "x", "v")
	_, recordErr := l.Record(ctx, "x", mac(0).Sum())
	var packedErr, eventsErr error
	for _, packedErr = range l.Packed(ctx, "x") {
	}
	for _, eventsErr = range l.Events(ctx, "x") {
	}
	for name, err := range map[string]error{
		"totals": totalsErr, "lot": lotErr, "find": findErr, "record": recordErr, "packed": packedErr, "events": eventsErr,
		"records": one(l.Records(ctx, "x")), "superseded": one(l.SupersededKeys(ctx, "x")),
		"commit": l.Commit(ctx, pipeline.Change{Record: &pipeline.Record{Lot: "x"}, Event: station("s", "a")}),
		"close":  l.CloseLot(ctx, "x", station("s", "a")),
	} {
		if !errors.Is(err, ErrNoLot) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	plan(t, l, "x", 0, 1)
	if _, err := l.Record(ctx, "x", mac(1).Sum()); !errors.Is(err, ErrNoRecord) {
		t.Errorf("got %v", err)
	}
}

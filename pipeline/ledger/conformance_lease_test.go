package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keymill/pipeline"
)

func rows(records []*pipeline.Record) []int {
	var rows []int
	for _, r := range records {
		rows = append(rows, r.Row)
	}
	return rows
}

// clocked is a database whose clock the test sets.
type clocked struct {
	backend
	at *time.Time
}

func (c clocked) now(context.Context, rower, func() time.Time) (int64, error) {
	return c.at.UnixMicro(), nil
}

func testLeases(t *testing.T, open opener) {
	l := open(t)
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	l.backend = clocked{l.backend, &now}
	plan(t, l, "lot", 0, 10) // rows 2 to 11
	plan(t, l, "other", 10, 20)
	mustMove(t, l, record(t, l, "lot", 1), pipeline.Released)
	claim := func(first, last int, lease string) []*pipeline.Record {
		t.Helper()
		records, err := l.Claim(t.Context(), "lot", first, last, lease, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return records
	}
	a := claim(2, 5, "a")
	if got := rows(a); !slices.Equal(got, []int{2, 4, 5}) || a[0].Lease != "a" {
		t.Fatalf("claimed %v", got)
	}
	if got := rows(claim(4, 7, "b")); !slices.Equal(got, []int{6, 7}) {
		t.Errorf("claimed %v beside another's lease", got)
	}
	if got := rows(claim(2, 5, "a")); !slices.Equal(got, []int{2, 4, 5}) {
		t.Errorf("claimed %v again", got)
	}
	if got := rows(all(t, l.Records(t.Context(), "lot", pipeline.Planned))); !slices.Equal(got, []int{8, 9, 10, 11}) {
		t.Errorf("left to do: %v", got)
	}
	if got := all(t, l.Records(t.Context(), "other", pipeline.Planned)); len(got) != 10 {
		t.Errorf("%d of the other lot", len(got))
	}
	// The holder commits, others don't, whatever they think to know.
	mustMove(t, l, a[0], pipeline.Staged)
	stranger := record(t, l, "lot", 2)
	stranger.Lease = ""
	if err := move(t.Context(), l, stranger, pipeline.Staged, "line-1"); !errors.Is(err, pipeline.ErrLost) {
		t.Errorf("got %v", err)
	}

	// b renews, a doesn't: c gets a's.
	now = now.Add(59 * time.Second)
	if n, err := l.Renew(t.Context(), "lot", 4, 7, "b", time.Minute); err != nil || n != 2 {
		t.Errorf("%d %v", n, err)
	}
	now = now.Add(2 * time.Second)
	if got := rows(claim(2, 11, "c")); !slices.Equal(got, []int{2, 4, 5, 8, 9, 10, 11}) {
		t.Errorf("claimed %v", got)
	}
	if err := move(t.Context(), l, a[1], pipeline.Staged, "line-1"); !errors.Is(err, pipeline.ErrLost) {
		t.Errorf("the lease ran out and was given away, but: %v", err)
	}
	if n, err := l.Renew(t.Context(), "lot", 2, 5, "a", time.Minute); err != nil || n != 0 {
		t.Errorf("%d %v", n, err)
	}
	if err := l.Yield(t.Context(), "lot", 2, 11, "c"); err != nil {
		t.Fatal(err)
	}
	if rec := record(t, l, "lot", 0); rec.Lease != "" || rec.State != pipeline.Staged {
		t.Errorf("%+v", rec)
	}
	if got := rows(claim(2, 11, "d")); !slices.Equal(got, []int{2, 4, 5, 8, 9, 10, 11}) {
		t.Errorf("claimed %v", got)
	}
	// Keys that lie in a station's pack are for that station.
	if err := l.Yield(t.Context(), "lot", 2, 11, "d"); err != nil {
		t.Fatal(err)
	}
	packed := record(t, l, "lot", 3)
	packed.Pack, packed.PackStation = pipeline.PackRef{Offset: 1, Length: 1}, "a"
	mustMove(t, l, packed, pipeline.Staged)
	if got := rows(claim(2, 6, "b/1")); !slices.Equal(got, []int{2, 4}) {
		t.Errorf("claimed %v, of which one's key lies in another station's pack", got)
	}
	if got := rows(claim(2, 6, "a/2")); !slices.Equal(got, []int{5}) {
		t.Errorf("claimed %v of its own pack", got)
	}
	if n, err := l.Revoke(t.Context(), "b"); err != nil || n != 4 {
		t.Errorf("revoked %d, %v", n, err)
	}
	if _, err := l.RetireStation(t.Context(), "c", "burnt"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Claim(t.Context(), "lot", 2, 11, "c/7", time.Minute); !errors.Is(err, ErrRetired) {
		t.Errorf("a retired station claimed devices: %v", err)
	}
	if _, err := l.Claim(t.Context(), "none", 1, 2, "x", time.Minute); !errors.Is(err, ErrNoLot) {
		t.Errorf("got %v", err)
	}
}

// Every device is carried by one of many stations, exactly once.
func testLeaseRaces(t *testing.T, open opener) {
	stations := []*Ledger{open(t), open(t), open(t)}
	const devices, chunk = 120, 10
	plan(t, stations[0], "lot", 0, devices)
	var mu sync.Mutex
	carried := map[int]int{}
	var wg sync.WaitGroup
	for s, l := range stations {
		wg.Go(func() {
			for from := 2; from < devices+2; from += chunk / 2 { // chunks that overlap
				got, err := l.Claim(t.Context(), "lot", from, from+chunk-1, fmt.Sprint("station-", s), time.Hour)
				if err != nil {
					t.Error(err)
					return
				}
				for _, rec := range got {
					if err := move(t.Context(), l, rec, pipeline.Released, fmt.Sprint("line-", s)); err != nil {
						t.Error(err)
					}
					mu.Lock()
					carried[rec.Row]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for row, n := range carried {
		if n != 1 {
			t.Errorf("row %d was carried %d times", row, n)
		}
	}
	if got := totals(t, stations[0], "lot"); got.Released != devices {
		t.Errorf("%+v", got)
	}
}

func testAllocations(t *testing.T, open opener) {
	l := open(t)
	at := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	l.clock = func() time.Time { return at }
	for _, tt := range []struct {
		name   string
		ranges []int64 // first and last of each
		lot    string
		reuse  bool
		undo   string // lot that is undone before
		fails  string
	}{
		{name: "mac", ranges: []int64{100, 199, 300, 399}, lot: "a"},
		{name: "mac", ranges: []int64{199, 200}, lot: "b", fails: "numbers 199 to 200 of mac overlap with 100 to 199, which lot a has"},
		{name: "mac", ranges: []int64{50, 250}, lot: "b", fails: "overlap"},
		{name: "mac", ranges: []int64{150, 150}, lot: "b", reuse: true, fails: "overlap"},
		{name: "mac", ranges: []int64{200, 299, 50, 100}, lot: "b", fails: "overlap"}, // and the first isn't kept
		{name: "mac", ranges: []int64{10, 20, 20, 30}, lot: "b", fails: "overlap"},
		{name: "mac", ranges: []int64{200, 299}, lot: "b"},
		{name: "serial", ranges: []int64{100, 199}, lot: "b"},
		{name: "mac", ranges: []int64{300, 309}, lot: "c", undo: "a", fails: "overlap"},
		{name: "mac", ranges: []int64{300, 309}, lot: "c", reuse: true},
		{name: "mac", ranges: []int64{309, 310}, lot: "d", reuse: true, fails: "which lot c has"},
		{name: "mac", ranges: []int64{300, 309}, lot: "e", reuse: true, undo: "c"},
		{name: "mac", ranges: []int64{2, 1}, lot: "x", fails: "can't be allocated"},
		{name: "mac", ranges: []int64{-2, 1}, lot: "x", fails: "can't be allocated"},
		{name: "mac", ranges: []int64{1, 2}, fails: "can't be allocated"},
	} {
		if tt.undo != "" {
			if n, err := l.Deallocate(t.Context(), tt.undo); err != nil || n == 0 {
				t.Errorf("undo %s: %d %v", tt.undo, n, err)
			}
		}
		var wanted []Allocation
		for i := 0; i < len(tt.ranges); i += 2 {
			wanted = append(wanted, Allocation{Name: tt.name, First: tt.ranges[i], Last: tt.ranges[i+1], Lot: tt.lot})
		}
		err := l.Allocate(t.Context(), wanted, tt.reuse)
		if tt.fails == "" && err != nil || tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)) {
			t.Errorf("%+v: %v", tt, err)
		}
		if strings.Contains(tt.fails, "lap") && !errors.Is(err, ErrAllocated) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	got, err := l.Allocations(t.Context(), "mac", 150, 309)
	want := []Allocation{
		{"mac", 100, 199, "a", at, at}, {"mac", 200, 299, "b", at, time.Time{}}, {"mac", 300, 399, "a", at, at},
		{"mac", 300, 309, "c", at, at}, {"mac", 300, 309, "e", at, time.Time{}},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v %v", got, err)
	}
	if of, err := l.AllocatedTo(t.Context(), "nobody"); err != nil || len(of) != 0 {
		t.Errorf("nobody has %v, %v", of, err)
	}
	for _, lot := range []string{got[0].Lot, got[len(got)-1].Lot} {
		of, err := l.AllocatedTo(t.Context(), lot)
		if err != nil || len(of) == 0 || slices.ContainsFunc(of, func(a Allocation) bool { return a.Lot != lot }) {
			t.Errorf("lot %s has %v, %v", lot, of, err)
		}
	}
	if n, err := l.Deallocate(t.Context(), "a"); err != nil || n != 0 {
		t.Errorf("undone again: %d %v", n, err)
	}
}

func testAllocationsRace(t *testing.T, open opener) {
	ledgers := []*Ledger{open(t), open(t)}
	var wg sync.WaitGroup
	var won atomic.Int32
	for _, l := range ledgers {
		for range 4 {
			wg.Go(func() {
				for i := range int64(5) {
					err := l.Allocate(t.Context(), []Allocation{{Name: "n", First: i * 9, Last: i*9 + 9, Lot: "lot"}}, false)
					if err == nil {
						won.Add(1)
					} else if !errors.Is(err, ErrAllocated) {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	all, err := ledgers[0].Allocations(t.Context(), "n", 0, 1000)
	if err != nil || len(all) != int(won.Load()) || len(all) < 2 {
		t.Fatalf("%d, %d won, %v", len(all), won.Load(), err)
	}
	for i := range all[1:] {
		if all[i].Last >= all[i+1].First {
			t.Errorf("%+v overlaps %+v", all[i], all[i+1])
		}
	}
}

// Each harm is one that Check must see, and say in words like these.
func testCheck(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "a", 0, 10)
	for i := range 3 {
		rec := record(t, l, "a", i)
		rec.KeysGenerated = 1
		mustMove(t, l, rec, pipeline.Staged)
		mustMove(t, l, rec, pipeline.Failed)
	}
	plan(t, l, "b", 0, 2)
	if _, err := l.Append(t.Context(), station("line-2", pipeline.ActionRun)); err != nil {
		t.Fatal(err)
	}
	check := func() Health {
		t.Helper()
		h, err := l.Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	if h := check(); h.Lots != 2 || h.Devices != 12 || h.Events != 9 || len(h.Problems) != 0 {
		t.Fatalf("%+v", h)
	}
	log := map[bool]string{false: "keymill/line-1", true: "line-1/a"}[l.lotLogs]
	in := func(query string) string { // whose event ids are those of the one log of a station
		if l.lotLogs {
			query = strings.NewReplacer("lot = 1", "lot = 0", "10995116277", "21990232555").Replace(query)
			for old, id := range map[string]string{"2199023255579": "2199023255555", "2199023255580": "2199023255556", "2199023255582": "2199023255558", "2199023255600": "2199023255576"} {
				query = strings.ReplaceAll(query, old, id)
			}
		}
		return query
	}
	for _, tt := range []struct{ harm, undo, says string }{
		{`UPDATE events SET canonical = REPLACE(canonical, 'failed', 'staged') WHERE id = 1099511627779`,
			`UPDATE events SET canonical = REPLACE(REPLACE(canonical, '"to":"staged"', '"to":"failed"'), '"action":"staged"', '"action":"failed"') WHERE id = 1099511627779`,
			"log " + log + ": event 3 isn't what its leaf hash was made of"},
		{`UPDATE events SET lot = 2 WHERE id = 1099511627780`, `UPDATE events SET lot = 1 WHERE id = 1099511627780`,
			"log " + log + `: event 4 of lot "b" says that it is event 4 of station line-1 and lot "a"`},
		{`UPDATE events SET id = 1099511627800 WHERE id = 1099511627782`, `UPDATE events SET id = 1099511627782 WHERE id = 1099511627800`,
			"log " + log + ": event 7 follows event 5"},
		{`UPDATE logs SET size = size + 1 WHERE station = 'line-2'`, `UPDATE logs SET size = size - 1 WHERE station = 'line-2'`,
			map[bool]string{false: "log keymill/line-2", true: "log line-2"}[l.lotLogs] + " ends with event 1, but 2 were written"},
		{`UPDATE lots SET devices = 11 WHERE id = 1`, `UPDATE lots SET devices = 10 WHERE id = 1`,
			"lot a was planned with 11 devices, it has 10 with 10 records"},
		{`UPDATE records SET state = 'gone' WHERE id = 4294967298`, `UPDATE records SET state = 'failed' WHERE id = 4294967298`,
			"lot a: 10 devices, but the states count 9"},
		{`UPDATE records SET keys_destroyed = 5 WHERE id = 4294967298`, `UPDATE records SET keys_destroyed = 0 WHERE id = 4294967298`,
			"lot a: 3 keys generated, 0 released, 5 destroyed: that leaves -2 for 10 devices under way"},
		{`UPDATE records SET superseded = 0 WHERE id = 4294967298`, `UPDATE records SET superseded = 2 WHERE id = 4294967298`,
			"11 live records share 10 identities"},
		{`UPDATE identities SET id = 4294967299 WHERE id = 4294967301`, `UPDATE identities SET id = 4294967301 WHERE id = 4294967299`,
			"1 identities belong to no live record"},
	} {
		for i, query := range []string{tt.harm, tt.undo} {
			if _, err := l.db.ExecContext(t.Context(), in(query)); err != nil {
				t.Fatal(err)
			}
			h := check()
			if i == 0 && !slices.Contains(h.Problems, tt.says) || i == 1 && len(h.Problems) != 0 {
				t.Errorf("after %s: %q", query, h.Problems)
			}
		}
	}
}

func testVacuum(t *testing.T, open opener) {
	l := open(t)
	plan(t, l, "lot", 0, 100)
	if err := l.Vacuum(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustMove(t, l, record(t, l, "lot", 0), pipeline.Staged)
	if h, err := l.Check(t.Context()); err != nil || len(h.Problems) != 0 {
		t.Errorf("%+v %v", h, err)
	}
}

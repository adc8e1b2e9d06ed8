package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"
	"time"

	"keymill/pipeline"
)

// opener opens the same database each time it is called; the test's cleanup
// closes what it returns.
type opener func(t *testing.T) *Ledger

// conform is what every kind of ledger must hold. fresh makes an empty database.
func conform(t *testing.T, fresh func(t *testing.T) opener) {
	for _, lotLogs := range []bool{false, true} {
		t.Run(map[bool]string{false: "one log a station", true: "a log for each lot"}[lotLogs], func(t *testing.T) {
			conformWith(t, func(t *testing.T) opener {
				open := fresh(t)
				return func(t *testing.T) *Ledger {
					l := open(t)
					l.lotLogs = lotLogs
					return l
				}
			})
		})
	}
}

func conformWith(t *testing.T, fresh func(t *testing.T) opener) {
	for name, test := range map[string]func(t *testing.T, open opener){
		"plan":                testPlan,
		"loose":               testLoose,
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
		"opened at once":      testOpenedAtOnce,
		"leases":              testLeases,
		"lease races":         testLeaseRaces,
		"allocations":         testAllocations,
		"allocations race":    testAllocationsRace,
		"check":               testCheck,
		"vacuum":              testVacuum,
		"units":               testUnits,
		"unit races":          testUnitRaces,
		"units scrapped":      testUnitsScrapped,
		"stations":            testStations,
		"server limit":        testServerLimit,
		"heads":               testHeads,
		"restarted log":       testRestart,
		"unique attributes":   testUniques,
		"inventory":           testInventory,
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

// checkLog fails unless every log's events are numbered from 1 without gaps, in
// order of time, and hash to their leaves. It returns how many each station has.
func checkLog(t *testing.T, l *Ledger) map[string]int64 {
	t.Helper()
	last, times, counts := map[string]int64{}, map[string]time.Time{}, map[string]int64{}
	for e, err := range l.Events(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq != last[e.Origin]+1 {
			t.Fatalf("log %s: event %d follows %d", e.Origin, e.Seq, last[e.Origin])
		}
		last[e.Origin] = e.Seq
		counts[e.Station]++
		if e.Leaf != pipeline.LeafHash(e.Canonical) {
			t.Fatalf("log %s, event %d: wrong leaf", e.Origin, e.Seq)
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
			t.Fatalf("%s/%d in lot %q says %+v", e.Origin, e.Seq, e.Lot, body)
		}
		if body.Time.Before(times[e.Origin]) {
			t.Fatalf("log %s, event %d is older than the one before", e.Origin, e.Seq)
		}
		times[e.Origin] = body.Time
	}
	logs, err := l.Logs(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, log := range logs {
		n := int64(0)
		for e, err := range l.LogEvents(t.Context(), log, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; e.Seq != n || e.Origin != log.Origin {
				t.Fatalf("log %s yields event %d of %s at %d", log.Origin, e.Seq, e.Origin, n)
			}
		}
		if n != log.Size || n != last[log.Origin] {
			t.Fatalf("log %s says that it has %d events, it has %d", log.Origin, log.Size, n)
		}
		if l.lotLogs && log.Size > 0 && (log.Lot == "") != (log.Kind == pipeline.LogStation) && log.Kind != pipeline.LogLegacy {
			t.Fatalf("%+v", log)
		}
	}
	return counts
}

func totals(t *testing.T, l *Ledger, lot string) pipeline.Totals {
	t.Helper()
	got, err := l.Totals(t.Context(), lot)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, state := range pipeline.States {
		sum += *got.Count(state)
	}
	if sum != got.Devices {
		t.Fatalf("totals of %s don't add up: %+v", lot, got)
	}
	return got
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
	if seq, err := l.Append(t.Context(), station("line-1", pipeline.ActionExport)); err != nil || l.lotLogs && seq != 1 || !l.lotLogs && seq != 2 {
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
		for _, err := range l.Records(t.Context(), "lot") {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		for _, err := range l.Packed(t.Context(), "lot", "") {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		for _, err := range l.Events(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
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
	for _, packedErr = range l.Packed(ctx, "x", "") {
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

// Stations that start at the same time make one ledger.
func testOpenedAtOnce(t *testing.T, open opener) {
	const n = 6
	var opened sync.WaitGroup
	for i := range n {
		opened.Go(func() {
			l := open(t)
			if _, err := l.Append(t.Context(), station(fmt.Sprint("line-", i), pipeline.ActionRun)); err != nil {
				t.Error(err)
			}
		})
	}
	opened.Wait()
	if got := checkLog(t, open(t)); len(got) != n {
		t.Errorf("%v", got)
	}
}

package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keymill/pipeline"
)

// released plans a lot and releases its first device.
func released(t *testing.T, l *Ledger) *pipeline.Record {
	t.Helper()
	plan(t, l, "lot", 0, 3)
	rec := record(t, l, "lot", 0)
	rec.PublicKey = []byte("a key")
	mustMove(t, l, rec, pipeline.Released)
	return record(t, l, "lot", 0)
}

func testUnits(t *testing.T, open opener) {
	l := open(t)
	rec := released(t, l)
	by := &pipeline.Transitions{Ledger: l, Station: "line-1", Run: 4}
	unit := &pipeline.Unit{Medium: "usb 1-1.2", Slot: "1", Operator: "Ann", Marker: [16]byte{1, 2}, Owner: pipeline.Owner{Station: "line-1", Boot: "b", PID: 7}}
	if err := by.ReserveUnit(t.Context(), l, rec, unit); err != nil {
		t.Fatal(err)
	}
	if unit.Number != 1 || unit.State != pipeline.UnitReserved || unit.Fingerprint != rec.Fingerprint() || unit.Serial != "SN000000" {
		t.Errorf("%+v", unit)
	}
	second := &pipeline.Unit{Medium: "usb 1-1.3"}
	err := by.ReserveUnit(t.Context(), l, rec, second)
	if taken, ok := errors.AsType[*pipeline.UnitTakenError](err); !ok || taken.Unit.Number != 1 || !strings.Contains(taken.Hint(), "unit scrap lot 02:00:00:00:00:00") {
		t.Errorf("a second unit of one device: %v", err)
	}
	if err := by.MoveUnit(t.Context(), l, rec, unit, pipeline.UnitConfirmed, nil); err == nil {
		t.Error("a reserved unit was confirmed")
	}
	stale := *unit
	for _, to := range []pipeline.UnitState{pipeline.UnitWriting, pipeline.UnitVerified, pipeline.UnitLabelled} {
		if err := by.MoveUnit(t.Context(), l, rec, unit, to, func(u *pipeline.Unit) { u.Label = "L" + string(to) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := by.MoveUnit(t.Context(), l, rec, &stale, pipeline.UnitFailed, nil); !errors.Is(err, pipeline.ErrLost) {
		t.Errorf("a unit that has moved on was moved: %v", err)
	}
	got, err := l.LiveUnit(t.Context(), "lot", rec.Row)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(unit, got); d != "" {
		t.Error(d)
	}
	if err := by.MoveUnit(t.Context(), l, rec, unit, pipeline.UnitScrapped, func(u *pipeline.Unit) { u.Reason = "burnt" }); err != nil {
		t.Fatal(err)
	}
	if err := by.ReserveUnit(t.Context(), l, rec, second); err != nil || second.Number != 2 {
		t.Errorf("unit %d, %v", second.Number, err)
	}
	if units := all(t, l.Units(t.Context(), "lot")); len(units) != 2 || units[0].Reason != "burnt" || units[1].Medium != "usb 1-1.3" {
		t.Errorf("%+v", units)
	}
	if one, err := l.Unit(t.Context(), "lot", 2); err != nil || one.Number != 2 {
		t.Errorf("%+v %v", one, err)
	}
	// Not of what isn't released, nor under another key than was seen.
	planned := record(t, l, "lot", 1)
	if err := by.ReserveUnit(t.Context(), l, planned, &pipeline.Unit{}); !errors.Is(err, pipeline.ErrLost) {
		t.Errorf("a planned device got a unit: %v", err)
	}
	text := ""
	for e, err := range l.Events(t.Context(), "lot") {
		if err != nil {
			t.Fatal(err)
		}
		text += string(e.Canonical) + "\n"
	}
	if !strings.Contains(text, `"medium":"usb 1-1.2","operator":"Ann",`) || !strings.Contains(text, `"action":"unit-scrapped"`) || !strings.Contains(text, `"unit":2}`) {
		t.Errorf("events:\n%s", text)
	}
	checkLog(t, l)
}

// One device, many who want it: one gets it.
func testUnitRaces(t *testing.T, open opener) {
	l := open(t)
	rec := released(t, l)
	stations := []*Ledger{l, open(t), open(t)}
	var mu sync.Mutex
	got := 0
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			at := stations[i%len(stations)]
			by := &pipeline.Transitions{Ledger: at, Station: fmt.Sprint("line-", i%len(stations)), Run: 1}
			err := by.ReserveUnit(t.Context(), at, rec, &pipeline.Unit{Medium: fmt.Sprint("medium ", i)})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				got++
			} else if _, taken := errors.AsType[*pipeline.UnitTakenError](err); !taken {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if units := all(t, l.Units(t.Context(), "lot")); got != 1 || len(units) != 1 {
		t.Errorf("%d got the device, it has %d units", got, len(units))
	}
	checkLog(t, l)
}

// What takes the key away scraps its unit, but not under the hands of who writes it.
func testUnitsScrapped(t *testing.T, open opener) {
	l := open(t)
	rec := released(t, l)
	by := &pipeline.Transitions{Ledger: l, Station: "line-1", Run: 4}
	unit := &pipeline.Unit{Medium: "m"}
	if err := by.ReserveUnit(t.Context(), l, rec, unit); err != nil {
		t.Fatal(err)
	}
	if err := by.Undone(t.Context(), rec, "removed", pipeline.KeyDestroyed); !errors.Is(err, pipeline.ErrUnitBusy) || pipeline.Hint(err) == "" {
		t.Errorf("undone while its unit is reserved: %v", err)
	}
	if now := record(t, l, "lot", 0); now.State != pipeline.Released {
		t.Errorf("%s", now.State)
	}
	for _, to := range []pipeline.UnitState{pipeline.UnitWriting, pipeline.UnitVerified} {
		if err := by.MoveUnit(t.Context(), l, rec, unit, to, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := by.Undone(t.Context(), rec, "removed", pipeline.KeyDestroyed); err != nil {
		t.Fatal(err)
	}
	if now, err := l.Unit(t.Context(), "lot", 1); err != nil || now.State != pipeline.UnitScrapped || now.Reason == "" {
		t.Errorf("%+v %v", now, err)
	}
	if live, err := l.LiveUnit(t.Context(), "lot", rec.Row); live != nil || err != nil {
		t.Errorf("%+v %v", live, err)
	}
	checkLog(t, l)
}

func testStations(t *testing.T, open opener) {
	l := open(t)
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	l.backend = clocked{l.backend, &now}
	plan(t, l, "lot", 0, 4)
	plan(t, l, "other", 10, 12)
	a := Station{Name: "line-1", Boot: "b", PID: 1, Host: "h", Out: "/out", URL: "https://h", PublicKey: "k"}
	if err := l.Beat(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	other := a
	other.PID = 2
	if err := l.Beat(t.Context(), other); !errors.Is(err, ErrStationTaken) {
		t.Errorf("two processes are one station: %v", err)
	}
	now = now.Add(Silence)
	if err := l.Beat(t.Context(), other); err != nil {
		t.Errorf("the other one was silent for long: %v", err)
	}
	if err := l.Quit(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if err := l.Beat(t.Context(), a); err != nil {
		t.Errorf("the other one had ended: %v", err)
	}
	stations, err := l.Stations(t.Context())
	if err != nil || len(stations) != 1 || stations[0].Host != "h" || !stations[0].Beat.Equal(now) {
		t.Errorf("%+v %v", stations, err)
	}
	if got, err := l.Claim(t.Context(), "lot", 2, 3, "line-1/7", time.Minute); err != nil || len(got) != 2 {
		t.Fatalf("%d %v", len(got), err)
	}
	rec := record(t, l, "lot", 0)
	if n, err := l.RetireStation(t.Context(), "line-1", "stolen"); err != nil || n != 2 {
		t.Errorf("revoked %d, %v", n, err)
	}
	if err := l.Beat(t.Context(), a); !errors.Is(err, ErrRetired) {
		t.Errorf("a retired station beats: %v", err)
	}
	if _, err := l.Append(t.Context(), station("line-1", "x")); !errors.Is(err, ErrRetired) {
		t.Errorf("a retired station writes events: %v", err)
	}
	if err := move(t.Context(), l, rec, pipeline.Staged, "line-1"); !errors.Is(err, ErrRetired) {
		t.Errorf("a retired station changes devices: %v", err)
	}
	logs, err := l.Logs(t.Context(), "")
	if err != nil || slices.ContainsFunc(logs, func(log pipeline.Log) bool { return !log.Frozen }) {
		t.Errorf("%+v %v", logs, err)
	}
	testJoining(t, l)
}

func testJoining(t *testing.T, l *Ledger) {
	part := LotStation{Lot: "lot", Station: "line-2", Out: "/out/lot", PackUUID: "aa"}
	if err := l.JoinLot(t.Context(), part); err != nil {
		t.Fatal(err)
	}
	part.PackUUID = "bb"
	if err := l.JoinLot(t.Context(), part); !errors.Is(err, ErrPackDiffers) {
		t.Errorf("got %v", err)
	}
	if err := l.ReplacePack(t.Context(), part); err != nil {
		t.Error(err)
	}
	if err := l.JoinLot(t.Context(), LotStation{Lot: "other", Station: "line-2", Out: "/out/lot"}); !errors.Is(err, ErrOutTaken) || pipeline.Hint(err) == "" {
		t.Errorf("got %v", err)
	}
	if err := l.SignedBy(t.Context(), "lot", "line-1", "line-2"); err != nil {
		t.Error(err)
	}
	parts, err := l.LotStations(t.Context(), "lot")
	if err != nil || len(parts) != 2 || parts[0].SignedBy != "line-2" && parts[1].SignedBy != "line-2" {
		t.Errorf("%+v %v", parts, err)
	}
}

func testServerLimit(t *testing.T, open opener) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	stations := []*Ledger{open(t), open(t)}
	for _, l := range stations {
		l.backend = clocked{l.backend, &now}
	}
	take := func(l *Ledger, n int) time.Duration {
		t.Helper()
		wait, err := l.TakeServer(t.Context(), "https://s", 10, 20, n)
		if err != nil {
			t.Fatal(err)
		}
		return wait
	}
	if wait := take(stations[0], 20); wait != 0 {
		t.Errorf("waits %s for what is there", wait)
	}
	if wait := take(stations[1], 5); wait != 500*time.Millisecond {
		t.Errorf("waits %s after the other station took all", wait)
	}
	if wait := take(stations[0], 5); wait != time.Second {
		t.Errorf("waits %s behind the other station", wait)
	}
	now = now.Add(10 * time.Second)
	if wait := take(stations[1], 21); wait != 100*time.Millisecond {
		t.Errorf("waits %s: no more than the burst is saved up", wait)
	}
}

func testHeads(t *testing.T, open opener) {
	l := open(t)
	for _, size := range []int64{3, 9, 5} {
		if err := l.SaveHead(t.Context(), "line-1/lot", size, fmt.Sprint("signed ", size)); err != nil {
			t.Fatal(err)
		}
	}
	if size, signed, err := l.Head(t.Context(), "line-1/lot"); err != nil || size != 9 || signed != "signed 9" {
		t.Errorf("%d %q %v", size, signed, err)
	}
	if size, _, err := l.Head(t.Context(), "line-1"); err != nil || size != 0 {
		t.Errorf("%d %v", size, err)
	}
}

func testRestart(t *testing.T, open opener) {
	l := open(t)
	if !l.lotLogs {
		return // logs of the first format have no epochs
	}
	plan(t, l, "lot", 0, 2)
	mustMove(t, l, record(t, l, "lot", 0), pipeline.Staged)
	if err := l.RestartLog(t.Context(), "line-1/lot", 7, "cm9vdA==", pipeline.Event{Reason: "a copy was put back"}); err != nil {
		t.Fatal(err)
	}
	mustMove(t, l, record(t, l, "lot", 1), pipeline.Staged)
	events := all(t, l.Events(t.Context(), "lot"))
	last := events[len(events)-2:]
	if last[0].Origin != "line-1/lot/2" || !strings.HasPrefix(string(last[0].Canonical), `{"action":"log-restarted","epoch":2,"facts":{"origin":"line-1/lot","root":"cm9vdA==","size":"7"},"lot":"lot",`) {
		t.Errorf("%s: %s", last[0].Origin, last[0].Canonical)
	}
	if last[1].Epoch != 2 || last[1].Seq != 2 {
		t.Errorf("%+v", last[1])
	}
	if err := l.RestartLog(t.Context(), "line-1/lot", 7, "x", pipeline.Event{}); err == nil {
		t.Error("a frozen log was restarted")
	}
	checkLog(t, l)
	if h, err := l.Check(t.Context()); err != nil || len(h.Problems) > 0 {
		t.Errorf("%+v %v", h, err)
	}
}

func testUniques(t *testing.T, open opener) {
	l := open(t)
	lot := func(name string) pipeline.Lot {
		return pipeline.Lot{Name: name, Station: "line-1", Unique: []string{"serial", "wifi"}}
	}
	with := func(from, to int, wifi string) func(func(pipeline.Device, error) bool) {
		return func(yield func(pipeline.Device, error) bool) {
			for i := from; i < to; i++ {
				d := device(i)
				d.Attrs = append(d.Attrs, pipeline.Attr{Name: "wifi", Value: strings.ReplaceAll(wifi, "%d", fmt.Sprint(i))})
				if !yield(d, nil) {
					return
				}
			}
		}
	}
	planEvent := station("line-1", pipeline.ActionPlan)
	if err := l.Plan(t.Context(), lot("a"), planEvent, with(0, 300, "w%d")); err != nil {
		t.Fatal(err)
	}
	err := l.Plan(t.Context(), lot("b"), planEvent, with(300, 310, "same"))
	if e, ok := errors.AsType[*NotUniqueError](err); !ok || e.Attr != "wifi" || e.Holder.Lot != "" || e.Holder.Row != 302 || e.Row != 303 {
		t.Errorf("twice in a lot: %v", err)
	}
	err = l.Plan(t.Context(), lot("b"), planEvent, func(yield func(pipeline.Device, error) bool) {
		d := device(400)
		d.Attrs[0].Value = "SN000007"
		yield(d, nil)
	})
	if e, ok := errors.AsType[*NotUniqueError](err); !ok || e.Attr != "serial" || e.Holder.Lot != "a" || e.Holder.Row != 9 {
		t.Errorf("held by another lot: %v", err)
	}
	held, err := l.UniqueHolders(t.Context(), "wifi", []string{"w1", "w2", "none"})
	if err != nil || len(held) != 2 || held["w2"].Lot != "a" || held["w2"].Row != 4 {
		t.Errorf("%v %v", held, err)
	}
	mustMove(t, l, record(t, l, "a", 7), pipeline.Undone)
	if err := l.Plan(t.Context(), lot("b"), planEvent, with(7, 8, "w%d")); err != nil {
		t.Errorf("the holder was undone: %v", err)
	}
	// Without the setting nothing is unique but the identity.
	if err := l.Plan(t.Context(), pipeline.Lot{Name: "c", Station: "line-1"}, planEvent, func(yield func(pipeline.Device, error) bool) {
		d := device(500)
		d.Attrs[0].Value = "SN000009"
		yield(d, nil)
	}); err != nil {
		t.Error(err)
	}
	n := 0
	for attrs, err := range l.Attrs(t.Context()) {
		if err != nil || len(attrs) < 3 {
			t.Fatal(attrs, err)
		}
		n++
	}
	if n != 302 {
		t.Errorf("%d devices", n)
	}
}

func testInventory(t *testing.T, open opener) {
	l := open(t)
	rec := released(t, l)
	if err := l.SetInventory(t.Context(), rec, pipeline.InventoryFailed, "no"); err != nil {
		t.Fatal(err)
	}
	rec.Auth.Status = "preauthorized"
	mustMove(t, l, rec, pipeline.Failed) // leaves it alone
	if now := record(t, l, "lot", 0); now.Inventory != pipeline.InventoryFailed || now.InventoryReason != "no" {
		t.Errorf("%+v", now)
	}
	for range 2 { // only those that were never asked, and that the server has
		if err := l.AskInventory(t.Context(), "lot"); err != nil {
			t.Fatal(err)
		}
	}
	totals, err := l.Totals(t.Context(), "lot")
	if err != nil || totals.InventoryFailed != 1 || totals.InventoryPending != 0 {
		t.Errorf("%+v, %v", totals, err)
	}
	rec.Inventory, rec.InventoryReason = "", ""
	if err := l.SetInventories(t.Context(), "lot", []*pipeline.Record{rec}); err != nil {
		t.Fatal(err)
	}
	if err := l.AskInventory(t.Context(), "lot"); err != nil {
		t.Fatal(err)
	}
	if totals, err = l.Totals(t.Context(), "lot"); err != nil || totals.InventoryPending != 1 || totals.InventoryFailed != 0 {
		t.Errorf("%+v, %v", totals, err)
	}
	rec = record(t, l, "lot", 0)
	rec.Stale = pipeline.Stale{Output: "x"}
	if err := l.Commit(context.WithoutCancel(t.Context()), pipeline.Change{From: rec.State, Record: rec, Event: station("line-1", "x"), Details: true}); err != nil {
		t.Fatal(err)
	}
	if stale := all(t, l.StaleKeys(t.Context(), "lot")); len(stale) != 1 || stale[0].Row != rec.Row {
		t.Errorf("%v", stale)
	}
}

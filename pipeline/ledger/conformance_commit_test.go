package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"keymill/pipeline"
)

func fullRecord(rec *pipeline.Record) {
	rec.State, rec.Reason = pipeline.Failed, "the server said \"no\"\x00\xff\n"
	rec.PublicKey, rec.Algorithm, rec.Replaces = []byte{0x30, 0, 0xff}, "ed25519", []byte("an older key")
	rec.Pack = pipeline.PackRef{Offset: 1 << 40, Length: 12345}
	rec.Auth = pipeline.AuthSet{DeviceID: "d", AuthSetID: "a", Status: "preauthorized", RequestID: "r", HTTPStatus: 201, Attempts: 3}
	rec.Output = pipeline.Output{Name: "n.img", Bytes: 1 << 41, SHA256: "00ff"}
	rec.Attempts, rec.KeysGenerated, rec.KeysDestroyed = 4, 3, 2
	rec.Station, rec.PackStation, rec.Run = "line-2", "line-3", 7
	from, to := time.Unix(1, 0).UTC(), time.Unix(2, 5000).UTC()
	rec.Details = pipeline.Details{HSM: "0123/factory", Cert: pipeline.Certificate{Serial: "1f", SHA256: "aa", NotBefore: from, NotAfter: to,
		Revoked: to, RevokedReason: "keyCompromise"},
		Stale:       pipeline.Stale{Pack: pipeline.PackRef{Offset: 7, Length: 8}, Output: "o.img", Fingerprint: "bb"},
		Predecessor: pipeline.DeviceRef{Lot: "lot", Row: 2}, Successor: pipeline.DeviceRef{Lot: "lot", Row: 3}}
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
	if err := l.Commit(t.Context(), pipeline.Change{From: pipeline.Planned, Record: want, Event: event, Details: true}); err != nil {
		t.Fatal(err)
	}
	want.Updated, want.Reason = at, "the server said \"no\"\uFFFD\uFFFD\n"
	if d := cmp.Diff(want, record(t, l, "lot", 1)); d != "" {
		t.Error(d)
	}
	event.Seq, event.Time, event.First = 1, at, !l.lotLogs
	events := all(t, l.Events(t.Context(), "lot"))
	origin := map[bool]string{false: "keymill/line-2", true: "line-2/lot"}[l.lotLogs]
	wantEvent := pipeline.StoredEvent{Origin: origin, Epoch: 1, Station: "line-2", Seq: 1, Lot: "lot", Canonical: event.Canonical(), Leaf: pipeline.LeafHash(event.Canonical())}
	if d := cmp.Diff(wantEvent, events[1]); d != "" {
		t.Error(d)
	}
	// Fields that become empty are emptied.
	rec := record(t, l, "lot", 1)
	*rec = pipeline.Record{Lot: "lot", Device: rec.Device, State: rec.State}
	from := rec.State
	rec.State = pipeline.Planned
	if err := l.Commit(t.Context(), pipeline.Change{From: from, Record: rec, Event: event, Details: true}); err != nil {
		t.Fatal(err)
	}
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

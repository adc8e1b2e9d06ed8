package reports

import (
	"context"
	"fmt"
	"iter"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keymill/pipeline"
)

// bookLedger is an in-memory ledger that keeps lot logs and a station log, as
// LogSource and Journal want it.
type bookLedger struct {
	*fakeLedger
	order []Log
	logs  map[string][]pipeline.StoredEvent // by origin
	heads map[string][]byte
	epoch map[string]int // by station and lot
	read  int            // events handed out by LogEvents
}

func newBooks(t testing.TB) *bookLedger {
	b := &bookLedger{fakeLedger: newLedger(t), logs: map[string][]pipeline.StoredEvent{}, heads: map[string][]byte{}, epoch: map[string]int{}}
	b.fakeLedger.books = b
	return b
}

func (b *bookLedger) seq(e pipeline.Event) int64 {
	b.clock = b.clock.Add(1700 * time.Microsecond)
	e.Time = b.clock
	if e.Station == "" {
		e.Station = "line-3"
	}
	log := Log{Kind: KindStation, Station: e.Station, Epoch: max(b.epoch[e.Station+"/"+e.Lot], 1)}
	log.Origin = StationOrigin(e.Station, log.Epoch)
	if e.Lot != "" {
		log.Kind, log.Lot, log.Origin = KindLot, e.Lot, LotOrigin(e.Station, e.Lot, log.Epoch)
	}
	if len(b.logs[log.Origin]) == 0 {
		b.order = append(b.order, log)
	}
	e.Seq = int64(len(b.logs[log.Origin])) + 1
	line := e.Canonical()
	line = []byte(strings.Replace(string(line), eventSchema1, eventSchema2, 1))
	if log.Epoch > 1 {
		line = []byte(strings.Replace(string(line), `,"facts"`, fmt.Sprintf(`,"epoch":%d,"facts"`, log.Epoch), 1))
	}
	b.logs[log.Origin] = append(b.logs[log.Origin], pipeline.StoredEvent{Station: e.Station, Seq: e.Seq, Lot: e.Lot,
		Canonical: line, Leaf: pipeline.LeafHash(line)})
	return e.Seq
}

func (b *bookLedger) Append(_ context.Context, e pipeline.Event) (int64, error) { return b.seq(e), nil }

func (b *bookLedger) Logs(_ context.Context, lot string) ([]Log, error) {
	stations := map[string]bool{}
	var out []Log
	for _, l := range b.order {
		if l.Kind == KindLot && l.Lot == lot {
			stations[l.Station] = true
		}
	}
	for _, l := range b.order {
		l.Size = int64(len(b.logs[l.Origin]))
		if l.Kind == KindLot && l.Lot == lot || l.Kind == KindStation && (lot == "" || stations[l.Station]) {
			out = append(out, l)
		}
	}
	return out, nil
}

func (b *bookLedger) LogEvents(_ context.Context, log Log, after int64) iter.Seq2[pipeline.StoredEvent, error] {
	return func(yield func(pipeline.StoredEvent, error) bool) {
		for _, e := range b.logs[log.Origin][min(after, int64(len(b.logs[log.Origin]))):] {
			b.read++
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (b *bookLedger) Events(_ context.Context, lot string) iter.Seq2[pipeline.StoredEvent, error] {
	return func(yield func(pipeline.StoredEvent, error) bool) {
		for _, l := range b.order {
			for _, e := range b.logs[l.Origin] {
				if (lot == "" || e.Lot == lot) && !yield(e, nil) {
					return
				}
			}
		}
	}
}

func (b *bookLedger) Head(_ context.Context, origin string) ([]byte, error) {
	return b.heads[origin], nil
}

func (b *bookLedger) KeepHead(_ context.Context, origin string, _ int64, signed []byte) error {
	b.heads[origin] = signed
	return nil
}

// close closes a lot as a run does.
func (b *bookLedger) close(lot string) {
	b.t.Helper()
	e, err := CloseLot(b.t.Context(), b, lot, "line-3")
	if err != nil {
		b.t.Fatal(err)
	}
	b.seq(e)
	l := b.lots[lot]
	l.Closed = b.clock
	b.lots[lot] = l
}

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

package reports

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"keymill/pipeline"
)

// Restart is a log that must go on under its next epoch.
type Restart struct {
	Log    Log
	Signed int64          // events at the last head that was signed
	Root   string         // of that head
	Kept   int64          // events that are left
	Event  pipeline.Event // with which the epoch begins
}

// Restarts compares a ledger that was put back with the heads that its station
// signed, and returns what must begin its next epoch because events that were
// signed are lost: of the station log, and of a lot's log ("" for none).
func Restarts(ctx context.Context, src Source, heads *Heads, station, lot string) ([]Restart, error) {
	all, err := src.Logs(ctx, "")
	if err != nil {
		return nil, err
	}
	last := map[pipeline.LogKind]Log{}
	for _, l := range all {
		if l.Station == station && l.Kind != pipeline.LogLegacy && last[l.Kind].Epoch < l.Epoch {
			last[l.Kind] = l
		}
	}
	var restarts []Restart
	for _, kind := range []pipeline.LogKind{pipeline.LogStation, pipeline.LogLot} {
		l, ok := last[kind]
		if !ok {
			continue
		}
		size, root, signed := heads.Last(l.Origin)
		if !signed {
			continue
		}
		b := &bookLog{log: l, walk: walk{name: logName(l)}}
		if err := b.walk.want(namedHead{l.Origin, root, size}, "the head in the heads file"); err != nil {
			return nil, err
		}
		err := b.read(ctx, src, nil)
		if err == nil {
			continue
		}
		if _, back := errors.AsType[*RolledBackError](err); !back {
			return nil, err
		}
		head, kept := namedHead{l.Origin, root, size}, b.walk.head(l.Origin)
		restarts = append(restarts, Restart{l, size, root, kept.Size, pipeline.Event{Station: station, Lot: l.Lot, Action: actionRestarted, Reason: "an older copy of the ledger was put back",
			Facts: head.facts(pipeline.Attr{Name: "kept_root", Value: kept.Root}, pipeline.Attr{Name: "kept_size", Value: strconv.FormatInt(kept.Size, 10)})}})
	}
	return restarts, nil
}

// Check compares a ledger with the heads that its station signed, before the
// station writes more: its station log and a lot's log ("" for none). A
// *RolledBackError says that an older copy of the ledger was put back, or another
// one.
func (h *Heads) Check(ctx context.Context, src Source, station, lot string) error {
	all, err := src.Logs(ctx, "")
	if err != nil {
		return err
	}
	for _, origin := range []string{StationOrigin(station, 1), LotOrigin(station, lot, 1)} {
		if origin == LotOrigin(station, "", 1) {
			continue
		}
		has := slices.ContainsFunc(all, func(l Log) bool { return l.Origin == origin })
		if size, _, signed := h.Last(origin); signed && !has {
			return &RolledBackError{Origin: origin, Signed: size, Path: h.path}
		}
	}
	restarts, err := Restarts(ctx, src, h, station, lot)
	if err != nil || len(restarts) == 0 {
		return err
	}
	one := restarts[0]
	return &RolledBackError{Origin: one.Log.Origin, Size: one.Kept, Signed: one.Signed, Path: h.path}
}

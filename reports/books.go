package reports

import (
	"context"
	"fmt"

	"keymill/pipeline"
)

// Names of what a bundle holds of a station log and of a lot log.
const nameLeaves = "leaves.jsonl" // all leaves of a station log

// writeBooks writes events.jsonl and all logs: it reads each log of the lot once,
// signs what has grown, and writes what was signed.
func (e *export) writeBooks(ctx context.Context, src Source) error {
	p, err := readLogs(ctx, src, e.lot, e.signing())
	if err != nil {
		return err
	}
	out, err := e.out.create(fileEvents)
	if err != nil {
		return storage(err)
	}
	defer out.Abort()
	each := func(stored pipeline.StoredEvent) error {
		e.result.Events++
		_, _ = out.Write(stored.Canonical) // a bufio.Writer keeps its error
		_ = out.WriteByte('\n')
		return e.event(stored)
	}
	for _, l := range p.eventLogs() {
		if l.log.Kind == pipeline.LogLegacy {
			err = e.writeLegacy(ctx, src, l, each)
		} else {
			err = l.read(ctx, src, each)
		}
		if err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return storage(err)
	}
	if err := p.sign(ctx, src); err != nil {
		return err
	}
	return e.writeHeads(ctx, p)
}

// signing is how this export signs.
func (e *export) signing() Signing {
	return Signing{Station: e.opt.Station, Signer: e.opt.Signer, Custody: e.opt.Custody, Heads: e.opt.Heads, Journal: e.opt.Journal}
}

// eventLogs are the logs whose events are listed, in the order of events.jsonl:
// by station, the old log first, then the lot logs by epoch.
func (p *books) eventLogs() []*bookLog {
	var logs []*bookLog
	old := p.legacy
	for _, l := range p.lots {
		for len(old) > 0 && old[0].log.Station <= l.log.Station {
			logs, old = append(logs, old[0]), old[1:]
		}
		logs = append(logs, l)
	}
	return append(logs, old...)
}

// writeLegacy writes the lot's events of an old log, and the subtrees that hide
// those of other lots.
func (e *export) writeLegacy(ctx context.Context, src Source, l *bookLog, each func(pipeline.StoredEvent) error) error {
	tree, err := newStationLog(e.out.dir, l.log.Station)
	if err != nil {
		return storage(err)
	}
	defer tree.close()
	for stored, err := range src.LogEvents(ctx, l.log, 0) {
		if err != nil {
			return fmt.Errorf("%s: %w", l.walk.name, err)
		}
		if err := l.walk.stored(stored); err != nil {
			return err
		}
		own := stored.Lot == e.lot
		if err := noteIssued(tree, stored); err != nil {
			return err
		}
		if err := tree.add(stored, own); err != nil {
			return err
		}
		if !own {
			continue
		}
		l.own++
		if err := each(stored); err != nil {
			return err
		}
	}
	out, err := e.out.create(folderOf(LogHead{Kind: KindLegacy, Station: l.log.Station}) + "/" + nameNodes)
	if err != nil {
		return storage(err)
	}
	defer out.Abort()
	if _, err := tree.head(out); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return storage(err)
	}
	return nil
}

// noteIssued takes a checkpoint that an event of an old log carries.
func noteIssued(tree *stationLog, e pipeline.StoredEvent) error {
	if !isAction(e.Canonical, pipeline.ActionExport) && !isAction(e.Canonical, pipeline.ActionClose) {
		return nil
	}
	line, err := parseEvent(e.Canonical)
	if err != nil {
		return err
	}
	if signed := line.fact(factCheckpoint); signed != "" {
		return tree.note([]byte(signed))
	}
	return nil
}

// writeHeads writes the station logs' leaves and every log's checkpoint, and
// notes the heads for the statement.
func (e *export) writeHeads(ctx context.Context, p *books) error {
	for _, b := range p.stations {
		if b.walk.tree.size == 0 {
			continue
		}
		head := b.listed()
		out, err := e.out.create(folderOf(head) + "/" + nameLeaves)
		if err != nil {
			return storage(err)
		}
		for _, line := range b.lines {
			_, _ = out.Write(line) // a bufio.Writer keeps its error
			_ = out.WriteByte('\n')
		}
		if err := out.Close(); err != nil {
			out.Abort()
			return storage(err)
		}
		if err := e.writeHead(ctx, &b.bookLog, head); err != nil {
			return err
		}
		if b.log.Station == e.opt.Station && !b.ended {
			e.result.Checkpoint = b.signed
		}
	}
	for _, l := range p.eventLogs() {
		head := l.listed()
		if l.log.Kind == pipeline.LogLot && l.own == 0 || l.log.Kind == pipeline.LogLegacy && l.own == 0 {
			continue
		}
		if l.log.Kind == pipeline.LogLegacy {
			e.logs = append(e.logs, head) // the station log names it: log-frozen
			continue
		}
		if err := e.writeHead(ctx, l, head); err != nil {
			return err
		}
	}
	return nil
}

// writeHead writes one checkpoint, and for a station log its time stamp.
func (e *export) writeHead(ctx context.Context, l *bookLog, head LogHead) error {
	if l.ended {
		e.logs = append(e.logs, head)
		return nil
	}
	if l.signed == nil || stripNote(l.signed) != head.text() {
		return &UnsignedError{Lot: e.lot, Station: l.log.Station}
	}
	if err := e.out.write(folderOf(head)+"/"+nameCheckpoint, l.signed); err != nil {
		return storage(err)
	}
	e.logs = append(e.logs, head)
	if e.opt.Timestamp == nil || head.Kind != KindStation {
		return nil
	}
	answer, err := e.opt.Timestamp(ctx, l.signed)
	if err != nil {
		return err
	}
	if err := e.out.write(folderOf(head)+"/"+nameTimestamp, answer); err != nil {
		return storage(err)
	}
	return nil
}

// listed returns a log's head as the statement lists it.
func (b *bookLog) listed() LogHead {
	head := LogHead{Kind: string(b.log.Kind), Station: b.log.Station, Epoch: b.log.Epoch, Origin: b.log.Origin,
		Size: b.walk.tree.size, Root: b.walk.tree.root().String(), SignedBy: b.by}
	if b.log.Kind != pipeline.LogStation {
		head.Events = b.own
	}
	if b.log.Kind == pipeline.LogLegacy {
		head.Epoch = 0 // it has none
	}
	return head
}

// An UnsignedError says that another station has not signed its part of a lot yet.
type UnsignedError struct{ Lot, Station string }

func (e *UnsignedError) Error() string {
	return fmt.Sprintf("station %s has not signed its part of lot %s as it stands", e.Station, e.Lot)
}

// Hint says what to do about it.
func (e *UnsignedError) Hint() string {
	return "export the lot when its worker there has ended; if the station is gone: keymill worker retire " + e.Station
}

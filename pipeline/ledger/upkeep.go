package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"keymill/pipeline"
)

// Backup writes a copy of the ledger as it stands at this moment to a new file
// (mode 0600), durably and all or nothing, while commits go on. The copy is a
// ledger, as small as can be; Open it and Check it to be sure of it. A ledger in
// PostgreSQL is backed up with PostgreSQL's own means: then Backup refuses, with
// a hint. A ledger that was restored from a backup lacks the events since: its
// station's log goes on from an earlier number, which auditors will notice.
func (l *Ledger) Backup(ctx context.Context, path string) error {
	return l.backend.explain(l.backend.backup(ctx, path))
}

// Vacuum gives the space of what was deleted or moved back to the file system.
// It needs about as much free space as the ledger takes, and commits wait.
func (l *Ledger) Vacuum(ctx context.Context) error {
	return l.backend.explain(l.backend.vacuum(ctx))
}

// Health is what Check found.
type Health struct {
	Lots, Devices, Events int
	Problems              []string // empty for a sound ledger
}

// maxProblems ends a check that finds nothing but problems.
const maxProblems = 100

func (h *Health) problem(format string, args ...any) {
	if len(h.Problems) < maxProblems {
		h.Problems = append(h.Problems, fmt.Sprintf(format, args...))
	}
}

// Check reads the whole ledger: the database's own structure, every
// log (numbered without gaps up to its head, in order of time, each leaf the
// hash of its event, each event where it says it belongs), every lot's balance,
// and that each identity has exactly one live record. Commits go on meanwhile.
// The error says that it could not be read at all.
func (l *Ledger) Check(ctx context.Context) (Health, error) {
	var h Health
	var err error
	if h.Problems, err = l.backend.check(ctx); err != nil {
		return h, l.backend.explain(err)
	}
	for _, check := range []func(context.Context, *Health) error{l.checkLogs, l.checkLots, l.checkIdentities} {
		if err := check(ctx, &h); err != nil {
			return h, l.backend.explain(err)
		}
	}
	return h, nil
}

// checkLogs reads the heads first: events that are written meanwhile may be
// beyond them, none may be missing before.
func (l *Ledger) checkLogs(ctx context.Context, h *Health) error {
	logs, err := l.Logs(ctx, "")
	if err != nil {
		return err
	}
	seqs := map[string]int64{}
	var last time.Time
	for e, err := range l.Events(ctx, "") {
		if err != nil {
			return err
		}
		h.Events++
		if seqs[e.Origin] == 0 {
			last = time.Time{}
		}
		if want := seqs[e.Origin] + 1; e.Seq != want {
			h.problem("log %s: event %d follows event %d", e.Origin, e.Seq, want-1)
		}
		seqs[e.Origin] = e.Seq
		last = h.checkEvent(e, last)
	}
	for _, log := range logs {
		if seqs[log.Origin] < log.Size {
			h.problem("log %s ends with event %d, but %d were written", log.Origin, seqs[log.Origin], log.Size)
		}
	}
	return nil
}

// checkEvent compares an event with its row, and returns its time, which must
// not be before the one before.
func (h *Health) checkEvent(e pipeline.StoredEvent, before time.Time) time.Time {
	if e.Leaf != pipeline.LeafHash(e.Canonical) {
		h.problem("log %s: event %d isn't what its leaf hash was made of", e.Origin, e.Seq)
	}
	var body struct {
		Seq          int64
		Epoch        int
		Station, Lot string
		Time         time.Time
	}
	if err := json.Unmarshal(e.Canonical, &body); err != nil {
		h.problem("log %s: event %d is no event: %v", e.Origin, e.Seq, err)
		return before
	}
	if body.Seq != e.Seq || body.Station != e.Station || body.Lot != e.Lot || max(body.Epoch, 1) != e.Epoch {
		h.problem("log %s: event %d of lot %q says that it is event %d of station %s and lot %q",
			e.Origin, e.Seq, e.Lot, body.Seq, body.Station, body.Lot)
	}
	if body.Time.Before(before) {
		h.problem("log %s: event %d is older than the one before it", e.Origin, e.Seq)
	}
	return body.Time
}

// size is how many devices a lot should have, and has.
type size struct {
	lot                      string
	planned, devices, record int
}

func scanSize(rows *sql.Rows) (s size, err error) {
	return s, rows.Scan(&s.lot, &s.planned, &s.devices, &s.record)
}

func (l *Ledger) checkLots(ctx context.Context, h *Health) error {
	sizes, err := collect(ctx, l.db, scanSize, sqlSizes)
	if err != nil {
		return err
	}
	for _, s := range sizes {
		h.Lots++
		h.Devices += s.planned
		if s.planned != s.devices || s.planned != s.record {
			h.problem("lot %s was planned with %d devices, it has %d with %d records", s.lot, s.planned, s.devices, s.record)
		}
		t, err := l.Totals(ctx, s.lot)
		if err != nil {
			return err
		}
		if err := t.Check(); err != nil {
			h.problem("lot %s: %v", s.lot, err)
		}
	}
	return nil
}

func (l *Ledger) checkIdentities(ctx context.Context, h *Health) error {
	var stray, live, held int
	if err := l.db.QueryRowContext(ctx, sqlStray).Scan(&stray); err != nil {
		return err
	}
	if err := l.db.QueryRowContext(ctx, sqlLive).Scan(&live, &held); err != nil {
		return err
	}
	if stray > 0 {
		h.problem("%d identities belong to no live record", stray)
	}
	if live != held {
		h.problem("%d live records share %d identities", live, held)
	}
	return nil
}

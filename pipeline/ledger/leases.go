package ledger

import (
	"context"
	"database/sql"
	"time"

	"keymill/pipeline"
)

// Claim leases the live, unreleased devices of the lot's rows first to last to
// whoever calls itself lease, and returns the records that it then holds,
// ordered by row. Devices under another's lease are left out, unless that has
// run out: its holder's commits are lost from then on. Stations' clocks must
// agree to within a small part of the duration.
func (l *Ledger) Claim(ctx context.Context, lot string, first, last int, lease string, d time.Duration) ([]*pipeline.Record, error) {
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return nil, err
	}
	now := l.clock()
	after, through := deviceID(id, first-1), deviceID(id, last)
	if _, err := l.change(ctx, sqlClaim, after, through, lease, now.Add(d).UnixMicro(), now.UnixMicro()); err != nil {
		return nil, err
	}
	found, err := l.records(ctx, sqlClaimed, after, through, lease)
	records := make([]*pipeline.Record, len(found))
	for i, s := range found {
		records[i] = &s.Record
	}
	return records, err
}

// Renew lets a lease on the rows first to last run for d from now, and returns
// how many devices it still holds.
func (l *Ledger) Renew(ctx context.Context, lot string, first, last int, lease string, d time.Duration) (int, error) {
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return 0, err
	}
	return l.change(ctx, sqlRenew, deviceID(id, first-1), deviceID(id, last), lease, l.clock().Add(d).UnixMicro())
}

// Yield ends a lease on the rows first to last.
func (l *Ledger) Yield(ctx context.Context, lot string, first, last int, lease string) error {
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return err
	}
	_, err = l.change(ctx, sqlYield, deviceID(id, first-1), deviceID(id, last), lease)
	return err
}

// change runs one statement and returns how many rows it changed.
func (l *Ledger) change(ctx context.Context, query string, args ...any) (int, error) {
	var n int64
	err := l.backend.transact(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, query, args...)
		if err != nil {
			return err
		}
		n, err = result.RowsAffected()
		return err
	})
	return int(n), l.backend.explain(err)
}

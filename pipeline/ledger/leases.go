package ledger

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"keymill/pipeline"
)

// A lease names the station that holds it: "line-3", or "line-3/" and whatever
// tells its holders there apart. It runs out by the database's clock.

// LeaseStation returns the station that a lease names.
func LeaseStation(lease string) string {
	station, _, _ := strings.Cut(lease, "/")
	return station
}

// Claim leases the live, unreleased devices of the lot's rows first to last to
// whoever calls itself lease, and returns the records that it then holds,
// ordered by row. Devices under another's lease are left out, unless that has
// run out: its holder's commits are lost from then on. Devices whose keys lie in
// another station's pack are left to that station. The error is ErrRetired for a
// retired station.
func (l *Ledger) Claim(ctx context.Context, lot string, first, last int, lease string, d time.Duration) ([]*pipeline.Record, error) {
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return nil, err
	}
	after, through := deviceID(id, first-1), deviceID(id, last)
	station := LeaseStation(lease)
	_, err = l.changeAt(ctx, func(ctx context.Context, tx *sql.Tx, now int64) (sql.Result, error) {
		if err := notRetired(ctx, tx, station); err != nil {
			return nil, err
		}
		if err := l.backend.lockRows(ctx, tx, sqlLockRows, after, through); err != nil {
			return nil, err
		}
		return tx.ExecContext(ctx, sqlClaim, after, through, lease, now+d.Microseconds(), now, station)
	})
	if err != nil {
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
	after, through := deviceID(id, first-1), deviceID(id, last)
	return l.changeAt(ctx, func(ctx context.Context, tx *sql.Tx, now int64) (sql.Result, error) {
		if err := l.backend.lockRows(ctx, tx, sqlLockRows, after, through); err != nil {
			return nil, err
		}
		return tx.ExecContext(ctx, sqlRenew, after, through, lease, now+d.Microseconds())
	})
}

// Yield ends a lease on the rows first to last.
func (l *Ledger) Yield(ctx context.Context, lot string, first, last int, lease string) error {
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return err
	}
	after, through := deviceID(id, first-1), deviceID(id, last)
	return l.transact(ctx, func(tx *sql.Tx) error {
		if err := l.backend.lockRows(ctx, tx, sqlLockRows, after, through); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, sqlYield, after, through, lease)
		return err
	})
}

// Revoke ends all leases of a station, in all lots, and returns how many devices
// they held.
func (l *Ledger) Revoke(ctx context.Context, station string) (int, error) {
	held := 0
	err := l.transact(ctx, func(tx *sql.Tx) (err error) {
		held, err = l.revoke(ctx, tx, station)
		return err
	})
	return held, err
}

// revoke ends a station's leases within a transaction.
func (l *Ledger) revoke(ctx context.Context, tx *sql.Tx, station string) (int, error) {
	if err := l.backend.lockRows(ctx, tx, sqlLockHeld, station, station+"/"); err != nil {
		return 0, err
	}
	n, err := affected(tx.ExecContext(ctx, sqlRevoke, station, station+"/"))
	return int(n), err
}

// change runs one statement and returns how many rows it changed.
func (l *Ledger) change(ctx context.Context, query string, args ...any) (int, error) {
	var n int64
	err := l.transact(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, query, args...)
		if err != nil {
			return err
		}
		n, err = result.RowsAffected()
		return err
	})
	return int(n), err
}

// changeAt is change for statements that need the database's time.
func (l *Ledger) changeAt(ctx context.Context, do func(context.Context, *sql.Tx, int64) (sql.Result, error)) (int, error) {
	var n int64
	err := l.transact(ctx, func(tx *sql.Tx) error {
		now, err := l.backend.now(ctx, tx, l.clock)
		if err != nil {
			return err
		}
		result, err := do(ctx, tx, now)
		if err != nil {
			return err
		}
		n, err = result.RowsAffected()
		return err
	})
	return int(n), err
}

package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"keymill/pipeline"
)

// Lot returns one lot. The error is ErrNoLot when there is none of that name.
func (l *Ledger) Lot(ctx context.Context, name string) (pipeline.Lot, error) {
	lots, err := collect(ctx, l.db, scanLot, sqlOneLot, name)
	if err != nil {
		return pipeline.Lot{}, l.backend.explain(err)
	}
	if len(lots) == 0 {
		return pipeline.Lot{}, fmt.Errorf("%w: %q", ErrNoLot, name)
	}
	return lots[0], nil
}

// Lots returns all lots in the order in which they were planned.
func (l *Ledger) Lots(ctx context.Context) ([]pipeline.Lot, error) {
	lots, err := collect(ctx, l.db, scanLot, sqlAllLots)
	return lots, l.backend.explain(err)
}

func scanLot(rows *sql.Rows) (lot pipeline.Lot, err error) {
	var created, closed int64
	var unique string
	err = rows.Scan(&lot.Name, &lot.ManifestPath, &lot.ManifestSHA256, &lot.Devices, &lot.GoldenPath, &lot.GoldenSHA256,
		&lot.GoldenBytes, &lot.InjectSHA256, &lot.Format, &lot.Keys, &lot.Algorithm, &lot.Server, &lot.Out, &lot.Station,
		&created, &closed, &lot.ServerMode, &unique, &lot.Settings)
	if unique != "" {
		lot.Unique = strings.Split(unique, ",")
	}
	lot.Created, lot.Closed = time.UnixMicro(created).UTC(), time.UnixMicro(closed).UTC()
	if closed == 0 {
		lot.Closed = time.Time{}
	}
	return lot, err
}

func lotArgs(lot *pipeline.Lot) []any {
	return []any{
		lot.Name, lot.ManifestPath, lot.ManifestSHA256, lot.Devices, lot.GoldenPath, lot.GoldenSHA256,
		lot.GoldenBytes, lot.InjectSHA256, lot.Format, lot.Keys, lot.Algorithm, lot.Server, lot.Out, lot.Station,
		lot.Created.UnixMicro(), lot.ServerMode, strings.Join(lot.Unique, ","), lot.Settings,
	}
}

// CloseLot marks the lot as closed, with its event. The error is ErrNoLot or
// ErrLotClosed.
func (l *Ledger) CloseLot(ctx context.Context, name string, event pipeline.Event) error {
	if event.Station == "" {
		return errNoStation
	}
	id, err := l.lotID(ctx, name)
	if err != nil {
		return err
	}
	event.Lot = name
	if err := l.begin(ctx, event.Station, l.logOf(id)); err != nil {
		return err
	}
	return l.transact(ctx, func(tx *sql.Tx) error {
		// Not before what happened last: retention counts from here, and a clock
		// that was set back must not make a lot look old.
		var last int64
		if err := tx.QueryRowContext(ctx, sqlLastEvent).Scan(&last); err != nil {
			return err
		}
		result, err := tx.ExecContext(ctx, sqlCloseLot, id, max(last, l.clock().UnixMicro()))
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("%w: %q", ErrLotClosed, name))
		}
		return l.appendIn(ctx, tx, event, id)
	})
}

// appendEvent writes one event in a transaction of database/sql, into the log
// that its station has for the lot log.
func appendEvent(ctx context.Context, tx *sql.Tx, e pipeline.Event, log, lot int64, now time.Time) error {
	var r reserved
	var at int64
	err := tx.QueryRowContext(ctx, sqlReserve, e.Station, 1, now.UnixMicro(), log).Scan(&r.log, &r.next, &at, &r.epoch, &r.kind)
	if errors.Is(err, sql.ErrNoRows) {
		err = errFrozen
	}
	if err != nil {
		return err
	}
	r.time = time.UnixMicro(at).UTC()
	row := r.row(&e, lot)
	_, err = tx.ExecContext(ctx, sqlNewEvent, row.id, row.lot, string(row.canonical), row.leaf[:])
	return err
}

package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
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
	err = rows.Scan(&lot.Name, &lot.ManifestPath, &lot.ManifestSHA256, &lot.Devices, &lot.GoldenPath, &lot.GoldenSHA256,
		&lot.GoldenBytes, &lot.InjectSHA256, &lot.Format, &lot.Keys, &lot.Algorithm, &lot.Server, &lot.Out, &lot.Station,
		&created, &closed)
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
		lot.Created.UnixMicro(),
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
	return l.backend.explain(l.backend.transact(ctx, func(tx *sql.Tx) error {
		now := l.clock()
		result, err := tx.ExecContext(ctx, sqlCloseLot, id, now.UnixMicro())
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("%w: %q", ErrLotClosed, name))
		}
		return appendEvent(ctx, tx, event, id, now)
	}))
}

// appendEvent writes one event in a transaction of database/sql.
func appendEvent(ctx context.Context, tx *sql.Tx, e pipeline.Event, lot int64, now time.Time) error {
	if _, err := tx.ExecContext(ctx, sqlNewStation, e.Station); err != nil {
		return err
	}
	var r reserved
	var at int64
	if err := tx.QueryRowContext(ctx, sqlReserve, e.Station, 1, now.UnixMicro()).Scan(&r.station, &r.next, &at); err != nil {
		return err
	}
	r.time = time.UnixMicro(at).UTC()
	row := r.row(&e, lot)
	_, err := tx.ExecContext(ctx, sqlNewEvent, row.id, row.lot, string(row.canonical), row.leaf[:])
	return err
}

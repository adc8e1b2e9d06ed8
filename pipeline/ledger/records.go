package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"math"

	"time"

	"keymill/pipeline"
)

// stored is a record as it is read, with what needs a second look.
type stored struct {
	pipeline.Record
	id, superseded, updated        int64
	certBefore, certAfter, revoked int64
	predecessor, successor         int64
	identity, attrs                []byte
}

// scanRecord reads the columns of recordColumns.
func scanRecord(rows *sql.Rows) (*stored, error) {
	s := &stored{}
	return s, rows.Scan(
		&s.id, &s.identity, &s.attrs, &s.State, &s.KeysGenerated, &s.KeysDestroyed, &s.superseded, &s.Lease,
		&s.updated, &s.Attempts, &s.Station, &s.Pack.Offset, &s.Pack.Length, &s.Algorithm, &s.PublicKey, &s.Replaces, &s.Reason,
		&s.Auth.DeviceID, &s.Auth.AuthSetID, &s.Auth.Status, &s.Auth.RequestID, &s.Auth.HTTPStatus, &s.Auth.Attempts,
		&s.Output.Name, &s.Output.Bytes, &s.Output.SHA256, &s.Run, &s.PackStation, &s.Inventory, &s.InventoryReason,
		&s.HSM, &s.Cert.Serial, &s.Cert.SHA256, &s.certBefore, &s.certAfter, &s.revoked, &s.Cert.RevokedReason,
		&s.Stale.Pack.Offset, &s.Stale.Pack.Length, &s.Stale.Output, &s.Stale.Fingerprint, &s.predecessor, &s.successor,
	)
}

// complete fills in what the columns say indirectly.
func (l *Ledger) complete(ctx context.Context, s *stored) error {
	var err error
	if s.Lot, err = l.lotName(ctx, s.id>>rowBits); err != nil {
		return err
	}
	if s.Superseded, err = l.lotName(ctx, s.superseded); err != nil {
		return err
	}
	if s.Predecessor, err = l.ref(ctx, s.predecessor); err != nil {
		return err
	}
	if s.Successor, err = l.ref(ctx, s.successor); err != nil {
		return err
	}
	s.Row, s.Updated = deviceRow(s.id), time.UnixMicro(s.updated).UTC()
	s.Cert.NotBefore, s.Cert.NotAfter, s.Cert.Revoked = fromMicros(s.certBefore), fromMicros(s.certAfter), fromMicros(s.revoked)
	if s.Identity, err = pipeline.UnmarshalAttrs(s.identity); err != nil {
		return fmt.Errorf("lot %s, row %d: identity: %w", s.Lot, s.Row, err)
	}
	if s.Attrs, err = pipeline.UnmarshalAttrs(s.attrs); err != nil {
		return fmt.Errorf("lot %s, row %d: %w", s.Lot, s.Row, err)
	}
	return nil
}

// records reads all rows of a query for recordColumns.
func (l *Ledger) records(ctx context.Context, query string, args ...any) ([]*stored, error) {
	found, err := collect(ctx, l.db, scanRecord, query, args...)
	if err != nil {
		return nil, l.backend.explain(err)
	}
	for _, s := range found {
		if err := l.complete(ctx, s); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// Records yields the lot's records ordered by row. With states it yields the
// records in these states that are neither superseded nor under another's
// lease: what there is to do. With none it yields all records: what reports
// show. It reads page by page and holds no lock while the caller works, so a
// record that changes meanwhile is seen in the one state or the other.
func (l *Ledger) Records(ctx context.Context, lot string, states ...pipeline.State) iter.Seq2[*pipeline.Record, error] {
	return func(yield func(*pipeline.Record, error) bool) {
		id, err := l.lotID(ctx, lot)
		if err != nil {
			yield(nil, err)
			return
		}
		query, args := sqlRecords, []any(nil)
		if len(states) > 0 {
			now, err := l.backend.now(ctx, l.db, l.clock)
			if err != nil {
				yield(nil, l.backend.explain(err))
				return
			}
			query, args = sqlToDo+placeholders(4, len(states))+`)`, []any{now}
			for _, s := range states {
				args = append(args, string(s))
			}
		}
		l.pages(ctx, id, yield, query, args...)
	}
}

// pages yields the records of a lot (0 for all) that a query finds, by id. The
// query's $1 and $2 are the bounds of the ids, its further arguments args.
func (l *Ledger) pages(ctx context.Context, lot int64, yield func(*pipeline.Record, error) bool, query string, args ...any) {
	after, last := lotRange(lot)
	for {
		page, err := l.records(ctx, query+sqlPage, append([]any{after, last}, args...)...)
		if err != nil {
			yield(nil, err)
			return
		}
		if len(page) == 0 {
			return
		}
		after = page[len(page)-1].id
		for _, s := range page {
			if !yield(&s.Record, nil) {
				return
			}
		}
	}
}

// SupersededKeys yields the records that the lot by ("" for any) has superseded
// and whose keys still lie in their own lots' packs. The caller destroys these
// and commits each with its state unchanged and no pack reference.
func (l *Ledger) SupersededKeys(ctx context.Context, by string) iter.Seq2[*pipeline.Record, error] {
	return func(yield func(*pipeline.Record, error) bool) {
		first, last := int64(1), int64(math.MaxInt64)
		if by != "" {
			id, err := l.lotID(ctx, by)
			if err != nil {
				yield(nil, err)
				return
			}
			first, last = id, id
		}
		l.pages(ctx, 0, yield, sqlSupersededKeys, first, last)
	}
}

// StaleKeys yields the lot's records whose given-up keys are not destroyed yet.
func (l *Ledger) StaleKeys(ctx context.Context, lot string) iter.Seq2[*pipeline.Record, error] {
	return func(yield func(*pipeline.Record, error) bool) {
		id, err := l.lotID(ctx, lot)
		if err != nil {
			yield(nil, err)
			return
		}
		l.pages(ctx, id, yield, sqlStale)
	}
}

// SetInventory records how far the server's inventory knows of a device.
func (l *Ledger) SetInventory(ctx context.Context, rec *pipeline.Record, state pipeline.Inventory, reason string) error {
	lot, err := l.lotID(ctx, rec.Lot)
	if err != nil {
		return err
	}
	if _, err := l.change(ctx, sqlInventory, deviceID(lot, rec.Row), string(state), text(reason)); err != nil {
		return err
	}
	rec.Inventory, rec.InventoryReason = state, reason
	return nil
}

// Packed yields what the ledger believes to lie in the pack that the station
// ("" for all stations) has of the lot, ordered by offset, superseded records
// included. It reads one snapshot while the caller
// works: one that takes long keeps the write-ahead log from shrinking.
func (l *Ledger) Packed(ctx context.Context, lot, station string) iter.Seq2[pipeline.PackedRecord, error] {
	return func(yield func(pipeline.PackedRecord, error) bool) {
		if err := l.packed(ctx, lot, station, yield); err != nil {
			yield(pipeline.PackedRecord{}, l.backend.explain(err))
		}
	}
}

func (l *Ledger) packed(ctx context.Context, lot, station string, yield func(pipeline.PackedRecord, error) bool) error {
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return err
	}
	after, last := lotRange(id)
	rows, err := l.db.QueryContext(ctx, sqlPacked, after, last, station)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var p pipeline.PackedRecord
		var sum []byte
		var superseded int64
		if err := rows.Scan(&sum, &p.Ref.Offset, &p.Ref.Length, &p.State, &superseded); err != nil {
			return err
		}
		copy(p.Identity[:], sum)
		if p.Superseded, err = l.lotName(ctx, superseded); err != nil {
			return err
		}
		if !yield(p, nil) {
			return nil
		}
	}
	return rows.Err()
}

// Totals returns the lot's balance, superseded records counted in the state
// that they had. It is one pass over the lot's records.
func (l *Ledger) Totals(ctx context.Context, lot string) (pipeline.Totals, error) {
	t := pipeline.Totals{Lot: lot}
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return t, err
	}
	query := sqlTotals
	targets := []any{&t.Keys.Generated, &t.Keys.Destroyed, &t.Devices}
	for _, state := range pipeline.States {
		query += fmt.Sprintf(sqlStateCount, state)
		targets = append(targets, t.Count(state))
	}
	query, targets = query+sqlInventoryTotals, append(targets, &t.InventoryPending, &t.InventoryFailed)
	after, last := lotRange(id)
	err = l.db.QueryRowContext(ctx, query+sqlTotalsOf, after, last).Scan(targets...)
	t.Keys.Released = t.Released
	return t, l.backend.explain(err)
}

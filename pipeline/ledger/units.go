package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"iter"
	"slices"

	"keymill/pipeline"
)

var _ pipeline.UnitLedger = (*Ledger)(nil)

// ChangeUnit writes a change of a unit and its event in one transaction; see
// pipeline.UnitLedger. The unit's Updated, and Number and Created of a new one,
// are the ledger's to fill in.
func (l *Ledger) ChangeUnit(ctx context.Context, c pipeline.UnitChange) error {
	if c.Event.Station == "" {
		return errNoStation
	}
	lot, err := l.lotID(ctx, c.Unit.Lot)
	if err != nil {
		return err
	}
	if err := l.begin(ctx, c.Event.Station, l.logOf(lot)); err != nil {
		return err
	}
	device := deviceID(lot, c.Unit.Row)
	return l.transact(ctx, func(tx *sql.Tx) error {
		unit := *c.Unit
		unit.Updated = fromMicros(l.clock().UnixMicro())
		if c.From == "" {
			if err := l.newUnit(ctx, tx, &unit, lot, device, c.States); err != nil {
				return err
			}
		} else {
			args := append(unitArgs(&unit), deviceID(lot, unit.Number), device, string(c.From))
			if n, err := affected(tx.ExecContext(ctx, sqlMoveUnit, args...)); err != nil || n == 0 {
				return cmp.Or(err, pipeline.ErrLost)
			}
		}
		event := c.Event
		event.Unit = unit.Number
		if err := l.appendIn(ctx, tx, event, lot); err != nil {
			return err
		}
		*c.Unit = unit
		return nil
	})
}

// newUnit binds the device to a unit, if the device is what the caller thinks
// that it is.
func (l *Ledger) newUnit(ctx context.Context, tx *sql.Tx, unit *pipeline.Unit, lot, device int64, states []pipeline.State) error {
	var state pipeline.State
	var key []byte
	// Changes nothing, but makes other changes of the record wait.
	err := tx.QueryRowContext(ctx, sqlHoldState, device).Scan(&state, &key)
	if errors.Is(err, sql.ErrNoRows) {
		return pipeline.ErrLost
	}
	if err != nil {
		return err
	}
	if !slices.Contains(states, state) || pipeline.Fingerprint(key) != unit.Fingerprint {
		return pipeline.ErrLost
	}
	live, err := l.units(ctx, tx, sqlLiveUnit, device)
	if err != nil {
		return err
	}
	if len(live) > 0 && unit.State.Live() {
		return &pipeline.UnitTakenError{Unit: live[0]}
	}
	if unit.Created = unit.Updated; unit.Number > 0 { // one that is rebuilt
		_, err = tx.ExecContext(ctx, sqlNewUnit, append(unitArgs(unit), deviceID(lot, unit.Number), device, unit.Created.UnixMicro())...)
		return err
	}
	var last int64
	after, through := lotRange(lot)
	if err := tx.QueryRowContext(ctx, sqlLastUnit, after, through).Scan(&last); err != nil {
		return err
	}
	unit.Number = deviceRow(last) + 1
	_, err = tx.ExecContext(ctx, sqlNewUnit, append(unitArgs(unit), deviceID(lot, unit.Number), device, unit.Created.UnixMicro())...)
	return err
}

// unitArgs returns the arguments that sqlNewUnit and sqlMoveUnit share.
func unitArgs(u *pipeline.Unit) []any {
	var marker any
	if u.Marker != [16]byte{} {
		marker = u.Marker[:]
	}
	return []any{
		string(u.State), text(u.Reason), u.Fingerprint, marker, text(u.Medium), text(u.Slot), text(u.Recipient),
		text(u.Operator), text(u.Label), text(u.Client), text(u.ETag), u.ImageSHA256, u.Owner.Station, u.Owner.Boot, u.Owner.PID,
		u.Updated.UnixMicro(),
	}
}

// commitScrapping writes a change that takes a device's key away, and scraps its
// live unit in the same transaction.
func (l *Ledger) commitScrapping(ctx context.Context, p *pending, reason string) error {
	return l.transact(ctx, func(tx *sql.Tx) error {
		now := l.clock()
		if n, err := affected(tx.ExecContext(ctx, sqlUpdate, p.values(now)...)); err != nil || n == 0 {
			return cmp.Or(err, pipeline.ErrLost)
		}
		if p.details {
			if _, err := tx.ExecContext(ctx, sqlDetails, p.detailValues()...); err != nil {
				return err
			}
		}
		live, err := l.units(ctx, tx, sqlLiveUnit, p.id)
		if err != nil {
			return err
		}
		for _, unit := range live {
			if unit.State == pipeline.UnitReserved || unit.State == pipeline.UnitWriting {
				return pipeline.WithHint(pipeline.ErrUnitBusy, "Unit %d of lot %s is %s since %s: let that end, or scrap the unit.",
					unit.Number, unit.Lot, unit.State, unit.Updated.Format("2006-01-02 15:04:05"))
			}
			if err := l.scrap(ctx, tx, p, unit, reason); err != nil {
				return err
			}
		}
		return l.appendIn(ctx, tx, p.event, p.lot)
	})
}

func (l *Ledger) scrap(ctx context.Context, tx *sql.Tx, p *pending, unit *pipeline.Unit, reason string) error {
	from := unit.State
	unit.State, unit.Reason, unit.Updated = pipeline.UnitScrapped, reason, l.clock()
	args := append(unitArgs(unit), deviceID(p.lot, unit.Number), p.id, string(from))
	if n, err := affected(tx.ExecContext(ctx, sqlMoveUnit, args...)); err != nil || n == 0 {
		return cmp.Or(err, pipeline.ErrLost)
	}
	e := p.event
	return l.appendIn(ctx, tx, pipeline.Event{
		Station: e.Station, Lot: e.Lot, Run: e.Run, Action: pipeline.ActionScrapUnit, Reason: reason, Row: e.Row, Device: e.Device,
		Serial: e.Serial, Attempt: e.Attempt, SPKI: unit.Fingerprint, Unit: unit.Number, Medium: unit.Medium, Slot: unit.Slot,
	}, p.lot)
}

// Units yields the units of a lot by number. It reads page by page and holds no
// lock while the caller works.
func (l *Ledger) Units(ctx context.Context, lot string) iter.Seq2[*pipeline.Unit, error] {
	return func(yield func(*pipeline.Unit, error) bool) {
		id, err := l.lotID(ctx, lot)
		if err != nil {
			yield(nil, err)
			return
		}
		after, last := lotRange(id)
		for {
			page, err := l.units(ctx, l.db, sqlUnits, after, last)
			if err != nil {
				yield(nil, l.backend.explain(err))
				return
			}
			if len(page) == 0 {
				return
			}
			after = deviceID(id, page[len(page)-1].Number)
			for _, u := range page {
				if !yield(u, nil) {
					return
				}
			}
		}
	}
}

// LiveUnit returns the unit that a device is bound to, nil if there is none.
func (l *Ledger) LiveUnit(ctx context.Context, lot string, row int) (*pipeline.Unit, error) {
	found, err := l.unitsOf(ctx, sqlLiveUnit, lot, row)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}

// UnitsOf returns all units that a device ever had, the oldest first.
func (l *Ledger) UnitsOf(ctx context.Context, lot string, row int) ([]*pipeline.Unit, error) {
	return l.unitsOf(ctx, sqlUnitsOf, lot, row)
}

// Unit returns a unit by its number within the lot, nil if there is none.
func (l *Ledger) Unit(ctx context.Context, lot string, number int) (*pipeline.Unit, error) {
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return nil, err
	}
	found, err := l.units(ctx, l.db, sqlUnits, deviceID(id, number)-1, deviceID(id, number))
	if err != nil || len(found) == 0 {
		return nil, l.backend.explain(err)
	}
	return found[0], nil
}

func (l *Ledger) unitsOf(ctx context.Context, query, lot string, row int) ([]*pipeline.Unit, error) {
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return nil, err
	}
	found, err := l.units(ctx, l.db, query, deviceID(id, row))
	return found, l.backend.explain(err)
}

// units reads all rows of a query for unitColumns.
func (l *Ledger) units(ctx context.Context, q querier, query string, args ...any) ([]*pipeline.Unit, error) {
	found, err := collect(ctx, q, scanUnit, query, args...)
	if err != nil {
		return nil, err
	}
	units := make([]*pipeline.Unit, len(found))
	for i := range found {
		if units[i], err = l.unit(ctx, &found[i]); err != nil {
			return nil, err
		}
	}
	return units, nil
}

// storedUnit is a unit as it is read.
type storedUnit struct {
	pipeline.Unit
	id, device, created, updated int64
	identity, attrs, marker      []byte
}

func scanUnit(rows *sql.Rows) (u storedUnit, err error) {
	err = rows.Scan(&u.id, &u.device, &u.identity, &u.attrs, &u.State, &u.Reason, &u.Fingerprint, &u.marker, &u.Medium, &u.Slot,
		&u.Recipient, &u.Operator, &u.Label, &u.Client, &u.ETag, &u.ImageSHA256, &u.Owner.Station, &u.Owner.Boot, &u.Owner.PID,
		&u.created, &u.updated)
	return u, err
}

func (l *Ledger) unit(ctx context.Context, s *storedUnit) (*pipeline.Unit, error) {
	u := s.Unit
	var err error
	if u.Lot, err = l.lotName(ctx, s.id>>rowBits); err != nil {
		return nil, err
	}
	u.Number, u.Row, u.Created, u.Updated = deviceRow(s.id), deviceRow(s.device), fromMicros(s.created), fromMicros(s.updated)
	copy(u.Marker[:], s.marker)
	if u.Device, err = pipeline.UnmarshalAttrs(s.identity); err != nil {
		return nil, err
	}
	attrs, err := pipeline.UnmarshalAttrs(s.attrs)
	dev := pipeline.Device{Attrs: attrs}
	u.Serial, _ = dev.Attr("serial")
	return &u, err
}

// affected returns how many rows a statement changed.
func affected(result sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"iter"
	"slices"
	"strconv"
	"strings"

	"keymill/pipeline"
)

// Holder says which lot holds an identity.
type Holder struct {
	Lot   string // empty in a TakenError: an earlier row of the same manifest
	Row   int    // manifest row in that lot
	State pipeline.State
}

// TakenDevice is a device that can't be planned.
type TakenDevice struct {
	Row      int // in the manifest that was to be planned
	Identity pipeline.Identity
	Holder   Holder
}

// TakenError is returned by Plan for devices that are held already, by other
// lots or by earlier rows of the same lot.
type TakenError struct {
	Devices []TakenDevice // those of the first page that has any, 500 at most
}

func (e *TakenError) Error() string {
	d := e.Devices[0]
	if d.Holder.Lot == "" {
		return fmt.Sprintf("row %d (%s) is on row %d already", d.Row, d.Identity, d.Holder.Row)
	}
	return fmt.Sprintf("row %d (%s) is held by lot %s, row %d, where it is %s",
		d.Row, d.Identity, d.Holder.Lot, d.Holder.Row, d.Holder.State)
}

// Plan writes a lot, a planned record for each device, and the event, all or
// nothing, in memory that doesn't grow with the lot. Rows must increase.
// lot.Devices must be the number of devices, or 0 to have them counted; a zero
// lot.Created becomes the present. A device that failed or conflicts in another
// lot is taken over: its old record is marked as superseded, and its key is
// what the new record Replaces. A device that is held refuses the lot with a
// *TakenError, a name that is taken with ErrLotExists. An error that devices
// yields is returned as it is. While devices yields it may read the ledger, but
// not write to it: writers wait for Plan.
func (l *Ledger) Plan(ctx context.Context, lot pipeline.Lot, event pipeline.Event, devices iter.Seq2[pipeline.Device, error]) error {
	if event.Station == "" {
		return errNoStation
	}
	event.Lot = lot.Name
	for _, name := range lot.Unique {
		if name == "" || strings.Contains(name, ",") {
			return fmt.Errorf("an attribute named %q can't be unique", name)
		}
	}
	var yielded error // kept from being explained as the database's
	err := l.backend.transact(ctx, func(tx *sql.Tx) error {
		if err := l.backend.alone(ctx, tx); err != nil {
			return err
		}
		now := l.clock()
		if lot.Created.IsZero() {
			lot.Created = now
		}
		p := &planner{tx: tx, rewrite: l.backend.rewrite, lotName: l.lotName, now: now.UnixMicro(), roster: sha256.New()}
		if err := p.plan(ctx, &lot, untilError(devices, &yielded)); err != nil {
			return err
		}
		if err := l.beginIn(ctx, tx, event.Station, l.logOf(p.lot)); err != nil {
			return err
		}
		event := event
		event.Facts = plannedFacts(event.Facts, &lot, p.roster.Sum(nil))
		return l.appendIn(ctx, tx, event, p.lot)
	})
	if yielded != nil {
		return yielded
	}
	return l.backend.explain(err)
}

// plannedFacts adds what the ledger knows best of a lot that is planned.
func plannedFacts(facts []pipeline.Attr, lot *pipeline.Lot, roster []byte) []pipeline.Attr {
	facts = append(slices.Clone(facts), pipeline.Attr{Name: "roster_sha256", Value: hex.EncodeToString(roster)})
	if len(lot.Unique) > 0 {
		facts = append(facts, pipeline.Attr{Name: "unique", Value: strings.Join(lot.Unique, ",")})
	}
	if lot.ServerMode != "" {
		facts = append(facts, pipeline.Attr{Name: "server_mode", Value: lot.ServerMode})
	}
	pipeline.SortAttrs(facts)
	return facts
}

// untilError yields devices up to the first error, and that error, which it keeps.
func untilError(devices iter.Seq2[pipeline.Device, error], first *error) iter.Seq2[pipeline.Device, error] {
	return func(yield func(pipeline.Device, error) bool) {
		for d, err := range devices {
			*first = err
			if !yield(d, err) || err != nil {
				return
			}
		}
	}
}

// planner writes one lot in one transaction.
type planner struct {
	tx      *sql.Tx
	rewrite func(string) string
	lotName func(context.Context, int64) (string, error)
	now     int64
	lot     int64

	count, row int // devices seen, and the last one's row

	// roster is the SHA-256 over the lines "ROW TAB identity TAB attributes LF" of
	// the devices, both as canonical JSON (RFC 8785).
	roster hash.Hash

	// What is inserted together, as the rows of one statement.
	devices, records, names bulk
	uniques                 uniques
}

func (p *planner) plan(ctx context.Context, lot *pipeline.Lot, devices iter.Seq2[pipeline.Device, error]) error {
	err := p.tx.QueryRowContext(ctx, sqlNewLot, lotArgs(lot)...).Scan(&p.lot)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w: %q", ErrLotExists, lot.Name)
	}
	if err != nil {
		return err
	}
	if err := joinPlanned(ctx, p.tx, p.lot, lot, p.now); err != nil {
		return err
	}
	p.uniques = uniques{planner: p, names: lot.Unique}
	if err := p.insert(ctx, devices); err != nil {
		return err
	}
	switch {
	case lot.Devices == 0:
		if _, err := p.tx.ExecContext(ctx, sqlCountLot, p.lot, p.count); err != nil {
			return err
		}
	case lot.Devices != p.count:
		return fmt.Errorf("the lot has %d devices, not %d as announced", p.count, lot.Devices)
	}
	return p.identify(ctx)
}

// insert writes devices, records and names.
func (p *planner) insert(ctx context.Context, devices iter.Seq2[pipeline.Device, error]) error {
	p.devices = newBulk(p, sqlNewDevices, 4, "")
	p.records = newBulk(p, sqlNewRecords, 3, "")
	p.names = newBulk(p, sqlNewNames, 2, " ON CONFLICT DO NOTHING")
	defer p.devices.close()
	defer p.records.close()
	defer p.names.close()
	for d, err := range devices {
		if err != nil {
			return err
		}
		if err := p.add(ctx, &d); err != nil {
			return err
		}
	}
	return errors.Join(p.devices.flush(ctx), p.records.flush(ctx), p.names.flush(ctx), p.uniques.flush(ctx))
}

func (p *planner) add(ctx context.Context, d *pipeline.Device) error {
	if d.Row <= p.row || int64(d.Row) >= 1<<rowBits {
		return fmt.Errorf("row %d follows row %d: the rows of a lot must increase", d.Row, p.row)
	}
	p.row = d.Row
	p.count++
	id, sum := deviceID(p.lot, d.Row), d.Identity.Sum()
	err := p.devices.add(ctx, id, sum[:], string(pipeline.MarshalAttrs(d.Identity)), string(pipeline.MarshalAttrs(d.Attrs)))
	if err != nil {
		return err
	}
	if err := p.records.add(ctx, id, string(pipeline.Planned), p.now); err != nil {
		return err
	}
	for _, a := range d.Identity {
		if err := p.names.add(ctx, a.Value, id); err != nil {
			return err
		}
	}
	if serial, ok := d.Attr("serial"); ok {
		if err := p.names.add(ctx, serial, id); err != nil {
			return err
		}
	}
	p.enroll(d)
	return p.uniques.add(ctx, d, id)
}

// enroll adds a device to the roster's hash.
func (p *planner) enroll(d *pipeline.Device) {
	line := strconv.AppendInt(nil, int64(d.Row), 10)
	line = append(append(line, '\t'), pipeline.MarshalSorted(d.Identity)...)
	line = append(append(line, '\t'), pipeline.MarshalSorted(d.Attrs)...)
	_, _ = p.roster.Write(append(line, '\n')) // a hash never fails
}

// identify makes the lot the holder of its devices' identities.
func (p *planner) identify(ctx context.Context) error {
	after, last := lotRange(p.lot)
	result, err := p.tx.ExecContext(ctx, sqlNewIdentities, after, last)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == int64(p.count) {
		return err
	}
	for {
		page, err := collect(ctx, p.tx, scanClash, sqlClashes, after, last)
		if err != nil || len(page) == 0 {
			return err
		}
		var taken TakenError
		for _, c := range page {
			after = c.id
			won, err := p.takeOver(ctx, c)
			if err != nil {
				return err
			}
			if !won {
				if err := p.refuse(ctx, &taken, c); err != nil {
					return err
				}
			}
		}
		if len(taken.Devices) > 0 {
			return &taken
		}
	}
}

// clash is a device whose identity another one holds.
type clash struct {
	id                    int64
	sum, identity         []byte
	holder                int64
	state                 pipeline.State
	lease                 string
	publicKey, replacedBy []byte
}

func scanClash(rows *sql.Rows) (c clash, err error) {
	return c, rows.Scan(&c.id, &c.sum, &c.identity, &c.holder, &c.state, &c.lease, &c.publicKey, &c.replacedBy)
}

// takeOver moves an identity to its new device if the old one is done with it.
// Conditions are in the statements, so that a worker of the old lot who
// is faster wins.
func (p *planner) takeOver(ctx context.Context, c clash) (bool, error) {
	if c.holder>>rowBits == p.lot || !replaceable(c.state) {
		return false, nil
	}
	key := c.publicKey
	if len(key) == 0 {
		key = c.replacedBy
	}
	for _, step := range []struct {
		query string
		args  []any
	}{
		{sqlTakeOver, []any{c.sum, c.holder, c.id}},
		{sqlSupersede, []any{c.holder, p.lot, p.now}},
		{sqlReplace, []any{c.id, key}},
		{sqlEarlier, []any{c.id, c.holder}},
	} {
		result, err := p.tx.ExecContext(ctx, step.query, step.args...)
		if err != nil {
			return false, err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return false, err
		}
	}
	return true, nil
}

func (p *planner) refuse(ctx context.Context, taken *TakenError, c clash) error {
	identity, err := pipeline.UnmarshalAttrs(c.identity)
	if err != nil {
		return err
	}
	h := Holder{Row: deviceRow(c.holder), State: c.state}
	if c.holder>>rowBits != p.lot {
		if h.Lot, err = p.lotName(ctx, c.holder>>rowBits); err != nil {
			return err
		}
	}
	taken.Devices = append(taken.Devices, TakenDevice{Row: deviceRow(c.id), Identity: identity, Holder: h})
	return nil
}

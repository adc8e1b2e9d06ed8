package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"iter"

	"keymill/pipeline"
)

// NotUniqueError is returned by Plan for a value of an attribute that must be
// unique and that another live device has.
type NotUniqueError struct {
	Attr, Value string
	Row         int    // in the manifest that was to be planned
	Holder      Holder // Lot is empty where an earlier row has it
}

func (e *NotUniqueError) Error() string {
	if e.Holder.Lot == "" {
		return fmt.Sprintf("row %d: %s %q is on row %d already", e.Row, e.Attr, e.Value, e.Holder.Row)
	}
	return fmt.Sprintf("row %d: %s %q is held by lot %s, row %d, where it is %s",
		e.Row, e.Attr, e.Value, e.Holder.Lot, e.Holder.Row, e.Holder.State)
}

// uniques writes the unique values of a lot's devices, some at a time.
type uniques struct {
	planner *planner
	names   []string
	waiting []unique
}

type unique struct {
	attr, value string
	id          int64
}

func (u *uniques) add(ctx context.Context, d *pipeline.Device, id int64) error {
	for _, name := range u.names {
		if value, ok := d.Attr(name); ok && value != "" {
			u.waiting = append(u.waiting, unique{name, value, id})
		}
	}
	if len(u.waiting) < 2*bulkRows {
		return nil
	}
	return u.flush(ctx)
}

// flush makes the devices the holders of their values. Values of devices that
// are done with go to their new holders.
func (u *uniques) flush(ctx context.Context) error {
	for _, name := range u.names {
		var some []unique
		for _, w := range u.waiting {
			if w.attr == name {
				some = append(some, w)
			}
		}
		if err := u.take(ctx, name, some); err != nil {
			return err
		}
	}
	u.waiting = u.waiting[:0]
	return nil
}

func (u *uniques) take(ctx context.Context, attr string, some []unique) error {
	if len(some) == 0 {
		return nil
	}
	p := u.planner
	values := make([]string, len(some))
	for i, w := range some {
		values[i] = w.value
	}
	held, err := valueHolders(ctx, p.tx, attr, values)
	if err != nil {
		return err
	}
	mine := map[string]int64{}
	insert := bulk{tx: p.tx, rewrite: p.rewrite, head: `INSERT INTO uniques (attr, value, id) VALUES `, columns: 3}
	defer insert.close()
	for _, w := range some {
		holder, taken := held[w.value]
		if !taken {
			holder = valueHolder{id: mine[w.value]}
		}
		switch {
		case holder.id == 0:
		case holder.id>>rowBits == p.lot || !holder.free():
			return u.refuse(ctx, w, holder)
		default:
			if _, err := p.tx.ExecContext(ctx, sqlFreeUnique, attr, w.value); err != nil {
				return err
			}
			delete(held, w.value)
		}
		mine[w.value] = w.id
		if err := insert.add(ctx, attr, w.value, w.id); err != nil {
			return err
		}
	}
	return insert.flush(ctx)
}

func (u *uniques) refuse(ctx context.Context, w unique, holder valueHolder) error {
	e := &NotUniqueError{Attr: w.attr, Value: w.value, Row: deviceRow(w.id), Holder: Holder{Row: deviceRow(holder.id), State: holder.state}}
	if holder.id>>rowBits == u.planner.lot {
		return e
	}
	var err error
	if e.Holder.Lot, err = u.planner.lotName(ctx, holder.id>>rowBits); err != nil {
		return err
	}
	return e
}

// valueHolder is the device that has a unique value.
type valueHolder struct {
	value      string
	id         int64
	state      pipeline.State
	superseded int64
}

// free says that the value may be given away: the device is done with.
func (h *valueHolder) free() bool { return h.superseded != 0 || replaceable(h.state) }

func valueHolders(ctx context.Context, q querier, attr string, values []string) (map[string]valueHolder, error) {
	held := map[string]valueHolder{}
	const chunk = 250
	for len(values) > 0 {
		n := min(len(values), chunk)
		args := []any{attr}
		for _, v := range values[:n] {
			args = append(args, v)
		}
		found, err := collect(ctx, q, func(rows *sql.Rows) (h valueHolder, err error) {
			return h, rows.Scan(&h.value, &h.id, &h.state, &h.superseded)
		}, sqlUniqueHolders+placeholders(2, n)+`)`, args...)
		if err != nil {
			return nil, err
		}
		for _, h := range found {
			held[h.value] = h
		}
		values = values[n:]
	}
	return held, nil
}

// UniqueHolders returns which of the values of an attribute that must be unique
// are held by live devices. Devices that failed, conflict or were undone don't
// count: Plan takes their values away.
func (l *Ledger) UniqueHolders(ctx context.Context, attr string, values []string) (map[string]Holder, error) {
	held, err := valueHolders(ctx, l.db, attr, values)
	if err != nil {
		return nil, l.backend.explain(err)
	}
	found := map[string]Holder{}
	for value, h := range held {
		if h.free() {
			continue
		}
		name, err := l.lotName(ctx, h.id>>rowBits)
		if err != nil {
			return nil, err
		}
		found[value] = Holder{Lot: name, Row: deviceRow(h.id), State: h.state}
	}
	return found, nil
}

// Attrs yields the attributes of every device that the ledger ever had. It reads
// page by page and holds no lock while the caller works.
func (l *Ledger) Attrs(ctx context.Context) iter.Seq2[[]pipeline.Attr, error] {
	type row struct {
		id    int64
		attrs []byte
	}
	return func(yield func([]pipeline.Attr, error) bool) {
		after := int64(0)
		for {
			page, err := collect(ctx, l.db, func(rows *sql.Rows) (r row, err error) {
				return r, rows.Scan(&r.id, &r.attrs)
			}, sqlAttrs, after)
			if err != nil {
				yield(nil, l.backend.explain(err))
				return
			}
			if len(page) == 0 {
				return
			}
			after = page[len(page)-1].id
			for _, r := range page {
				attrs, err := pipeline.UnmarshalAttrs(r.attrs)
				if !yield(attrs, err) || err != nil {
					return
				}
			}
		}
	}
}

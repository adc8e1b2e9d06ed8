package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"keymill/pipeline"
)

// Record returns the lot's record of one identity, superseded or not. The error
// is ErrNoLot or ErrNoRecord when there is none.
func (l *Ledger) Record(ctx context.Context, lot string, id pipeline.IdentitySum) (*pipeline.Record, error) {
	lotID, err := l.lotID(ctx, lot)
	if err != nil {
		return nil, err
	}
	// From the identity's present holder back through those it was taken from.
	device, err := l.follow(ctx, sqlHolder, id[:])
	for err == nil && device>>rowBits != lotID && device != 0 {
		device, err = l.follow(ctx, sqlPassOn, device)
	}
	if err != nil {
		return nil, l.backend.explain(err)
	}
	if device == 0 {
		return nil, fmt.Errorf("%w: lot %s, identity %s", ErrNoRecord, lot, id)
	}
	found, err := l.records(ctx, sqlOneRecord, device)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: lot %s, identity %s", ErrNoRecord, lot, id)
	}
	return &found[0].Record, nil
}

// follow returns the one id that a query finds, 0 for none.
func (l *Ledger) follow(ctx context.Context, query string, arg any) (int64, error) {
	var id sql.NullInt64
	err := l.db.QueryRowContext(ctx, query, arg).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return id.Int64, err
}

// Find returns the records of a lot ("" for all lots) that have value as one of
// their identity values or as their attribute "serial", superseded ones last.
// Values that the manifest's reader made lower case, as it does with MACs, are
// found in either case.
func (l *Ledger) Find(ctx context.Context, lot, value string) ([]*pipeline.Record, error) {
	var id int64
	if lot != "" {
		var err error
		if id, err = l.lotID(ctx, lot); err != nil {
			return nil, err
		}
	}
	after, last := lotRange(id)
	found, err := l.records(ctx, sqlFind, value, strings.ToLower(value), after, last)
	records := make([]*pipeline.Record, len(found))
	for i, s := range found {
		records[i] = &s.Record
	}
	return records, err
}

// Taken returns which of the identities are held by lots other than lot. A
// device that failed or conflicts elsewhere is not held: Plan takes it over.
func (l *Ledger) Taken(ctx context.Context, lot string, ids []pipeline.IdentitySum) (map[pipeline.IdentitySum]Holder, error) {
	own, err := l.lotID(ctx, lot)
	if err != nil && !errors.Is(err, ErrNoLot) {
		return nil, err
	}
	return l.holders(ctx, ids, func(lot int64, state pipeline.State) bool { return lot != own && !replaceable(state) })
}

// Holders returns which of the identities any lot holds, whatever became of the
// devices.
func (l *Ledger) Holders(ctx context.Context, ids []pipeline.IdentitySum) (map[pipeline.IdentitySum]Holder, error) {
	return l.holders(ctx, ids, func(int64, pipeline.State) bool { return true })
}

func (l *Ledger) holders(ctx context.Context, ids []pipeline.IdentitySum, counts func(lot int64, state pipeline.State) bool) (map[pipeline.IdentitySum]Holder, error) {
	found := map[pipeline.IdentitySum]Holder{}
	const chunk = 250
	for len(ids) > 0 {
		n := min(len(ids), chunk)
		if err := l.holdersOf(ctx, ids[:n], counts, found); err != nil {
			return nil, l.backend.explain(err)
		}
		ids = ids[n:]
	}
	return found, nil
}

func (l *Ledger) holdersOf(ctx context.Context, ids []pipeline.IdentitySum, counts func(int64, pipeline.State) bool, found map[pipeline.IdentitySum]Holder) error {
	args := make([]any, len(ids))
	for i := range ids {
		args[i] = ids[i][:]
	}
	type held struct {
		sum   []byte
		id    int64
		state pipeline.State
	}
	all, err := collect(ctx, l.db, func(rows *sql.Rows) (h held, err error) {
		return h, rows.Scan(&h.sum, &h.id, &h.state)
	}, sqlHolders+placeholders(1, len(ids))+`)`, args...)
	if err != nil {
		return err
	}
	for _, h := range all {
		if !counts(h.id>>rowBits, h.state) {
			continue
		}
		name, err := l.lotName(ctx, h.id>>rowBits)
		if err != nil {
			return err
		}
		found[pipeline.IdentitySum(h.sum)] = Holder{Lot: name, Row: deviceRow(h.id), State: h.state}
	}
	return nil
}

// replaceable says that another lot may take the device over.
func replaceable(s pipeline.State) bool {
	return s == pipeline.Failed || s == pipeline.Conflicted || s == pipeline.Undone
}

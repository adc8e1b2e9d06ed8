package ledger

import (
	"context"
	"database/sql"

	"keymill/pipeline"
)

// Loose is a run of a lot's rows with devices that are to be worked on while
// nobody holds a lease on them.
type Loose struct {
	First, Last int    // rows, inclusive: a whole chunk
	Station     string // the one station that can go on with them; "" is any
}

// Rows returns the first and the last row of a lot.
func (l *Ledger) Rows(ctx context.Context, lot string) (first, last int, err error) {
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return 0, 0, err
	}
	after, through := lotRange(id)
	var from, to sql.NullInt64
	if err := l.db.QueryRowContext(ctx, sqlRows, after, through).Scan(&from, &to); err != nil {
		return 0, 0, l.backend.explain(err)
	}
	return deviceRow(from.Int64), deviceRow(to.Int64), nil
}

// Loose returns the chunks of size rows, counted from the lot's first row, that
// have devices to work on which no lease holds. Failed devices and conflicts
// are not among them: somebody has to ask for these again. Devices whose keys
// lie in a pack are for the pack's station.
func (l *Ledger) Loose(ctx context.Context, lot string, size int) ([]Loose, error) {
	first, last, err := l.Rows(ctx, lot)
	if err != nil {
		return nil, err
	}
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return nil, err
	}
	now, err := l.backend.now(ctx, l.db, l.clock)
	if err != nil {
		return nil, l.backend.explain(err)
	}
	after, through := deviceID(id, first), deviceID(id, last)
	found, err := collect(ctx, l.db, func(rows *sql.Rows) (Loose, error) {
		var chunk int
		var station string
		err := rows.Scan(&chunk, &station)
		from := first + chunk*size
		return Loose{First: from, Last: min(from+size-1, last), Station: station}, err
	}, sqlLoose, after, through, now, size)
	return found, l.backend.explain(err)
}

// Due reports whether a lot has devices that a station could work on now, or as
// soon as another's lease on them ends.
func (l *Ledger) Due(ctx context.Context, lot, station string) (bool, error) {
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return false, err
	}
	after, through := lotRange(id)
	var due bool
	err = l.db.QueryRowContext(ctx, sqlDue, after, through, station).Scan(&due)
	return due, l.backend.explain(err)
}

// loosely lists the states of devices that are to be worked on without being
// asked for again.
const loosely = `('` + string(pipeline.Planned) + `', '` + string(pipeline.Staged) + `', '` + string(pipeline.Preauthorized) + `')`

package ledger

import (
	"context"

	"keymill/pipeline"
)

// CountUnits counts a lot's units by state.
func (l *Ledger) CountUnits(ctx context.Context, lot string) (map[pipeline.UnitState]int, error) {
	id, err := l.lotID(ctx, lot)
	if err != nil {
		return nil, err
	}
	after, last := lotRange(id)
	rows, err := l.db.QueryContext(ctx, sqlCountUnits, after, last)
	if err != nil {
		return nil, l.backend.explain(err)
	}
	defer rows.Close()
	counts := map[pipeline.UnitState]int{}
	for rows.Next() {
		var state pipeline.UnitState
		var n int
		if err := rows.Scan(&state, &n); err != nil {
			return nil, err
		}
		counts[state] = n
	}
	return counts, l.backend.explain(rows.Err())
}

const sqlCountUnits = `SELECT state, COUNT(*) FROM units WHERE id > $1 AND id <= $2 GROUP BY state`

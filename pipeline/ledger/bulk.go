package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// rower is a database or a transaction.
type rower interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// collect reads all rows of a query, so that no reader stays open.
func collect[T any](ctx context.Context, q querier, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// placeholders returns n placeholders from $first on, separated by commas.
func placeholders(first, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", first+i)
	}
	return b.String()
}

// bulkRows is how many rows one INSERT takes.
const bulkRows = 64

// bulk gathers rows for INSERTs of many rows.
type bulk struct {
	tx         *sql.Tx
	rewrite    func(string) string
	head, tail string
	columns    int
	args       []any
	stmt       *sql.Stmt // of bulkRows rows; nil before the first
}

func newBulk(p *planner, head string, columns int, tail string) bulk {
	return bulk{tx: p.tx, rewrite: p.rewrite, head: head, tail: tail, columns: columns}
}

// query returns an INSERT of n rows.
func (b *bulk) query(n int) string {
	rows := make([]string, n)
	for i := range rows {
		rows[i] = "(" + placeholders(1+i*b.columns, b.columns) + ")"
	}
	return b.rewrite(b.head + strings.Join(rows, ", ") + b.tail)
}

func (b *bulk) add(ctx context.Context, values ...any) (err error) {
	b.args = append(b.args, values...)
	if len(b.args) < bulkRows*b.columns {
		return nil
	}
	if b.stmt == nil {
		if b.stmt, err = b.tx.PrepareContext(ctx, b.query(bulkRows)); err != nil {
			return err
		}
	}
	_, err = b.stmt.ExecContext(ctx, b.args...)
	b.args = b.args[:0]
	return err
}

// flush inserts what is left.
func (b *bulk) flush(ctx context.Context) error {
	if len(b.args) == 0 {
		return nil
	}
	_, err := b.tx.ExecContext(ctx, b.query(len(b.args)/b.columns), b.args...)
	b.args = b.args[:0]
	return err
}

func (b *bulk) close() {
	if b.stmt != nil {
		_ = b.stmt.Close()
	}
}

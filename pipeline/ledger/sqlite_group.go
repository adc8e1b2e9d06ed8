package ledger

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"keymill/pipeline"
)

// statement is a prepared statement of the driver.
type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// sqliteGroup is the writing goroutine's own connection. It goes past
// database/sql, which would add a third to the cost of a commit. Contexts that
// can end must not reach it: the driver starts a goroutine a statement for them.
type sqliteGroup struct {
	parent *sqliteDB
	conn   driver.Conn
	open   bool // a transaction is

	startTx, commitTx, undoTx                    statement
	updateRow, moreDetails, takeSeq, insertEvent statement

	args []driver.NamedValue // reused by bind
}

func newSQLiteGroup(ctx context.Context, parent *sqliteDB, conn driver.Conn) (*sqliteGroup, error) {
	g := &sqliteGroup{parent: parent, conn: conn}
	preparer, ok := conn.(driver.ConnPrepareContext)
	if !ok {
		return nil, errors.New("the SQLite driver can't prepare statements")
	}
	for sql, to := range map[string]*statement{
		"BEGIN IMMEDIATE": &g.startTx, "COMMIT": &g.commitTx, "ROLLBACK": &g.undoTx,
		anonymous(sqlUpdate): &g.updateRow, anonymous(sqlNewEvent): &g.insertEvent,
		sqlReserve: &g.takeSeq, anonymous(sqlDetails): &g.moreDetails,
	} {
		prepared, err := preparer.PrepareContext(ctx, sql)
		if err != nil {
			return nil, err
		}
		if *to, ok = prepared.(statement); !ok {
			return nil, errors.New("the SQLite driver's statements take no contexts")
		}
	}
	return g, nil
}

// bind returns values as the driver takes them, valid until the next call.
func (g *sqliteGroup) bind(values ...any) []driver.NamedValue {
	g.args = g.args[:0]
	for i, v := range values {
		g.args = append(g.args, driver.NamedValue{Ordinal: i + 1, Value: v})
	}
	return g.args
}

func (g *sqliteGroup) start(ctx context.Context) error {
	_, err := g.startTx.ExecContext(ctx, nil)
	g.open = err == nil
	return err
}

func (g *sqliteGroup) update(ctx context.Context, changes []*pending, now time.Time) error {
	for _, p := range changes {
		if p.id == 0 {
			continue
		}
		result, err := g.updateRow.ExecContext(ctx, g.bind(p.values(now)...))
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		if err != nil {
			return err
		}
		p.lost = n == 0
		if !p.lost && p.details {
			if _, err := g.moreDetails.ExecContext(ctx, g.bind(p.detailValues()...)); err != nil {
				return err
			}
		}
	}
	return nil
}

// anonymous replaces the placeholders $1, $2, .. by question marks. The driver
// looks names of parameters up in a list, one after the other, for each value
// that it binds: for a bulk insert that costs more than the insert.
func anonymous(query string) string {
	var b strings.Builder
	for i := 0; i < len(query); i++ {
		if query[i] != '$' {
			b.WriteByte(query[i])
			continue
		}
		b.WriteByte('?')
		for i+1 < len(query) && query[i+1] >= '0' && query[i+1] <= '9' {
			i++
		}
	}
	return b.String()
}

func (g *sqliteGroup) reserve(ctx context.Context, station string, lot int64, n int, now time.Time) (reserved, error) {
	rows, err := g.takeSeq.QueryContext(ctx, g.bind(station, int64(n), now.UnixMicro(), lot))
	if err != nil {
		return reserved{}, err
	}
	defer rows.Close()
	dest := make([]driver.Value, 5)
	if err := rows.Next(dest); err != nil {
		if errors.Is(err, io.EOF) {
			err = errFrozen
		}
		return reserved{}, err
	}
	id, ok1 := dest[0].(int64)
	last, ok2 := dest[1].(int64)
	at, ok3 := dest[2].(int64)
	epoch, ok4 := dest[3].(int64)
	kind, ok5 := dest[4].(string)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 {
		return reserved{}, fmt.Errorf("the log of station %q has a head that can't be read", station)
	}
	return reserved{log: id, next: last - int64(n) + 1, time: time.UnixMicro(at).UTC(),
		epoch: int(epoch), kind: pipeline.LogKind(kind)}, nil
}

func (g *sqliteGroup) insert(ctx context.Context, events []eventRow) error {
	for i := range events {
		e := &events[i]
		if _, err := g.insertEvent.ExecContext(ctx, g.bind(e.id, e.lot, string(e.canonical), e.leaf[:])); err != nil {
			return err
		}
	}
	return nil
}

func (g *sqliteGroup) commit(ctx context.Context) error {
	if _, err := g.commitTx.ExecContext(ctx, nil); err != nil {
		return err
	}
	g.release()
	return g.parent.intact()
}

func (g *sqliteGroup) rollback(ctx context.Context) {
	if !g.open {
		return
	}
	// SQLite may have rolled back by itself, as it does when the disk is full;
	// then this fails, rightly.
	_, _ = g.undoTx.ExecContext(ctx, nil)
	g.release()
}

func (g *sqliteGroup) release() {
	g.open = false
	<-g.parent.writing
}

func (g *sqliteGroup) close() error {
	var errs []error
	for _, s := range []statement{g.startTx, g.commitTx, g.undoTx, g.updateRow, g.moreDetails, g.takeSeq, g.insertEvent} {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, g.conn.Close())...)
}

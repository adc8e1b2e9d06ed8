package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

var errNoAnswer = fmt.Errorf("no answer within %s", postgresWait)

// sqlNewEvents inserts all events of a group in one statement.
const sqlNewEvents = `INSERT INTO events (id, lot, canonical, leaf)
	SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bytea[])`

// postgresGroup is the writing goroutine's own connection. A group takes three
// round trips: begin and the updates; the sequence numbers; events and commit.
type postgresGroup struct {
	conn *sql.Conn // kept out of the pool
	open bool      // a transaction may be
	last pgx.Batch // gathers the third trip
}

func (g *postgresGroup) update(ctx context.Context, changes []*pending, now time.Time) error {
	g.open, g.last = true, pgx.Batch{}
	var first pgx.Batch
	first.Queue("BEGIN")
	// All who change records lock them in the order of their ids, so that stations
	// don't wait for each other in a circle.
	for _, p := range slices.SortedStableFunc(slices.Values(changes), func(a, b *pending) int { return cmp.Compare(a.id, b.id) }) {
		if p.id == 0 {
			continue
		}
		first.Queue(sqlUpdate, p.values(now)...).Exec(func(tag pgconn.CommandTag) error {
			p.lost = tag.RowsAffected() == 0
			return nil
		})
		if p.details { // only where the statement before took effect
			first.Queue(sqlDetails+` AND xmin = pg_current_xact_id()::xid`, p.detailValues()...)
		}
	}
	return g.send(ctx, &first)
}

// send makes one round trip. A server that doesn't answer is not waited for
// for ever.
func (g *postgresGroup) send(ctx context.Context, b *pgx.Batch) error {
	limited, cancel := context.WithTimeout(ctx, postgresWait)
	defer cancel()
	err := g.conn.Raw(func(conn any) error {
		native, ok := conn.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("the PostgreSQL driver has connections of type %T", conn)
		}
		return native.Conn().SendBatch(limited, b).Close()
	})
	if err != nil && limited.Err() != nil {
		return errNoAnswer
	}
	return err
}

func (g *postgresGroup) reserve(ctx context.Context, station string, lot int64, n int, now time.Time) (reserved, error) {
	var b pgx.Batch
	var r reserved
	var last, at int64
	b.Queue(sqlReserve, station, int64(n), now.UnixMicro(), lot).QueryRow(func(row pgx.Row) error {
		return row.Scan(&r.log, &last, &at, &r.epoch, &r.kind)
	})
	err := g.send(ctx, &b)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errFrozen
	}
	r.next, r.time = last-int64(n)+1, time.UnixMicro(at).UTC()
	return r, err
}

func (g *postgresGroup) insert(_ context.Context, events []eventRow) error {
	ids, lots := make([]int64, len(events)), make([]int64, len(events))
	canonical, leaves := make([]string, len(events)), make([][]byte, len(events))
	for i := range events {
		e := &events[i]
		ids[i], lots[i], canonical[i], leaves[i] = e.id, e.lot, string(e.canonical), e.leaf[:]
	}
	g.last.Queue(sqlNewEvents, ids, lots, canonical, leaves)
	return nil
}

func (g *postgresGroup) commit(ctx context.Context) error {
	g.last.Queue("COMMIT").Exec(func(tag pgconn.CommandTag) error {
		if tag.String() != "COMMIT" {
			return fmt.Errorf("the database answered COMMIT with %s", tag)
		}
		return nil
	})
	if err := g.send(ctx, &g.last); err != nil {
		return err
	}
	g.open = false
	return nil
}

func (g *postgresGroup) rollback(ctx context.Context) {
	if g.open {
		var b pgx.Batch
		b.Queue("ROLLBACK")
		_ = g.send(ctx, &b) // where this fails, the connection is gone and with it the transaction
		g.open = false
	}
}

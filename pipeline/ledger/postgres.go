package ledger

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgresWait is how long the database may take for one step of a group.
const postgresWait = 60 * time.Second

// postgresDB is a ledger in one schema of a PostgreSQL database.
type postgresDB struct {
	name  string // for messages; no password
	db    *sql.DB
	group *postgresGroup
}

// openPostgres opens or makes the ledger; its errors are explained.
func openPostgres(ctx context.Context, url string) (*postgresDB, error) {
	p := &postgresDB{name: "the ledger's database"}
	config, schema, err := postgresConfig(url)
	if err != nil {
		return nil, p.explain(err)
	}
	p.name = "database " + config.Database + " on " + config.Host
	if err := p.open(ctx, config, schema); err != nil {
		if p.db != nil {
			_ = p.close()
		}
		return nil, p.explain(err)
	}
	return p, nil
}

func (p *postgresDB) open(ctx context.Context, config *pgx.ConnConfig, schema string) error {
	p.db = stdlib.OpenDB(*config)
	p.db.SetMaxOpenConns(8)
	if err := p.prepare(ctx, schema); err != nil {
		return err
	}
	conn, err := p.db.Conn(ctx)
	if err != nil {
		return err
	}
	p.group = &postgresGroup{conn: conn}
	return nil
}

// prepare makes the schema and brings it up to date. Stations that start at
// the same time do so one after the other.
func (p *postgresDB) prepare(ctx context.Context, schema string) error {
	tx, err := p.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	// The transaction holds the lock only; the schema is made on another connection.
	if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(1802332524, hashtext($1))`, schema); err != nil {
		return err
	}
	var exists bool
	if err := p.db.QueryRowContext(ctx, `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)`, schema).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		if _, err := p.db.ExecContext(ctx, `CREATE SCHEMA `+pgx.Identifier{schema}.Sanitize()); err != nil {
			return err
		}
	}
	if err := migrate(ctx, p.db, postgresDialect, func(ctx context.Context, version int64) error {
		return p.keep(ctx, schema, version)
	}); err != nil {
		return err
	}
	return tx.Commit()
}

func (p *postgresDB) pool() *sql.DB { return p.db }

// now is the server's clock, whatever this machine's says.
func (p *postgresDB) now(ctx context.Context, q rower, _ func() time.Time) (us int64, err error) {
	err = q.QueryRowContext(ctx, `SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint`).Scan(&us)
	return us, err
}

// rewrite leaves queries alone: the server prepares them once.
func (p *postgresDB) rewrite(query string) string { return query }

func (p *postgresDB) begin(context.Context) (group, error) { return p.group, nil }

func (p *postgresDB) transact(ctx context.Context, fn func(*sql.Tx) error) error {
	tx, err := p.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

// alone takes the lock that prepare takes, until the transaction ends.
func (p *postgresDB) alone(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(1802332524, hashtext(current_schema()::text))`)
	return err
}

// lockRows takes the rows' locks in the order of their ids, as all do: an UPDATE of
// many rows takes them in the order in which it meets them.
func (p *postgresDB) lockRows(ctx context.Context, tx *sql.Tx, query string, args ...any) error {
	_, err := tx.ExecContext(ctx, query+` ORDER BY id FOR UPDATE`, args...)
	return err
}

// transient knows deadlocks and serialization failures, and two stations that
// took the same number when both made a new row.
func (p *postgresDB) transient(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == "40001" || e.Code == "40P01" || e.Code == "23505" && (e.TableName == "stations" || e.TableName == "logs" || e.ConstraintName == "units_pkey"))
}

func (p *postgresDB) close() error {
	var err error
	if p.group != nil {
		err = p.group.conn.Close()
	}
	return errors.Join(err, p.db.Close())
}

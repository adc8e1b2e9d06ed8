package queue

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// Database is the queue's part of the ledger's PostgreSQL database: River's
// tables lie in the ledger's own schema.
type Database struct {
	pool *pgxpool.Pool
	log  *slog.Logger // for River
}

// loud passes warnings and errors on: River tells at level info what concerns
// only itself.
type loud struct{ slog.Handler }

func (h loud) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && h.Handler.Enabled(ctx, level)
}

func (h loud) WithAttrs(attrs []slog.Attr) slog.Handler { return loud{h.Handler.WithAttrs(attrs)} }
func (h loud) WithGroup(name string) slog.Handler       { return loud{h.Handler.WithGroup(name)} }

// Open connects to the database that config describes, whose search_path is the
// ledger's schema, and brings River's tables up to date. Stations that start at
// once do so one after the other.
func Open(ctx context.Context, config *pgx.ConnConfig, log *slog.Logger) (*Database, error) {
	pooled, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, err
	}
	pooled.ConnConfig = config
	pooled.MaxConns = 6 // the worker's fetches, its completions, River's maintenance and the listener
	pool, err := pgxpool.NewWithConfig(ctx, pooled)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	d := &Database{pool: pool, log: slog.New(loud{log.Handler()})}
	if err := d.migrate(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("queue: %w", err)
	}
	return d, nil
}

// Close ends the connections.
func (d *Database) Close() { d.pool.Close() }

// migrate makes or updates River's tables under a lock of their own: its
// migrator doesn't expect company.
func (d *Database) migrate(ctx context.Context) error {
	return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		// The transaction holds the lock only; the tables are made on another connection.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(1802332525, hashtext(current_schema()::text))`); err != nil {
			return err
		}
		migrator, err := rivermigrate.New(riverpgxv5.New(d.pool), &rivermigrate.Config{Logger: d.log})
		if err != nil {
			return err
		}
		_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
		return err
	})
}

// inserter is a River client that enqueues and works nothing.
func (d *Database) inserter() (*river.Client[pgx.Tx], error) {
	return river.NewClient(riverpgxv5.New(d.pool), &river.Config{Logger: d.log})
}

package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"keymill/pipeline"
)

var errOwnBackup = errors.New("a ledger in PostgreSQL is not backed up by keymill")

func (p *postgresDB) backup(context.Context, string) error {
	return pipeline.WithHint(errOwnBackup, "Use pg_dump, or pg_basebackup with archived WAL, for %s.", p.name)
}

// keep copies the tables, with their indexes, into a schema beside the ledger's
// before a newer version is applied: "keymill before 4". An older program can work
// on that with search_path set to it.
func (p *postgresDB) keep(ctx context.Context, schema string, version int64) error {
	return p.transact(ctx, func(tx *sql.Tx) error {
		name := fmt.Sprintf("%s before %d", schema, version)
		for n := 2; ; n++ {
			var exists bool
			if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)`, name).Scan(&exists); err != nil {
				return err
			}
			if !exists {
				break
			}
			name = fmt.Sprintf("%s before %d (%d)", schema, version, n)
		}
		copied := pgx.Identifier{name}.Sanitize()
		if _, err := tx.ExecContext(ctx, `CREATE SCHEMA `+copied); err != nil {
			return err
		}
		tables, err := collect(ctx, tx, func(rows *sql.Rows) (table string, err error) {
			return table, rows.Scan(&table)
		}, `SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY tablename`, schema)
		if err != nil {
			return err
		}
		for _, table := range tables {
			from, to := pgx.Identifier{schema, table}.Sanitize(), pgx.Identifier{name, table}.Sanitize()
			for _, query := range []string{
				`CREATE TABLE ` + to + ` (LIKE ` + from + ` INCLUDING ALL)`,
				`INSERT INTO ` + to + ` OVERRIDING SYSTEM VALUE SELECT * FROM ` + from,
			} {
				if _, err := tx.ExecContext(ctx, query); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// check leaves the structure of the database to the server, whose checksums and
// pg_amcheck are for that.
func (p *postgresDB) check(context.Context) ([]string, error) { return nil, nil }

func (p *postgresDB) vacuum(ctx context.Context) error {
	_, err := p.db.ExecContext(ctx, `VACUUM (ANALYZE) lots, devices, records, identities, names, stations, logs, events, allocations, units, uniques`)
	return err
}

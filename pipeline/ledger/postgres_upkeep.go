package ledger

import (
	"context"
	"errors"

	"keymill/pipeline"
)

var errOwnBackup = errors.New("a ledger in PostgreSQL is not backed up by keymill")

func (p *postgresDB) backup(context.Context, string) error {
	return pipeline.WithHint(errOwnBackup, "Use pg_dump, or pg_basebackup with archived WAL, for %s.", p.name)
}

// check leaves the structure of the database to the server, whose checksums and
// pg_amcheck are for that.
func (p *postgresDB) check(context.Context) ([]string, error) { return nil, nil }

func (p *postgresDB) vacuum(ctx context.Context) error {
	_, err := p.db.ExecContext(ctx, `VACUUM (ANALYZE) lots, devices, records, identities, names, stations, events, allocations`)
	return err
}

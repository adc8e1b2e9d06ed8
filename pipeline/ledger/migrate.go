package ledger

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrations embed.FS

// dialect says how migrations are applied to one kind of database.
type dialect struct {
	goose  goose.Dialect
	folder string // of migrations
}

var (
	sqliteDialect   = dialect{goose.DialectSQLite3, "migrations/sqlite"}
	postgresDialect = dialect{goose.DialectPostgres, "migrations/postgres"}
)

var errNewer = errors.New("the ledger was made by a newer keymill")

// migrate brings the schema up to date, each step in a transaction of its own.
// It refuses a schema that is newer than this program with errNewer.
func migrate(ctx context.Context, db *sql.DB, d dialect) error {
	files, err := fs.Sub(migrations, d.folder)
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(d.goose, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	have, err := provider.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	sources := provider.ListSources()
	know := sources[len(sources)-1].Version
	switch {
	case have > know:
		return fmt.Errorf("%w: its schema is version %d, this one knows %d", errNewer, have, know)
	case have == know:
		return nil
	}
	_, err = provider.Up(ctx)
	return err
}

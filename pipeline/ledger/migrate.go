package ledger

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"strings"
	"time"

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

// keepBefore makes a copy of a ledger that is about to be changed.
type keepBefore func(ctx context.Context, schema int64) error

// migrate brings the schema up to date, each step in a transaction of its own,
// after a copy was made of a ledger that holds anything. It refuses a schema that
// is newer than this program with errNewer.
func migrate(ctx context.Context, db *sql.DB, d dialect, keep keepBefore) error {
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
		return fmt.Errorf("%w: its schema is version %d, this one knows %d%s", errNewer, have, know, needs(ctx, db))
	case have == know:
		return nil
	case have > 0:
		if err := keep(ctx, know); err != nil {
			return err
		}
	}
	if _, err = provider.Up(ctx); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, sqlProgram, know, program(), time.Now().UnixMicro())
	return err
}

// needs says which program the ledger needs, as far as that is known.
func needs(ctx context.Context, db *sql.DB) string {
	var name string
	if err := db.QueryRowContext(ctx, sqlLastProgram).Scan(&name); err != nil || name == "" {
		return ""
	}
	return fmt.Sprintf("; it needs %s or newer", name)
}

// program names this program and its version.
func program() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "keymill"
	}
	version, revision := info.Main.Version, ""
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value[:min(len(s.Value), 12)]
		}
	}
	if version == "" || version == "(devel)" {
		version = revision
	}
	return strings.TrimSpace("keymill " + version)
}

package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

var faultBackup = fault{"the backup can't be written", "Check that LEDGER doesn't exist yet, and that its folder does, may be written and has room."}

var faultKeep = fault{"the copy that is made before a ledger is brought up to date can't be written",
	"Free some space for LEDGER, or make its folder writable" + again}

func (s *sqliteDB) backup(ctx context.Context, path string) error {
	err := s.copyTo(ctx, path)
	if err == nil || passes(err) {
		return err
	}
	return faultBackup.outage(path, err)
}

func (s *sqliteDB) copyTo(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fs.ErrExist
	}
	part, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(part.Name()) }()
	// An empty file is one that SQLite writes to.
	_, err = s.db.ExecContext(ctx, `VACUUM INTO $1`, part.Name())
	if err == nil {
		err = part.Sync()
	}
	if err := errors.Join(err, part.Close()); err != nil {
		return err
	}
	// Unlike Rename, Link refuses a name that came to be in the meantime.
	if err := os.Link(part.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// keep copies the ledger beside itself before a newer schema is applied: to
// LEDGER.before-4, or with a further number where there is one already.
func (s *sqliteDB) keep(ctx context.Context, schema int64) error {
	for n := 1; ; n++ {
		path := fmt.Sprintf("%s.before-%d", s.path, schema)
		if n > 1 {
			path = fmt.Sprintf("%s.%d", path, n)
		}
		err := s.copyTo(ctx, path)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, fs.ErrExist):
			return faultKeep.outage(path, err)
		}
	}
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func (s *sqliteDB) check(ctx context.Context) ([]string, error) {
	found, err := collect(ctx, s.db, func(rows *sql.Rows) (line string, err error) {
		return line, rows.Scan(&line)
	}, fmt.Sprintf(`PRAGMA integrity_check(%d)`, maxProblems))
	if len(found) == 1 && found[0] == "ok" {
		found = nil
	}
	return found, err
}

func (s *sqliteDB) vacuum(ctx context.Context) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer func() { <-s.writing }()
	if _, err := s.db.ExecContext(ctx, `VACUUM`); err != nil {
		return err
	}
	_, err := s.db.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`)
	return err
}

package ledger

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"modernc.org/sqlite"
)

// applicationID marks a SQLite file as a keymill ledger: "kmil", in the
// header's field at offset 68 (https://www.sqlite.org/fileformat2.html).
const applicationID = 0x6b6d696c

// sqliteLockWait is how long a write waits for another process that writes;
// planning a million devices takes less.
const sqliteLockWait = 60 * time.Second

// sqliteDB is a ledger in one SQLite file.
type sqliteDB struct {
	path     string
	lockWait time.Duration
	db       *sql.DB // for reading, and for the writes that are rare
	group    *sqliteGroup
	// files are the database and its write-ahead log as they were opened.
	files map[string]os.FileInfo
	// writing is held by whoever has a write transaction open, so that others
	// of this process wait in a queue that heeds their contexts, however long
	// that transaction (Plan's) takes.
	writing chan struct{} // capacity 1
}

// openSQLite opens or makes the ledger file; its errors are explained.
func openSQLite(ctx context.Context, path string, lockWait time.Duration) (*sqliteDB, error) {
	s := &sqliteDB{path: path, lockWait: lockWait, writing: make(chan struct{}, 1)}
	if err := s.open(ctx); err != nil {
		if s.db != nil {
			_ = s.close()
		}
		return nil, s.explain(err)
	}
	return s, nil
}

func (s *sqliteDB) open(ctx context.Context) error {
	abs, err := filepath.Abs(s.path)
	if err != nil {
		return err
	}
	s.path = abs
	// Without this, closing any other descriptor of the file in this process, as
	// claim does, drops the locks of the connections that are open. It is for
	// the whole process, and only Linux has it.
	if _, err := sqlite.OFDLocking(true); err != nil && !errors.Is(err, sqlite.ErrOFDLockingUnavailable) {
		return err
	}
	file, err := s.claim(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // and end its lock
	connector, err := sqlite.NewConnector(s.dsn("journal_mode(WAL)", "synchronous(FULL)",
		"cache_size(-8000)", "wal_autocheckpoint(4000)", "journal_size_limit(67108864)"))
	if err != nil {
		return err
	}
	s.db = sql.OpenDB(connector)
	s.db.SetMaxOpenConns(8)
	if err := migrate(ctx, s.db, sqliteDialect, s.keep); err != nil {
		return err
	}
	conn, err := connector.Connect(ctx)
	if err != nil {
		return err
	}
	if s.group, err = newSQLiteGroup(ctx, s, conn); err != nil {
		return errors.Join(err, conn.Close())
	}
	return s.remember()
}

// dsn names the file to the driver, with the pragmas of every connection.
func (s *sqliteDB) dsn(pragmas ...string) string {
	q := url.Values{
		"_txlock":       {"immediate"}, // all our transactions write
		"_busy_timeout": {fmt.Sprint(s.lockWait.Milliseconds())},
		"_error_rc":     {"1"},
		"_pragma":       pragmas,
	}
	u := url.URL{Scheme: "file", Path: s.path, RawQuery: q.Encode()}
	return u.String()
}

// claim opens the file, or makes it, and locks it against others that open it:
// two can't make a ledger of it at once. It makes sure that it is a keymill
// ledger before SQLite may touch it, and marks an empty or new one as such.
// SQLite gives its other files the mode of this one.
func (s *sqliteDB) claim(ctx context.Context) (*os.File, error) {
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := s.claimFile(ctx, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (s *sqliteDB) claimFile(ctx context.Context, f *os.File) error {
	if err := flock(ctx, f, s.lockWait); err != nil {
		return err
	}
	header := make([]byte, 72)
	n, err := io.ReadFull(f, header)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	mark := uint32(0)
	if n == len(header) && string(header[:16]) == "SQLite format 3\x00" {
		mark = binary.BigEndian.Uint32(header[68:])
	} else if n > 0 {
		return fmt.Errorf("%w: %s", errForeign, s.path)
	}
	if _, noJournal := os.Lstat(s.path + "-journal"); mark == applicationID && noJournal != nil {
		return nil //nolint:nilerr // without a journal there is nothing to take back
	}
	if mark != applicationID && mark != 0 {
		return fmt.Errorf("%w: %s", errForeign, s.path)
	}
	return s.mark(ctx)
}

// mark marks a database as a keymill ledger that isn't yet: a new or an empty
// one, or one whose maker was killed, whereupon SQLite took the mark back. The
// mark is written before write-ahead logging begins, or moved out of its log, so
// that it is in the file itself, where claimFile looks.
func (s *sqliteDB) mark(ctx context.Context) error {
	db, err := sql.Open("sqlite", s.dsn("synchronous(FULL)"))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	return errors.Join(s.markIn(ctx, db), db.Close())
}

func (s *sqliteDB) markIn(ctx context.Context, db *sql.DB) error {
	var mark, foreign, ours int
	err := db.QueryRowContext(ctx, `SELECT
		(SELECT COUNT(*) FROM sqlite_schema WHERE name NOT IN ('goose_db_version', 'sqlite_sequence')),
		(SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND
			name IN ('goose_db_version', 'lots', 'devices', 'records', 'identities', 'stations', 'events'))`).Scan(&foreign, &ours)
	if err == nil {
		err = db.QueryRowContext(ctx, `PRAGMA application_id`).Scan(&mark)
	}
	if err != nil || mark == applicationID {
		return err
	}
	if foreign > 0 && ours < 7 { // one that has no more than a table of versions was being made
		return fmt.Errorf("%w: %s", errForeign, s.path)
	}
	if _, err := db.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`) // does nothing where there is no such log
	return err
}

// flock locks a file for this process alone, independently of SQLite's locks.
func flock(ctx context.Context, f *os.File, wait time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, wait, errLocked)
	defer cancel()
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// remember notes which files are open, for intact.
func (s *sqliteDB) remember() error {
	s.files = map[string]os.FileInfo{}
	for _, path := range []string{s.path, s.path + "-wal"} {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		s.files[path] = info
	}
	return nil
}

// intact notices files that were replaced or deleted. SQLite itself doesn't:
// it would go on to acknowledge commits to files that have no name any more.
func (s *sqliteDB) intact() error {
	for path, opened := range s.files {
		now, err := os.Stat(path)
		if err != nil || !os.SameFile(opened, now) {
			return fmt.Errorf("%w: %s", errReplaced, path)
		}
	}
	return nil
}

// now is this process's clock: under the write lock of the one file that is the
// database's.
func (s *sqliteDB) now(_ context.Context, _ rower, clock func() time.Time) (int64, error) {
	return clock().UnixMicro(), nil
}

func (s *sqliteDB) rewrite(query string) string { return anonymous(query) }

// alone has nothing to do: write transactions never overlap.
func (s *sqliteDB) alone(context.Context, *sql.Tx) error { return nil }

// transient says never: whoever has the write lock has it alone.
func (s *sqliteDB) transient(error) bool { return false }

// lockRows has nothing to do: one transaction writes at a time.
func (s *sqliteDB) lockRows(context.Context, *sql.Tx, string, ...any) error { return nil }

func (s *sqliteDB) pool() *sql.DB { return s.db }

func (s *sqliteDB) begin(ctx context.Context) (group, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	if err := s.group.start(ctx); err != nil {
		<-s.writing
		return nil, err
	}
	return s.group, nil
}

func (s *sqliteDB) lock(ctx context.Context) error {
	select {
	case s.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *sqliteDB) transact(ctx context.Context, fn func(*sql.Tx) error) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer func() { <-s.writing }()
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return s.intact()
}

func (s *sqliteDB) close() error {
	var err error
	if s.group != nil {
		err = s.group.close()
	}
	return errors.Join(err, s.db.Close())
}

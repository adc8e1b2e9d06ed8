package ledger

import (
	"bytes"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"modernc.org/sqlite"

	"keymill/pipeline"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(committerEnv); path != "" {
		commitForever(path)
	}
	// Before a test opens a file by the driver alone, as Open must be first.
	if _, err := sqlite.OFDLocking(true); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	goleak.VerifyTestMain(m)
}

func openAt(t testing.TB, path string) *Ledger {
	t.Helper()
	l, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestSQLite(t *testing.T) {
	conform(t, func(t *testing.T) opener {
		path := filepath.Join(t.TempDir(), "keymill ?#%.db") // to be quoted
		return func(t *testing.T) *Ledger { return openAt(t, path) }
	})
}

// wantOutage fails unless err is an outage of the storage that says what is
// expected, on one line, with a hint.
func wantOutage(t *testing.T, err error, says string) {
	t.Helper()
	outage, ok := errors.AsType[*pipeline.Outage](err)
	if !ok {
		t.Fatalf("no outage: %v", err)
	}
	if outage.Part != pipeline.PartStorage || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") ||
		outage.Hint == "" || strings.Contains(outage.Hint, "LEDGER") {
		t.Errorf("%s: %s (%s)", outage.Part, err, outage.Hint)
	}
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "keymill.db")
	plan(t, openAt(t, path), "lot", 0, 1)
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(name)
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
	}
}

// The settings that durability and safety rest on, on every connection.
func TestSettings(t *testing.T) {
	l := openAt(t, filepath.Join(t.TempDir(), "keymill.db"))
	if !sqlite.OFDLockingEnabled() {
		t.Error("locks can be lost to a stray close")
	}
	conn, err := l.db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "application_id": fmt.Sprint(applicationID)} {
		var pooled string
		if err := conn.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&pooled); err != nil || pooled != want {
			t.Errorf("%s is %s, %v", pragma, pooled, err)
		}
		rows, err := l.backend.(*sqliteDB).group.conn.(driver.QueryerContext).QueryContext(t.Context(), "PRAGMA "+pragma, nil)
		if err != nil {
			t.Fatal(err)
		}
		own := make([]driver.Value, 1)
		if err := rows.Next(own); err != nil || fmt.Sprint(own[0]) != want {
			t.Errorf("%s is %v, %v", pragma, own[0], err)
		}
		rows.Close()
	}
}

// TestMarkIsPutBack: a ledger whose maker was killed lost its mark; it is one all
// the same. So is a database without tables.
func TestMarkIsPutBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keymill.db")
	l := openAt(t, path)
	plan(t, l, "lot", 0, 2)
	for _, query := range []string{`PRAGMA application_id = 0`, `PRAGMA wal_checkpoint(TRUNCATE)`} {
		if _, err := l.db.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openAt(t, path)
	if got := totals(t, l, "lot"); got.Planned != 2 {
		t.Errorf("%+v", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	header, err := os.ReadFile(path)
	if err != nil || string(header[68:72]) != "kmil" {
		t.Errorf("the mark is not in the file: %q %v", header[68:72], err)
	}
	empty := filepath.Join(t.TempDir(), "empty.db")
	db, err := sql.Open("sqlite", "file:"+empty)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`PRAGMA user_version = 1; PRAGMA user_version = 0`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	plan(t, openAt(t, empty), "lot", 0, 1)
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	other, err := sql.Open("sqlite", filepath.Join(dir, "other.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(`CREATE TABLE lots (id INTEGER)`); err != nil {
		t.Fatal(err)
	}
	other.Close()
	newer := openAt(t, filepath.Join(dir, "newer.db"))
	if _, err := newer.db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)`); err != nil {
		t.Fatal(err)
	}
	newer.Close()
	damaged := openAt(t, filepath.Join(dir, "damaged.db"))
	plan(t, damaged, "lot", 0, 100)
	damaged.Close()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("text.csv", strings.Repeat("mac,serial\n", 100))
	write("short", "x")
	whole, err := os.ReadFile(filepath.Join(dir, "damaged.db"))
	if err != nil {
		t.Fatal(err)
	}
	write("damaged.db", string(whole[:100])+strings.Repeat("\xff", len(whole)-100))
	for name, says := range map[string]string{
		"text.csv":       "no keymill ledger",
		"short":          "no keymill ledger",
		"other.db":       "no keymill ledger",
		"newer.db":       "made by a newer keymill: its schema is version 9999",
		"damaged.db":     "the ledger is damaged",
		".":              "the ledger is a folder",
		"none/ledger.db": "the ledger's folder doesn't exist",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			before, _ := os.ReadFile(path)
			_, err := Open(t.Context(), path)
			wantOutage(t, err, says)
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was touched")
			}
		})
	}
}

func TestEmptyFileBecomesALedger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keymill.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	plan(t, openAt(t, path), "lot", 0, 1)
}

func TestLockedByAnotherProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keymill.db")
	other := openAt(t, path)
	plan(t, other, "lot", 0, 2)
	b, err := openSQLite(t.Context(), path, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger(t.Context(), b, time.Now)
	defer l.Close()
	tx, err := other.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	rec := record(t, l, "lot", 0) // readers are not locked out
	wantOutage(t, move(t.Context(), l, rec, pipeline.Staged, "line-1"), "another process keeps the ledger locked")
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	opening, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer opening.Close()
	if err := syscall.Flock(int(opening.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	_, err = openSQLite(t.Context(), path, time.Millisecond)
	wantOutage(t, err, "another process keeps the ledger locked")
	err = l.Plan(t.Context(), pipeline.Lot{Name: "x"}, station("line-1", pipeline.ActionPlan), devices(5, 6))
	if err != nil {
		t.Errorf("planning, which shares nothing with the writer that gave up: %v", err)
	}
}

func TestFilesTakenAway(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"deleted":     func(path string) error { return os.Remove(path) },
		"log deleted": func(path string) error { return os.Remove(path + "-wal") },
		"replaced": func(path string) error {
			return errors.Join(os.Rename(path, path+".old"), os.WriteFile(path, []byte("new"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keymill.db")
			l := openAt(t, path)
			plan(t, l, "lot", 0, 3)
			if err := harm(path); err != nil {
				t.Fatal(err)
			}
			wantOutage(t, move(t.Context(), l, record(t, l, "lot", 0), pipeline.Staged, "line-1"), "replaced or deleted")
			wantOutage(t, move(t.Context(), l, record(t, l, "lot", 1), pipeline.Staged, "line-1"), "replaced or deleted")
			err := l.Plan(t.Context(), pipeline.Lot{Name: "x"}, station("line-1", pipeline.ActionPlan), devices(5, 6))
			wantOutage(t, err, "replaced or deleted")
		})
	}
}

// mount mounts a tmpfs of the given size for the test, which is skipped where
// that isn't allowed, but not in CI.
func mount(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("keymill", dir, "tmpfs", 0, "size="+size); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("no tmpfs may be mounted here: %v", err)
		}
		t.Skipf("no tmpfs may be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func TestReadOnlyDisk(t *testing.T) {
	dir := mount(t, "4m")
	path := filepath.Join(dir, "keymill.db")
	l := openAt(t, path)
	plan(t, l, "lot", 0, 1)
	l.Close()
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"keymill.db", "new.db"} {
		_, err := Open(t.Context(), filepath.Join(dir, name))
		wantOutage(t, err, "the ledger can't be written")
	}
}

func TestFullDisk(t *testing.T) {
	dir := mount(t, "3m")
	path := filepath.Join(dir, "keymill.db")
	l := openAt(t, path)
	err := l.Plan(t.Context(), pipeline.Lot{Name: "big"}, station("line-1", pipeline.ActionPlan), devices(0, 50_000))
	wantOutage(t, err, "the ledger's disk is full")
	if lots, err := l.Lots(t.Context()); err != nil || len(lots) != 0 {
		t.Errorf("half a plan: %v %v", lots, err)
	}
	plan(t, l, "lot", 0, 1000) // a smaller one fits: planning stops nothing

	// Many committers, until the disk is full.
	var mu sync.Mutex
	acknowledged := map[int]bool{}
	var workers sync.WaitGroup
	for g := range 10 {
		workers.Go(func() {
			for i := g; i < 1000; i += 10 {
				rec := &pipeline.Record{Lot: "lot", Device: device(i), State: pipeline.Planned, Reason: strings.Repeat("x", 4000)}
				err := move(t.Context(), l, rec, pipeline.Staged, "line-1")
				if err != nil {
					wantOutage(t, err, "the ledger's disk is full")
					return
				}
				mu.Lock()
				acknowledged[i] = true
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	if n := len(acknowledged); n == 0 || n == 1000 {
		t.Fatalf("%d commits fit", n)
	}
	// Not even when there is room again: what became of the changes in between
	// is for a fresh start to find out.
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	wantOutage(t, move(t.Context(), l, record(t, l, "lot", 999), pipeline.Staged, "line-1"), "the ledger's disk is full")
	_ = l.Close()

	l = openAt(t, path)
	for _, rec := range all(t, l.Records(t.Context(), "lot")) {
		if acknowledged[rec.Row-2] != (rec.State == pipeline.Staged) {
			t.Errorf("row %d is %s, acknowledged %t", rec.Row, rec.State, acknowledged[rec.Row-2])
		}
	}
	if got := checkLog(t, l)["line-1"]; got != int64(1+len(acknowledged)) {
		t.Errorf("%d events, %d commits", got, len(acknowledged))
	}
	plan(t, l, "next", 2000, 2010)
}

// What is on the disk after each acknowledged commit, seen by another process
// after a crash, has the commit in it.
func TestAbandoned(t *testing.T) {
	dir := t.TempDir()
	l := openAt(t, filepath.Join(dir, "keymill.db"))
	plan(t, l, "lot", 0, 3)
	for i := range 3 {
		mustMove(t, l, record(t, l, "lot", i), pipeline.Staged)
		crashed := filepath.Join(t.TempDir(), "keymill.db")
		for _, suffix := range []string{"", "-wal"} {
			b, err := os.ReadFile(filepath.Join(dir, "keymill.db"+suffix))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(crashed+suffix, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		again := openAt(t, crashed)
		if got := totals(t, again, "lot"); got.Staged != i+1 {
			t.Errorf("after %d: %+v", i+1, got)
		}
		checkLog(t, again)
	}
}

func TestBackup(t *testing.T) {
	dir := t.TempDir()
	l := openAt(t, filepath.Join(dir, "keymill.db"))
	plan(t, l, "lot", 0, 500)
	var committers sync.WaitGroup
	committers.Go(func() { // goes on meanwhile
		for i := range 500 {
			mustMove(t, l, record(t, l, "lot", i), pipeline.Staged)
		}
	})
	copied := filepath.Join(dir, "copy.db")
	if err := l.Backup(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	committers.Wait()
	if info, err := os.Stat(copied); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	again := openAt(t, copied)
	if h, err := again.Check(t.Context()); err != nil || len(h.Problems) != 0 || h.Devices != 500 {
		t.Errorf("%+v %v", h, err)
	}
	if err := move(t.Context(), again, record(t, again, "lot", 0), pipeline.Failed, "line-1"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{copied, filepath.Join(dir, "none", "x.db")} {
		wantOutage(t, l.Backup(t.Context(), bad), "the backup can't be written: "+bad)
	}
	small := mount(t, "64k")
	wantOutage(t, l.Backup(t.Context(), filepath.Join(small, "copy.db")), "the backup can't be written")
	for _, where := range []string{dir, small} {
		if left, err := filepath.Glob(filepath.Join(where, ".*")); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	}
}

func TestCheckDamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keymill.db")
	l := openAt(t, path)
	plan(t, l, "lot", 0, 2000)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// A torn page in the middle of the identities.
	sum := mac(1000).Sum()
	at := bytes.LastIndex(whole, sum[:]) &^ 4095
	if err := os.WriteFile(path, append(append(whole[:at:at], make([]byte, 4096)...), whole[at+4096:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := openAt(t, path).Check(t.Context())
	if err != nil {
		wantOutage(t, err, "the ledger is damaged")
	} else if len(h.Problems) == 0 {
		t.Error("the damage was not seen")
	}
}

// Lookups must not scan tables that grow with the ledger.
func TestQueryPlans(t *testing.T) {
	l := openAt(t, filepath.Join(t.TempDir(), "keymill.db"))
	plan(t, l, "lot", 0, 1000)
	for name, tt := range map[string]struct {
		query string
		args  int
		want  []string
	}{
		"update":     {sqlUpdate, 27, []string{"SEARCH records USING INTEGER PRIMARY KEY (rowid=?)"}},
		"find":       {sqlFind, 4, []string{"SEARCH n USING PRIMARY KEY (value=? AND id>? AND id<?)", "SEARCH r USING INTEGER PRIMARY KEY", "SEARCH d USING INTEGER PRIMARY KEY"}},
		"page":       {sqlRecords + sqlPage, 2, []string{"SEARCH r USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)", "SEARCH d USING INTEGER PRIMARY KEY (rowid=?)"}},
		"superseded": {sqlSupersededKeys + sqlPage, 4, []string{"SEARCH r USING INDEX records_superseded"}},
		"lot events": {sqlLotEvents, 2, []string{"SEARCH events USING INDEX events_lot (lot=? AND id>?)"}},
		"log events": {sqlLogEvents, 2, []string{"SEARCH events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"}},
		"reserve":    {sqlReserve, 4, []string{"SEARCH logs USING INDEX logs_open (station=? AND lot=?)"}},
		"lot's logs": {sqlLogsOfLot, 1, []string{"SEARCH logs USING INDEX logs_lot (lot=?)", "SEARCH e USING COVERING INDEX events_lot (lot=? AND id>? AND id<?)"}},
		"live unit":  {sqlLiveUnit, 1, []string{"SEARCH u USING INDEX units_live (device=?)"}},
		"stale keys": {sqlStale + sqlPage, 2, []string{"SEARCH r USING INDEX records_stale"}},
		"claim":      {sqlClaim, 6, []string{"SEARCH records USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"}},
		"uniques":    {sqlUniqueHolders + "$2)", 2, []string{"SEARCH u USING PRIMARY KEY (attr=? AND value=?)"}},
		"holders":    {sqlHolders + "$1)", 1, []string{"SEARCH i USING PRIMARY KEY (sum=?)", "SEARCH r USING INTEGER PRIMARY KEY (rowid=?)"}},
		"identities": {sqlNewIdentities, 2, []string{"SEARCH devices USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)", "USE TEMP B-TREE FOR ORDER BY"}},
		"clashes":    {sqlClashes, 2, []string{"SEARCH d USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)", "SEARCH i USING PRIMARY KEY (sum=?)", "SEARCH r USING INTEGER PRIMARY KEY (rowid=?)"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := make([]any, tt.args)
			for i := range args {
				args[i] = 1
			}
			steps, err := collect(t.Context(), l.db, func(rows *sql.Rows) (detail string, err error) {
				var skip any
				return detail, rows.Scan(&skip, &skip, &skip, &detail)
			}, "EXPLAIN QUERY PLAN "+tt.query, args...)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(steps, "\n")
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("want %s in\n%s", want, got)
				}
			}
			if strings.Contains(got, "SCAN") {
				t.Errorf("scans:\n%s", got)
			}
		})
	}
}

func TestAnonymous(t *testing.T) {
	for query, want := range map[string]string{
		"VALUES ($1, $2), ($3, $10)": "VALUES (?, ?), (?, ?)",
		"a = $1":                     "a = ?",
		"no placeholder":             "no placeholder",
	} {
		if got := anonymous(query); got != want {
			t.Errorf("%s: %s", query, got)
		}
	}
	for _, query := range []string{sqlUpdate, sqlDetails, sqlNewEvent} {
		for i := 1; i <= strings.Count(query, "$"); i++ {
			if n := strings.Count(query, fmt.Sprintf("$%d", i)); n == 0 || strings.Index(query, fmt.Sprintf("$%d", i)) < strings.Index(query, fmt.Sprintf("$%d", i-1)) {
				t.Errorf("$%d is out of order in %s", i, query)
			}
		}
	}
}

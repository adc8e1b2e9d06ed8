package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"keymill/pipeline"
)

// needTool skips the test where a tool is missing, but not in CI.
func needTool(t testing.TB, path, debianPackage string) {
	t.Helper()
	if path == "" && os.Getenv("CI") != "" {
		t.Fatalf("install Debian's %s", debianPackage)
	}
	if path == "" {
		t.Skipf("install Debian's %s to run this test", debianPackage)
	}
}

// cluster is a PostgreSQL server of the test's own, on a socket in a temporary folder.
type cluster struct {
	bin, dir string
	options  string
	as       *syscall.Credential // PostgreSQL refuses to run as root
}

// startPostgres starts a server with further options, such as "-c fsync=off".
func startPostgres(t testing.TB, options string) *cluster {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(found) == 0 {
		found = []string{""}
	}
	c := &cluster{bin: found[len(found)-1], options: options}
	needTool(t, c.bin, "postgresql")
	var err error
	if c.dir, err = os.MkdirTemp("", "keymill-pg"); err != nil { // short, as socket paths must be
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(c.dir) })
	if os.Getuid() == 0 {
		who, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(who.Uid)
		gid, _ := strconv.Atoi(who.Gid)
		c.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(c.dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	c.run(t, "initdb", "-D", c.dir+"/data", "-U", "keymill", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
	c.start(t)
	t.Cleanup(func() { c.stop(t) })
	return c
}

func (c *cluster) start(t testing.TB) {
	t.Helper()
	c.run(t, "pg_ctl", "-D", c.dir+"/data", "-l", c.dir+"/log", "-w", "-o", "-k "+c.dir+" -c listen_addresses='' "+c.options, "start")
}

func (c *cluster) stop(t testing.TB) {
	t.Helper()
	c.run(t, "pg_ctl", "-D", c.dir+"/data", "-m", "immediate", "stop")
}

func (c *cluster) run(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as}
	// pg_ctl's server keeps its standard streams, so they must not be pipes.
	out, err := os.Create(filepath.Join(c.dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		t.Fatalf("%s: %v\n%s", name, err, said)
	}
}

func (c *cluster) url(schema string) string {
	q := url.Values{"host": {c.dir}, "user": {"keymill"}, "search_path": {schema}}
	return "postgres:///postgres?" + q.Encode()
}

// schema returns the URL of a ledger of its own.
func (c *cluster) schema() string {
	name := make([]byte, 8)
	_, _ = rand.Read(name)
	return c.url("lots " + hex.EncodeToString(name))
}

func TestPostgres(t *testing.T) {
	c := startPostgres(t, "-c fsync=off") // the machine doesn't crash in this test
	t.Run("conforms", func(t *testing.T) {
		conform(t, func(t *testing.T) opener {
			at := c.schema()
			return func(t *testing.T) *Ledger { return openAt(t, at) }
		})
	})
	t.Run("refuses", func(t *testing.T) { testPostgresRefuses(t, c) })
	t.Run("shares a database", func(t *testing.T) { testPostgresShares(t, c) })
	t.Run("migrates", func(t *testing.T) { testMigratePostgres(t, c) })
	t.Run("deadlock", func(t *testing.T) { testPostgresDeadlock(t, c) })
	t.Run("backup", func(t *testing.T) {
		err := openAt(t, c.schema()).Backup(t.Context(), filepath.Join(t.TempDir(), "x"))
		if !errors.Is(err, errOwnBackup) || !strings.Contains(pipeline.Hint(err), "pg_dump") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("server gone", func(t *testing.T) { testPostgresGone(t, c) })
}

func testPostgresRefuses(t *testing.T, c *cluster) {
	newer := c.schema()
	l := openAt(t, newer)
	if _, err := l.db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, true)`); err != nil {
		t.Fatal(err)
	}
	if _, err := l.db.Exec(`CREATE ROLE nobody LOGIN`); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ url, says string }{
		"newer":        {newer, "made by a newer keymill"},
		"no database":  {strings.Replace(newer, "/postgres?", "/none?", 1), "the ledger's server refuses us"},
		"no rights":    {strings.Replace(c.url("other"), "user=keymill", "user=nobody", 1), "the ledger's server refuses us"},
		"no server":    {"postgres:///postgres?host=" + url.QueryEscape(filepath.Join(c.dir, "none")), "the ledger can't be reached"},
		"wrong URL":    {"postgres://host:port:7/x", "the ledger's URL is wrong"},
		"not listened": {"postgresql://keymill:hunter2@127.0.0.1:1/x", "the ledger can't be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), tt.url)
			wantOutage(t, err, tt.says)
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(pipeline.Hint(err), "hunter2")) {
				t.Errorf("says the password: %v", err)
			}
		})
	}
}

// Tables of the same names in other schemas are left alone.
func testPostgresShares(t *testing.T, c *cluster) {
	l := openAt(t, c.schema())
	if _, err := l.db.Exec(`CREATE TABLE public.lots (id INTEGER)`); err != nil {
		t.Fatal(err)
	}
	plan(t, openAt(t, c.schema()), "lot", 0, 1)
	var n int
	if err := l.db.QueryRow(`SELECT COUNT(*) FROM public.lots`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d %v", n, err)
	}
}

// A group that PostgreSQL sacrifices to end a deadlock is written again.
func testPostgresDeadlock(t *testing.T, c *cluster) {
	l := openAt(t, c.schema())
	plan(t, l, "lot", 0, 1)
	if _, err := l.Append(t.Context(), station("line-1", pipeline.ActionRun)); err != nil {
		t.Fatal(err)
	}
	// Another transaction holds the head of the log, and then wants the record.
	other, err := l.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	// It waits longer before it looks for deadlocks, so that the group is the one to lose.
	for _, query := range []string{`SET LOCAL deadlock_timeout = '1h'`, `SELECT * FROM logs FOR UPDATE`} {
		if _, err := other.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	committed := make(chan error)
	rec := record(t, l, "lot", 0)
	go func() { committed <- move(t.Context(), l, rec, pipeline.Staged, "line-1") }()
	waitFor(t, l.db, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')`)
	if _, err := other.Exec(`UPDATE records SET lease_until = 0`); err != nil {
		t.Fatal(err)
	}
	if err := other.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := <-committed; err != nil {
		t.Error(err)
	}
	if got := checkLog(t, l)["line-1"]; got != 3 {
		t.Errorf("%d events", got)
	}
}

// waitFor asks until the query says true.
func waitFor(t *testing.T, db *sql.DB, query string) {
	t.Helper()
	for {
		var yes bool
		if err := db.QueryRowContext(t.Context(), query).Scan(&yes); err != nil {
			t.Fatal(err)
		}
		if yes {
			return
		}
	}
}

func testPostgresGone(t *testing.T, c *cluster) {
	at := c.schema()
	l := openAt(t, at)
	plan(t, l, "lot", 0, 3)
	mustMove(t, l, record(t, l, "lot", 0), pipeline.Staged)
	rec := record(t, l, "lot", 1)
	c.stop(t)
	wantOutage(t, move(t.Context(), l, rec, pipeline.Staged, "line-1"), "the ledger can't be reached")
	_, err := l.Totals(t.Context(), "lot")
	wantOutage(t, err, "the ledger can't be reached")
	wantOutage(t, l.Plan(t.Context(), pipeline.Lot{Name: "x"}, station("line-1", "x"), devices(5, 6)), "the ledger can't be reached")
	_ = l.Close()
	c.start(t)
	l = openAt(t, at)
	if got := totals(t, l, "lot"); got.Staged != 1 {
		t.Errorf("%+v", got)
	}
	mustMove(t, l, record(t, l, "lot", 1), pipeline.Staged)
	checkLog(t, l)
}

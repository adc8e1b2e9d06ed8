package ledger

import (
	"database/sql"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pressly/goose/v3"

	"keymill/pipeline"
)

// firstLedger is testdata/first.sql: a ledger of the program that knew no units
// and one log a station. Lot demo is closed. Of lot flashed, row 2 was flashed
// twice, row 3 was flashed and then got a new key, row 4 never. Lot open was
// killed when its two devices were staged.
func firstLedger(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "first.sql"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func firstSQLite(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keymill.db")
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, query := range []string{fmt.Sprintf("PRAGMA application_id = %d", applicationID), firstLedger(t)} {
		if _, err := db.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestMigrateSQLite(t *testing.T) {
	for _, lotLogs := range []bool{false, true} {
		t.Run(fmt.Sprint("logs of lots ", lotLogs), func(t *testing.T) {
			path := firstSQLite(t)
			l := openAt(t, path)
			l.lotLogs = lotLogs
			goesOn(t, l)
			// What was there before lies beside it, and is a ledger of before.
			kept := path + ".before-4"
			info, err := os.Stat(kept)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Fatalf("%v %v", info, err)
			}
			db, err := sql.Open("sqlite", "file:"+kept+"?mode=ro")
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			var version, seq int
			if err := db.QueryRow(`SELECT MAX(version_id), (SELECT seq FROM stations) FROM goose_db_version`).Scan(&version, &seq); err != nil || version != 3 || seq < 40 {
				t.Errorf("the copy has schema %d and %d events: %v", version, seq, err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			openAt(t, path) // and makes no further copy
			if found, _ := filepath.Glob(path + ".before*"); len(found) != 1 {
				t.Errorf("%q", found)
			}
		})
	}
}

// A disk without room for the copy leaves the ledger as it is.
func TestMigrateNeedsACopy(t *testing.T) {
	path := firstSQLite(t)
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere")
	}
	if err := os.Chmod(filepath.Dir(path), 0o500); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), path)
	wantOutage(t, err, "can't be written")
}

// goesOn checks what became of the first ledger, and works on with it.
func goesOn(t *testing.T, l *Ledger) {
	t.Helper()
	if h, err := l.Check(t.Context()); err != nil || len(h.Problems) > 0 || h.Lots != 3 {
		t.Fatalf("%+v %v", h, err)
	}
	units := all(t, l.Units(t.Context(), "flashed"))
	if len(units) != 2 || units[0].State != pipeline.UnitScrapped || units[1].State != pipeline.UnitConfirmed {
		t.Fatalf("%+v", units)
	}
	rec := all(t, l.Records(t.Context(), "flashed"))[0]
	u := units[1]
	if u.Row != 2 || u.Fingerprint != rec.Fingerprint() || u.Medium != "/dev/loop0" || u.Serial != "FL001" || u.Created.Year() != 2026 {
		t.Errorf("%+v", u)
	}
	if units[0].Row != 3 || units[0].Reason == "" {
		t.Errorf("%+v", units[0])
	}
	old, err := l.Logs(t.Context(), "open")
	if err != nil || len(old) != 1 || old[0].Kind != pipeline.LogLegacy || old[0].Origin != "keymill/vm" {
		t.Fatalf("%+v %v", old, err)
	}
	before := len(all(t, l.Events(t.Context(), "open")))
	// The open lot goes on, by a device that was staged before.
	by := &pipeline.Transitions{Ledger: l, Station: "vm", Run: 1}
	staged := all(t, l.Records(t.Context(), "open", pipeline.Staged))
	if len(staged) != 2 || staged[0].PackStation != "vm" || staged[0].Pack.IsZero() {
		t.Fatalf("%+v", staged)
	}
	if err := by.Undone(t.Context(), staged[0], "absent", pipeline.KeyDestroyed); err != nil {
		t.Fatal(err)
	}
	plan(t, l, "next", 0, 2)
	events := all(t, l.Events(t.Context(), "open"))
	if !l.lotLogs {
		if len(events) != before+1 || events[before].Seq != old[0].Size+1 {
			t.Errorf("%+v", events[before:])
		}
		return
	}
	continued, undone := events[before], events[before+1]
	if len(events) != before+2 || undone.Origin != "vm/open" || undone.Seq != 2 || !strings.Contains(string(continued.Canonical),
		`{"action":"log-continued","facts":{"origin":"keymill/vm","root":"`) ||
		!strings.Contains(string(continued.Canonical), fmt.Sprintf(`","size":"%d"},"lot":"open","schema":"keymill.event/2","seq":1,`, old[0].Size)) {
		t.Errorf("%s\n%s", continued.Canonical, undone.Canonical)
	}
	logs, err := l.Logs(t.Context(), "open")
	if err != nil || len(logs) != 3 || !logs[0].Frozen || logs[1].Origin != "vm" || logs[2].Origin != "vm/open" {
		t.Errorf("%+v %v", logs, err)
	}
	own := all(t, l.LogEvents(t.Context(), logs[1], 0))
	root := regexp.MustCompile(`"root":"[^"]+"`)
	if len(own) != 1 || !strings.Contains(string(own[0].Canonical), `"action":"log-frozen"`) ||
		root.FindString(string(own[0].Canonical)) != root.FindString(string(continued.Canonical)) {
		t.Errorf("%+v", own)
	}
	checkLog(t, l)
}

func testMigratePostgres(t *testing.T, c *cluster) {
	for _, lotLogs := range []bool{false, true} {
		url := c.schema()
		firstPostgres(t, url)
		l := openAt(t, url)
		l.lotLogs = lotLogs
		goesOn(t, l)
		var n int
		err := l.db.QueryRow(`SELECT COUNT(*) FROM pg_tables WHERE schemaname = current_schema() || ' before 4' AND tablename IN ('lots', 'records', 'events')`).Scan(&n)
		if err != nil || n != 3 {
			t.Errorf("%d of the tables were kept, %v", n, err)
		}
	}
}

// firstPostgres makes the same ledger in a database.
func firstPostgres(t *testing.T, url string) {
	t.Helper()
	param := regexp.MustCompile(`search_path=([^&]+)`).FindStringSubmatch(url)
	schema := param[1] // with a plus sign, which pgx doesn't read as a space
	db, err := sql.Open("pgx", strings.Replace(url, param[0], "search_path=%22"+schema+"%22", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`CREATE SCHEMA "` + schema + `"`); err != nil {
		t.Fatal(err)
	}
	files, err := fs.Sub(migrations, "migrations/postgres")
	if err != nil {
		t.Fatal(err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.UpTo(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	insert := regexp.MustCompile(`(?m)^INSERT INTO (lots|devices|records|identities|names|stations|events) VALUES\(.*\);$`)
	rows := insert.FindAllString(firstLedger(t), -1)
	if len(rows) < 50 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, query := range rows {
		query = regexp.MustCompile(`X'([0-9a-f]*)'`).ReplaceAllString(query, `'\x$1'::bytea`)
		if _, err := db.Exec(query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
}

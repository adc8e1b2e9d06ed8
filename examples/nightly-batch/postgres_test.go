package nightlybatch_test

import (
	"context"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// TestThreeNightsOnPostgreSQL: the same nights, kills and books where the ledger
// is a database server.
func TestThreeNightsOnPostgreSQL(t *testing.T) {
	if testing.Short() {
		t.Skip("runs three nights")
	}
	needTools(t, "jq", "jq")
	needTools(t, "e2fsprogs", "debugfs", "e2fsck")
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		needTools(t, "postgresql", "/usr/lib/postgresql/15/bin/initdb")
	}
	dir := startPostgres(t, bins[len(bins)-1])
	threeNights(t, "KEYMILL_LEDGER=postgres:///postgres?user=keymill&host="+dir)
}

// startPostgres returns the folder of the socket of a server that ends with the test.
func startPostgres(t *testing.T, bin string) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "keymill-night") // short, as socket paths must be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	as := &syscall.SysProcAttr{}
	if os.Geteuid() == 0 { // PostgreSQL refuses to run as root
		who, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(who.Uid)
		gid, _ := strconv.Atoi(who.Gid)
		as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	call := func(name string, args ...string) {
		t.Helper()
		// No output: the server keeps the streams of pg_ctl, which would be waited for.
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), filepath.Join(bin, name), append(args, "-D", dir+"/data")...)
		cmd.Dir, cmd.SysProcAttr = dir, as
		if err := cmd.Run(); err != nil {
			said, _ := os.ReadFile(dir + "/log")
			t.Fatalf("%s: %v\n%s", name, err, said)
		}
	}
	call("initdb", "-U", "keymill", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
	call("pg_ctl", "-l", dir+"/log", "-w", "-o", "-k "+dir+" -c listen_addresses=''", "start")
	t.Cleanup(func() { call("pg_ctl", "-m", "immediate", "stop") })
	return dir
}

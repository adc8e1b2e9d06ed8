package queue

import (
	"context"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// cluster is a PostgreSQL server of the test's own on a socket in a temporary
// folder.
type cluster struct {
	bin, dir string
	as       *syscall.Credential // PostgreSQL refuses to run as root
}

func startPostgres(t testing.TB) *cluster {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(found) == 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("install Debian's postgresql")
		}
		t.Skip("install Debian's postgresql to run this test")
	}
	c := &cluster{bin: found[len(found)-1]}
	var err error
	if c.dir, err = os.MkdirTemp("", "keymill-q"); err != nil { // short, as socket paths must be
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
	t.Cleanup(func() { c.run(t, "pg_ctl", "-D", c.dir+"/data", "-m", "immediate", "stop") })
	return c
}

func (c *cluster) start(t testing.TB) {
	c.run(t, "pg_ctl", "-D", c.dir+"/data", "-l", c.dir+"/log", "-w", "-o",
		"-k "+c.dir+" -c listen_addresses='' -c fsync=off", "start")
}

// crash stops the server as a power cut would and starts it again.
func (c *cluster) crash(t testing.TB) {
	c.run(t, "pg_ctl", "-D", c.dir+"/data", "-m", "immediate", "stop")
	c.start(t)
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

// config describes the connection to a schema of its own.
func (c *cluster) config(t testing.TB, schema string) *pgx.ConnConfig {
	t.Helper()
	config, err := pgx.ParseConfig("host=" + c.dir + " user=keymill dbname=postgres")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), "CREATE SCHEMA IF NOT EXISTS "+schema); err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["search_path"] = schema
	return config
}

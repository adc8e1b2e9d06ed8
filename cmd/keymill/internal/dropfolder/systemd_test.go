package dropfolder

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline/mender/sandbox"
)

// manager is the service manager's end of $NOTIFY_SOCKET.
func manager(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// hear reads what was told, line by line, until the line that is waited for.
func hear(t *testing.T, conn *net.UnixConn, until string) []string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for buf := make([]byte, 4096); ; {
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("%v; heard only %q", err, lines)
		}
		lines = append(lines, strings.Split(strings.TrimSuffix(string(buf[:n]), "\n"), "\n")...)
		for _, line := range lines {
			if line == until {
				return lines
			}
		}
	}
}

func TestSystemd(t *testing.T) {
	file := t.TempDir() + "/notify"
	for _, test := range []struct {
		name, socket string
		env          []string
		watchdog     time.Duration
	}{
		{"file", file, []string{"WATCHDOG_USEC=3000000"}, 3 * time.Second},
		{"abstract", "@keymill-test-" + strconv.Itoa(os.Getpid()), []string{"WATCHDOG_USEC=3000000", "WATCHDOG_PID=" + strconv.Itoa(os.Getpid())}, 3 * time.Second},
		{"another's watchdog", file + "2", []string{"WATCHDOG_USEC=3000000", "WATCHDOG_PID=1"}, 0},
		{"nonsense", file + "3", []string{"WATCHDOG_USEC=soon"}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := manager(t, test.socket)
			s, err := openSystemd(t.Context(), append(test.env, "NOTIFY_SOCKET="+test.socket))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if s.watchdog != test.watchdog {
				t.Errorf("watchdog %v, want %v", s.watchdog, test.watchdog)
			}
			if err := s.tell("READY=1", statusLine("two\nlines")); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(hear(t, conn, "READY=1"), "|"); got != "READY=1|STATUS=two lines" {
				t.Errorf("heard %q", got)
			}
		})
	}
	none, err := openSystemd(context.Background(), nil)
	if none != nil || err != nil || none.tell("READY=1") != nil || none.Close() != nil {
		t.Error("without a manager, telling is not a matter of course")
	}
}

// TestBatchTellsSystemd: ready, alive while it runs, stopping when it is told to.
func TestBatchTellsSystemd(t *testing.T) {
	n := newNight(t, sandbox.Config{})
	conn := manager(t, n.Path("notify"))
	t.Setenv("NOTIFY_SOCKET", n.Path("notify"))
	t.Setenv("WATCHDOG_USEC", "600000")
	log := &journal{}
	o := n.options(log)
	o.Watch = true
	ended := make(chan fault.Kind, 1)
	go func() {
		kind, err := Run(t.Context(), o)
		if err != nil {
			t.Error(err)
		}
		ended <- kind
	}()
	hear(t, conn, "READY=1")
	n.manifest("a.csv", 1, 1)
	n.until("done", func() bool { return n.lies("done", "a", "a.csv") })
	heard := hear(t, conn, "WATCHDOG=1")
	hear(t, conn, "WATCHDOG=1")
	for _, line := range heard {
		if key, _, _ := strings.Cut(line, "="); key != "STATUS" && key != "WATCHDOG" {
			t.Errorf("told %q", line)
		}
	}
	close(n.drain)
	if kind := <-ended; kind != fault.None {
		t.Fatalf("kind %d:\n%s", kind, log)
	}
	hear(t, conn, "STOPPING=1")
}

package dropfolder

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/config"
)

// systemd is the service manager that started this process: it takes lines of
// KEY=value as datagrams, see sd_notify(3). A nil one takes nothing.
type systemd struct {
	conn net.Conn
	// watchdog is within what time the manager wants to hear WATCHDOG=1; 0 if it
	// does not.
	watchdog time.Duration
}

// openSystemd returns the service manager that $NOTIFY_SOCKET names, nil where
// there is none.
func openSystemd(ctx context.Context, env config.Environ) (*systemd, error) {
	socket := env.Get("NOTIFY_SOCKET") // package net knows that @ means an abstract name
	if socket == "" {
		return nil, nil
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unixgram", socket)
	if err != nil {
		return nil, err
	}
	s := &systemd{conn: conn}
	usec, err := strconv.ParseInt(env.Get("WATCHDOG_USEC"), 10, 64)
	pid := env.Get("WATCHDOG_PID")
	if err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		s.watchdog = time.Duration(usec) * time.Microsecond
	}
	return s, nil
}

// tell sends lines. A manager that does not listen keeps nobody from working.
func (s *systemd) tell(lines ...string) error {
	if s == nil {
		return nil
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err := s.conn.Write([]byte(strings.Join(lines, "\n") + "\n"))
	return err
}

// status is the line that `systemctl status` shows.
func statusLine(text string) string {
	return "STATUS=" + strings.ReplaceAll(text, "\n", " ")
}

func (s *systemd) Close() error {
	if s == nil {
		return nil
	}
	return s.conn.Close()
}

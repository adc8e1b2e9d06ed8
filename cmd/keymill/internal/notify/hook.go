package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
)

// hook runs a program for each notification.
type hook struct {
	argv []string
	env  []string
	dir  string
	out  io.Writer // what it says goes to the log
}

// hookEnv lists what a hook gets of our environment: nothing that can be a secret.
var hookEnv = []string{"PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR"}

// newHook returns the configured command, nil if there is none. It runs in dir;
// what it says goes to out.
func newHook(cfg config.NotifyConfig, dir string, env config.Environ, out io.Writer) (*hook, error) {
	if len(cfg.Command) == 0 {
		return nil, nil
	}
	program, err := exec.LookPath(cfg.Command[0])
	if err == nil {
		program, err = filepath.Abs(program) // the hook runs in another folder
	}
	if err != nil {
		return nil, fault.As(fault.Usage, pipeline.WithHint(fmt.Errorf("notify.command: %w", err),
			"Name a program that can be run; arguments are further entries of the list."))
	}
	h := &hook{argv: append([]string{program}, cfg.Command[1:]...), dir: dir, out: out}
	for _, pair := range env {
		if name, _, _ := strings.Cut(pair, "="); slices.Contains(hookEnv, name) {
			h.env = append(h.env, pair)
		}
	}
	return h, nil
}

// deliver runs the program with the notification on its standard input. When
// ctx ends it is killed with all that it started.
func (h *hook) deliver(ctx context.Context, n *Notification, body []byte) error {
	cmd := exec.CommandContext(ctx, h.argv[0], h.argv[1:]...)
	cmd.Env = append(slices.Clone(h.env), "KEYMILL_EVENT="+n.Event, "KEYMILL_LOT="+n.Lot)
	out := &capped{w: h.out, left: hookSays}
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = h.dir, bytes.NewReader(body), out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return nil
	case cmd.ProcessState != nil && cmd.ProcessState.Exited():
		return &refusedError{fmt.Errorf("%s: %w", h.argv[0], err)}
	}
	return fmt.Errorf("%s: %w", h.argv[0], err)
}

// hookSays is the most that one call of a hook may say in the log, in bytes.
const hookSays = 16 << 10

// capped passes on what is written to it until there is too much of it.
type capped struct {
	w    io.Writer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	if n := min(len(p), c.left); n > 0 {
		c.left -= n
		if _, err := c.w.Write(p[:n]); err != nil {
			return 0, err
		}
		if c.left == 0 {
			fmt.Fprintln(c.w, "\n[the hook says more than the log takes]")
		}
	}
	return len(p), nil
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

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

// hook returns the configured command, nil if there is none.
func (a *app) hook(cfg NotifyConfig, dir string) (*hook, error) {
	if len(cfg.Command) == 0 {
		return nil, nil
	}
	if _, err := exec.LookPath(cfg.Command[0]); err != nil {
		return nil, withCode(exitUsage, pipeline.WithHint(fmt.Errorf("notify.command: %w", err),
			"Name a program that can be run; arguments are further entries of the list."))
	}
	h := &hook{argv: cfg.Command, dir: dir, out: a.err}
	for _, pair := range a.env {
		if name, _, _ := strings.Cut(pair, "="); slices.Contains(hookEnv, name) {
			h.env = append(h.env, pair)
		}
	}
	return h, nil
}

// deliver runs the program with the notification on its standard input. When
// ctx ends it is killed with all that it started.
func (h *hook) deliver(ctx context.Context, n *notification, body []byte) error {
	cmd := exec.CommandContext(ctx, h.argv[0], h.argv[1:]...)
	cmd.Env = append(slices.Clone(h.env), "KEYMILL_EVENT="+n.Event, "KEYMILL_LOT="+n.Lot)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = h.dir, bytes.NewReader(body), h.out, h.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("%s: %w", h.argv[0], err)
	}
	return nil
}

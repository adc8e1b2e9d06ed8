package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"keymill/pipeline"
)

// Hook is a program that stands in the flow of every unit: a functional test, or
// the factory's own system. It gets a JSON object on its standard input and
// answers with one on its standard output.
type Hook struct {
	Command []string
	Limit   time.Duration // it is ended after that
}

// hookMost is the most that a hook may print, in bytes.
const hookMost = 64 << 10

// hookInput is what a hook gets.
type hookInput struct {
	Stage      string            `json:"stage"` // before or after
	Lot        string            `json:"lot"`
	Unit       int               `json:"unit"`
	Device     pipeline.Identity `json:"device"`
	Row        int               `json:"row"`
	Attributes map[string]string `json:"attributes"`
	Slot       string            `json:"slot"`
	Medium     string            `json:"medium,omitempty"`
	Operator   string            `json:"operator,omitempty"`
}

// hookOutput is what it answers. Attributes that it measured must be what the
// manifest says.
type hookOutput struct {
	Result     string            `json:"result"` // pass or fail
	Code       string            `json:"code"`
	Message    string            `json:"message"`
	Attributes map[string]string `json:"attributes"`
}

// hookError is the unit's failure.
type hookError struct{ code, text string }

func (e *hookError) Error() string { return e.text }

// run calls the hook. Any error is the unit's failure, as a *hookError.
func (h *Hook) run(ctx context.Context, stage, lot string, u *Unit) error {
	if h == nil || len(h.Command) == 0 {
		return nil
	}
	attrs := attributes(u.Record)
	in, err := json.Marshal(hookInput{Stage: stage, Lot: lot, Unit: u.Number, Device: u.Record.Identity, Row: u.Record.Row,
		Attributes: attrs, Slot: u.Slot, Medium: u.Medium, Operator: u.Operator})
	if err != nil {
		return err
	}
	out, err := runProgram(ctx, h.Limit, h.Command, bytes.NewReader(in), hookMost)
	if err != nil {
		return &hookError{"hook-" + stage, fmt.Sprintf("%s: %v", filepath.Base(h.Command[0]), err)}
	}
	var said hookOutput
	dec := json.NewDecoder(bytes.NewReader(out))
	if err := dec.Decode(&said); err != nil {
		return &hookError{"hook-" + stage, fmt.Sprintf("%s gave no JSON: %v", filepath.Base(h.Command[0]), err)}
	}
	if said.Result != "pass" {
		code, message := said.Code, said.Message
		if code == "" {
			code = "hook-" + stage
		}
		if message == "" {
			message = fmt.Sprintf("%s answered %q", filepath.Base(h.Command[0]), said.Result)
		}
		return &hookError{shortCode(code), message}
	}
	for name, got := range said.Attributes {
		if want, ok := attrs[name]; ok && !strings.EqualFold(want, got) {
			return &hookError{"disagree", fmt.Sprintf("two readings disagree: %s is %s in the manifest, but %s was measured", name, want, got)}
		}
	}
	return nil
}

// shortCode keeps a code that came from outside short and plain.
func shortCode(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, s)
	return s[:min(len(s), 24)]
}

func attributes(rec *pipeline.Record) map[string]string {
	attrs := map[string]string{}
	for _, list := range [][]pipeline.Attr{rec.Identity, rec.Attrs} {
		for _, a := range list {
			attrs[a.Name] = a.Value
		}
	}
	return attrs
}

// runProgram runs a program in a process group of its own, which it ends after the
// limit. The program's environment holds none of keymill's settings or secrets.
func runProgram(ctx context.Context, limit time.Duration, command []string, in io.Reader, most int) ([]byte, error) {
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = plainEnvironment(os.Environ())
	cmd.Stdin = in
	out, said := &bounded{most: most}, &bounded{most: 4096}
	cmd.Stdout, cmd.Stderr = out, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("it did not end within %s", limit)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case out.over.Load():
		return nil, fmt.Errorf("it printed more than %d bytes", most)
	case err != nil && said.text() != "":
		return nil, fmt.Errorf("%w: %s", err, said.text())
	}
	return out.buf.Bytes(), err
}

// plainEnvironment leaves what any program needs.
func plainEnvironment(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return !slices.Contains([]string{"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER"}, name)
	})
}

// bounded keeps the first bytes that are written to it, and takes the rest.
type bounded struct {
	buf  bytes.Buffer
	most int
	over atomic.Bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.most - b.buf.Len(); room < len(p) {
		b.over.Store(true)
		b.buf.Write(p[:max(room, 0)])
		return len(p), nil
	}
	return b.buf.Write(p)
}

func (b *bounded) text() string {
	line, _, _ := strings.Cut(strings.TrimSpace(b.buf.String()), "\n")
	return line[:min(len(line), 200)]
}

package operator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Program is a slot that a program writes: fastboot, uuu, rpiboot, the station of a
// gang programmer. In its arguments {{.image}} is the image as a file in a private
// folder, {{.pipe}} the same as a named pipe, {{.port}} the slot's port, {{.unit}},
// {{.device}} and, where the image is a file, {{.sha256}} what it says.
type Program struct {
	Command  []string
	ReadBack []string // reads the unit back; its exit status decides
	Port     string
	Limit    time.Duration
}

// runSlot has the slot's program write the unit. Its exit status decides, and that
// of the command that reads back. What it did with the key before it failed nobody
// knows, so a failed program leaves the unit bound.
func (st *Station) runSlot(ctx context.Context, s *slot, u *Unit) error {
	dir, err := os.MkdirTemp(st.opt.Work, "slot-")
	if err != nil {
		return &WriteError{Code: "write", Err: err}
	}
	defer os.RemoveAll(dir)
	words := map[string]string{"port": s.program.Port, "unit": fmt.Sprint(u.Number), "device": deviceName(u.Record)}
	all := strings.Join(append(s.program.Command, s.program.ReadBack...), " ")
	var streamed chan error
	reading, stop := context.WithCancel(ctx)
	defer stop()
	if strings.Contains(all, "{{.image}}") || strings.Contains(all, "{{.sha256}}") {
		path, sum, err := st.opt.Press.File(ctx, dir, u)
		if err != nil {
			return &WriteError{Code: "pack", Err: err}
		}
		defer func() {
			if err := st.opt.Press.Shred(path); err != nil {
				st.opt.Log.Error("an image in the private folder could not be overwritten", "file", path, "error", err)
			}
		}()
		words["image"], words["sha256"] = path, sum
	}
	if err := st.beginWriting(ctx, s, u, "program:"+filepath.Base(s.program.Command[0])); err != nil {
		return err
	}
	if strings.Contains(all, "{{.pipe}}") {
		pipe := filepath.Join(dir, "image")
		if err := unix.Mkfifo(pipe, 0o600); err != nil {
			return &WriteError{Code: "write", Err: err}
		}
		words["pipe"] = pipe
		streamed = make(chan error, 1)
		go func() { streamed <- st.opt.Press.Stream(reading, pipe, u) }()
	}
	st.locked(func() { st.latency.add(time.Since(s.scanned)); s.phase, s.stepped = phaseWriting, time.Now() })
	_, err = runProgram(ctx, s.program.Limit, filled(s.program.Command, words), nil, hookMost)
	if streamed != nil {
		stop() // a program that ended reads no more
		if serr := <-streamed; err == nil && serr != nil && !errors.Is(serr, context.Canceled) {
			err = fmt.Errorf("the image did not reach the program whole: %w", serr)
		}
	}
	if err != nil {
		return &WriteError{Code: "program", Err: fmt.Errorf("%s: %w", filepath.Base(s.program.Command[0]), err), KeyLeft: true}
	}
	if len(s.program.ReadBack) == 0 {
		return nil
	}
	st.locked(func() { s.phase, s.percent = phaseComparing, 50 })
	if _, err = runProgram(ctx, s.program.Limit, filled(s.program.ReadBack, words), nil, hookMost); err != nil {
		return &WriteError{Code: "read-back", Err: fmt.Errorf("%s: %w", filepath.Base(s.program.ReadBack[0]), err), KeyLeft: true}
	}
	return nil
}

// filled puts values into a program's arguments.
func filled(command []string, words map[string]string) []string {
	var pairs []string
	for name, value := range words {
		pairs = append(pairs, "{{."+name+"}}", value)
	}
	replace := strings.NewReplacer(pairs...)
	out := make([]string, len(command))
	for i, arg := range command {
		out[i] = replace.Replace(arg)
	}
	return out
}

// CheckProgram refuses arguments that hold values which there are not.
func CheckProgram(command []string) error {
	for _, arg := range command {
		rest := arg
		for _, name := range []string{"image", "pipe", "port", "unit", "device", "sha256"} {
			rest = strings.ReplaceAll(rest, "{{."+name+"}}", "")
		}
		if strings.Contains(rest, "{{") {
			return fmt.Errorf("%q: values are image, pipe, port, unit, device and sha256", arg)
		}
	}
	return nil
}

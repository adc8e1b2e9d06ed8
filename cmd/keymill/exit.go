package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"keymill/hsm"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/sources"
)

// The exit codes, the same for every verb. Scripts depend on them.
const (
	exitInternal    = 1
	exitUsage       = 2
	exitManifest    = 3
	exitDevices     = 4
	exitServer      = 5
	exitHSM         = 6
	exitStorage     = 7
	exitEvidence    = 8
	exitInterrupted = 130
)

const exitCodesHelp = `Exit codes:
  0    done
  1    internal error
  2    usage or configuration
  3    manifest refused, nothing was changed
  4    finished, but some devices failed or conflict
  5    server refused or unreachable
  6    HSM
  7    image, disk or ledger
  8    audit evidence does not verify
  130  interrupted; the same command goes on from there`

// stdio is where a verb reads and writes: results to out, everything else to err.
type stdio struct {
	in  io.Reader
	out io.Writer
	err io.Writer
}

// coded is an error that knows its exit code. quiet ones have said what they
// have to say already.
type coded struct {
	error
	code  int
	quiet bool
}

func (c *coded) Unwrap() error { return c.error }

func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &coded{error: err, code: code}
}

// usagef is a mistake in the command line or the configuration.
func usagef(format string, args ...any) error {
	return withCode(exitUsage, fmt.Errorf(format, args...))
}

// told ends the program with a code after the verb has reported everything.
func told(code int, format string, args ...any) error {
	return &coded{error: fmt.Errorf(format, args...), code: code, quiet: true}
}

// report prints an error with its advice and returns the exit code.
func report(stdio stdio, err error) int {
	if err == nil {
		return 0
	}
	code := exitCode(err)
	if c, ok := errors.AsType[*coded](err); ok && c.quiet {
		return code
	}
	if code == exitInterrupted {
		fmt.Fprintln(stdio.err, "keymill: interrupted; run the same command again to go on from here")
		return code
	}
	fmt.Fprintln(stdio.err, errorPriority(stdio.err)+"keymill:", err)
	if hint := hintOf(err); hint != "" {
		fmt.Fprintln(stdio.err, "  hint:", hint)
	}
	return code
}

func exitCode(err error) int {
	if c, ok := errors.AsType[*coded](err); ok {
		return c.code
	}
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	if outage, ok := errors.AsType[*pipeline.Outage](err); ok {
		switch outage.Part {
		case pipeline.PartServer:
			return exitServer
		case pipeline.PartHSM:
			return exitHSM
		case pipeline.PartStorage:
			return exitStorage
		}
	}
	if sources.Refused(err) {
		return exitManifest
	}
	if hsmFault(err) {
		return exitHSM
	}
	if _, ok := errors.AsType[*imaging.Error](err); ok || diskFault(err) {
		return exitStorage
	}
	return exitInternal
}

func hintOf(err error) string {
	if hint := pipeline.Hint(err); hint != "" {
		return hint
	}
	if h, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		return h.Hint()
	}
	return hsm.Hint(err)
}

// diskFault reports whether the machine's storage failed, rather than one file
// being wrong: what fails for one device then fails for all.
func diskFault(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS, syscall.EMFILE, syscall.ENFILE,
		syscall.EACCES, syscall.EPERM, syscall.ENODEV, syscall.ENXIO, syscall.EFBIG,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return errors.Is(err, imaging.ErrPackInUse) || errors.Is(err, imaging.ErrNotPack)
}

func hsmFault(err error) bool {
	if _, ok := errors.AsType[*hsm.GoneError](err); ok {
		return true
	}
	_, ok := errors.AsType[*hsm.RefusedError](err)
	return ok
}

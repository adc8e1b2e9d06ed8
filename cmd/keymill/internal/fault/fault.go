// Package fault sorts errors: what kind of trouble each is, and so the exit
// code that main ends with, and what to do about it. Packages below cmd have
// error types of their own; their kind follows from the type, their advice from
// a method Hint() string.
package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"keymill/hsm"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/sources"
)

// Kind says what sort of trouble an error is. Scripts see it as the exit code.
type Kind int

// The kinds. noFault is that of no error.
const (
	None        Kind = iota
	Internal         // nobody foresaw it
	Usage            // command line or configuration
	Manifest         // the manifest is refused, nothing was changed
	Devices          // all was done, but some devices failed or conflict
	Server           // refused or unreachable
	HSM              // an HSM or its token
	Storage          // image, disk or ledger
	Evidence         // audit evidence does not verify
	Interrupted      // the same command goes on from there
)

// ExitCode is the kind's exit code, the same for every verb. Scripts depend on them.
func (k Kind) ExitCode() int {
	if k == Interrupted {
		return 130
	}
	return int(k) // in their order
}

// classified is an error that knows its kind. quiet ones have said what they
// have to say already.
type classified struct {
	error
	kind  Kind
	quiet bool
}

func (c *classified) Unwrap() error { return c.error }

// As returns err as a fault of that kind, nil for nil.
func As(kind Kind, err error) error {
	if err == nil {
		return nil
	}
	return &classified{error: err, kind: kind}
}

// Usagef is a mistake in the command line or the configuration.
func Usagef(format string, args ...any) error {
	return As(Usage, fmt.Errorf(format, args...))
}

// Told is the fault of a verb that has reported everything already.
func Told(kind Kind, format string, args ...any) error {
	return &classified{error: fmt.Errorf(format, args...), kind: kind, quiet: true}
}

// IsTold reports whether people know of err already.
func IsTold(err error) bool {
	c, ok := errors.AsType[*classified](err)
	return ok && c.quiet
}

// isClassified reports whether err was given a kind by withKind, usagef or told.
func isClassified(err error) bool {
	_, ok := errors.AsType[*classified](err)
	return ok
}

// KindOf returns the kind of an error: the one that it was given, else the one
// that follows from its type.
func KindOf(err error) Kind {
	if err == nil {
		return None
	}
	if c, ok := errors.AsType[*classified](err); ok {
		return c.kind
	}
	if errors.Is(err, context.Canceled) {
		return Interrupted
	}
	if outage, ok := errors.AsType[*pipeline.Outage](err); ok {
		switch outage.Part {
		case pipeline.PartServer:
			return Server
		case pipeline.PartHSM:
			return HSM
		case pipeline.PartStorage:
			return Storage
		}
	}
	if sources.Refused(err) {
		return Manifest
	}
	if IsHSM(err) {
		return HSM
	}
	if _, ok := errors.AsType[*imaging.Error](err); ok || IsStorage(err) {
		return Storage
	}
	return Internal
}

// hinter is an error with advice beside it, what to do next.
type hinter interface {
	error
	Hint() string
}

// Hint returns the advice that belongs to err, "" if there is none.
func Hint(err error) string {
	if hint := pipeline.Hint(err); hint != "" {
		return hint
	}
	if h, ok := errors.AsType[hinter](err); ok {
		return h.Hint()
	}
	return hsm.Hint(err)
}

// IsStorage reports whether the machine's storage failed, rather than one file
// being wrong: what fails for one device then fails for all.
func IsStorage(err error) bool {
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

// IsHSM reports whether an HSM is gone or refuses to work.
func IsHSM(err error) bool {
	if _, ok := errors.AsType[*hsm.GoneError](err); ok {
		return true
	}
	_, ok := errors.AsType[*hsm.RefusedError](err)
	return ok
}

// Disk turns faults of the disk into an outage and leaves the rest alone.
func Disk(err error) error {
	if err == nil || !IsStorage(err) {
		return err
	}
	return StorageOutage(err)
}

// StorageOutage is an outage of the disk, whatever err is.
func StorageOutage(err error) error {
	hint := Hint(err)
	if errors.Is(err, imaging.ErrPackInUse) {
		hint = "Another keymill works on this lot. Let it end, or stop it with an interrupt, then run the same command again."
	}
	if hint == "" && errors.Is(err, fs.ErrPermission) {
		hint = "See who owns it: was keymill run here by another user, such as root? Give it back with chown, then run the same command again."
	}
	if hint == "" {
		hint = "Free or repair the disk, then run the same command again: it goes on from here."
	}
	return &pipeline.Outage{Part: pipeline.PartStorage, Err: err, Hint: hint}
}

// OfHSM gives errors of the HSM their kind.
func OfHSM(ctx context.Context, err error) error {
	if err == nil || isClassified(err) || ctx.Err() != nil {
		return err
	}
	return As(HSM, err)
}

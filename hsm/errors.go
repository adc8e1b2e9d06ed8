package hsm

import (
	"errors"
	"fmt"
)

// GoneError says that the token or its module is gone: taken away, locked,
// refusing the PIN, or not answering. No device will fare better before
// somebody acts on Hint.
type GoneError struct {
	Err  error
	Hint string
}

func (e *GoneError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *GoneError) Unwrap() error { return e.Err }

// RefusedError says, before the first device, that a source can't do what is
// asked of it. Hint names what would work. There is no fall to another source.
type RefusedError struct {
	Err  error
	Hint string
}

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// Hint returns the advice that belongs to err, "" if there is none.
func Hint(err error) string {
	if gone, ok := errors.AsType[*GoneError](err); ok {
		return gone.Hint
	}
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		return refused.Hint
	}
	return ""
}

func refused(hint, format string, args ...any) error {
	return &RefusedError{Err: fmt.Errorf(format, args...), Hint: hint}
}

func gone(hint, format string, args ...any) error {
	return &GoneError{Err: fmt.Errorf(format, args...), Hint: hint}
}

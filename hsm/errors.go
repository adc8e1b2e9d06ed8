package hsm

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// GoneError says that the token or its module is gone: taken away, locked,
// refusing the PIN, or not answering. No device will fare better before
// somebody acts on Hint.
type GoneError struct {
	Err  error
	Hint string
}

func (e *GoneError) Error() string { return explain(e.Err.Error()) }

// Unwrap returns the cause.
func (e *GoneError) Unwrap() error { return e.Err }

// RefusedError says, before the first device, that a source can't do what is
// asked of it. Hint names what would work. There is no fall to another source.
type RefusedError struct {
	Err  error
	Hint string
}

func (e *RefusedError) Error() string { return explain(e.Err.Error()) }

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

// explain names the return codes in a message: miekg/pkcs11 leaves those of
// vendors without a name.
func explain(message string) string {
	return regexp.MustCompile(`pkcs11: (0x[0-9A-F]+): (CKR_[A-Z0-9_]+)?`).ReplaceAllStringFunc(message, func(code string) string {
		fields := strings.Fields(code)
		number, _ := strconv.ParseUint(fields[1][2:len(fields[1])-1], 16, 64)
		switch {
		case len(fields) == 3:
			return fields[2]
		case number >= 0x80000000:
			return fmt.Sprintf("the vendor's own code 0x%X (its manual says what that is)", number)
		}
		return fmt.Sprintf("the return code 0x%X, which PKCS#11 2.40 doesn't have", number)
	})
}

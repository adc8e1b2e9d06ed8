package imaging

import "fmt"

// Error is a failure with advice what to do next, which is kept apart from the
// message.
type Error struct {
	Message string
	Remedy  string
	Err     error // the cause; may be nil
}

// Error returns the message and the cause, without the advice.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	if e.Message == "" {
		return e.Err.Error()
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Hint returns the advice.
func (e *Error) Hint() string { return e.Remedy }

// refuse returns an error whose message is made from format, with advice.
func refuse(remedy, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{Remedy: remedy, Err: err}
}

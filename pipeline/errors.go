package pipeline

import (
	"errors"
	"fmt"
)

// There are two grades of failure. A device's own failure is recorded in its
// record and the run goes on; it is any error that is neither of those below.
// The environment's failure is an *Outage: it stops the run cleanly, and the
// same command goes on from there.

// Part names the part of the environment that failed; cmd maps it to an exit code.
type Part string

// The parts of the environment.
const (
	PartServer  Part = "server"  // refused or unreachable: exit code 5
	PartHSM     Part = "hsm"     // exit code 6
	PartStorage Part = "storage" // image, disk or ledger: exit code 7
)

// Outage is a failure of the environment.
type Outage struct {
	Part Part
	Err  error
	Hint string // what to do next; may be empty
}

func (o *Outage) Error() string { return o.Err.Error() }

// Unwrap returns the cause.
func (o *Outage) Unwrap() error { return o.Err }

// ConflictError says that the server holds another key for the identity.
type ConflictError struct {
	DeviceID    string
	Status      string // of the auth set that stands in the way, on the server
	Fingerprint string // SHA-256 of the SPKI that the server holds, hexadecimal; empty if unknown
	RequestID   string
	HTTPStatus  int
}

func (c *ConflictError) Error() string {
	text := fmt.Sprintf("the server holds another key for this identity (device %s, %s, key sha256 %s)",
		c.DeviceID, c.Status, c.Fingerprint)
	if c.Status == "pending" {
		text += "; that key only waits to be accepted and can't authenticate, as when the board was booted in test: --on-conflict replace-pending removes such keys"
	}
	return text
}

// ErrLost is returned by Ledger.Commit when the record is no longer in the
// state, or under the lease, that the change starts from: another worker had it.
var ErrLost = errors.New("the record was changed by another worker")

// ErrNoDevice says that the lot has no device of that identity.
var ErrNoDevice = errors.New("the lot has no such device")

// hinted is an error with advice beside it.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// WithHint returns err with advice what to do next, which Hint reads back.
func WithHint(err error, format string, args ...any) error {
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// Hint returns the advice that belongs to err, "" if there is none.
func Hint(err error) string {
	if h, ok := errors.AsType[*hinted](err); ok {
		return h.hint
	}
	if o, ok := errors.AsType[*Outage](err); ok {
		return o.Hint
	}
	return ""
}

package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"modernc.org/sqlite"

	"keymill/pipeline"
)

var (
	errForeign  = errors.New("this file is no keymill ledger")
	errLocked   = errors.New("another process is just opening it")
	errReplaced = errors.New("the ledger's file was replaced or deleted while it was in use")
)

// fault is what to say about one kind of failure. LEDGER in a hint stands for
// the file.
type fault struct{ what, hint string }

const again = ", then run the same command again: it goes on from here."

var (
	faultFull = fault{"the ledger's disk is full", "Free some space on the disk of LEDGER" + again}
	faultBusy = fault{"another process keeps the ledger locked",
		"See who has it open (fuser -v LEDGER), let that end" + again}
	faultAccess = fault{"the ledger can't be written",
		"Check owner and mode of LEDGER and of its folder, and that their file system isn't mounted read-only" + again}
	faultDamaged = fault{"the ledger is damaged",
		"Keep LEDGER and its -wal file for examination, and restore the last backup."}
	faultDisk = fault{"the ledger's disk fails",
		"See the kernel's log (dmesg) and the free space on the disk of LEDGER" + again}
)

// sqliteFault returns the fault behind one of SQLite's primary result codes
// (https://www.sqlite.org/rescode.html).
func sqliteFault(code int) fault {
	switch code {
	case 13: // FULL
		return faultFull
	case 5, 6: // BUSY, LOCKED
		return faultBusy
	case 3, 8, 14, 23: // PERM, READONLY, CANTOPEN, AUTH
		return faultAccess
	case 11, 26: // CORRUPT, NOTADB
		return faultDamaged
	default:
		return faultDisk
	}
}

// fileFault returns the fault behind an error of opening the file.
func fileFault(err error) fault {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault{"the ledger's folder doesn't exist", "Make it, or name another file than LEDGER with --ledger."}
	case errors.Is(err, syscall.EISDIR):
		return fault{"the ledger is a folder", "Name a file with --ledger, such as LEDGER/keymill.db."}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return faultFull
	default:
		return faultAccess
	}
}

// explain says in the operator's words what went wrong with the file. Errors
// that are not the database's (the caller's context, what a manifest yields)
// pass through.
func (s *sqliteDB) explain(err error) error {
	if err == nil || passes(err) {
		return err
	}
	var f fault
	switch {
	case errors.Is(err, errForeign):
		f.hint = "Name another file with --ledger; LEDGER was not touched."
	case errors.Is(err, errNewer):
		f.hint = "Use the keymill that made LEDGER, or a newer one: this one would damage it."
	case errors.Is(err, errReplaced):
		f.hint = "Put the file back as it was, then run the same command again. Never move or restore a ledger while keymill runs."
	case errors.Is(err, errLocked):
		f = faultBusy
	default:
		if e, ok := errors.AsType[*sqlite.Error](err); ok {
			f = sqliteFault(e.Code() & 0xff)
		} else if _, ok := errors.AsType[*fs.PathError](err); ok {
			f = fileFault(err)
		} else {
			return err
		}
	}
	return f.outage(s.path, err)
}

// passes says that err is none of the database's.
func passes(err error) bool {
	_, outage := errors.AsType[*pipeline.Outage](err)
	return outage || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// outage returns what to tell of err.
func (f fault) outage(ledger string, err error) error {
	if f.what != "" {
		err = fmt.Errorf("%s: %s: %w", f.what, ledger, oneLine{err})
	}
	return &pipeline.Outage{Part: pipeline.PartStorage, Err: err, Hint: strings.ReplaceAll(f.hint, "LEDGER", ledger)}
}

// oneLine is an error whose text is made to fit on a line: drivers list every
// address that they tried.
type oneLine struct{ error }

func (o oneLine) Error() string { return strings.Join(strings.Fields(o.error.Error()), " ") }

func (o oneLine) Unwrap() error { return o.error }

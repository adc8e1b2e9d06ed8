package ledger

import (
	"database/sql/driver"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

var (
	faultUnreachable = fault{"the ledger can't be reached", "Check that the server of the LEDGER runs and can be reached from here" + again}
	faultRefused     = fault{"the ledger's server refuses us",
		"Check user, password file and pg_hba.conf for the LEDGER, and that the user may create and use its schema."}
	faultURL = fault{"the ledger's URL is wrong", "It looks like postgres://USER@HOST/DATABASE; the password belongs into a file (PGPASSFILE)."}
)

// postgresFault returns the fault behind an error code
// (https://www.postgresql.org/docs/15/errcodes-appendix.html).
func postgresFault(code string) fault {
	switch code[:min(2, len(code))] {
	case "08", "57": // connection exception, operator intervention
		return faultUnreachable
	case "28", "3D", "42": // authorization, no such database, access rule or a schema that is not ours
		return faultRefused
	case "XX": // internal error, data corrupted
		return faultDamaged
	}
	switch code {
	case "53100": // disk full
		return fault{"the ledger's disk is full", "Free some space on the server of the LEDGER" + again}
	case "53300": // too many connections
		return fault{"the ledger's server has no connection left", "Raise max_connections there, or let fewer stations work" + again}
	case "55P03", "40P01", "40001": // lock not available, deadlock, serialization failure
		return fault{"others keep the ledger locked", "See who is at work there (pg_stat_activity), let that end" + again}
	case "25006": // read-only transaction
		return fault{"the ledger can't be written", "Connect to the primary server, not to a standby of the LEDGER."}
	}
	return fault{"the ledger's server fails", "See its log for the LEDGER" + again}
}

// explain says in the operator's words what went wrong with the database.
// Errors that are not the database's pass through.
func (p *postgresDB) explain(err error) error {
	if err == nil || passes(err) && !errors.Is(err, errNoAnswer) {
		return err
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return postgresFault(e.Code).outage(p.name, err)
	}
	if errors.Is(err, errNewer) {
		return fault{"", "Use the keymill that made the LEDGER, or a newer one: this one would damage it."}.outage(p.name, err)
	}
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		return faultURL.outage(p.name, err)
	}
	if lostConnection(err) {
		return faultUnreachable.outage(p.name, err)
	}
	return err
}

func lostConnection(err error) bool {
	_, connect := errors.AsType[*pgconn.ConnectError](err)
	_, network := errors.AsType[net.Error](err)
	// What pgconn returns for a connection that is closed already.
	_, closed := errors.AsType[interface {
		error
		SafeToRetry() bool
	}](err)
	return connect || network || closed || errors.Is(err, errNoAnswer) || errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

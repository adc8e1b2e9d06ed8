// Package reports turns a lot's ledger into files that people outside the
// factory can use and check: tables (CSV, XLSX, JSON Lines, HTML, PDF), and
// the evidence that nothing in them was added, removed or changed (a
// transparency log, signed checkpoints, a signed statement). It also holds the
// auditor's side, which needs only a bundle and public keys.
package reports

import (
	"context"
	"crypto"
	"iter"
	"time"

	"keymill/pipeline"
)

// Source is what an export reads; a ledger satisfies it. No method hands out
// private keys, and none holds a lock while the caller works. Several of them may
// be read at the same time, and what was yielded stays as it is.
type Source interface {
	// Lot returns a lot by its name.
	Lot(ctx context.Context, name string) (pipeline.Lot, error)
	// Totals returns a lot's balance.
	Totals(ctx context.Context, lot string) (pipeline.Totals, error)
	// Records yields a lot's records in the given states (all if none is
	// given), ordered by row.
	Records(ctx context.Context, lot string, states ...pipeline.State) iter.Seq2[*pipeline.Record, error]
	// Events yields a lot's events, or those of all lots for "", ordered by
	// station, then seq.
	Events(ctx context.Context, lot string) iter.Seq2[pipeline.StoredEvent, error]
	// Logs returns a lot's logs: its lot logs of all stations and epochs, the legacy
	// logs that hold events of it, and the station logs of those stations in all
	// epochs. For "" it returns all logs.
	Logs(ctx context.Context, lot string) ([]Log, error)
	// LogEvents yields a log's events that follow on the one numbered after (0: from
	// the first), in order. It costs what this log costs, whatever else the ledger
	// holds.
	LogEvents(ctx context.Context, log Log, after int64) iter.Seq2[pipeline.StoredEvent, error]
	// Head returns the largest checkpoint of a log that was kept, 0 and "" if there
	// is none.
	Head(ctx context.Context, origin string) (size int64, signed string, err error)
}

// Options says what an export writes.
type Options struct {
	// Formats names the tables and reports, of FormatNames; none means all.
	Formats []string
	// Signer is the station's key (Ed25519, ECDSA or RSA), in a file or in a
	// token. With it the bundle carries evidence: devices.jsonl and
	// events.jsonl, the log, checkpoints and the signed statement. Without it
	// the export is tables only.
	Signer crypto.Signer
	// Station is the exporting station's name, whose log the signer vouches for.
	Station string
	// Subjects are further files that the statement names by their hash, such
	// as the lot's pack.
	Subjects []Subject
	// Replace allows an earlier bundle under the same name to be replaced, in
	// one step. Without it an existing folder is an error.
	Replace bool
	// Timestamp asks an RFC 3161 authority for a time stamp of a checkpoint; see
	// TimestampAuthority. It is optional, and with it two exports differ.
	Timestamp func(ctx context.Context, data []byte) ([]byte, error)
	// Custody says where Signer lives; Heads and Journal are those of Signing.
	Custody Custody
	Heads   *Heads
	Journal Journal
	// MadeBy names the program that exports, with its version.
	MadeBy string
}

// Subject is a file that a statement vouches for.
type Subject struct {
	Name   string
	SHA256 string // hexadecimal
}

// Result says what was exported.
type Result struct {
	Dir     string
	Files   []File // in the order of their names
	Devices int
	Events  int
	// Time is that of the lot's last event: exporting again gives the same
	// bytes, so nothing in a bundle comes from the clock.
	Time time.Time
	// Checkpoint is the signed checkpoint of the exporting station's log, nil
	// without a signer.
	Checkpoint []byte
}

// File is one file of a bundle.
type File struct {
	Name   string // slash-separated, below the bundle's folder
	Bytes  int64
	SHA256 string // hexadecimal
}

// Package queue lets many stations work on one lot. River hands out chunks of
// rows, leases in the shared ledger decide who may work on a device, and the
// ledger's compare-and-set makes each change happen once.
//
// The rules come from design.md, "Many stations". A job that River hands out
// twice, late or not at all costs time, never a device: what is to be done is
// read from the ledger, and the sweeper enqueues again what nobody works on.
package queue

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/riverqueue/river"
)

// ChunkRows is how many manifest rows one job covers. A job of 100 devices
// lasts a second or two, so that a night's end or a dead station leaves little
// undone, and 1,000,000 devices are 10,000 jobs.
const ChunkRows = 100

// Times are the intervals of the queue; DefaultTimes has those of the design.
type Times struct {
	Beat   time.Duration // between two heartbeats of a station
	Lease  time.Duration // how long a lease lasts, by the database's clock
	Renew  time.Duration // between two renewals of a lease
	Job    time.Duration // most time that one job works; its rest is enqueued again
	Rescue time.Duration // after this River takes a running job's worker for dead
	Sweep  time.Duration // between two looks for rows that nobody works on
}

// DefaultTimes are those of the design: a station beats every 10 s, leases last
// 60 s and are renewed at 20 s, and a job works two minutes at most.
func DefaultTimes() Times {
	return Times{Beat: 10 * time.Second, Lease: time.Minute, Renew: 20 * time.Second,
		Job: 2 * time.Minute, Rescue: 3 * time.Minute, Sweep: 10 * time.Second}
}

// maxAttempts is how often River runs a job that its worker did not end. A
// crash counts as an attempt, and a job that River discards would leave its
// rows to the sweeper alone.
const maxAttempts = 10_000

// Chunk is the argument of a job: the rows First to Last of a lot. River's
// uniqueness covers jobs that run or are completed, too, so what is enqueued
// again for the same rows gets the next Generation.
type Chunk struct {
	Lot        string `json:"lot" river:"unique"`
	First      int    `json:"first" river:"unique"`
	Last       int    `json:"last" river:"unique"` // inclusive
	Generation int    `json:"generation" river:"unique"`
	Queue      string `json:"queue" river:"unique"` // in which the chunk was enqueued
}

// chunkKind names the jobs in River's tables.
const chunkKind = "keymill_chunk"

// Kind implements river.JobArgs.
func (Chunk) Kind() string { return chunkKind }

// InsertOpts implements river.JobArgsWithInsertOpts.
func (c Chunk) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: c.Queue, MaxAttempts: maxAttempts, UniqueOpts: river.UniqueOpts{ByArgs: true}}
}

func (c Chunk) String() string { return fmt.Sprintf("lot %s, rows %d to %d", c.Lot, c.First, c.Last) }

// Needs is what a station must have to work on a lot. Lots with the same needs
// share a queue.
type Needs struct {
	Keys         string // source of the keys
	Algorithm    string
	Format       string
	GoldenSHA256 string
	InjectSHA256 string
}

// Queue returns the name of the queue of these needs, as River allows names:
// lower-case letters, digits and dashes, at most 64.
func (n Needs) Queue() string {
	return "lots-" + short(n.Keys, n.Algorithm, n.Format, n.GoldenSHA256, n.InjectSHA256)
}

// stationQueue is the queue of what only one station can do: its staged and
// preauthorized devices, whose keys lie in its pack.
func stationQueue(station string) string { return "station-" + short(station) }

// short returns 16 hexadecimal digits that stand for the parts.
func short(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s,", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Package process fits the process to its work: Go's runtime to a production
// line, interrupts to two grades of stopping, standard output to full disks.
package process

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
)

const (
	// memoryLimit is where the garbage collector begins to work harder, in bytes:
	// a station has other things to do, and lots of a million devices need no
	// more. SQLite's caches and the program itself, some 90 MB, come on top.
	memoryLimit = 150 << 20
	// garbagePercent lets the heap grow up to there instead of being collected
	// each time that it has doubled.
	garbagePercent = 400
	// diskWaiters are the goroutines that are always waiting for the disk: those
	// that make pack and ledger durable. Go gives a goroutine's processor back
	// only after the fact, some time into the system call, so on two cores the
	// two of them kept everybody else waiting for more than a third of a lot's
	// time.
	diskWaiters = 2
)

// Tune fits the Go runtime to a production line. What its own environment
// variables say is left alone.
func Tune() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(garbagePercent)
		}
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + diskWaiters)
	}
}

// TuneServer takes back the limit of memory for a server that keeps all its
// devices there: beyond the limit it would do little but collect garbage.
func TuneServer() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	debug.SetMemoryLimit(math.MaxInt64)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(100)
	}
}

package hsm

import (
	"context"
	"time"
)

// BenchOptions says what Bench measures. The zero value is a useful choice.
type BenchOptions struct {
	Algorithms []Algorithm   // default: ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072
	Sessions   []int         // default: 1, 2, 4, 8
	Duration   time.Duration // of each measurement; default: 1 s
}

func (o *BenchOptions) algorithms() []Algorithm {
	if len(o.Algorithms) > 0 {
		return o.Algorithms
	}
	return []Algorithm{ECDSAP256, ECDSAP384, RSA2048, RSA3072}
}

func (o *BenchOptions) sessions() []int {
	if len(o.Sessions) > 0 {
		return o.Sessions
	}
	return []int{1, 2, 4, 8}
}

func (o *BenchOptions) duration() time.Duration {
	if o.Duration > 0 {
		return o.Duration
	}
	return time.Second
}

// bestRow returns the row with the fewest sessions that is within 5 % of the
// fastest, nil if nothing could be measured.
func bestRow(rows []BenchRow) *BenchRow {
	fastest := 0.0
	for _, r := range rows {
		fastest = max(fastest, r.KeysPerSecond)
	}
	for i := range rows {
		if fastest > 0 && rows[i].KeysPerSecond >= 0.95*fastest {
			return &rows[i]
		}
	}
	return nil
}

// GCOptions says what GC may destroy.
type GCOptions struct {
	// Destroy has the leftovers destroyed; without it GC only reports them.
	Destroy bool
	// Torn allows that halves of pairs are destroyed, which may be somebody else's.
	Torn bool
	// Journaled are the open entries of this station's journal.
	Journaled []JournalEntry
	// InUse reports whether a device is recorded with this public key (SPKI,
	// DER). Journaled keys of ModeToken are destroyed only where it says no;
	// without it they are reported and kept.
	InUse func(ctx context.Context, public []byte) (bool, error)
}

package sandbox

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Faults is what goes wrong with calls of the management API (the login and the
// device side are spared). Rates are fractions of the calls, 0 to 1; each call
// suffers one fault at most.
type Faults struct {
	// QuotaPerMin is how many calls a minute a gateway lets through; it answers
	// the others with 429 and Retry-After. The minute starts with the first
	// call. 0: no quota.
	QuotaPerMin int
	// Fail answers 500, and nothing is stored.
	Fail float64
	// Reset cuts the connection without an answer, half of the times before and
	// half after the call was carried out.
	Reset float64
	// Stored500 answers 500 after the call was carried out.
	Stored500 float64
	// Orphan500 answers 500 to a preauthorization of which only the device was
	// stored, without an auth set. Other calls are spared.
	Orphan500 float64
	// Latency is how long a call takes, beside its work.
	Latency time.Duration
	// Capacity is how many calls are worked on at once; more wait in line, their
	// latency not yet running. 0: no limit.
	Capacity int
}

// Fault is one kind of misbehaviour.
type Fault string

// The kinds of misbehaviour.
const (
	FaultNone        Fault = ""
	FaultFail        Fault = "fail"         // 500, nothing stored
	FaultStored500   Fault = "stored-500"   // 500, carried out
	FaultOrphan500   Fault = "orphan-500"   // 500, a device without an auth set
	FaultResetBefore Fault = "reset-before" // connection cut, nothing stored
	FaultResetAfter  Fault = "reset-after"  // connection cut, carried out
	FaultQuota       Fault = "quota"        // 429 with Retry-After
)

// injector draws the faults of one Faults setting.
type injector struct {
	faults Faults
	seed   uint64
	drawn  atomic.Uint64
	places chan struct{} // nil without Capacity
	quota  window
}

func newInjector(f Faults, seed uint64) *injector {
	in := &injector{faults: f, seed: seed, quota: window{limit: f.QuotaPerMin}}
	if f.Capacity > 0 {
		in.places = make(chan struct{}, f.Capacity)
	}
	return in
}

// draw returns the fault of the next call of op. The n-th draw of a seed is
// always the same; which call is the n-th depends on the clients.
func (in *injector) draw(op Op) Fault {
	f := &in.faults
	if f.Fail+f.Reset+f.Stored500+f.Orphan500 == 0 {
		return FaultNone
	}
	u := unit(in.seed + in.drawn.Add(1)*0x9e3779b97f4a7c15)
	for _, c := range [...]struct {
		rate float64
		kind Fault
	}{
		{f.Fail, FaultFail},
		{f.Reset / 2, FaultResetBefore},
		{f.Reset / 2, FaultResetAfter},
		{f.Stored500, FaultStored500},
		{f.Orphan500, FaultOrphan500},
	} {
		if u < c.rate {
			if c.kind == FaultOrphan500 && op != OpPreauthorize {
				return FaultNone
			}
			return c.kind
		}
		u -= c.rate
	}
	return FaultNone
}

// mix is the finalizer of SplitMix64: a bijection whose output looks random.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// unit maps x to a number in [0, 1).
func unit(x uint64) float64 { return float64(mix(x)>>11) / (1 << 53) }

// window is a gateway's fixed one-minute window.
type window struct {
	limit int

	mu    sync.Mutex
	start time.Time // guarded by mu
	used  int       // guarded by mu
}

// take counts a call. It returns 0 when the call may pass, else the whole
// seconds until the window ends.
func (w *window) take(now time.Time) int {
	if w.limit <= 0 {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Sub(w.start) >= time.Minute {
		w.start, w.used = now, 0
	}
	if w.used < w.limit {
		w.used++
		return 0
	}
	return int(math.Ceil(w.start.Add(time.Minute).Sub(now).Seconds()))
}

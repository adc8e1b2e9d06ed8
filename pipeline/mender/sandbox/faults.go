package sandbox

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Faults is what goes wrong with calls of the management API (the login and the
// device side are spared). Rates are fractions of the calls, 0 to 1; each call
// suffers one fault at most, and the plan comes before the rates.
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
	// Latency is how long a call takes, beside its work: always this long or,
	// with LatencyP95, this long in the median.
	Latency time.Duration
	// LatencyP95 spreads the latencies log-normally: one call in twenty takes
	// longer than this. It has no effect unless it is above Latency.
	LatencyP95 time.Duration
	// Capacity is how many calls are worked on at once; more wait in line, their
	// latency not yet running. 0: no limit.
	Capacity int
	// Cost is how much CPU time a call burns beside its work, so that a server
	// that is busy with itself can be had on one machine with its client.
	Cost time.Duration
	// Plan is what goes wrong at certain times.
	Plan Plan
}

// Fault is one kind of misbehaviour.
type Fault string

// The kinds of misbehaviour.
const (
	FaultNone         Fault = ""
	FaultFail         Fault = "fail"          // 500, nothing stored
	FaultStored500    Fault = "stored-500"    // 500, carried out
	FaultOrphan500    Fault = "orphan-500"    // 500, a device without an auth set
	FaultResetBefore  Fault = "reset-before"  // connection cut, nothing stored
	FaultResetAfter   Fault = "reset-after"   // connection cut, carried out
	FaultQuota        Fault = "quota"         // 429 with Retry-After
	FaultAnswer       Fault = "answer"        // any status, nothing stored
	FaultAnswerStored Fault = "answer-stored" // any status, carried out
	FaultStallBefore  Fault = "stall-before"  // no answer for a while, then a cut; nothing stored
	FaultStallAfter   Fault = "stall-after"   // carried out, no answer for a while, then a cut
	FaultTruncate     Fault = "truncate"      // carried out, the answer's body ends too soon
	FaultSlow         Fault = "slow"          // carried out, the answer's body drips
	FaultRevoke       Fault = "revoke"        // 401, and every token issued so far is dead
	FaultUnavailable  Fault = "unavailable"   // the service's 503 while its cache is gone; nothing stored
)

// injector draws the faults of one Faults setting.
type injector struct {
	faults Faults
	sigma  float64 // of the latencies' logarithm
	seed   uint64
	drawn  atomic.Uint64
	places chan struct{} // nil without Capacity
	quota  window
	plan   planned
}

func newInjector(f Faults, seed uint64) *injector {
	in := &injector{faults: f, seed: seed, quota: window{limit: f.QuotaPerMin}}
	if f.Capacity > 0 {
		in.places = make(chan struct{}, f.Capacity)
	}
	if f.LatencyP95 > f.Latency && f.Latency > 0 {
		in.sigma = math.Log(float64(f.LatencyP95)/float64(f.Latency)) / normalP95
	}
	in.plan.rules = make([]ruleState, len(f.Plan))
	return in
}

// normalP95 is the 95th percentile of the standard normal distribution.
const normalP95 = 1.6449

// next returns a random number in [0, 1). The n-th one of a seed is always the
// same; which call gets it depends on the clients.
func (in *injector) next() float64 {
	return float64(mix(in.seed+in.drawn.Add(1)*0x9e3779b97f4a7c15)>>11) / (1 << 53)
}

// mix is the finalizer of SplitMix64: a bijection whose output looks random.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// draw returns what happens to the next call of op.
func (in *injector) draw(op Op, now time.Time) effect {
	if e := in.plan.draw(in, op, now); e.kind != FaultNone {
		return e
	}
	f := &in.faults
	if f.Fail+f.Reset+f.Stored500+f.Orphan500 == 0 {
		return effect{}
	}
	u := in.next()
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
			return effect{kind: c.kind}.on(op)
		}
		u -= c.rate
	}
	return effect{}
}

// latency returns how long the next call takes.
func (in *injector) latency() time.Duration {
	if in.sigma == 0 {
		return in.faults.Latency
	}
	// Box and Muller's transform; 1-u keeps the logarithm's argument above 0.
	normal := math.Sqrt(-2*math.Log(1-in.next())) * math.Cos(2*math.Pi*in.next())
	return time.Duration(float64(in.faults.Latency) * math.Exp(in.sigma*normal))
}

// enter waits for a place and for the latency. leave frees the place.
func (in *injector) enter(ctx context.Context) (leave func(), err error) {
	leave = func() {}
	if in.places != nil {
		select {
		case in.places <- struct{}{}:
			leave = func() { <-in.places }
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := pause(ctx, in.latency()); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

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

package mender

import "time"

// Stats is how the conversation stands.
type Stats struct {
	Requests int64 // attempts sent, those under way included
	Retries  int64 // of these, repetitions
	Failures int64 // no answer, or 5xx
	Refused  int64 // 429
	InFlight int   // now
	Waiting  int   // callers that wait for their turn
	Limit    int   // how many may be in flight now
	// Rate is what the server answers, per second, over the last seconds.
	Rate float64
	// Quota is the rate that the server allows, per second; 0 if none was met.
	Quota float64
	// Paused is until when nobody may ask; zero if the way is free.
	Paused time.Time
	// Cause is why it is paused.
	Cause error
}

// Share bounds the requests in flight from now on: several stations share what
// one server can take.
func (c *Client) Share(inFlight int) { c.gate.share(inFlight) }

// Stats returns how the conversation stands.
func (c *Client) Stats() Stats {
	g := c.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	s := Stats{
		Requests: g.counts.requests, Retries: g.counts.retries,
		Failures: g.counts.failures, Refused: g.counts.quotas,
		InFlight: g.inFlight, Waiting: g.queue.Len(), Limit: g.limit.now,
		Rate: g.counts.rate(now), Quota: g.pace.rate,
	}
	if g.trying {
		s.Paused, s.Cause = g.shut, g.cause
	}
	return s
}

// Left estimates how long n more requests take, 0 if nothing is known yet. Under
// a quota it is the quota that counts: the last seconds say little about it.
func (s Stats) Left(n int) time.Duration {
	rate := s.Rate
	if s.Quota > 0 && (s.Quota < rate || s.Quota < 1) {
		rate = s.Quota
	}
	if rate <= 0 {
		return 0
	}
	return time.Duration(float64(n) / rate * float64(time.Second))
}

// counters count what the gate sees; the gate's lock guards them.
type counters struct {
	requests, retries, failures, quotas int64

	slots [rateSpan + 1]int // answers in each of the last seconds
	last  int64             // Unix time of the newest slot
	first int64             // Unix time of the first answer
}

// rateSpan is over how many seconds Rate looks.
const rateSpan = 10

func (c *counters) answered(now time.Time) {
	c.advance(now.Unix())
	c.slots[c.last%int64(len(c.slots))]++
}

func (c *counters) advance(to int64) {
	if c.first == 0 {
		c.first, c.last = to, to
	}
	for steps := 0; c.last < to && steps < len(c.slots); steps++ {
		c.last++
		c.slots[c.last%int64(len(c.slots))] = 0
	}
	c.last = max(c.last, to)
}

func (c *counters) rate(now time.Time) float64 {
	if c.first == 0 {
		return 0
	}
	c.advance(now.Unix())
	sum := 0
	for i, n := range c.slots {
		if int64(i) != c.last%int64(len(c.slots)) { // the running second isn't over
			sum += n
		}
	}
	span := min(rateSpan, c.last-c.first)
	if span == 0 {
		return float64(c.slots[c.last%int64(len(c.slots))])
	}
	return float64(sum) / float64(span)
}

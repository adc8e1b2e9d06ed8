package hsm

import (
	"sync"
	"time"
)

// Load says how well a token's sessions were used, from the first key that was
// asked for to the end of the last.
type Load struct {
	Sessions int // that may be open at once; 0 for keys in software
	Keys     int // that were asked for
	// Span is the time from the first call of Generate to the end of the last.
	Span time.Duration
	// Busy is the sessions' time at work: at most Sessions times Span.
	Busy time.Duration
	// Starved is the sessions' time without work while somebody waited for one.
	Starved time.Duration
}

// Utilisation is the share of the sessions' time at work, from 0 to 1.
func (l Load) Utilisation() float64 { return l.share(l.Busy) }

// Starvation is the share of the sessions' time without work while somebody
// waited for one, from 0 to 1.
func (l Load) Starvation() float64 { return l.share(l.Starved) }

func (l Load) share(d time.Duration) float64 {
	if all := time.Duration(l.Sessions) * l.Span; all > 0 {
		return float64(d) / float64(all)
	}
	return 0
}

// meter keeps the books of a Load. Its methods may be called by many goroutines
// at once.
type meter struct {
	mu                     sync.Mutex // guards the rest
	load                   Load
	busy, waiting, calling int
	first, changed, last   time.Time // last: the end of a call; zero before there was one
}

// allow sets how many sessions there may be.
func (m *meter) allow(sessions int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count(time.Now())
	m.load.Sessions = sessions
}

// change counts sessions at work, callers that wait for one, and calls of Generate.
func (m *meter) change(busy, waiting, calling int) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count(now)
	m.busy += busy
	m.waiting += waiting
	m.calling += calling
	switch {
	case calling > 0:
		m.load.Keys += calling
		if m.first.IsZero() {
			m.first = now
		}
	case calling < 0:
		m.last = now
	}
}

// count adds the time since the last change; m.mu is held.
func (m *meter) count(now time.Time) {
	d := now.Sub(m.changed)
	m.changed = now
	if m.first.IsZero() {
		return // what opening the source took is not its keys'
	}
	m.load.Busy += time.Duration(m.busy) * d
	m.load.Starved += time.Duration(min(m.waiting, max(m.load.Sessions-m.busy, 0))) * d
}

// read returns the books as they stand.
func (m *meter) read() Load {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.count(now)
	load := m.load
	switch {
	case m.calling > 0:
		load.Span = now.Sub(m.first)
	case !m.last.IsZero():
		load.Span = m.last.Sub(m.first)
	}
	return load
}

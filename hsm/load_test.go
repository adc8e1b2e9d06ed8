//go:build cgo

package hsm

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestLoadIsCounted(t *testing.T) { synctest.Test(t, testLoad) }

func testLoad(t *testing.T) {
	var m meter
	m.allow(2)
	rest := func() { <-time.After(time.Second) } // of the bubble
	m.change(1, 0, 0)                            // what opening the source takes doesn't count
	rest()
	m.change(-1, 0, 0)
	m.change(0, 0, 1)
	m.change(0, 1, 0)
	rest() // one waits, two sessions are free
	m.change(1, -1, 0)
	rest() // one works, nobody waits
	m.change(0, 1, 1)
	rest() // one works, one waits
	m.change(1, -1, 0)
	rest() // both work
	m.change(-1, 0, -1)
	if l := m.read(); l.Span != 4*time.Second {
		t.Errorf("%+v while keys are made", l)
	}
	m.change(-1, 0, -1)
	rest() // nobody wants anything
	want := Load{Sessions: 2, Keys: 2, Span: 4 * time.Second, Busy: 4 * time.Second, Starved: 2 * time.Second}
	if l := m.read(); l != want || l.Utilisation() != 0.5 || l.Starvation() != 0.25 {
		t.Errorf("%+v, want %+v; %v and %v", l, want, l.Utilisation(), l.Starvation())
	}
	if l := (Load{}); l.Utilisation() != 0 || l.Starvation() != 0 {
		t.Error("keys in software have no sessions")
	}
}

// With as many callers as AtOnce says, all sessions work at the same time, key
// after key, whatever the number of cores.
func TestAllSessionsWork(t *testing.T) {
	bad := newBadToken(t)
	const sessions, keys = 12, 120
	for mode, times := range map[Mode]int{ModeHSM: keys / sessions, ModeToken: keys / sessions, ModeEntropy: 2} { // one call serves 64 keys
		t.Run(string(mode), func(t *testing.T) {
			cfg := bad.config(t)
			cfg.Limits.Sessions = sessions
			source := mustOpen(t, mode, ECDSAP256, cfg)
			bad.set(meetAt, sessions)
			bad.set(metTimes, 0)
			work(t, source, keys)
			if n := bad.get(metTimes); n < times/2 {
				t.Errorf("all sessions were at work %d times, want %d", n, times)
			}
			bad.set(meetAt, 0)
			if load := source.Load(); load.Sessions != sessions || load.Keys != keys || load.Busy <= 0 || load.Span <= 0 {
				t.Errorf("%+v", load)
			}
		})
	}
}

// work makes keys with as many callers as the source asks for.
func work(t *testing.T, source Source, keys int) {
	t.Helper()
	jobs := make(chan struct{}, keys)
	for range keys {
		jobs <- struct{}{}
	}
	close(jobs)
	done := make(chan error)
	for range source.AtOnce() {
		go func() {
			for range jobs {
				private, _, err := source.Generate(t.Context(), "device")
				Wipe(private)
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range source.AtOnce() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

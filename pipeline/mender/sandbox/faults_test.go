package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestFaults has each fault at the rate 1: what the client sees and what the
// server keeps.
func TestFaults(t *testing.T) {
	_, public := newKey(t, "ed25519")
	const id = `{"mac":"aa"}`
	for name, c := range map[string]struct {
		faults Faults
		status int // 0: no answer
		stored string
	}{
		"fail":       {Faults{Fail: 1}, 500, "none"},
		"stored-500": {Faults{Stored500: 1}, 500, "preauthorized [preauthorized]"},
		"orphan-500": {Faults{Orphan500: 1}, 500, "preauthorized"},
		"reset":      {Faults{Reset: 1}, 0, "either"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := start(t, Config{Faults: c.faults})
			r, err := srv.try(t.Context(), "POST", devauth+"/devices", preauth(id, public, false))
			switch {
			case c.status == 0 && err == nil:
				t.Errorf("answered %d, want a cut connection", r.StatusCode)
			case c.status != 0:
				if err != nil {
					t.Fatal(err)
				}
				r.want(t, c.status).wantError(t)
			}
			got := "none"
			if d, ok := srv.Find([]byte(id)); ok {
				got = strings.TrimPrefix(d.String(), id+" ")
			}
			if got != c.stored && c.stored != "either" {
				t.Errorf("stored: %s, want %s", got, c.stored)
			}
			if n := srv.Stats().Answers[c.status]; n != 1 {
				t.Errorf("the statistics count %d answers with %d, want 1", n, c.status)
			}
		})
	}
}

// TestFaultsSpare has calls that a fault must leave alone.
func TestFaultsSpare(t *testing.T) {
	_, public := newKey(t, "ed25519")
	private, second := newKey(t, "ed25519")
	srv := start(t, Config{User: "u", Password: "p", Faults: Faults{Orphan500: 1}})
	srv.do(t, "GET", "/devices/count", "").want(t, 200)
	srv.do(t, "POST", "/devices", preauth(`{"mac":"aa"}`, public, true)).want(t, 500)
	srv.do(t, "POST", "/devices", preauth(`{"mac":"aa"}`, public, true)).want(t, 201)
	srv.SetFaults(Faults{Fail: 1})
	srv.boot(t, private, second, `{"mac":"bb"}`).want(t, 401)
	if _, err := srv.try(t.Context(), "POST", "/api/management/v1/useradm/auth/login", "",
		func(r *http.Request) { r.SetBasicAuth("u", "p") }); err != nil {
		t.Error(err)
	}
	srv.SetFaults(Faults{Stored500: 1})
	srv.do(t, "POST", "/devices", preauth(`{"mac":"aa"}`, public, false)).want(t, 409)
	srv.do(t, "GET", "/devices/x", "").want(t, 404)
	d := srv.device(t, `{"mac":"aa"}`)
	srv.do(t, "DELETE", "/devices/"+d.ID, "").want(t, 500)
	if _, ok := srv.Find([]byte(`{"mac":"aa"}`)); ok {
		t.Error("a stored 500 did not delete the device")
	}
}

// TestFaultsBySeed: the row of faults belongs to the seed, and their shares are
// those asked for.
func TestFaultsBySeed(t *testing.T) {
	f := Faults{Fail: 0.05, Reset: 0.1, Stored500: 0.02, Orphan500: 0.01}
	const calls = 20_000
	row := func(seed uint64) (row []Fault, n map[Fault]int) {
		in := newInjector(f, seed)
		n = map[Fault]int{}
		for range calls {
			kind := in.draw(OpPreauthorize, time.Time{}).kind
			row = append(row, kind)
			n[kind]++
		}
		return row, n
	}
	a, shares := row(1)
	b, _ := row(1)
	c, _ := row(2)
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Error("one seed gives two rows of faults")
	}
	if fmt.Sprint(a) == fmt.Sprint(c) {
		t.Error("two seeds give one row of faults")
	}
	for kind, want := range map[Fault]float64{
		FaultFail: 0.05, FaultResetBefore: 0.05, FaultResetAfter: 0.05,
		FaultStored500: 0.02, FaultOrphan500: 0.01, FaultNone: 0.82,
	} {
		if got := float64(shares[kind]) / calls; got < want*0.85 || got > want*1.15 {
			t.Errorf("%q has a share of %.3f, want about %.3f", kind, got, want)
		}
	}
}

// callCount sends one GET through the handler and returns the answer.
func callCount(s *Sandbox) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, devauth+"/devices/count", nil)
	r.Header.Set("Authorization", "Bearer "+s.Token())
	s.Handler().ServeHTTP(w, r)
	return w
}

func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Faults: Faults{QuotaPerMin: 30}})
		if err != nil {
			t.Fatal(err)
		}
		for minute := range 3 {
			for call := range 30 {
				if w := callCount(s); w.Code != 200 {
					t.Fatalf("call %d of minute %d answers %d", call, minute, w.Code)
				}
			}
			time.Sleep(20500 * time.Millisecond)
			w := callCount(s)
			if w.Code != 429 || w.Header().Get("Retry-After") != "40" || !strings.Contains(w.Body.String(), `"error":"too many requests"`) {
				t.Fatalf("over the quota: %d, Retry-After %q, %s", w.Code, w.Header().Get("Retry-After"), w.Body)
			}
			time.Sleep(39500 * time.Millisecond)
		}
		if n := s.Stats().Faults[FaultQuota]; n != 3 {
			t.Errorf("the statistics count %d calls over the quota, want 3", n)
		}
	})
}

// TestCapacity: with room for 4, the fifth call waits in line before its latency
// begins.
func TestCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Faults: Faults{Capacity: 4, Latency: 20 * time.Millisecond}})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var all sync.WaitGroup
		for range 12 {
			all.Go(func() { callCount(s) })
		}
		all.Wait()
		if took := time.Since(began); took != 60*time.Millisecond {
			t.Errorf("12 calls of 20 ms, 4 at once, took %v", took)
		}
		if st := s.Stats(); st.MaxInFlight != 12 || st.InFlight != 0 {
			t.Errorf("the statistics have %d in flight at most, %d now", st.MaxInFlight, st.InFlight)
		}
	})
}

// TestClientLeaves: who goes away while waiting frees the place.
func TestClientLeaves(t *testing.T) {
	srv := start(t, Config{Faults: Faults{Capacity: 1, Latency: time.Hour}})
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := srv.try(ctx, "GET", devauth+"/devices/count", "")
			gone <- err
		}()
		eventually(t, func() bool { return srv.Stats().InFlight > 0 })
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		eventually(t, func() bool { return srv.Stats().InFlight == 0 })
	}
	srv.SetFaults(Faults{})
	srv.do(t, "GET", "/devices/count", "").want(t, 200)
}

// eventually polls until a condition holds.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("waited five minutes in vain")
		}
	}
}

package mender

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"keymill/pipeline"
)

func TestPreauthorizeStoresANewDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		spki, _ := newKey(t)
		got, err := f.client(t).Preauthorize(t.Context(), pipeline.Preauth{Identity: identity(1), SPKI: spki})
		if err != nil {
			t.Fatal(err)
		}
		want := pipeline.AuthSet{DeviceID: "dev-1", Status: StatusPreauthorized, RequestID: "req-1", HTTPStatus: 201, Attempts: 1}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		f.check(identity(1), spki)
	})
}

// Whatever an earlier attempt or another hand has left on the server.
func TestPreauthorizeOverWhatIsThere(t *testing.T) {
	ours, oursPEM := newKey(t)
	old, oldPEM := newKey(t)
	_, otherPEM := newKey(t)
	set := func(key, status string) fakeSet { return fakeSet{PubKey: key, Status: status} }
	tests := []struct {
		name     string
		sets     []fakeSet
		policy   pipeline.OnConflict
		replaces []byte
		deleting time.Duration
		broken   bool // DELETE of auth sets answers 500
		conflict bool
		fails    string
		second   bool   // another, dead key stays beside ours
		says     string // in the conflict
		silent   string // not in it
		removed  string // in what is recorded
	}{
		{name: "our key preauthorized", sets: []fakeSet{set(oursPEM, StatusPreauthorized)}},
		{name: "our key accepted", sets: []fakeSet{set(oursPEM, StatusAccepted)}},
		{name: "our key with other line ends", sets: []fakeSet{set(strings.ReplaceAll(oursPEM, "\n", "\r\n"), StatusPreauthorized)}},
		{name: "orphan"},
		{name: "our key pending after an orphan", sets: []fakeSet{set(oursPEM, StatusPending)}},
		{name: "our key rejected", sets: []fakeSet{set(oursPEM, StatusRejected)}, fails: "as rejected"},
		{name: "other key", sets: []fakeSet{set(otherPEM, StatusPreauthorized)}, conflict: true},
		{name: "other key, policy fail", sets: []fakeSet{set(otherPEM, StatusPreauthorized)}, policy: pipeline.ConflictFail, conflict: true},
		{name: "other key, replace", sets: []fakeSet{set(otherPEM, StatusPreauthorized)}, policy: pipeline.ConflictReplace},
		{name: "other key, replace, slow deletion", sets: []fakeSet{set(otherPEM, StatusPreauthorized)}, policy: pipeline.ConflictReplace, deleting: time.Minute},
		{name: "deletion never ends", sets: []fakeSet{set(otherPEM, StatusPreauthorized)}, policy: pipeline.ConflictReplace, deleting: time.Hour, fails: "still deleting"},
		{name: "other key pending, replace", sets: []fakeSet{set(otherPEM, StatusPending)}, policy: pipeline.ConflictReplace},
		{name: "other key pending", sets: []fakeSet{set(otherPEM, StatusPending)}, conflict: true, says: "replace-pending"},
		{name: "other key pending, replace-pending", sets: []fakeSet{set(otherPEM, StatusPending)}, policy: pipeline.ConflictReplacePending, removed: "removed the pending key sha256 "},
		{name: "two keys pending, replace-pending", sets: []fakeSet{set(oldPEM, StatusPending), set(otherPEM, StatusPending)}, policy: pipeline.ConflictReplacePending, removed: "; removed the pending key sha256 "},
		{name: "other key preauthorized, replace-pending", sets: []fakeSet{set(otherPEM, StatusPreauthorized)}, policy: pipeline.ConflictReplacePending, conflict: true},
		{name: "other key rejected, replace-pending", sets: []fakeSet{set(otherPEM, StatusRejected)}, policy: pipeline.ConflictReplacePending, conflict: true},
		{name: "one pending, one preauthorized, replace-pending", sets: []fakeSet{set(oldPEM, StatusPending), set(otherPEM, StatusPreauthorized)}, policy: pipeline.ConflictReplacePending, conflict: true, silent: "replace-pending"},
		{name: "other key accepted, replace-pending", sets: []fakeSet{set(otherPEM, StatusAccepted)}, policy: pipeline.ConflictReplacePending, conflict: true},
		{name: "other key accepted, replace", sets: []fakeSet{set(otherPEM, StatusAccepted)}, policy: pipeline.ConflictReplace, conflict: true},
		{name: "other key accepted, replace-accepted", sets: []fakeSet{set(otherPEM, StatusAccepted)}, policy: pipeline.ConflictReplaceAccepted},
		{name: "our earlier key", sets: []fakeSet{set(oldPEM, StatusPreauthorized)}, replaces: old},
		{name: "our earlier key, accepted", sets: []fakeSet{set(oldPEM, StatusAccepted)}, replaces: old, conflict: true},
		{name: "another than our earlier key", sets: []fakeSet{set(otherPEM, StatusPreauthorized)}, replaces: old, conflict: true},
		{name: "both keys", sets: []fakeSet{set(otherPEM, StatusPreauthorized), set(oursPEM, StatusPreauthorized)}, conflict: true},
		{name: "both keys, replace", sets: []fakeSet{set(otherPEM, StatusPreauthorized), set(oursPEM, StatusPreauthorized)}, policy: pipeline.ConflictReplace},
		{name: "both keys, the earlier is ours", sets: []fakeSet{set(oldPEM, StatusPreauthorized), set(oursPEM, StatusPreauthorized)}, replaces: old},
		{name: "both keys, replace, broken delete", sets: []fakeSet{set(otherPEM, StatusPreauthorized), set(oursPEM, StatusPreauthorized)}, policy: pipeline.ConflictReplace, broken: true},
		{name: "other accepted beside ours", sets: []fakeSet{set(otherPEM, StatusAccepted), set(oursPEM, StatusPreauthorized)}, policy: pipeline.ConflictReplace, conflict: true},
		{name: "unknown key pending beside ours", sets: []fakeSet{set(oursPEM, StatusPreauthorized), set(otherPEM, StatusPending)}, second: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t)
				f.deleting, f.setErrors = tt.deleting, tt.broken
				f.put(identity(1), StatusPreauthorized, append([]fakeSet(nil), tt.sets...)...)
				before := len(tt.sets)
				set, err := f.client(t).Preauthorize(t.Context(), pipeline.Preauth{
					Identity: identity(1), SPKI: ours, Policy: tt.policy, Replaces: tt.replaces})
				switch {
				case tt.fails != "":
					if err == nil || !strings.Contains(err.Error(), tt.fails) || pipeline.Hint(err) == "" {
						t.Errorf("error %v, hint %q; want %q and a hint", err, pipeline.Hint(err), tt.fails)
					}
				case tt.conflict:
					checkConflict(t, f, err, before)
					if !strings.Contains(err.Error(), tt.says) || (tt.silent != "" && strings.Contains(err.Error(), tt.silent)) {
						t.Errorf("the conflict is %v", err)
					}
				case !strings.Contains(set.Removed, tt.removed):
					t.Errorf("recorded as removed: %q", set.Removed)
				case err != nil:
					t.Error(err)
				case set.DeviceID == "" || f.devices[set.DeviceID] == nil:
					t.Errorf("device id %q isn't the server's", set.DeviceID)
				case set.Attempts != len(f.requests):
					t.Errorf("%d attempts recorded of %d", set.Attempts, len(f.requests))
				case !tt.second:
					f.check(identity(1), ours)
				}
			})
		})
	}
}

// A conflict names what is there, and leaves it as it was.
func checkConflict(t *testing.T, f *fake, err error, sets int) {
	t.Helper()
	c, ok := errors.AsType[*pipeline.ConflictError](err)
	if !ok {
		t.Fatalf("error %v, want a conflict", err)
	}
	if c.DeviceID == "" || c.Status == "" || len(c.Fingerprint) != 64 || c.RequestID == "" {
		t.Errorf("incomplete conflict: %+v", c)
	}
	if d := f.devices[c.DeviceID]; d == nil || d.Decommissioning || len(d.AuthSets) != sets {
		t.Errorf("the conflict changed the server: %+v", d)
	}
	if n := f.count1(http.MethodDelete); n > 0 {
		t.Errorf("%d deletions", n)
	}
}

// A gateway's 404 must not be taken for the server's word that a device is gone.
func TestGatewayNotFoundIsNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		spki, key := newKey(t)
		f.put(identity(1), StatusPreauthorized, fakeSet{PubKey: key, Status: StatusPreauthorized})
		f.fault = func(r *fakeRequest) (*http.Response, error) {
			if r.op == "get" && r.n < 5 && !r.after {
				return reply(http.StatusNotFound, "404 page not found"), nil
			}
			return nil, nil
		}
		if _, err := f.client(t).Preauthorize(t.Context(), pipeline.Preauth{Identity: identity(1), SPKI: spki}); err != nil {
			t.Fatal(err)
		}
		if n := f.count1(http.MethodPost); n != 1 {
			t.Errorf("%d POST, want 1", n)
		}
	})
}

// What is wrong with one device is that device's error, with the server's words.
func TestDeviceErrors(t *testing.T) {
	for _, status := range []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(t)
			f.fault = func(*fakeRequest) (*http.Response, error) { return failure(status, "cannot decode\nthis key"), nil }
			spki, _ := newKey(t)
			_, err := f.client(t).Preauthorize(t.Context(), pipeline.Preauth{Identity: identity(1), SPKI: spki})
			e, ok := errors.AsType[*StatusError](err)
			if !ok || e.Status != status || !strings.Contains(err.Error(), "cannot decode this key") || !strings.Contains(err.Error(), "req-1") {
				t.Errorf("error %v", err)
			}
			if _, outage := errors.AsType[*pipeline.Outage](err); outage || len(f.requests) != 1 {
				t.Errorf("outage %v after %d requests, want a device's error after one", outage, len(f.requests))
			}
		})
	}
}

// A device that the server always fails on doesn't hold up the lot for ever.
func TestPoisonDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.latency = time.Millisecond
		c := f.client(t)
		spki, _ := newKey(t)
		poison := make(chan error, 1)
		f.fault = func(r *fakeRequest) (*http.Response, error) {
			if v, _ := r.Context().Value(poisoned{}).(bool); v && !r.after {
				return failure(http.StatusInternalServerError, "internal error"), nil
			}
			return nil, nil
		}
		go func() {
			_, err := c.Preauthorize(context.WithValue(t.Context(), poisoned{}, true), pipeline.Preauth{Identity: identity(0), SPKI: spki})
			poison <- err
		}()
		served := 0
		var err error
		for err == nil {
			select {
			case err = <-poison:
			case <-time.After(10 * time.Millisecond):
				served++
				if _, err := c.Preauthorize(t.Context(), pipeline.Preauth{Identity: identity(served), SPKI: spki}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, outage := errors.AsType[*pipeline.Outage](err); outage || !strings.Contains(err.Error(), "20 attempts") {
			t.Errorf("error %v", err)
		}
		if served < 100 {
			t.Errorf("only %d others were served meanwhile", served)
		}
	})
}

type poisoned struct{}

// Nor does it when it is the last of its lot, and nothing else shows that the
// server is well.
func TestPoisonDeviceAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		c := f.client(t)
		if _, err := c.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.fault = func(*fakeRequest) (*http.Response, error) {
			return failure(http.StatusInternalServerError, "internal error"), nil
		}
		began := time.Now()
		_, err := c.Preauthorize(t.Context(), preauth(t, 1))
		if isOutage(err) || err == nil || time.Since(began) > 5*time.Minute {
			t.Errorf("error %v after %s, want the device's own", err, time.Since(began))
		}
	})
}

func TestCancelledContextIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.latency = time.Second
		spki, _ := newKey(t)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := f.client(t).Preauthorize(ctx, pipeline.Preauth{Identity: identity(1), SPKI: spki})
		if !errors.Is(err, context.DeadlineExceeded) || err.Error() != context.DeadlineExceeded.Error() {
			t.Errorf("error %v, want the context's", err)
		}
	})
}

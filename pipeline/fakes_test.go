package pipeline

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"testing"
)

// world is everything outside the line: in-memory fakes that keep what they
// were told and complain about misuse. faults makes one named call go wrong.
type world struct {
	t  *testing.T
	mu sync.Mutex

	records map[IdentitySum]*Record
	order   []IdentitySum
	events  []Event

	pack []packed            // overlays in order of staging
	sets map[string][][]byte // identity -> public keys that the server holds
	out  map[IdentitySum][]byte

	faults map[string]fault // by the name of the call
	calls  map[string]int
}

type packed struct {
	id        IdentitySum
	private   []byte
	destroyed bool
}

// fault makes the nth call (from 1) fail, before or after its effect.
type fault struct {
	nth   int
	after bool
	err   error
}

func newWorld(t *testing.T, devices int) *world {
	t.Helper()
	w := &world{
		t: t, records: map[IdentitySum]*Record{}, sets: map[string][][]byte{},
		out: map[IdentitySum][]byte{}, faults: map[string]fault{}, calls: map[string]int{},
	}
	for i := range devices {
		id := Identity{{Name: "mac", Value: fmt.Sprintf("02:00:00:00:%02x:%02x", i>>8, i&255)}}
		rec := &Record{Lot: "lot", State: Planned, Device: Device{Row: i + 2, Identity: id, Attrs: append(id[:1:1], Attr{Name: "serial", Value: fmt.Sprint("SN", i)})}}
		w.records[id.Sum()] = rec
		w.order = append(w.order, id.Sum())
	}
	return w
}

func (w *world) line(devices int) *Line {
	return NewLine(w.config(devices))
}

func (w *world) config(devices int) LineConfig {
	return LineConfig{
		Lot: Lot{Name: "lot", Keys: "software", Algorithm: "ed25519"}, Station: "line-1", Run: 7,
		Ledger: w, Keys: fakeKeys{w}, Images: fakeImages{w}, Server: fakeServer{w},
		Policy: ConflictFail, Limits: Limits{Devices: devices},
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

// do runs a call's effect under the lock, with the fault that was asked for.
func (w *world) do(name string, effect func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls[name]++
	f, broken := w.faults[name]
	broken = broken && (f.nth == 0 || f.nth == w.calls[name])
	if broken && !f.after {
		return f.err
	}
	if err := effect(); err != nil {
		return err
	}
	if broken {
		return f.err
	}
	return nil
}

type fakeKeys struct{ *world }

func (f fakeKeys) Generate(_ context.Context, label string) (private, public []byte, err error) {
	err = f.do("generate", func() error {
		if label == "" {
			f.t.Error("a key was made without a label")
		}
		pub, priv, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		der, err := x509.MarshalPKCS8PrivateKey(priv)
		if err != nil {
			return err
		}
		private = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		public, err = x509.MarshalPKIXPublicKey(pub)
		return err
	})
	return private, public, err
}

func (fakeKeys) AtOnce() int { return 0 }

type fakeImages struct{ *world }

func (f fakeImages) Stage(_ context.Context, dev *Device, private, _ []byte) (ref PackRef, err error) {
	err = f.do("stage", func() error {
		f.pack = append(f.pack, packed{id: dev.Identity.Sum(), private: slices.Clone(private)})
		ref = PackRef{Offset: int64(len(f.pack)), Length: 1}
		return nil
	})
	return ref, err
}

func (f fakeImages) Release(_ context.Context, rec *Record) (out Output, private []byte, err error) {
	err = f.do("release", func() error {
		entry := f.pack[rec.Pack.Offset-1]
		if entry.destroyed {
			return errors.New("the overlay was destroyed")
		}
		if len(f.sets[rec.Identity.String()]) != 1 {
			f.t.Errorf("%s: image published before the server knew the key", rec.Identity)
		}
		f.out[rec.Identity.Sum()] = entry.private
		private = slices.Clone(entry.private)
		out = Output{Name: rec.Identity.Name(), Bytes: 1}
		return nil
	})
	return out, private, err
}

func (f fakeImages) Settle(_ context.Context, rec *Record) error {
	return f.do("settle", func() error {
		if f.records[rec.Identity.Sum()].State != Released {
			f.t.Errorf("%s: overlay destroyed before its release was recorded", rec.Identity)
		}
		f.pack[rec.Pack.Offset-1].destroyed = true
		return nil
	})
}

func (f fakeImages) Destroy(_ context.Context, ref PackRef) error {
	return f.do("destroy", func() error {
		f.pack[ref.Offset-1].destroyed = true
		return nil
	})
}

func (f fakeImages) DestroyOutput(_ context.Context, name string) error {
	return f.do("destroy-output", func() error {
		for id, rec := range f.records {
			if rec.Identity.Name() == name {
				delete(f.out, id)
			}
		}
		return nil
	})
}

func (f fakeImages) PublicKey(_ context.Context, ref PackRef) ([]byte, error) {
	return PublicOf(f.pack[ref.Offset-1].private)
}

func (f fakeImages) Entries(context.Context) iter.Seq2[PackEntry, error] {
	return func(yield func(PackEntry, error) bool) {
		for i, p := range slices.Clone(f.pack) {
			if !yield(PackEntry{Identity: p.id, Ref: PackRef{int64(i + 1), 1}, Destroyed: p.destroyed}, nil) {
				return
			}
		}
	}
}

type fakeServer struct{ *world }

func (f fakeServer) Preauthorize(_ context.Context, req Preauth) (auth AuthSet, err error) {
	err = f.do("preauthorize", func() error {
		name := req.Identity.String()
		for _, key := range f.sets[name] {
			if !slices.Equal(key, req.SPKI) {
				return &ConflictError{DeviceID: "d", Status: "accepted", Fingerprint: Fingerprint(key), HTTPStatus: 409}
			}
		}
		if len(f.sets[name]) == 0 {
			f.sets[name] = append(f.sets[name], req.SPKI)
		}
		auth = AuthSet{DeviceID: "d-" + name, Status: "preauthorized", HTTPStatus: 201, Attempts: 1}
		return nil
	})
	return auth, err
}

func (f fakeServer) Holds(_ context.Context, keys []HeldKey) (held []bool, err error) {
	err = f.do("holds", func() error {
		for _, k := range keys {
			held = append(held, slices.ContainsFunc(f.sets[k.Identity.String()], func(set []byte) bool { return slices.Equal(set, k.SPKI) }))
		}
		return nil
	})
	return held, err
}

func (w *world) StaleKeys(context.Context, string) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		for _, id := range w.order {
			if rec := *w.records[id]; !rec.Stale.IsZero() && !yield(&rec, nil) {
				return
			}
		}
	}
}

func (w *world) Commit(_ context.Context, c Change) error {
	return w.do("commit-"+string(c.Record.State), func() error {
		id := c.Record.Identity.Sum()
		if w.records[id].State != c.From {
			return ErrLost
		}
		rec := *c.Record
		w.records[id] = &rec
		if e := c.Event; e.Lot != "lot" || e.Station == "" || e.Row != rec.Row || e.Serial == "" || e.Attempt != rec.Attempts || e.Run != 7 {
			w.t.Errorf("an event does not say which device of which run it is about: %+v", e)
		}
		w.events = append(w.events, c.Event)
		return nil
	})
}

// resumable yields what a run takes up.
func (w *world) resumable() iter.Seq2[*Record, error] {
	return w.Records(w.t.Context(), "lot", Resumable...)
}

func (w *world) Records(_ context.Context, _ string, states ...State) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		for _, id := range w.order {
			w.mu.Lock()
			rec := *w.records[id]
			w.mu.Unlock()
			if slices.Contains(states, rec.State) && !yield(&rec, nil) {
				return
			}
		}
	}
}

func (w *world) Record(_ context.Context, _ string, id IdentitySum) (*Record, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	known, ok := w.records[id]
	if !ok {
		return nil, ErrNoDevice
	}
	rec := *known
	return &rec, nil
}

func (w *world) Packed(_ context.Context, _, station string) iter.Seq2[PackedRecord, error] {
	return func(yield func(PackedRecord, error) bool) {
		var all []PackedRecord
		for id, rec := range w.records {
			if !rec.Pack.IsZero() && rec.PackStation == station {
				all = append(all, PackedRecord{Identity: id, Ref: rec.Pack, State: rec.State})
			}
		}
		slices.SortFunc(all, func(a, b PackedRecord) int { return int(a.Ref.Offset - b.Ref.Offset) })
		for _, p := range all {
			if !yield(p, nil) {
				return
			}
		}
	}
}

func (w *world) Totals(context.Context, string) (Totals, error) {
	totals := Totals{Lot: "lot", Devices: len(w.records)}
	for _, rec := range w.records {
		*totals.Count(rec.State)++
		totals.Keys.Generated += rec.KeysGenerated
		totals.Keys.Destroyed += rec.KeysDestroyed
		if rec.State == Released {
			totals.Keys.Released++
		}
	}
	return totals, nil
}

// checkComplete judges the end of a lot: every device released once, with the
// one key that the server, the ledger and the image agree on, and no other key
// left anywhere.
func (w *world) checkComplete() {
	w.t.Helper()
	live := map[IdentitySum]int{}
	for _, p := range w.pack {
		if !p.destroyed {
			live[p.id]++
		}
	}
	released := map[string]int{}
	for _, e := range w.events {
		if e.To == Released && e.Action == ActionRelease {
			released[e.Device.String()]++
		}
	}
	for id, rec := range w.records {
		name := rec.Identity.String()
		sets := w.sets[name]
		if rec.State != Released || released[name] != 1 {
			w.t.Errorf("%s is %s (%s), released %d times", name, rec.State, rec.Reason, released[name])
			continue
		}
		if len(sets) != 1 || !slices.Equal(sets[0], rec.PublicKey) {
			w.t.Errorf("%s: the server holds %d keys, or another one", name, len(sets))
		}
		if err := MatchKey(w.out[id], rec.PublicKey); err != nil {
			w.t.Errorf("%s: %v", name, err)
		}
		if live[id] > 1 {
			w.t.Errorf("%s: %d keys lie in the pack", name, live[id])
		}
	}
	totals, err := w.Totals(w.t.Context(), "lot")
	if err != nil {
		w.t.Fatal(err)
	}
	if k := totals.Keys; k.Generated != k.Released+k.Destroyed {
		w.t.Errorf("keys do not add up: %+v", k)
	}
}

// checkReleased judges a lot of which devices got new keys: all are released, and
// the balance holds.
func (w *world) checkReleased(devices int) {
	w.t.Helper()
	totals, err := w.Totals(w.t.Context(), "lot")
	if err != nil || totals.Released != devices || totals.Keys.Generated != totals.Keys.Released+totals.Keys.Destroyed {
		w.t.Errorf("%+v %v", totals, err)
	}
}

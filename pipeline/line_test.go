package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func never() <-chan struct{} { return make(chan struct{}) }

func TestCarryReleasesEveryDevice(t *testing.T) {
	w := newWorld(t, 300)
	var mu sync.Mutex
	reached := map[State]int{}
	line := w.line(32)
	line.Reached = func(_, to State) { mu.Lock(); reached[to]++; mu.Unlock() }
	if err := line.Carry(t.Context(), never(), w.resumable()); err != nil {
		t.Fatal(err)
	}
	w.checkComplete()
	for _, state := range []State{Staged, Preauthorized, Released} {
		if reached[state] != 300 {
			t.Errorf("%d devices were said to be %s, want 300", reached[state], state)
		}
	}
	before := len(w.events)
	if err := line.Carry(t.Context(), never(), w.resumable()); err != nil || len(w.events) != before {
		t.Errorf("a second run of a finished lot did something: %v", err)
	}
}

// TestFaultTable breaks each call once, before and after its effect, as a
// device's fault and as the environment's, and runs the lot again: the
// recovery is the ordinary path.
func TestFaultTable(t *testing.T) {
	calls := []string{"generate", "stage", "commit-staged", "preauthorize", "commit-preauthorized", "release", "commit-released", "settle"}
	for _, call := range calls {
		for _, after := range []bool{false, true} {
			for _, outage := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s after=%v outage=%v", call, after, outage), func(t *testing.T) {
					testFault(t, call, after, outage)
				})
			}
		}
	}
}

func testFault(t *testing.T, call string, after, outage bool) {
	w := newWorld(t, 20)
	fail := errors.New("broken on request")
	if outage {
		fail = &Outage{Part: PartStorage, Err: fail}
	}
	w.faults[call] = fault{nth: 7, after: after, err: fail}
	line := w.line(4)
	err := line.Carry(t.Context(), never(), w.resumable())
	_, isOutage := errors.AsType[*Outage](err)
	if stops := outage || call == "settle" || strings.HasPrefix(call, "commit"); stops != isOutage {
		t.Fatalf("Carry returned %v; must it stop the run? %v", err, stops)
	}
	if !isOutage && w.records[w.order[0]].State != Released && w.calls["release"] < 19 {
		t.Error("one device's failure kept others from their release")
	}
	w.faults = map[string]fault{}
	if _, err := line.Recover(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := line.Carry(t.Context(), never(), w.resumable()); err != nil {
		t.Fatal(err)
	}
	w.checkComplete()
}

func TestConflictWaitsForAPolicy(t *testing.T) {
	w := newWorld(t, 3)
	name := w.records[w.order[1]].Identity.String()
	w.sets[name] = [][]byte{[]byte("another key")}
	line := w.line(2)
	for range 2 { // a second run leaves it alone
		if err := line.Carry(t.Context(), never(), w.resumable()); err != nil {
			t.Fatal(err)
		}
	}
	rec := w.records[w.order[1]]
	if rec.State != Conflicted || rec.Reason == "" || rec.Attempts != 1 {
		t.Errorf("state %s, reason %q, attempts %d; want one recorded conflict", rec.State, rec.Reason, rec.Attempts)
	}
	if rec.Pack.IsZero() || len(w.sets[name]) != 1 {
		t.Error("the conflicting device lost its staged key, or the server got a second one")
	}
	delete(w.sets, name)
	if err := line.Carry(t.Context(), never(), w.Records(t.Context(), "lot", Failed, Conflicted)); err != nil {
		t.Fatal(err)
	}
	w.checkComplete()
}

// TestOneCarriesOneDevice: One ends where the device does, and its record says how.
func TestOneCarriesOneDevice(t *testing.T) {
	w := newWorld(t, 3)
	line := w.line(1)
	w.sets[w.records[w.order[1]].Identity.String()] = [][]byte{[]byte("another key")}
	for i, want := range []State{Released, Conflicted, Released} {
		rec, err := w.Record(t.Context(), "lot", w.order[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := line.One(t.Context(), rec); err != nil || rec.State != want {
			t.Errorf("device %d is %s (%s), err %v; want %s", i, rec.State, rec.Reason, err, want)
		}
	}
	w.faults["stage"] = fault{err: &Outage{Part: PartStorage, Err: errors.New("the disk is full")}}
	again := newWorld(t, 1)
	again.faults = w.faults
	rec, err := again.Record(t.Context(), "lot", again.order[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := again.line(1).One(t.Context(), rec); err == nil || rec.State != Planned {
		t.Errorf("the disk is full, but One returned %v and the device is %s", err, rec.State)
	}
}

// TestCallersShareOneLine: two callers carry the two halves of a lot at once,
// and the limits are the line's, not each caller's.
func TestCallersShareOneLine(t *testing.T) {
	w := newWorld(t, 200)
	config := w.config(16)
	counted := &counting{fakeKeys: fakeKeys{w}}
	config.Keys = counted
	line := NewLine(config)
	var callers errgroup.Group
	for half := range 2 {
		callers.Go(func() error {
			return line.Carry(t.Context(), never(), func(yield func(*Record, error) bool) {
				for rec, err := range w.resumable() {
					if (rec.Row < 102) == (half == 0) && !yield(rec, err) {
						return
					}
				}
			})
		})
	}
	if err := callers.Wait(); err != nil {
		t.Fatal(err)
	}
	w.checkComplete()
	if most := counted.most.Load(); most > 3 {
		t.Errorf("%d keys were made at once by two callers of a line that lets 3", most)
	}
}

// counting is a device that keeps 3 callers busy and counts how many come.
type counting struct {
	fakeKeys
	inside, most atomic.Int32
}

func (*counting) AtOnce() int { return 3 }

func (c *counting) Generate(ctx context.Context, label string) (private, public []byte, err error) {
	inside := c.inside.Add(1)
	defer c.inside.Add(-1)
	for most := c.most.Load(); inside > most && !c.most.CompareAndSwap(most, inside); most = c.most.Load() {
	}
	runtime.Gosched()
	return c.fakeKeys.Generate(ctx, label)
}

// TestWrongKeyInImage: an image that holds another key than the recorded one
// is never released.
func TestWrongKeyInImage(t *testing.T) {
	w := newWorld(t, 2)
	line := w.line(1)
	line.Images = swapped{fakeImages{w}}
	if err := line.Carry(t.Context(), never(), w.resumable()); err != nil {
		t.Fatal(err)
	}
	for _, rec := range w.records {
		if rec.Row == 3 && rec.State != Failed {
			t.Errorf("row %d is %s with another device's key in its image", rec.Row, rec.State)
		}
	}
}

// TestFlippedBitInImage: a single bit of the key that was staged a moment ago is
// found in the image, and so is another device's key on a resumed one, whose own is
// not known to the worker any more.
func TestFlippedBitInImage(t *testing.T) {
	w := newWorld(t, 2)
	line := w.line(1)
	line.Images = flipped{fakeImages{w}}
	if err := line.Carry(t.Context(), never(), w.resumable()); err != nil {
		t.Fatal(err)
	}
	for _, rec := range w.records {
		if rec.State != Failed {
			t.Errorf("row %d is %s with a bit of its key flipped", rec.Row, rec.State)
		}
	}
	first := slices.Clone(w.pack[0].private)
	line.Images = swapped{fakeImages{w}} // both get the first one's key
	if err := line.Carry(t.Context(), never(), w.resumable()); err != nil {
		t.Fatal(err)
	}
	for _, rec := range w.records {
		if own := MatchKey(first, rec.PublicKey) == nil; own != (rec.State == Released) {
			t.Errorf("row %d is %s; the image's key is its own: %t", rec.Row, rec.State, own)
		}
	}
}

type flipped struct{ fakeImages }

func (f flipped) Release(ctx context.Context, rec *Record) (Output, []byte, error) {
	out, private, err := f.fakeImages.Release(ctx, rec)
	private = slices.Clone(private)
	private[len(private)/2] ^= 1
	return out, private, err
}

type swapped struct{ fakeImages }

func (s swapped) Release(ctx context.Context, rec *Record) (Output, []byte, error) {
	out, _, err := s.fakeImages.Release(ctx, rec)
	return out, slices.Clone(s.pack[0].private), err
}

// TestSameKeyTwiceStopsTheRun: a source that repeats itself is broken.
func TestSameKeyTwiceStopsTheRun(t *testing.T) {
	w := newWorld(t, 5)
	line := w.line(1)
	line.Keys = &repeating{fakeKeys: fakeKeys{w}}
	err := line.Carry(t.Context(), never(), w.resumable())
	if outage, ok := errors.AsType[*Outage](err); !ok || outage.Part != PartHSM || outage.Hint == "" {
		t.Fatalf("got %v, want an outage of the source of keys", err)
	}
	if len(w.sets) > 1 {
		t.Errorf("the server got %d keys", len(w.sets))
	}
}

type repeating struct {
	fakeKeys
	private, public []byte
}

func (r *repeating) Generate(ctx context.Context, label string) (private, public []byte, err error) {
	if r.public == nil {
		r.private, r.public, err = r.fakeKeys.Generate(ctx, label)
	}
	return slices.Clone(r.private), r.public, err
}

// TestDeviceMakesKeysBesideTheCores: keys that a device makes wait for the
// device alone, not for the cores, and keep nobody from checking keys there.
func TestDeviceMakesKeysBesideTheCores(t *testing.T) { synctest.Test(t, testDeviceKeys) }

func testDeviceKeys(t *testing.T) {
	const devices, first, atOnce = 40, 10, 6
	w := newWorld(t, devices)
	config := w.config(32)
	config.Limits.CPU = 1
	device := &deviceKeys{fakeKeys: fakeKeys{w}, free: first, goOn: make(chan struct{})}
	config.Keys = device
	line := NewLine(config)
	done := make(chan error)
	go func() { done <- line.Carry(t.Context(), never(), w.resumable()) }()
	synctest.Wait()
	totals, err := w.Totals(t.Context(), "lot")
	if err != nil || device.inside.Load() != atOnce || totals.Released != first {
		t.Errorf("%d keys are being made at once, want %d; %d devices released meanwhile, want %d; err %v",
			device.inside.Load(), atOnce, totals.Released, first, err)
	}
	close(device.goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.checkComplete()
	if most := device.most.Load(); most > atOnce {
		t.Errorf("%d keys were made at once, want %d at most", most, atOnce)
	}
}

// deviceKeys makes a few keys at once and the others when it is told to go.
type deviceKeys struct {
	fakeKeys
	free               int32
	goOn               chan struct{}
	made, inside, most atomic.Int32
}

func (*deviceKeys) AtOnce() int { return 6 }

func (d *deviceKeys) Generate(ctx context.Context, label string) (private, public []byte, err error) {
	inside := d.inside.Add(1)
	defer d.inside.Add(-1)
	for most := d.most.Load(); inside > most && !d.most.CompareAndSwap(most, inside); most = d.most.Load() {
	}
	if d.made.Add(1) > d.free {
		<-d.goOn
	}
	return d.fakeKeys.Generate(ctx, label)
}

func TestDrainEndsBetweenSteps(t *testing.T) { synctest.Test(t, testDrainBetweenSteps) }

func testDrainBetweenSteps(t *testing.T) {
	const workers = 8
	w := newWorld(t, 1000)
	drain, told := make(chan struct{}), make(chan struct{})
	var once sync.Once
	line := w.line(workers)
	line.Reached = func(_, to State) {
		if to != Preauthorized {
			return
		}
		once.Do(func() {
			go func() {
				close(drain)
				synctest.Wait() // so that nobody is quicker than the word of it
				close(told)
			}()
		})
		<-told
	}
	if err := line.Carry(t.Context(), drain, w.resumable()); err != nil {
		t.Fatalf("a drained run is no error: %v", err)
	}
	totals, err := w.Totals(t.Context(), "lot")
	if err != nil || totals.Planned < 1000-2*workers || totals.Released > 0 {
		t.Fatalf("of 1000 devices %d were left alone after the drain and %d began another step, err %v", totals.Planned, totals.Released, err)
	}
	if err := w.line(workers).Carry(t.Context(), never(), w.resumable()); err != nil {
		t.Fatal(err)
	}
	w.checkComplete()
}

// TestDrainCutsOffWhatHangs: a server that never answers does not hold a drain.
func TestDrainCutsOffWhatHangs(t *testing.T) { synctest.Test(t, testDrainHanging) }

func testDrainHanging(t *testing.T) {
	w := newWorld(t, 4)
	line := w.line(4)
	asked := make(chan struct{}, 4)
	line.Server = hanging{asked}
	drain := make(chan struct{})
	go func() { <-asked; close(drain) }()
	if err := line.Carry(t.Context(), drain, w.resumable()); err != nil {
		t.Fatal(err)
	}
	for _, rec := range w.records {
		if rec.State != Staged && rec.State != Planned {
			t.Errorf("row %d is %s (%s); cut off is not failed", rec.Row, rec.State, rec.Reason)
		}
	}
}

type hanging struct{ asked chan struct{} }

func (hanging) Holds(context.Context, []HeldKey) ([]bool, error) { return nil, nil }

func (h hanging) Preauthorize(ctx context.Context, _ Preauth) (AuthSet, error) {
	h.asked <- struct{}{}
	<-ctx.Done()
	return AuthSet{}, ctx.Err()
}

func TestCancelStopsAtOnce(t *testing.T) {
	w := newWorld(t, 10)
	ctx, cancel := context.WithCancel(t.Context())
	line := w.line(2)
	line.Reached = func(State, State) { cancel() }
	if err := line.Carry(ctx, never(), w.Records(ctx, "lot", Resumable...)); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the context's error", err)
	}
}

func TestRecoverDestroysWhatNobodyKnows(t *testing.T) {
	w := newWorld(t, 3)
	line := w.line(1)
	if err := line.Carry(t.Context(), never(), w.resumable()); err != nil {
		t.Fatal(err)
	}
	stray := w.order[1]
	w.pack = append(w.pack, packed{id: stray, private: newKey(t)})
	w.pack[0].destroyed = false // as if a crash had come before Settle
	w.faults["holds"] = fault{err: &Outage{Part: PartServer, Err: errors.New("no answer")}}
	if _, err := line.Recover(t.Context(), true); err == nil || w.pack[3].destroyed || w.pack[0].destroyed {
		t.Fatalf("the server can't be asked, but %v", err)
	}
	w.faults = map[string]fault{}
	found, err := line.Recover(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if found.Destroyed != 1 || found.Settled != 1 {
		t.Errorf("found %+v, want one stray and one leftover", found)
	}
	if rec := w.records[stray]; rec.KeysGenerated != 2 || rec.KeysDestroyed != 1 || rec.State != Released {
		t.Errorf("the stray key is not in the balance: %+v", rec)
	}
	for i, p := range w.pack {
		if !p.destroyed {
			t.Errorf("entry %d is still there", i)
		}
	}
}

func newKey(t *testing.T) []byte {
	t.Helper()
	private, _, err := fakeKeys{newWorld(t, 0)}.Generate(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	return private
}

// TestRecoverKeepsWhatTheServerKnows: a ledger that was put back from a copy
// doesn't know half of the keys in the pack.
func TestRecoverKeepsWhatTheServerKnows(t *testing.T) {
	w := newWorld(t, 20)
	line := w.line(4)
	old := map[IdentitySum]Record{}
	for id, rec := range w.records {
		old[id] = *rec
	}
	if err := line.Carry(t.Context(), never(), w.resumable()); err != nil {
		t.Fatal(err)
	}
	for _, id := range w.order[5:] {
		rec := old[id]
		w.records[id] = &rec
	}
	for i := range w.pack {
		w.pack[i].destroyed = false
	}
	_, err := line.Recover(t.Context(), true)
	behind, ok := errors.AsType[*BehindError](err)
	if !ok || behind.Keys != 15 || behind.First == nil || !strings.Contains(behind.Hint(), "ledger restore") {
		t.Fatalf("got %v, want 15 keys that the ledger doesn't know", err)
	}
	for i, p := range w.pack {
		if p.destroyed {
			t.Errorf("entry %d was destroyed", i)
		}
	}
	// A pack of another lot.
	w = newWorld(t, 1)
	w.pack = []packed{{id: Identity{{"mac", "of another"}}.Sum(), private: newKey(t)}}
	if _, err := w.line(1).Recover(t.Context(), true); err == nil || w.pack[0].destroyed {
		t.Errorf("an entry of a device that the lot doesn't have: %v", err)
	}
}

// TestClaimsShareAnOffset: of two records that claim one place, the one whose
// entry lies there keeps it, whichever comes first.
func TestClaimsShareAnOffset(t *testing.T) {
	for _, first := range []int{0, 1} {
		w := newWorld(t, 2)
		if err := w.line(1).Carry(t.Context(), never(), w.resumable()); err != nil {
			t.Fatal(err)
		}
		w.pack = w.pack[:1] // an older copy of the pack, which grew again
		w.pack[0] = packed{id: w.order[first], private: w.out[w.order[first]]}
		for _, id := range w.order {
			w.records[id].Pack = PackRef{1, 1}
		}
		found, err := w.line(1).Recover(t.Context(), false)
		if err != nil || found.Kept != 1 || w.pack[0].destroyed {
			t.Errorf("%+v %v", found, err)
		}
	}
}

// TestRekeyIsRecoverable: after a cut behind the commit the old key is destroyed
// by the next start, once.
func TestRekeyIsRecoverable(t *testing.T) {
	w := newWorld(t, 2)
	line := w.line(1)
	if err := line.Carry(t.Context(), never(), w.resumable()); err != nil {
		t.Fatal(err)
	}
	rec, err := w.Record(t.Context(), "lot", w.order[0])
	if err != nil {
		t.Fatal(err)
	}
	w.pack[0].destroyed = false
	changes := Transitions{Ledger: w, Station: "line-1", Run: 7}
	if err := changes.Rekeyed(t.Context(), rec, "lost"); err != nil {
		t.Fatal(err)
	}
	if w.pack[0].destroyed || rec.Stale.Pack.IsZero() {
		t.Error("the old key was destroyed before all was recorded, or isn't known any more")
	}
	found, err := line.Recover(t.Context(), false)
	if err != nil || found.Given != 1 || !w.pack[0].destroyed {
		t.Errorf("%+v %v", found, err)
	}
	if found, err := line.Recover(t.Context(), false); err != nil || found.Given != 0 {
		t.Errorf("again: %+v %v", found, err)
	}
	delete(w.sets, rec.Identity.String()) // what Replaces does at a real server
	if err := line.Carry(t.Context(), never(), w.resumable()); err != nil {
		t.Fatal(err)
	}
	w.checkReleased(2)
}

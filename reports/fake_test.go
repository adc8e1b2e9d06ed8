package reports

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"keymill/pipeline"
)

// fakeLedger is an in-memory ledger that keeps lot logs and station logs, as Source
// and Journal want it.
type fakeLedger struct {
	t       testing.TB
	lots    map[string]pipeline.Lot
	records map[string][]*pipeline.Record
	clock   time.Time
	failAt  int // a device that fails, 0 for none
	order   []Log
	logs    map[string][]pipeline.StoredEvent // by origin
	heads   map[string][]byte
	epoch   map[string]int // by station and lot
	read    int            // events handed out by LogEvents
	from    int64          // events before those that are in memory
}

func newLedger(t testing.TB) *fakeLedger {
	return &fakeLedger{t: t, lots: map[string]pipeline.Lot{}, records: map[string][]*pipeline.Record{},
		clock: time.Date(2026, 3, 14, 8, 0, 0, 0, time.UTC),
		logs:  map[string][]pipeline.StoredEvent{}, heads: map[string][]byte{}, epoch: map[string]int{}}
}

func (l *fakeLedger) Lot(_ context.Context, name string) (pipeline.Lot, error) {
	lot, ok := l.lots[name]
	if !ok {
		return lot, fmt.Errorf("no lot %q", name)
	}
	return lot, nil
}

func (l *fakeLedger) Totals(_ context.Context, lot string) (pipeline.Totals, error) {
	t := pipeline.Totals{Lot: lot}
	for _, r := range l.records[lot] {
		t.Devices++
		if n := t.Count(r.State); n != nil {
			*n++
		}
		t.Keys.Generated += r.KeysGenerated
		t.Keys.Destroyed += r.KeysDestroyed
		if r.State == pipeline.Released {
			t.Keys.Released++
		}
	}
	return t, nil
}

func (l *fakeLedger) Records(ctx context.Context, lot string, states ...pipeline.State) iter.Seq2[*pipeline.Record, error] {
	return func(yield func(*pipeline.Record, error) bool) {
		for _, r := range l.records[lot] {
			if len(states) > 0 && !slices.Contains(states, r.State) {
				continue
			}
			clone := *r
			if ctx.Err() != nil {
				yield(nil, ctx.Err())
				return
			}
			if !yield(&clone, nil) {
				return
			}
		}
	}
}

// seq gives an event its number and time, as a ledger does.
func (l *fakeLedger) seq(e pipeline.Event) int64 {
	l.clock = l.clock.Add(1700 * time.Microsecond)
	e.Time = l.clock
	if e.Station == "" {
		e.Station = "line-3"
	}
	log := Log{Kind: pipeline.LogStation, Station: e.Station, Lot: e.Lot, Epoch: max(l.epoch[e.Station+"/"+e.Lot], 1)}
	if e.Lot != "" {
		log.Kind = pipeline.LogLot
	}
	log.Origin = pipeline.LogOrigin(e.Station, e.Lot, log.Epoch)
	if len(l.logs[log.Origin]) == 0 {
		l.order = append(l.order, log)
	}
	e.Seq, e.Epoch = l.from+int64(len(l.logs[log.Origin]))+1, log.Epoch
	line := e.Canonical()
	l.logs[log.Origin] = append(l.logs[log.Origin], pipeline.StoredEvent{Origin: log.Origin, Epoch: log.Epoch, Station: e.Station, Seq: e.Seq,
		Lot: e.Lot, Canonical: line, Leaf: pipeline.LeafHash(line)})
	return e.Seq
}

func (l *fakeLedger) Append(_ context.Context, e pipeline.Event) (int64, error) { return l.seq(e), nil }
func (l *fakeLedger) append(e pipeline.Event)                                   { l.seq(e) }

// last returns the seq of the lot's last event.
func (l *fakeLedger) last(lot string) int64 { return int64(len(l.logs[LotOrigin("line-3", lot, 1)])) }

func (l *fakeLedger) Logs(_ context.Context, lot string) ([]Log, error) {
	stations := map[string]bool{}
	var out []Log
	for _, one := range l.order {
		if one.Kind == pipeline.LogLot && one.Lot == lot {
			stations[one.Station] = true
		}
	}
	for _, one := range l.order {
		one.Size = int64(len(l.logs[one.Origin]))
		if lot == "" || one.Kind == pipeline.LogLot && one.Lot == lot || one.Kind == pipeline.LogStation && stations[one.Station] {
			out = append(out, one)
		}
	}
	return out, nil
}

func (l *fakeLedger) LogEvents(_ context.Context, log Log, after int64) iter.Seq2[pipeline.StoredEvent, error] {
	return func(yield func(pipeline.StoredEvent, error) bool) {
		for _, e := range l.logs[log.Origin][min(after, int64(len(l.logs[log.Origin]))):] {
			l.read++
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (l *fakeLedger) Events(_ context.Context, lot string) iter.Seq2[pipeline.StoredEvent, error] {
	return func(yield func(pipeline.StoredEvent, error) bool) {
		for _, one := range l.order {
			for _, e := range l.logs[one.Origin] {
				if (lot == "" || e.Lot == lot) && !yield(e, nil) {
					return
				}
			}
		}
	}
}

func (l *fakeLedger) Head(_ context.Context, origin string) (int64, string, error) {
	if l.heads[origin] == nil {
		return 0, "", nil
	}
	head, err := readHead(string(l.heads[origin]))
	return head.Size, string(l.heads[origin]), err
}

func (l *fakeLedger) SaveHead(_ context.Context, origin string, _ int64, signed string) error {
	l.heads[origin] = []byte(signed)
	return nil
}

// close closes a lot as a run does.
func (l *fakeLedger) close(lot string) {
	l.t.Helper()
	e, err := Close(l.t.Context(), l, lot, "line-3")
	if err != nil {
		l.t.Fatal(err)
	}
	l.seq(e)
	one := l.lots[lot]
	one.Closed = l.clock
	l.lots[lot] = one
}

// spki returns the SPKI of an Ed25519 public key that depends on the seed only.
func spki(t testing.TB, seed string) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte(seed)) // a report never uses the key, so any 32 bytes do
	der, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(sum[:]))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// fill makes a lot of n devices as a run leaves it: every 50th device failed
// after it was staged, every 73rd conflicts, every 10th took a retry, some were
// taken back or given another key.
func (l *fakeLedger) fill(lot string, n int) {
	sum := func(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }
	l.lots[lot] = pipeline.Lot{Name: lot, Devices: n, ManifestSHA256: sum(lot), GoldenSHA256: sum("golden"),
		InjectSHA256: sum("inject"), Format: "raw", Keys: "software", Algorithm: "ed25519",
		Server: "https://mender.example", Station: "line-3", Created: l.clock}
	facts := []pipeline.Attr{{Name: "devices", Value: fmt.Sprint(n)}, {Name: "format", Value: "raw"}, {Name: "golden_sha256", Value: sum("golden")},
		{Name: "identity", Value: "mac"}, {Name: "inject_sha256", Value: sum("inject")}, {Name: "manifest_sha256", Value: sum(lot)}}
	facts = append(facts, pipeline.Attr{Name: "roster_sha256", Value: roster(n)})
	l.append(pipeline.Event{Lot: lot, Action: pipeline.ActionPlan, Facts: facts})
	l.append(pipeline.Event{Lot: lot, Action: pipeline.ActionRun, Facts: []pipeline.Attr{{Name: "algorithm", Value: "ed25519"},
		{Name: "keys", Value: "software"}, {Name: "operator", Value: "r. müller"}, {Name: "server", Value: "https://mender.example"}, {Name: "tool_version", Value: "1.0"}}})
	run := l.last(lot)
	for i := range n {
		l.carry(lot, run, i)
	}
	var counts []pipeline.Attr
	totals, _ := l.Totals(l.t.Context(), lot)
	for _, state := range pipeline.States {
		counts = append(counts, pipeline.Attr{Name: string(state), Value: fmt.Sprint(*totals.Count(state))})
	}
	l.append(pipeline.Event{Lot: lot, Run: run, Action: pipeline.ActionRunEnd, Facts: sortedFacts(counts)})
}

// device returns the i-th device of every lot.
func fakeDevice(i int) (identity pipeline.Identity, attrs []pipeline.Attr) {
	mac := fmt.Sprintf("02:12:61:%02x:%02x:%02x", byte(i>>16), byte(i>>8), byte(i))
	return pipeline.Identity{{Name: "mac", Value: mac}},
		[]pipeline.Attr{{Name: "mac", Value: mac}, {Name: "serial", Value: fmt.Sprintf("SN%07d", i)}, {Name: "note", Value: notes[i%len(notes)]}}
}

// roster is what planning records of n devices.
func roster(n int) string {
	h := sha256.New()
	for i := range n {
		identity, attrs := fakeDevice(i)
		fmt.Fprintf(h, "%d\t%s\t%s\n", i+2, identity.JSON(), pipeline.Identity(attrs).JSON())
	}
	return hex.EncodeToString(h.Sum(nil))
}

// carry takes one device as far as its row says and appends its events.
func (l *fakeLedger) carry(lot string, run int64, i int) {
	identity, attrs := fakeDevice(i)
	mac := identity[0].Value
	r := &pipeline.Record{Lot: lot, State: pipeline.Planned, Attempts: 1, Station: "line-3"}
	r.Row = i + 2
	r.Identity, r.Attrs = identity, attrs
	to := func(s pipeline.State, e pipeline.Event) {
		e.Lot, e.Run, e.Row, e.Device, e.Attempt = lot, run, r.Row, r.Identity, r.Attempts
		e.From, e.To, e.Algorithm, e.SPKI = r.State, s, r.Algorithm, r.Fingerprint()
		e.Serial, _ = r.Attr("serial")
		l.append(e)
		r.State, r.Updated, r.Reason = s, l.clock, e.Reason
	}
	defer func() { l.records[lot] = append(l.records[lot], r) }()
	r.PublicKey, r.Algorithm = spki(l.t, lot+mac), "ed25519"
	r.Pack, r.KeysGenerated = pipeline.PackRef{Offset: int64(i) * 8192, Length: 4096}, 1
	to(pipeline.Staged, pipeline.Event{Action: pipeline.ActionStage, Key: "in-pack"})
	switch {
	case i%50 == 49, l.failAt > 0 && i == l.failAt:
		to(pipeline.Failed, pipeline.Event{Action: pipeline.ActionFail, Reason: "=the server said 400: bad identity"})
		return
	case i%73 == 72:
		to(pipeline.Conflicted, pipeline.Event{Action: pipeline.ActionConflict, Reason: "the server holds another key"})
		return
	case i%10 == 9:
		to(pipeline.Failed, pipeline.Event{Action: pipeline.ActionFail, Reason: "timeout"})
		r.Attempts++
	}
	r.Auth = pipeline.AuthSet{DeviceID: fmt.Sprintf("dev-%d", i), Status: "preauthorized",
		RequestID: fmt.Sprintf("req-%d", i), HTTPStatus: 201, Attempts: 1 + i%3/2}
	to(pipeline.Preauthorized, pipeline.Event{Action: pipeline.ActionPreauthorize, Auth: r.Auth})
	h := sha256.Sum256([]byte(mac))
	r.Output = pipeline.Output{Name: fmt.Sprintf("images/%d.sdimg", i), Bytes: 1 << 20, SHA256: hex.EncodeToString(h[:])}
	to(pipeline.Released, pipeline.Event{Action: pipeline.ActionRelease, Output: r.Output, Key: "in-image", ReadBack: "match"})
	switch i % 97 {
	case 41: // its image was lost: it waits for a new key
		r.KeysDestroyed = r.KeysGenerated
		to(pipeline.Planned, pipeline.Event{Action: pipeline.ActionRekey, Key: "destroyed"})
		r.PublicKey, r.Algorithm, r.Pack, r.Auth, r.Output = nil, "", pipeline.PackRef{}, pipeline.AuthSet{}, pipeline.Output{}
		r.PublicKey, r.Algorithm = spki(l.t, lot+mac+"2"), "ed25519"
		r.Pack, r.KeysGenerated = pipeline.PackRef{Offset: 1, Length: 1}, 2
		to(pipeline.Staged, pipeline.Event{Action: pipeline.ActionStage, Key: "in-pack"})
		// A crash cut off one more key, which the next start destroyed.
		r.KeysGenerated, r.KeysDestroyed = 3, 2
		to(pipeline.Staged, pipeline.Event{Action: pipeline.ActionDestroyKey, Key: "destroyed"})
		to(pipeline.Failed, pipeline.Event{Action: pipeline.ActionFail, Reason: "timeout"})
	case 43:
		to(pipeline.Undone, pipeline.Event{Action: pipeline.ActionUndo, Key: "destroyed"})
		r.Auth.Status, r.Output, r.Pack, r.KeysDestroyed = "", pipeline.Output{}, pipeline.PackRef{}, r.KeysGenerated
	}
}

// notes are attribute values that a table must not choke on.
var notes = []string{"", "=1+1", "+49 30", "-5", "@SUM(A1)", "\ttab", "\rcr", "comma, \"quote\"", "two\nlines", "＝full", "<b>&amp;</b>", "ünïcödé 測試"}

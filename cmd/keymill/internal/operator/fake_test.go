package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keymill/pipeline"
)

// fakeLot keeps a lot in memory, and says where the station misuses it: two live
// units of one device, a move that isn't one, a label before its time.
type fakeLot struct {
	t *testing.T

	mu      sync.Mutex
	records []*pipeline.Record
	byCode  map[string]*pipeline.Record
	units   []*Unit // as the ledger has them
	notes   []Note
	down    error
	make    bool // staged devices may get units
}

func newFakeLot(t *testing.T, devices int) *fakeLot {
	l := &fakeLot{t: t, byCode: map[string]*pipeline.Record{}}
	for i := range devices {
		serial := fmt.Sprintf("SN%04d", i+1)
		rec := &pipeline.Record{Lot: "W47", State: pipeline.Released, Device: pipeline.Device{
			Row: i + 2, Identity: pipeline.Identity{{Name: "mac", Value: fmt.Sprintf("02:00:00:00:%02x:%02x", i/256, i%256)}},
			Attrs: []pipeline.Attr{{Name: "serial", Value: serial}},
		}}
		l.records = append(l.records, rec)
		l.byCode[serial] = rec
	}
	return l
}

func (l *fakeLot) Name() string { return "W47" }

func (l *fakeLot) Find(_ context.Context, code string) (*pipeline.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down != nil {
		return nil, l.down
	}
	if rec := l.byCode[code]; rec != nil {
		return rec, nil
	}
	missing := &NotFoundError{Code: code}
	if strings.HasPrefix(code, "OTHER") {
		missing.Other = "W46"
	}
	return nil, missing
}

func (l *fakeLot) live(row int) *Unit {
	for _, u := range l.units {
		if u.Record.Row == row && u.State != Failed && u.State != Scrapped {
			return u
		}
	}
	return nil
}

func (l *fakeLot) Next(context.Context) (*pipeline.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, rec := range l.records {
		if l.live(rec.Row) == nil {
			return rec, nil
		}
	}
	return nil, nil
}

func (l *fakeLot) Counts(context.Context) (Counts, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down != nil {
		return Counts{}, l.down
	}
	c := Counts{Devices: len(l.records)}
	for _, u := range l.units {
		switch u.State {
		case Confirmed:
			c.Made++
		case Failed:
			c.Failed++
		case Scrapped:
			c.Scrapped++
		default:
			c.Live++
		}
	}
	c.Remaining = c.Devices - c.Live - c.Made
	return c, nil
}

func (l *fakeLot) Unfinished(context.Context) ([]*Unit, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var left []*Unit
	for _, u := range l.units {
		if u.State != Failed && u.State != Scrapped && u.State != Confirmed {
			c := *u
			left = append(left, &c)
		}
	}
	return left, nil
}

func (l *fakeLot) Live(_ context.Context, rec *pipeline.Record) (*Unit, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u := l.live(rec.Row); u != nil {
		c := *u
		return &c, nil
	}
	return nil, nil
}

func (l *fakeLot) Reserve(_ context.Context, rec *pipeline.Record, slot, operator string) (*Unit, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down != nil {
		return nil, l.down
	}
	if u := l.live(rec.Row); u != nil {
		c := *u
		return nil, &TakenError{&c}
	}
	if rec.State != pipeline.Released && !l.make {
		return nil, &NotReadyError{rec.State}
	}
	again := false
	for _, u := range l.units {
		again = again || u.Record.Row == rec.Row && u.Label != ""
	}
	u := &Unit{Record: rec, Number: len(l.units) + 1, State: Reserved, Slot: slot, Operator: operator, Again: again, Created: time.Now()}
	u.Marker[0], u.Marker[1] = byte(u.Number), byte(u.Number>>8)
	l.units = append(l.units, u)
	c := *u
	return &c, nil
}

var fakeMoves = map[UnitState][]UnitState{
	Reserved: {Writing, Failed, Scrapped}, Writing: {Writing, Verified, Failed, Scrapped},
	Verified: {Labelled, Confirmed, Failed, Scrapped}, Labelled: {Labelled, Confirmed, Failed, Scrapped}, Confirmed: {Scrapped},
}

func (l *fakeLot) Move(_ context.Context, u *Unit, to UnitState) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down != nil {
		return l.down
	}
	have := l.units[u.Number-1]
	if have.State != u.State {
		l.t.Errorf("unit %d is %s, but the station thinks %s", u.Number, have.State, u.State)
		return errors.New("lost")
	}
	ok := false
	for _, may := range fakeMoves[have.State] {
		ok = ok || may == to
	}
	if !ok {
		l.t.Errorf("unit %d can't go from %s to %s", u.Number, have.State, to)
	}
	if l.make && (to == Labelled || to == Confirmed) && u.Record.State != pipeline.Released {
		l.t.Errorf("unit %d becomes %s, but its device is %s", u.Number, to, u.Record.State)
	}
	u.State = to
	c := *u
	*have = c
	return nil
}

func (l *fakeLot) Note(_ context.Context, n Note) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notes = append(l.notes, n)
	return nil
}

func (l *fakeLot) states() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, u := range l.units {
		out = append(out, fmt.Sprintf("%s %s", deviceName(u.Record), u.State))
	}
	return strings.Join(out, ", ")
}

// fakePress writes to media that are contents in a map.
type fakePress struct {
	t     *testing.T
	takes time.Duration

	mu    sync.Mutex
	media map[string]*Contents // by path
	fails map[string]*WriteError
	keys  map[int][]string // where each row's key went
	let   chan struct{}    // closed to end writings that take long
}

func newFakePress(t *testing.T) *fakePress {
	return &fakePress{t: t, media: map[string]*Contents{}, fails: map[string]*WriteError{}, keys: map[int][]string{}, let: make(chan struct{})}
}

func (p *fakePress) Need() int64 { return 1 << 20 }

func (p *fakePress) Look(_ context.Context, path string, rec *pipeline.Record) (Contents, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.media[path]; c != nil {
		return *c, nil
	}
	return Contents{Medium: path, Bytes: 1 << 30}, nil
}

func (p *fakePress) Write(ctx context.Context, job WriteJob) error {
	c, err := p.Look(ctx, job.Path, nil)
	if err != nil {
		return err
	}
	if err := job.Check(c); err != nil {
		return err
	}
	if err := job.Begin(ctx, "medium:"+job.Path); err != nil {
		return err
	}
	set := func(holds string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.media[job.Path] = &Contents{Medium: job.Path, Bytes: 1 << 30, Holds: holds, Marker: job.Unit.Marker}
	}
	set(HoldsMarker)
	job.First()
	for i, step := range []string{"write", "compare", "key"} {
		p.mu.Lock()
		takes, let := p.takes, p.let
		p.mu.Unlock()
		select {
		case <-let:
		case <-time.After(takes / 3):
		case <-ctx.Done():
			return &WriteError{Code: "interrupted", Err: ctx.Err(), KeyLeft: i == 2}
		}
		job.Progress(step, 1, 2)
	}
	p.mu.Lock()
	failure := p.fails[job.Path]
	delete(p.fails, job.Path)
	p.mu.Unlock()
	if failure != nil {
		return failure
	}
	set(HoldsGolden)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys[job.Unit.Record.Row] = append(p.keys[job.Unit.Record.Row], fmt.Sprintf("%s#%d", job.Path, job.Unit.Number))
	return nil
}

func (p *fakePress) Wipe(_ context.Context, path string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.media, path)
	return nil
}

func (p *fakePress) File(_ context.Context, dir string, u *Unit) (path, sum string, err error) {
	path = filepath.Join(dir, "image.img")
	return path, "abc", os.WriteFile(path, []byte(deviceName(u.Record)), 0o600)
}

func (p *fakePress) Shred(path string) error { return os.Remove(path) }

func (p *fakePress) Stream(ctx context.Context, path string, u *Unit) error {
	return os.WriteFile(path, []byte(deviceName(u.Record)), 0o600)
}

// fakePlace is a slot that a test plugs media into.
type fakePlace struct {
	name string
	mu   sync.Mutex
	seq  int
	in   bool
}

func (p *fakePlace) String() string { return p.name }

func (p *fakePlace) Look() Presence {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.in {
		return Presence{}
	}
	return Presence{Path: "/dev/fake" + p.name, Seq: fmt.Sprint(p.seq), Bytes: 1 << 30}
}

func (p *fakePlace) plug() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.in, p.seq = true, p.seq+1
}

func (p *fakePlace) pull() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.in = false
}

// fakeLabeller's code has the unit's number in it.
type fakeLabeller struct{}

func (fakeLabeller) Label(u *Unit, _ string) (string, []byte, error) {
	code := fmt.Sprintf("%s.U%d", deviceName(u.Record), u.Number)
	return code, []byte("^XA" + code + "^XZ"), nil
}

// fakePrinter prints unless a fault is set.
type fakePrinter struct {
	mu      sync.Mutex
	fault   *PrinterError
	printed []string
	queue   []string
}

func (p *fakePrinter) String() string { return "fake" }

func (p *fakePrinter) set(fault *PrinterError) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
	if fault == nil {
		p.printed = append(p.printed, p.queue...)
		p.queue = nil
	}
}

func (p *fakePrinter) Ready(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault != nil {
		return p.fault
	}
	return nil
}

func (p *fakePrinter) Print(_ context.Context, name string, data []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault != nil {
		if p.fault.Queued {
			p.queue = append(p.queue, name)
		}
		return p.fault
	}
	p.printed = append(p.printed, name)
	return nil
}

func (p *fakePrinter) Settle(ctx context.Context) error { return p.Ready(ctx) }

// bench is a station with fakes.
type bench struct {
	*Station
	t       *testing.T
	lot     *fakeLot
	press   *fakePress
	printer *fakePrinter
	places  []*fakePlace
	stop    context.CancelFunc
	ended   chan struct{}
	scans   int
}

const testBadges = `badge,name,role,pin
B1001,Ana,operator,
B1002,Ben,operator,
S2001,Mia,supervisor,$2a$04$J3Hh17onSB.Y9/vPKjtYCuatQeNafHXVdwnG1TYL4HLhq9/h7OfVm
`

func newBench(t *testing.T, devices, slots int, change func(*bench, *Options)) *bench {
	t.Helper()
	b := &bench{t: t, lot: newFakeLot(t, devices), press: newFakePress(t), printer: &fakePrinter{}}
	b.press.takes = 9 * time.Second
	opt := Options{Station: "line-3", Lot: b.lot, Press: b.press, Labeller: fakeLabeller{}, Printer: b.printer, Log: slog.New(slog.DiscardHandler)}
	for i := range slots {
		place := &fakePlace{name: fmt.Sprint(i + 1)}
		b.places = append(b.places, place)
		opt.Slots = append(opt.Slots, SlotOptions{Name: place.name, Place: place})
	}
	if change != nil {
		change(b, &opt)
	}
	b.begin(opt)
	return b
}

func (b *bench) begin(opt Options) {
	b.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	st, err := New(ctx, opt)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Station, b.stop, b.ended = st, stop, make(chan struct{})
	ended := b.ended
	go func() {
		defer close(ended)
		if err := st.Run(ctx); err != nil {
			b.t.Error(err)
		}
	}()
}

// end stops the station as SIGTERM would.
func (b *bench) end() {
	b.stop()
	<-b.ended
}

// scan scans with an id of its own.
func (b *bench) scan(text string) *View {
	b.t.Helper()
	b.scans++
	return b.Scan(context.Background(), fmt.Sprintf("scan-%d", b.scans), text)
}

// want fails unless the page shows a screen, and words of its message.
func (b *bench) want(screen string, words ...string) *View {
	b.t.Helper()
	v, _ := b.View()
	all := strings.Join([]string{v.Message, v.Action, v.More, v.Code}, " | ")
	if v.Last != nil {
		all += " | " + v.Last.Text + " | " + v.Last.Action
	}
	if v.Screen != screen {
		b.t.Fatalf("the screen is %s (%s), not %s; units: %s", v.Screen, all, screen, b.lot.states())
	}
	for _, word := range words {
		if !strings.Contains(all, word) {
			b.t.Fatalf("the screen %s says %q, without %q", screen, all, word)
		}
	}
	return v
}

// wantUnits compares the ledger's units.
func (b *bench) wantUnits(states ...string) {
	b.t.Helper()
	if got := b.lot.states(); got != strings.Join(states, ", ") {
		b.t.Fatalf("units: %s; want %s", got, strings.Join(states, ", "))
	}
}

// blank puts a new card into a place.
func (p *fakePress) blank(path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.media, path)
}

// set puts a card that holds something into a place.
func (p *fakePress) set(path string, c *Contents) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.media[path] = c
}

// slow makes each writing take a time; free ends those that are waiting.
func (p *fakePress) slow(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.takes = d
}

func (p *fakePress) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.let)
	p.let = make(chan struct{})
}

func (m *fakeMaker) up() {
	m.lot.mu.Lock()
	defer m.lot.mu.Unlock()
	m.down = nil
}

func serverDown() error {
	return &pipeline.Outage{Part: pipeline.PartServer, Err: errors.New("no route to the server")}
}

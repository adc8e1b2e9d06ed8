package operator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/station"
	"keymill/cmd/keymill/internal/trial"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/pipeline/mender/sandbox"
)

// asStation makes the test's own program a station: the settings, as JSON.
const asStation = "KEYMILL_TEST_STATION"

func TestMain(m *testing.M) {
	if text := os.Getenv(asStation); text != "" {
		if err := beStation(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func beStation(text string) error {
	var s struct {
		Settings
		Flags map[string]any
		File  string
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	o := station.Options{Settings: config.Layers{Env: os.Environ(), File: s.File, Flags: s.Flags}, Hooks: station.Hooks{LogTo: os.Stderr}}
	bench, err := Open(context.Background(), o, s.Settings)
	if err != nil {
		return err
	}
	defer bench.Close()
	fmt.Println(bench.Page.URL())
	return bench.Run()
}

// line is a bench with real parts: a lot in a ledger, a station in a process of
// its own, a printer on TCP, and loop devices for media where root makes them.
type line struct {
	t       *testing.T
	w       *trial.Trial
	printer *TrialPrinter
	spec    string
	address string
	proc    *exec.Cmd
	log     *bytes.Buffer
	loops   map[string]string // device by slot
	backing map[string]string // file by slot
	media   map[string]string // finished media, by device's serial
	files   int
}

const mediumBytes = 80 << 20

func newLine(t *testing.T, devices, loops int) *line {
	t.Helper()
	trial.NeedTools(t, "e2fsprogs", "debugfs", "e2fsck")
	l := &line{t: t, w: trial.New(t, devices, sandbox.Config{}), log: &bytes.Buffer{}, loops: map[string]string{}, backing: map[string]string{}, media: map[string]string{}}
	l.w.Manifest("units.csv", 1, devices)
	o := station.Options{Settings: l.w.Settings(map[string]any{"image.format": "pack"})}
	if _, err := station.Run(t.Context(), o, l.w.Path("units.csv"), "W47"); err != nil {
		t.Fatal(err)
	}
	var err error
	if l.printer, err = NewTrialPrinter(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.printer.Close() })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.address = ln.Addr().String()
	ln.Close()
	yaml := &strings.Builder{}
	yaml.WriteString("station:\n  silence: 1m\n  slots:\n")
	for i := range loops {
		name := fmt.Sprint(i + 1)
		l.loops[name] = l.newLoop(name)
		fmt.Fprintf(yaml, "    - {name: %q, disk: %s}\n", name, l.loops[name])
	}
	fmt.Fprintf(yaml, "    - {name: trial, file: %s}\n", l.w.Path("slot.img"))
	fmt.Fprintf(yaml, "label: {printer: %q, gtin: %q}\n", l.printer.Name(), "4006381333931")
	l.w.Write("station.yaml", func(w io.Writer) error { _, err := io.WriteString(w, yaml.String()); return err })
	spec, err := json.Marshal(map[string]any{"Lot": "W47", "Listen": l.address, "File": l.w.Path("station.yaml"), "Flags": o.Settings.Flags})
	if err != nil {
		t.Fatal(err)
	}
	l.spec = string(spec)
	t.Cleanup(l.kill)
	l.start()
	return l
}

// newLoop makes a blank medium and puts it into a loop device.
func (l *line) newLoop(slot string) string {
	l.t.Helper()
	l.files++
	file := l.w.Path(fmt.Sprintf("medium-%d", l.files))
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Truncate(file, mediumBytes); err != nil {
		l.t.Fatal(err)
	}
	out, err := exec.Command("losetup", "-f", "--show", file).Output()
	if err != nil {
		l.t.Fatalf("losetup: %v", err)
	}
	loop := strings.TrimSpace(string(out))
	l.t.Cleanup(func() { _ = exec.Command("losetup", "-d", loop).Run() })
	l.backing[slot] = file
	return loop
}

// swap takes the finished medium of a slot out and puts a blank one in.
func (l *line) swap(slot, serial string) {
	l.t.Helper()
	l.media[serial] = l.backing[slot]
	loop := l.loops[slot]
	if out, err := exec.Command("losetup", "-d", loop).CombinedOutput(); err != nil {
		l.t.Fatalf("losetup -d: %v: %s", err, out)
	}
	l.until("slot "+slot+" empty", func(s *State) bool { return s.slot(slot).State == "empty" })
	l.files++
	file := l.w.Path(fmt.Sprintf("medium-%d", l.files))
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Truncate(file, mediumBytes); err != nil {
		l.t.Fatal(err)
	}
	if out, err := exec.Command("losetup", loop, file).CombinedOutput(); err != nil {
		l.t.Fatalf("losetup: %v: %s", err, out)
	}
	l.backing[slot] = file
}

func (s *State) slot(name string) *SlotState {
	for i := range s.Slots {
		if s.Slots[i].Name == name {
			return &s.Slots[i]
		}
	}
	return &SlotState{}
}

func (l *line) start() {
	l.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), asStation+"="+l.spec)
	cmd.Stderr = l.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.proc = cmd
	said := bufio.NewScanner(out)
	if !said.Scan() {
		_ = cmd.Wait()
		l.t.Fatalf("the station did not start: %s", l.log)
	}
	if said.Text() != "http://"+l.address {
		l.t.Fatalf("the station said %q", said.Text())
	}
}

// kill is kill -9.
func (l *line) kill() {
	if l.proc != nil {
		_ = l.proc.Process.Signal(syscall.SIGKILL)
		_ = l.proc.Wait()
		l.proc = nil
	}
}

// state asks the API; it waits for a station that is being started.
func (l *line) state() *State {
	l.t.Helper()
	resp, err := http.Get("http://" + l.address + "/api/v1/state")
	if err != nil {
		l.t.Fatalf("%v; the station says %s", err, l.log)
	}
	defer resp.Body.Close()
	var s State
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		l.t.Fatal(err)
	}
	return &s
}

// until waits for the stream of states to bring what is wanted.
func (l *line) until(what string, good func(*State) bool) *State {
	l.t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 15*time.Minute)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.address+"/api/v1/events", nil)
	if err != nil {
		l.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		l.t.Fatalf("%v; the station says %s", err, l.log)
	}
	defer resp.Body.Close()
	last := ""
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		last = data
		var s State
		if err := json.Unmarshal([]byte(data), &s); err != nil {
			l.t.Fatal(err)
		}
		if good(&s) {
			return &s
		}
	}
	l.t.Fatalf("never %s: %s; the station says %s", what, last, l.log)
	return nil
}

// units reads the ledger.
func (l *line) units() []*pipeline.Unit {
	l.t.Helper()
	known, err := ledger.Open(l.t.Context(), l.w.Ledger)
	if err != nil {
		l.t.Fatal(err)
	}
	defer known.Close()
	var units []*pipeline.Unit
	for u, err := range known.Units(l.t.Context(), "W47") {
		if err != nil {
			l.t.Fatal(err)
		}
		units = append(units, u)
	}
	return units
}

// checkMedia compares every finished medium with what the device's image is. As
// every one is that and nothing else, no key is on two media.
func (l *line) checkMedia() {
	l.t.Helper()
	keys := map[string]bool{}
	known, err := ledger.Open(l.t.Context(), l.w.Ledger)
	if err != nil {
		l.t.Fatal(err)
	}
	defer known.Close()
	lot, err := known.Lot(l.t.Context(), "W47")
	if err != nil {
		l.t.Fatal(err)
	}
	golden, err := imaging.OpenGolden(l.t.Context(), l.w.Path("golden.sdimg"), imaging.GoldenOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	defer golden.Close()
	for rec, err := range known.Records(l.t.Context(), "W47") {
		if err != nil {
			l.t.Fatal(err)
		}
		serial, _ := rec.Attr("serial")
		path := l.media[serial]
		if path == "" {
			path = l.w.Path("trial-" + serial + ".img")
		}
		image, err := station.DeviceImage(l.t.Context(), golden, lot, rec)
		if err != nil {
			l.t.Fatal(err)
		}
		want := &bytes.Buffer{}
		if err := image.Stream(l.t.Context(), want); err != nil {
			l.t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			l.t.Fatalf("%s has no medium: %v", serial, err)
		}
		if !bytes.Equal(got[:want.Len()], want.Bytes()) {
			l.t.Errorf("the medium of %s is not its image", serial)
		}
		if bytes.ContainsFunc(got[want.Len():], func(r rune) bool { return r != 0 }) {
			l.t.Errorf("something lies behind the image of %s", serial)
		}
		if keys[rec.Fingerprint()] {
			l.t.Errorf("%s has another device's key", serial)
		}
		keys[rec.Fingerprint()] = true
		image.Close()
	}
}

// TestShiftInChromium is a shift of 30 units over four disks and a file, typed
// into a real browser, with what goes wrong in a shift.
func TestShiftInChromium(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("loop devices need root")
		}
		t.Skip("loop devices need root")
	}
	const units = 30
	c := openChromium(t)
	l := newLine(t, units, 4)
	c.open("http://" + l.address)
	next, closed, paper, kills := 0, []string{}, 0, map[string]bool{}
	lastIn := map[string]string{} // by slot: whose medium it has
	serial := func(i int) string { return fmt.Sprintf("SN%06d", i+1) }
	slotsOf := func(s *State, states ...string) (out []SlotState) {
		for _, slot := range s.Slots {
			if slices.Contains(states, slot.State) {
				out = append(out, slot)
			}
		}
		return out
	}
	for len(closed) < units {
		s := l.until("something to do", func(s *State) bool {
			free := len(slotsOf(s, "ready")) > 0 && s.Remaining > 0 && s.Line == "running"
			return free || len(slotsOf(s, "labelled", "done", "refused")) > 0 || s.Line == "stopped" || s.Screen == "fail"
		})
		// kill -9 in every state that a unit passes.
		for _, state := range []string{"starting", "writing", "comparing", "labelled", "verified"} {
			if !kills[state] && next > 3 && len(slotsOf(s, state)) > 0 {
				kills[state] = true
				l.kill()
				l.start()
				c.waits(`document.getElementById("lost").hidden`)
				s = l.state()
				break
			}
		}
		// After a start a finished medium is one that is not blank.
		switch labelled, done := slotsOf(s, "labelled"), slotsOf(s, "done", "refused"); {
		case s.Line == "stopped":
			c.sees("stopped", "out of paper")
			l.printer.SetPaper(true)
			l.until("the line running", func(s *State) bool { return s.Line == "running" })
		case s.Screen == "fail":
			t.Fatalf("%+v", s)
		case len(done) > 0:
			l.swap(done[0].Name, lastIn[done[0].Name])
		case len(labelled) > 0:
			slot := labelled[0]
			switch len(closed) {
			case 7: // the label of a unit that is closed
				c.typeScan("0104006381333931" + "21" + closed[0])
				c.waits(`document.getElementById("main").innerText.match(/already|not the label/)`)
			case 9: // the sticker instead of the label
				c.typeScan(slot.Device)
				c.waits(`document.getElementById("main").innerText.includes("confirms nothing")`)
			case 11: // a page that is loaded again
				c.do(chromedp.Reload(), chromedp.WaitReady("#main"))
			}
			c.typeScan("]d2" + slot.Label)
			if len(closed) == 13 { // read twice
				c.typeScan("]d2" + slot.Label)
			}
			made := s.Made
			l.until(slot.Device+" closed", func(s *State) bool { return s.Made == made+1 })
			t.Logf("%s closed in slot %s", slot.Device, slot.Name)
			closed, lastIn[slot.Name] = append(closed, slot.Device), slot.Device
		case len(slotsOf(s, "ready")) > 0:
			device := ""
			for i := range units { // one that an interruption sent back comes again
				inSlot := slices.ContainsFunc(s.Slots, func(slot SlotState) bool { return slot.Device == serial(i) })
				if !inSlot && !slices.Contains(closed, serial(i)) {
					device = serial(i)
					break
				}
			}
			if device == "" {
				continue
			}
			if paper < 2 && next == 8+12*paper {
				paper++
				l.printer.SetPaper(false)
			}
			text := device
			if next == 5 {
				text += text // read twice
			}
			c.typeScan(text)
			l.until(text+" taken", func(s *State) bool {
				return s.Line == "stopped" || slices.ContainsFunc(s.Slots, func(slot SlotState) bool { return slot.Device == device })
			})
			if next == 6 { // two scanners at once
				c.typeScan("SSNN000000001122")
				c.sees("fail", "ACK") // no unit's code, and no label's
				c.typeScan("ACK")
				c.waits(`!document.querySelector("#main.on-fail")`)
			}
			next++
		}
	}
	s := l.state()
	if s.Made != units || s.Remaining != 0 {
		t.Errorf("the page counts %+v", s)
	}
	confirmed, failed := 0, 0
	for _, u := range l.units() {
		switch {
		case u.State == pipeline.UnitConfirmed:
			confirmed++
		case u.State == pipeline.UnitFailed && u.Reason == "abandoned": // killed before a byte was out
			failed++
		default:
			t.Errorf("unit %d of %s is %s: %s", u.Number, u.Serial, u.State, u.Reason)
		}
	}
	if s.Failed != failed {
		t.Errorf("the page counts %d failed units, the ledger %d", s.Failed, failed)
	}
	if confirmed != units || paper != 2 || len(kills) < 3 {
		t.Errorf("%d units confirmed, out of paper %d times, killed in %v", confirmed, paper, kills)
	}
	resp, err := http.Get("http://" + l.address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || !regexp.MustCompile(`keymill_station_units\{lot="W47",state="confirmed"\} 30`).Match(text) {
		t.Errorf("metrics: %v\n%s", err, text)
	}
	for slot := range l.loops { // what is still in
		if serial := lastIn[slot]; serial != "" && l.media[serial] == "" {
			l.media[serial] = l.backing[slot]
		}
	}
	l.kill()
	l.checkMedia()
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "slot-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

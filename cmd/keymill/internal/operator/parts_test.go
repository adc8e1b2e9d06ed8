package operator

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keymill/pipeline"
)

func TestRead(t *testing.T) {
	gs1 := "0104006381333931" + "21SN0001"
	tests := []struct{ raw, text, device string }{
		{"SN0001\r\n", "SN0001", "SN0001"},
		{"]C0SN0001", "SN0001", "SN0001"},
		{"]Q1SN0001", "SN0001", "SN0001"},
		{"]d2" + gs1, gs1, "SN0001"},
		{"\x1d" + gs1, gs1, "SN0001"},
		{gs1 + "\x1d10LOT7", gs1 + "\x1d10LOT7", "SN0001"},
		{gs1 + "10LOT7", gs1 + "10LOT7", "SN0001"}, // GS swallowed
		{"(01)04006381333931(21)SN0001", "(01)04006381333931(21)SN0001", "SN0001"},
		{"https://id.gs1.org/01/04006381333931/21/SN0001?250=2", "https://id.gs1.org/01/04006381333931/21/SN0001?250=2", "SN0001"},
		{"SN0001SN0001", "SN0001SN0001", "SN0001"},
		{"]C0SN0001]C0SN0001", "SN0001]C0SN0001", "SN0001"},
		{"sn0001", "sn0001", "SN0001"},
		{"\x02SN0001\x03", "SN0001", "SN0001"},
		{"", "", ""},
		{" \t\r\n", "", ""},
		{"]C0", "]C0", ""},
	}
	for _, tt := range tests {
		r := read(tt.raw, nil)
		if r.text != tt.text {
			t.Errorf("%q: text %q, want %q", tt.raw, r.text, tt.text)
		}
		if tt.device != "" && !slices.Contains(r.options, tt.device) {
			t.Errorf("%q: may mean %q, not %q", tt.raw, r.options, tt.device)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, seed := range []string{"SN0001", "]d2010400638133393121SN", "SLOT 2", calibration, strings.ToLower(calibration)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		r := read(raw, nil)
		if len(r.options) > 100 {
			t.Fatalf("%q may mean %d things", raw, len(r.options))
		}
		r.command()
		sameLabel(r, "SN1.U1")
		if looksLikeCalibration(raw) {
			if lay, _, err := calibrate(raw); err == nil {
				read(raw, lay)
			}
		}
	})
}

func TestCommands(t *testing.T) {
	for raw, want := range map[string]string{
		"ACK": "ACK ", "ack\r": "ACK ", "SLOT 2": "SLOT 2", "slot2": "SLOT 2", "SLOT-trial": "SLOT trial", "REASON 3": "REASON 3",
		"ACKACK": "ACK ", "SN0001": " ", "SLOT": " ", "ACK1": " ",
	} {
		name, arg := read(raw, nil).command()
		if got := name + " " + arg; got != want {
			t.Errorf("%q is %q, want %q", raw, got, want)
		}
	}
}

func TestCalibration(t *testing.T) {
	garble := func(m map[rune]rune) string {
		return strings.Map(func(r rune) rune {
			if g, ok := m[r]; ok {
				return g
			}
			return r
		}, calibration)
	}
	german := map[rune]rune{'Y': 'Z', 'Z': 'Y', 'y': 'z', 'z': 'y', '-': 'ß', '/': '-', ':': 'Ö', ';': 'ö', '+': '`', '(': ')', ')': '=', ']': '+', '_': '?'}
	lay, said, err := calibrate(garble(german))
	if err != nil || !strings.Contains(said, "differs") {
		t.Fatalf("%q, %v", said, err)
	}
	if got := lay.undo("SN-ZYX/1"); got != "SN/YZX/1" && got == "" {
		t.Errorf("%q", got)
	}
	typed := strings.Map(func(r rune) rune {
		if g, ok := german[r]; ok {
			return g
		}
		return r
	}, "SN-ZY_1/z")
	if got := read(typed, lay).text; got != "SN-ZY_1/z" {
		t.Errorf("%q is read as %q", typed, got)
	}
	if _, said, err := calibrate(strings.ToLower(calibration)); err != nil || !strings.Contains(said, "small") {
		t.Errorf("lost shift: %q, %v", said, err)
	}
	swapped := strings.Map(func(r rune) rune {
		if strings.ToUpper(string(r)) == string(r) {
			return []rune(strings.ToLower(string(r)))[0]
		}
		return []rune(strings.ToUpper(string(r)))[0]
	}, calibration)
	if lay, _, err = calibrate(swapped); err != nil || read("sn0001B", lay).text != "SN0001b" {
		t.Errorf("caps lock: %v", err)
	}
	if _, said, err := calibrate(calibration); err != nil || said != "The scanner reads well." {
		t.Errorf("%q, %v", said, err)
	}
	if _, _, err := calibrate(strings.ReplaceAll(calibration, "Q", "A")); err == nil {
		t.Error("two keys that became one were taken")
	}
	if looksLikeCalibration("SN0001") || looksLikeCalibration(strings.Repeat("A", len(calibration))) {
		t.Error("something else was taken for the calibration code")
	}
}

// sysfs makes a /sys with disks at USB ports; twins have one serial number.
func sysfs(t *testing.T, disks map[string]string) Places {
	t.Helper()
	root := t.TempDir()
	for name, port := range disks {
		plugDisk(t, root, name, port, 1000, len(disks))
	}
	return Places{Sys: filepath.Join(root, "sys"), Dev: filepath.Join(root, "dev")}
}

func plugDisk(t *testing.T, root, name, port string, sectors, seq int) {
	t.Helper()
	dir := filepath.Join(root, "sys/devices/pci0000:00/0000:00:14.0/usb1", strings.SplitN(port, ".", 2)[0], port, port+":1.0/host6/target6:0:0/6:0:0:0/block", name)
	for _, d := range []string{dir, filepath.Join(root, "sys/block"), filepath.Join(root, "sys/class/block"), filepath.Join(root, "dev")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]string{
		filepath.Join(dir, "size"):                fmt.Sprintln(sectors),
		filepath.Join(dir, "diskseq"):             fmt.Sprintln(seq),
		filepath.Join(dir, "serial"):              "000000000001\n",
		filepath.Join(root, "dev", name):          "",
		filepath.Join(filepath.Dir(dir), "model"): "Twin reader\n",
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"sys/block", "sys/class/block"} {
		path := filepath.Join(root, link, name)
		if err := os.Symlink(dir, path); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
}

func TestTwinReadersAreNotMixedUp(t *testing.T) {
	places := sysfs(t, map[string]string{"sda": "1-1.2", "sdb": "1-1.3"})
	for port, want := range map[string]string{"1-1.2": "sda", "1-1.3": "sdb"} {
		place, err := places.Port(port)
		if err != nil {
			t.Fatal(err)
		}
		if got := place.Look(); filepath.Base(got.Path) != want || got.Port != port || got.Bytes != 512000 {
			t.Errorf("port %s: %+v, want %s", port, got, want)
		}
	}
	// The same reader names come the other way round after a re-plug.
	other := sysfs(t, map[string]string{"sdb": "1-1.2", "sda": "1-1.3"})
	place, err := other.Port("1-1.2")
	if err != nil {
		t.Fatal(err)
	}
	if got := place.Look(); filepath.Base(got.Path) != "sdb" {
		t.Errorf("%+v", got)
	}
	if place, err = places.Port("1-1"); err != nil || place.Look().Path != "" {
		t.Errorf("the hub's port has a medium: %+v, %v", place, err)
	}
	for _, bad := range []string{"", "1", "usb1", "1-1.2/../x", "000000000001"} {
		if _, err := places.Port(bad); err == nil {
			t.Errorf("%q was taken for a port", bad)
		}
	}
	for _, bad := range []string{"/dev/disk/by-id/usb-Twin_000000000001-0:0", filepath.Join(places.Dev, "sda"), "/dev/disk/by-label/boot"} {
		if _, err := places.Disk(bad); err == nil {
			t.Errorf("%s was taken for a place", bad)
		}
	}
}

func TestPlaces(t *testing.T) {
	places := sysfs(t, map[string]string{"sda": "1-1.2"})
	root := filepath.Dir(places.Sys)
	place, err := places.Port("1-1.2")
	if err != nil {
		t.Fatal(err)
	}
	first := place.Look()
	plugDisk(t, root, "sda", "1-1.2", 1000, 7) // taken out and put back between two looks
	if second := place.Look(); second.Seq == first.Seq {
		t.Error("another medium looks like the same one")
	}
	plugDisk(t, root, "sda", "1-1.2", 0, 8)
	if empty := place.Look(); empty.Path != "" {
		t.Errorf("a reader without a card has a medium: %+v", empty)
	}
	plugDisk(t, root, "sda", "1-1.2", 1000, 9)
	plugDisk(t, root, "sdc", "1-1.2", 1000, 10)
	if two := place.Look(); two.Problem == "" {
		t.Errorf("two media in one reader: %+v", two)
	}
}

func TestZPLPrinter(t *testing.T) {
	var printed []string
	fake, err := NewTrialPrinter(t.Context(), func(zpl string) { printed = append(printed, zpl) })
	if err != nil {
		t.Fatal(err)
	}
	printer, err := OpenPrinter(fake.Name(), "zpl")
	if err != nil {
		t.Fatal(err)
	}
	if err := printer.Print(t.Context(), "1", []byte("^XA^FDone^FS^XZ")); err != nil || fake.Labels() != 1 || fake.asked < 2 {
		t.Fatalf("%v, printed %d, asked %d times", err, fake.Labels(), fake.asked)
	}
	fake.SetPaper(false)
	refused, ok := errors.AsType[*PrinterError](printer.Print(t.Context(), "2", []byte("^XA^XZ")))
	if !ok || refused.Queued || !strings.Contains(refused.Text, "paper") {
		t.Fatalf("%+v", refused)
	}
	if fake.Labels() != 1 || len(fake.held) != 0 {
		t.Fatal("a label was sent to a printer without paper")
	}
	fake.SetPaper(true)
	if err := fake.Close(); err != nil {
		t.Fatal(err)
	}
	if refused, ok = errors.AsType[*PrinterError](printer.Ready(t.Context())); !ok || !strings.Contains(refused.Text, "does not answer") {
		t.Fatalf("%+v", refused)
	}
	open := &hostStatus{headOpen: true}
	if !strings.Contains(open.fault(), "open") || len(printed) != 1 {
		t.Fatalf("%q, printed %q", open.fault(), printed)
	}
	for _, bad := range []string{"", "lp0", "tcp://", "cups:", "file:", "http://x"} {
		if _, err := OpenPrinter(bad, "zpl"); err == nil {
			t.Errorf("%q was taken for a printer", bad)
		}
	}
	if _, err := OpenPrinter("tcp://127.0.0.1:9100", "svg"); err == nil {
		t.Error("SVG goes to a ZPL printer")
	}
}

func FuzzHostStatus(f *testing.F) {
	f.Add("030,0,0,0300,000,0,0,0,000,0,0,0", "001,0,0,0,1,2,6,0,00000000,1,000")
	f.Fuzz(func(t *testing.T, one, two string) {
		if s, err := parseHostStatus([]string{one, two}); err == nil {
			_ = s.fault()
		}
		scanner := bufio.NewScanner(strings.NewReader(one + "\x02" + two))
		scanner.Split(splitStatus)
		for scanner.Scan() {
		}
	})
}

func TestHooks(t *testing.T) {
	u := &Unit{Record: &pipeline.Record{Device: pipeline.Device{Row: 2, Identity: pipeline.Identity{{Name: "mac", Value: "02:00:00:00:00:01"}},
		Attrs: []pipeline.Attr{{Name: "serial", Value: "SN0001"}}}}, Number: 1}
	run := func(script string) error {
		h := &Hook{Command: []string{"/bin/sh", "-c", script}, Limit: 10 * time.Second}
		return h.run(t.Context(), "before", "W47", u)
	}
	if err := run(`grep -q '"serial":"SN0001"' && echo '{"result":"pass","attributes":{"mac":"02:00:00:00:00:01"}}'`); err != nil {
		t.Error(err)
	}
	t.Setenv("KEYMILL_TOKEN", "secret")
	if err := run(`cat >/dev/null; test -z "$KEYMILL_TOKEN" && echo '{"result":"pass"}'`); err != nil {
		t.Error("a hook sees a secret: ", err)
	}
	for script, want := range map[string]string{
		`echo '{"result":"fail","code":"E-17","message":"current too high"}'`: "current too high",
		`echo '{"result":"pass","attributes":{"mac":"02:00:00:00:00:99"}}'`:   "two readings disagree",
		`exit 3`:                   "exit status 3",
		`echo no`:                  "no JSON",
		`head -c 100000 /dev/zero`: "printed more than",
		`kill -SEGV $$`:            "segmentation",
	} {
		failed, ok := errors.AsType[*hookError](run(script))
		if !ok || !strings.Contains(failed.text, want) {
			t.Errorf("%s: %+v, want %q", script, failed, want)
		}
	}
	h := &Hook{Command: []string{"/bin/sh", "-c", "sleep 1000 & sleep 1000"}, Limit: 50 * time.Millisecond}
	if failed, ok := errors.AsType[*hookError](h.run(t.Context(), "after", "W47", u)); !ok || !strings.Contains(failed.text, "did not end") {
		t.Errorf("a hook that hangs: %+v", failed)
	}
}

func TestPrograms(t *testing.T) {
	dir := t.TempDir()
	b := newBench(t, 2, 0, func(b *bench, o *Options) {
		o.Work = dir
		o.Slots = []SlotOptions{{Name: "emmc", Program: &Program{Limit: 20 * time.Second, Port: "1-4",
			Command:  []string{"/bin/sh", "-c", `test "$1" = 1-4 && cat "$2" >"$0/written"`, dir, "{{.port}}", "{{.pipe}}"},
			ReadBack: []string{"/bin/sh", "-c", `test "$(cat $0/written)" = "$1"`, dir, "{{.device}}"}}}}
	})
	defer b.end()
	b.waitFor("ready")
	b.scan("SN0001")
	b.waitFor("pass")
	b.scan("SN0001.U1")
	b.wantUnits("SN0001 confirmed")
	b.opt.Slots[0].Program.ReadBack = []string{"/bin/false"}
	b.waitFor("ready")
	b.scan("SN0002")
	b.waitFor("slots")
	b.waitUntil(func(v *View) bool { return v.Slots[0].State == "interrupted" })
	b.wantUnits("SN0001 confirmed", "SN0002 writing")
	left, err := filepath.Glob(filepath.Join(dir, "slot-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := CheckProgram([]string{"x", "{{.key}}"}); err == nil {
		t.Error("an unknown value was taken")
	}
}

// waitUntil waits for a view, outside of synctest.
func (b *bench) waitUntil(good func(*View) bool) {
	b.t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Minute)
	defer stop()
	for {
		v, changed := b.View()
		if good(v) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			b.t.Fatalf("the page shows %s: %s, %s, %+v", v.Screen, v.Message, v.Action, v.Slots)
		}
	}
}

func (b *bench) waitFor(screen string) {
	b.t.Helper()
	b.waitUntil(func(v *View) bool { return v.Screen == screen })
}

func TestBadges(t *testing.T) {
	for name, text := range map[string]string{
		"no header":  "B1,Ana,operator,\n",
		"plain PIN":  "badge,name,role,pin\nS1,Mia,supervisor,4711\n",
		"no PIN":     "badge,name,role,pin\nS1,Mia,supervisor,\n",
		"role":       "badge,name,role,pin\nS1,Mia,boss,\n",
		"twice":      "badge,name,role,pin\nS1,Mia,operator,\ns1,Ana,operator,\n",
		"a command":  "badge,name,role,pin\nNEXT,Mia,operator,\n",
		"huge argon": "badge,name,role,pin\nS1,Mia,supervisor,$argon2id$v=19$m=99999999,t=3,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA\n",
	} {
		if _, err := parseBadges(strings.NewReader(text)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	// From the reference implementation: echo -n 4711 | argon2 somesalt -id -t 1 -m 8 -e
	const hash = "$argon2id$v=19$m=256,t=1,p=1$c29tZXNhbHQ$6mEs2FCQbvqm4at1PjekZpt5RjnqVe8yhklk2Tm9eaA"
	if err := checkPIN(hash, "4711"); err != nil {
		t.Error(err)
	}
	if err := checkPIN(hash, "4712"); !errors.Is(err, errPIN) {
		t.Errorf("another PIN: %v", err)
	}
}

func FuzzBadges(f *testing.F) {
	f.Add(testBadges)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 300 || strings.Contains(text, "$") {
			return // hashes take their time by design
		}
		if b, err := parseBadges(strings.NewReader(text)); err == nil {
			b.find("x")
		}
	})
}

func TestUevents(t *testing.T) {
	if !isBlockEvent([]byte("add@/devices/x/block/sda\x00ACTION=add\x00SUBSYSTEM=block\x00DEVNAME=sda\x00")) || isBlockEvent([]byte("add@/devices/x\x00SUBSYSTEM=usb\x00")) {
		t.Error("events are mixed up")
	}
}

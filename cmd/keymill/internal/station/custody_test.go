package station

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/trial"
	"keymill/imaging"
	"keymill/pipeline"
	"keymill/pipeline/ledger"
	"keymill/pipeline/mender/sandbox"
)

// custodian is a lot of twelve devices, of which the second half was carried
// after a copy of the ledger was made.
type custodian struct {
	*trial.Trial
	t    *testing.T
	o    Options
	copy string // of the ledger, in mid-lot
}

func newCustodian(t *testing.T, format string, more map[string]any) *custodian {
	t.Helper()
	trial.NeedTools(t, "e2fsprogs", "debugfs")
	c := &custodian{Trial: trial.New(t, 12, sandbox.Config{}), t: t}
	settings := map[string]any{"image.format": format}
	maps.Copy(settings, more)
	c.o = Options{Settings: c.Settings(settings), Verify: VerifyNone}
	c.copy = c.Path("copy.db")
	return c
}

// half carries the first half of the lot, copies the ledger, and carries the rest.
func (c *custodian) half() {
	c.t.Helper()
	l, err := Open(c.t.Context(), c.o, "lot")
	if err != nil {
		c.t.Fatal(err)
	}
	defer l.Close()
	if err := l.Plan(c.t.Context(), c.Path("manifest.csv")); err != nil {
		c.t.Fatal(err)
	}
	if err := l.Begin(c.t.Context(), 12); err != nil {
		c.t.Fatal(err)
	}
	for i, rec := range records(c.t, l) {
		if i == 6 {
			if err := l.Ledger.Backup(c.t.Context(), c.copy); err != nil {
				c.t.Fatal(err)
			}
		}
		if err := l.One(c.t.Context(), rec); err != nil || rec.State != pipeline.Released {
			c.t.Fatalf("%s (%s): %v", rec.State, rec.Reason, err)
		}
	}
	if _, err := l.End(c.t.Context(), nil); err != nil {
		c.t.Fatal(err)
	}
}

// serverKeys are the keys that the server knows.
func (c *custodian) serverKeys() []string {
	var keys []string
	for dev := range c.Box.Devices() {
		for _, set := range dev.AuthSets {
			keys = append(keys, pipeline.Fingerprint(set.SPKI))
		}
	}
	slices.Sort(keys)
	return keys
}

// fileKeys are the keys that lie in the lot's pack and images.
func (c *custodian) fileKeys() []string {
	c.t.Helper()
	var keys []string
	golden, err := imaging.OpenGolden(c.t.Context(), c.Path("golden.sdimg"), imaging.GoldenOptions{CacheDir: c.t.TempDir()})
	if err != nil {
		c.t.Fatal(err)
	}
	defer golden.Close()
	add := func(private []byte, err error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatal(err)
		}
		public, err := pipeline.PublicOf(private)
		if err != nil {
			c.t.Fatal(err)
		}
		keys = append(keys, pipeline.Fingerprint(public))
	}
	pack, err := imaging.ReadPack(c.Path("out", "lot.pack"))
	if err == nil {
		defer pack.Close()
		for entry, err := range pack.Entries(c.t.Context()) {
			if err != nil {
				c.t.Fatal(err)
			}
			if entry.Destroyed {
				continue
			}
			_, overlay, err := pack.Read(entry.Ref)
			if err != nil {
				c.t.Fatal(err)
			}
			image, err := imaging.NewReader(golden, overlay)
			if err != nil {
				c.t.Fatal(err)
			}
			add(imaging.ReadContent(overlay.Template, 0, image))
		}
	}
	images, _ := filepath.Glob(c.Path("out", "images", "*.sdimg"))
	for _, path := range images {
		image, closeImage, err := OpenImage(c.t.Context(), path, "")
		if err != nil {
			c.t.Fatal(err)
		}
		add(image.ReadFile(c.t.Context(), pipeline.DefaultInject()[0].Path))
		closeImage()
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// nothingLost fails unless each key that the server knows lies in some file, and
// both are as they were.
func (c *custodian) nothingLost(server, inFiles []string) {
	c.t.Helper()
	now, files := c.serverKeys(), c.fileKeys()
	for _, key := range now {
		if !slices.Contains(files, key) {
			c.t.Errorf("the server knows key %.16s, which lies nowhere", key)
		}
	}
	if !slices.Equal(now, server) {
		c.t.Errorf("the server's keys changed: %d are %d now", len(server), len(now))
	}
	if !slices.Equal(files, inFiles) {
		c.t.Errorf("the keys in pack and images changed: %d are %d now", len(inFiles), len(files))
	}
}

// putBack puts the old copy in the ledger's place by hand, as people do.
func (c *custodian) putBack() {
	c.t.Helper()
	for _, suffix := range suffixes {
		_ = os.Remove(c.Ledger + suffix)
	}
	if err := copyFile(c.copy, c.Ledger); err != nil {
		c.t.Fatal(err)
	}
}

func (c *custodian) run() error {
	_, err := Run(c.t.Context(), c.o, c.Path("manifest.csv"), "lot")
	return err
}

// complete fails unless the lot is, with twelve devices that have one key each.
func (c *custodian) complete() {
	c.t.Helper()
	known, err := ledger.Open(c.t.Context(), c.Ledger)
	if err != nil {
		c.t.Fatal(err)
	}
	defer known.Close()
	totals, err := known.Totals(c.t.Context(), "lot")
	if err != nil || totals.Released != 12 || totals.Check() != nil {
		c.t.Errorf("%+v %v %v", totals, err, totals.Check())
	}
	if h, err := known.Check(c.t.Context()); err != nil || len(h.Problems) > 0 {
		c.t.Errorf("%+v %v", h, err)
	}
}

// TestRunOnAnOldLedger: an older copy was put back, then the lot is run. It stops
// and says so; restoring takes up what the server knows, and makes nothing anew.
func TestRunOnAnOldLedger(t *testing.T) {
	for _, format := range []string{"pack", "raw"} {
		t.Run(format, func(t *testing.T) {
			c := newCustodian(t, format, nil)
			c.half()
			server, inFiles := c.serverKeys(), c.fileKeys()
			c.putBack()
			err := c.run()
			behind, ok := errors.AsType[*pipeline.BehindError](err)
			if !ok || behind.Keys != 6 || fault.KindOf(err).ExitCode() != 7 || !strings.Contains(fault.Hint(err), "ledger restore") {
				t.Fatalf("the ledger is six devices behind: %v", err)
			}
			c.nothingLost(server, inFiles)

			done, err := Restore(t.Context(), c.o, c.copy)
			if err != nil {
				t.Fatal(err)
			}
			if len(done.Lots) != 1 || done.Lots[0].Adopted != 6 || done.Lots[0].Destroyed != 0 || done.Aside == "" {
				t.Errorf("%+v", done)
			}
			c.nothingLost(server, inFiles)
			if err := c.run(); err != nil {
				t.Fatal(err)
			}
			c.nothingLost(server, inFiles)
			c.complete()
		})
	}
}

// TestDeletedLedger: the lot is run again without its ledger.
func TestDeletedLedger(t *testing.T) {
	for _, format := range []string{"pack", "raw"} {
		t.Run(format, func(t *testing.T) {
			c := newCustodian(t, format, nil)
			c.half()
			server, inFiles := c.serverKeys(), c.fileKeys()
			for _, suffix := range suffixes {
				_ = os.Remove(c.Ledger + suffix)
			}
			if err := c.run(); fault.KindOf(err).ExitCode() != 7 || !strings.Contains(fault.Hint(err), "restore --manifest") {
				t.Fatalf("a new lot took a folder with keys: %v", err)
			}
			c.nothingLost(server, inFiles)
			done, err := RestoreLost(t.Context(), c.o, c.Path("manifest.csv"), "lot")
			if err != nil || len(done.Lots) != 1 || done.Lots[0].Adopted != 12 {
				t.Fatalf("%+v %v", done, err)
			}
			if err := c.run(); err != nil {
				t.Fatal(err)
			}
			c.nothingLost(server, inFiles)
			c.complete()
		})
	}
}

// TestRestoreWithoutServer: the server refuses us, so nothing is changed.
func TestRestoreWithoutServer(t *testing.T) {
	c := newCustodian(t, "pack", nil)
	c.half()
	server, inFiles := c.serverKeys(), c.fileKeys()
	before, err := os.ReadFile(c.Ledger)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.Path("bad"), []byte("no token"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := c.o
	o.Settings = c.Settings(map[string]any{"image.format": "pack", "server.token_file": c.Path("bad")})
	if _, err := Restore(t.Context(), o, c.copy); fault.KindOf(err).ExitCode() != 5 {
		t.Errorf("got %v, want exit code 5", err)
	}
	c.nothingLost(server, inFiles)
	if after, err := os.ReadFile(c.Ledger); err != nil || string(after) != string(before) {
		t.Errorf("the ledger was changed: %v", err)
	}
	if left, _ := filepath.Glob(c.Ledger + ".re*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestRestoreDestroysWhatNobodyKnows: a key that was staged and never sent goes,
// units are rebuilt from the marks.
func TestRestoreDestroysWhatNobodyKnows(t *testing.T) {
	c := newCustodian(t, "pack", nil)
	c.half()
	server := c.serverKeys()
	pack, err := imaging.OpenPack(c.Path("out", "lot.pack"))
	if err != nil {
		t.Fatal(err)
	}
	var first imaging.Entry
	for entry, err := range pack.Entries(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		first = entry
		break
	}
	for _, unit := range []int64{1, 2} {
		if err := pack.Mark(t.Context(), imaging.Mark{Key: first.Key, Entry: first.Ref, Unit: unit, Recipient: "usb 1-1.2"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := pack.Close(); err != nil {
		t.Fatal(err)
	}
	lost := c.strayKey()
	done, err := Restore(t.Context(), c.o, c.copy)
	if err != nil || done.Lots[0].Adopted != 6 || done.Lots[0].Destroyed != 1 || done.Lots[0].Units != 2 {
		t.Fatalf("%+v %v", done, err)
	}
	if slices.Contains(c.fileKeys(), lost) || !slices.Equal(server, c.serverKeys()) {
		t.Error("the key that nobody knows is still there, or the server has others now")
	}
	known, err := ledger.Open(t.Context(), c.Ledger)
	if err != nil {
		t.Fatal(err)
	}
	defer known.Close()
	one, err := known.Unit(t.Context(), "lot", 1)
	if err != nil || one.State != pipeline.UnitScrapped {
		t.Errorf("%+v %v", one, err)
	}
	two, err := known.Unit(t.Context(), "lot", 2)
	if err != nil || two.State != pipeline.UnitDelivered || two.Recipient != "usb 1-1.2" {
		t.Errorf("%+v %v", two, err)
	}
}

// strayKey appends an entry to the pack that neither ledger nor server knows, as a
// crash between the two leaves it, and returns its key's fingerprint.
func (c *custodian) strayKey() string {
	c.t.Helper()
	l, err := OpenPlanned(c.t.Context(), c.o, "lot")
	if err != nil {
		c.t.Fatal(err)
	}
	defer l.Close()
	if err := l.Reopen(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	if err := l.openServices(c.t.Context(), 0); err != nil {
		c.t.Fatal(err)
	}
	if err := l.openProducts(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	rec := records(c.t, l)[11]
	private, public, err := l.keys.Generate(c.t.Context(), "x")
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := l.images.Stage(c.t.Context(), &rec.Device, private, public); err != nil {
		c.t.Fatal(err)
	}
	return pipeline.Fingerprint(public)
}

// TestRestoreRestartsLogs: after heads were signed of events that the copy lacks,
// the logs go on under their next epoch, and so does the lot.
func TestRestoreRestartsLogs(t *testing.T) {
	c := newCustodian(t, "pack", nil)
	c.half()
	if err := c.run(); err != nil { // it closes the lot, and signs
		t.Fatal(err)
	}
	server, inFiles := c.serverKeys(), c.fileKeys()
	done, err := Restore(t.Context(), c.o, c.copy)
	if err != nil || done.Restarted == 0 {
		t.Fatalf("%v: %+v", err, done)
	}
	if again, err := Restore(t.Context(), c.o, ""); err != nil || again.Restarted != 0 {
		t.Errorf("restarted twice: %v: %+v", err, again)
	}
	if err := c.run(); err != nil {
		t.Fatal(err)
	}
	c.nothingLost(server, inFiles)
}

// TestRekeyWithoutPack: devices whose pack is gone get new keys, and nothing is
// called destroyed that nobody saw.
func TestRekeyWithoutPack(t *testing.T) {
	c := newCustodian(t, "pack", nil)
	c.half()
	if err := os.Remove(c.Path("out", "lot.pack")); err != nil {
		t.Fatal(err)
	}
	if err := c.run(); err != nil { // all devices are released: there is nothing to do
		t.Fatal(err)
	}
	l, err := OpenPlanned(t.Context(), c.o, "lot")
	if err != nil {
		t.Fatal(err)
	}
	all := records(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, rec := range all {
		names = append(names, rec.Identity.Name())
	}
	if _, err := Retry(t.Context(), c.o, "lot", names); err != nil {
		t.Fatal(err)
	}
	c.complete()
	server, inFiles := c.serverKeys(), c.fileKeys()
	if len(server) != 12 || !slices.Equal(server, inFiles) {
		t.Errorf("the server knows %d keys, the pack holds %d", len(server), len(inFiles))
	}
	known, err := ledger.Open(t.Context(), c.Ledger)
	if err != nil {
		t.Fatal(err)
	}
	defer known.Close()
	for e, err := range known.Events(t.Context(), "lot") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(e.Canonical), `"key":"destroyed"`) {
			t.Errorf("said to be destroyed: %s", e.Canonical)
		}
	}
}

// TestVerifyProducts: what is gone or was changed after the release is noticed.
func TestVerifyProducts(t *testing.T) {
	for _, format := range []string{"pack", "raw"} {
		t.Run(format, func(t *testing.T) {
			c := newCustodian(t, format, nil)
			c.half()
			look := func() ProductsFound {
				t.Helper()
				l, err := OpenPlanned(t.Context(), c.o, "lot")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				found, err := l.VerifyProducts(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return found
			}
			if found := look(); !found.OK || found.Devices != 12 {
				t.Errorf("%+v", found)
			}
			if format == "pack" {
				if err := os.Truncate(c.Path("out", "lot.pack"), 3000); err != nil {
					t.Fatal(err)
				}
				if found := look(); found.OK || found.Gone+found.Wrong == 0 {
					t.Errorf("%+v", found)
				}
				if err := os.Remove(c.Path("out", "lot.pack")); err != nil {
					t.Fatal(err)
				}
				if found := look(); found.Gone != 12 || len(found.First) == 0 {
					t.Errorf("%+v", found)
				}
				return
			}
			images, _ := filepath.Glob(c.Path("out", "images", "*.sdimg"))
			if err := os.Remove(images[0]); err != nil {
				t.Fatal(err)
			}
			file, err := os.OpenFile(images[1], os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteAt([]byte{1}, 12345); err != nil {
				t.Fatal(err)
			}
			if err := file.Close(); err != nil {
				t.Fatal(err)
			}
			if found := look(); found.Gone != 1 || found.Wrong != 1 || found.OK {
				t.Errorf("%+v", found)
			}
		})
	}
}

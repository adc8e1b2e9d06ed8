package pipeline

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOnlyPipelineMakesChanges: whoever else built one would have to know what
// belongs into its event.
func TestOnlyPipelineMakesChanges(t *testing.T) {
	seen := 0
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		seen++
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte("pipeline.Change{")) {
			t.Errorf("%s makes a pipeline.Change; pipeline.Transitions is what does", path)
		}
		return err
	})
	if err != nil || seen < 100 {
		t.Fatalf("%d files seen, err %v", seen, err)
	}
}

// TestTransitions: each change names its device and keeps what it must keep.
func TestTransitions(t *testing.T) {
	w := newWorld(t, 2)
	if err := w.line(1).Carry(t.Context(), never(), w.resumable()); err != nil {
		t.Fatal(err)
	}
	changes := Transitions{Ledger: w, Station: "line-2", Run: 7}
	rec, err := w.Record(t.Context(), "lot", w.order[0])
	if err != nil {
		t.Fatal(err)
	}
	key := rec.PublicKey
	if err := changes.Rekeyed(t.Context(), rec, "lost"); err != nil {
		t.Fatal(err)
	}
	if event := w.events[len(w.events)-1]; event.SPKI != Fingerprint(key) || event.To != Planned {
		t.Errorf("the event of a new key doesn't name the old one: %+v", event)
	}
	if rec.State != Planned || !bytes.Equal(rec.Replaces, key) || len(rec.PublicKey) > 0 || !rec.Pack.IsZero() || rec.Stale.IsZero() || rec.KeysDestroyed != 0 {
		t.Errorf("a device that gets a new key looks like this: %+v", rec)
	}
	if err := changes.Rekeyed(t.Context(), rec, "again"); err == nil {
		t.Error("a second key was given up before the first was destroyed")
	}
	if err := changes.StaleDestroyed(t.Context(), rec, KeyDestroyed); err != nil || !rec.Stale.IsZero() || rec.KeysDestroyed != 1 {
		t.Errorf("%v, %+v", err, rec)
	}
	if err := changes.Undone(t.Context(), rec, "removed", KeyDestroyed); err != nil {
		t.Fatal(err)
	}
	if event := w.events[len(w.events)-1]; event.Key != "" || rec.State != Undone {
		t.Errorf("a device without a key was undone with %+v", event)
	}
	other, err := w.Record(t.Context(), "lot", w.order[1])
	if err != nil {
		t.Fatal(err)
	}
	other.Superseded = "next"
	if err := changes.SupersededDestroyed(t.Context(), other, KeyDestroyed); err != nil || other.State != Released || !other.Pack.IsZero() {
		t.Errorf("a superseded device's key is not destroyed: %v, %+v", err, other)
	}
	if event := changes.Flashed(other, nil); event.Serial != "SN1" || event.Run != 7 || event.Station != "line-2" || event.Attempt != 1 {
		t.Errorf("flashed: %+v", event)
	}
}

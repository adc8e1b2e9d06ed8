package logs

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"keymill/cmd/keymill/internal/config"
)

// TestJournal: to the journal, lines carry a priority instead of time and level.
func TestJournal(t *testing.T) {
	var b bytes.Buffer
	log := New(config.LogConfig{Format: "text", Level: "info"}, journal{&b})
	log.Debug("no")
	log.Info("lot begins", "lot", "a")
	log.With("lot", "b").WithGroup("g").Warn("odd", "level", 1)
	log.Error("two\nlines")
	want := "<6>msg=\"lot begins\" lot=a\n<4>msg=odd lot=b g.level=1\n<3>msg=\"two\\nlines\"\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", &b, want)
	}
	if log.Enabled(t.Context(), slog.LevelDebug) {
		t.Error("debug is on")
	}
}

// TestJournalStream: only the stream that systemd connected is the journal.
func TestJournalStream(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var stat syscall.Stat_t
	if err := syscall.Fstat(int(file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
	for stream, want := range map[string]bool{own: true, "": false, "1:2": false, own + "0": false} {
		if _, ok := Journaled(file, stream).(journal); ok != want {
			t.Errorf("%q: %v", stream, ok)
		}
	}
}

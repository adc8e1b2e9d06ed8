package dropfolder

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keymill/cmd/keymill/internal/files"
)

// TestBatchSettles: what is still being written is left alone, by whatever way.
func TestBatchSettles(t *testing.T) {
	dir := t.TempDir()
	f, err := openDropFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name, text string, mtime time.Time) {
		path := filepath.Join(f.in(), name)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, mtime, mtime)); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
	const settle = 2 * time.Second
	for _, name := range []string{"b.csv", "a.XLSX", ".c.csv.x1", "c.csv.part", "~$a.xlsx", "readme.txt"} {
		put(name, "1", begin)
	}
	if err := os.Mkdir(filepath.Join(f.in(), "folder.csv"), 0o700); err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		after     time.Duration
		change    func()
		want      string
		unsettled int
	}{
		{0, nil, "", 2},
		{time.Second, nil, "", 2},
		{2 * time.Second, nil, "a.XLSX b.csv", 0},
		{3 * time.Second, func() { put("b.csv", "12", begin) }, "a.XLSX", 1}, // it grew, with an old time
		{4 * time.Second, func() { put("b.csv", "13", begin.Add(time.Hour)) }, "a.XLSX", 1},
		{5 * time.Second, nil, "a.XLSX", 1},
		{6 * time.Second, nil, "a.XLSX b.csv", 0},
		{7 * time.Second, func() { os.Remove(filepath.Join(f.in(), "a.XLSX")) }, "b.csv", 0},
	}
	for _, step := range steps {
		if step.change != nil {
			step.change()
		}
		ready, unsettled, err := f.look(begin.Add(step.after), settle)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, d := range ready {
			names = append(names, d.name())
		}
		if got := strings.Join(names, " "); got != step.want || unsettled != step.unsettled {
			t.Errorf("after %v: ready %q, %d unsettled; want %q, %d", step.after, got, unsettled, step.want, step.unsettled)
		}
	}
}

// TestBatchFolderAgain: every move can be done again after a crash in its middle.
func TestBatchFolderAgain(t *testing.T) {
	f, err := openDropFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	report := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(filepath.Join(report, "devices.csv"), []byte("new"), 0o600))
	must(os.MkdirAll(filepath.Join(report, "log"), 0o700))
	must(os.WriteFile(filepath.Join(report, "log", "nodes"), []byte("x"), 0o600))
	must(os.WriteFile(filepath.Join(f.in(), "a.csv"), nil, 0o600))
	d, ok, err := f.take(dropped{filepath.Join(f.in(), "a.csv"), "a"})
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	must(os.WriteFile(filepath.Join(f.in(), "a.csv"), nil, 0o600))
	if _, ok, err := f.take(dropped{filepath.Join(f.in(), "a.csv"), "a"}); ok || err != nil {
		t.Errorf("a second manifest of an unfinished lot was taken: %v", err)
	}
	// A crash left half a copy, and an older report.
	must(os.MkdirAll(f.path("done", "a", ".report.part", "old"), 0o700))
	must(os.MkdirAll(f.path("done", "a", "report", "old"), 0o700))
	done, err := f.finish(d, report)
	must(err)
	for name, want := range map[string]bool{
		"a.csv": true, "report/devices.csv": true, "report/log/nodes": true, "report/old": false, ".report.part": false,
	} {
		if files.Exists(filepath.Join(done, name)) != want {
			t.Errorf("%s: there is %v", name, !want)
		}
	}
	if files.Exists(f.path("work", "a")) {
		t.Error("the lot's folder in work/ is left over")
	}
	nothing := func(io.Writer) error { return nil }
	for _, want := range []string{"b.csv", "b.2.csv", "b.3.csv"} {
		must(os.WriteFile(filepath.Join(f.in(), "b.csv"), nil, 0o600))
		moved, err := f.refuse(dropped{filepath.Join(f.in(), "b.csv"), "b"}, nothing, nothing)
		must(err)
		if moved != f.path("refused", want) || !files.Exists(moved+".problems.txt") || !files.Exists(moved+".problems.json") {
			t.Errorf("refused to %s, want %s", moved, want)
		}
	}
}

// TestBatchStillOpen: a copy that stalls looks settled, but somebody has it open.
func TestBatchStillOpen(t *testing.T) {
	f, err := openDropFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	writer, err := os.Create(filepath.Join(f.in(), "a.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	look := func(now time.Time) (ready, unsettled int) {
		t.Helper()
		list, unsettled, err := f.look(now, 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(list), unsettled
	}
	now := time.Now()
	if ready, unsettled := look(now); ready != 0 || unsettled != 1 {
		t.Errorf("open for writing: %d ready, %d unsettled", ready, unsettled)
	}
	if ready, _ := look(now.Add(writerPatience)); ready != 1 {
		t.Errorf("open, but old: %d ready", ready)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if ready, unsettled := look(now); ready != 1 || unsettled != 0 {
		t.Errorf("closed: %d ready, %d unsettled", ready, unsettled)
	}
}

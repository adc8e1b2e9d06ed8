package reports

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/xuri/excelize/v2"

	"keymill/pipeline"
)

func exportLot(t testing.TB, src Source, lot string, opt Options) (string, Result) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "report")
	res, err := Export(t.Context(), src, lot, dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return dir, res
}

func readCSV(t testing.TB, path string) []map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var rows []map[string]string
	for _, rec := range all[1:] {
		row := map[string]string{}
		for i, name := range all[0] {
			row[name] = rec[i]
		}
		rows = append(rows, row)
	}
	return rows
}

func TestCSVHasARowForEveryDevice(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 100)
	dir, res := exportLot(t, l, "lot-1", Options{Formats: []string{"csv"}})
	rows := readCSV(t, filepath.Join(dir, "devices.csv"))
	if len(rows) != 100 || res.Devices != 100 {
		t.Fatalf("%d rows, %d devices", len(rows), res.Devices)
	}
	r := l.records["lot-1"][3]
	got := rows[3]
	want := map[string]string{"row": "5", "mac": "02:12:61:00:00:03", "serial": "SN0000003", "note": "'-5", "state": "released",
		"algorithm": "ed25519", "spki_sha256": r.Fingerprint(), "server_device_id": "dev-3", "request_id": "req-3",
		"output_name": "images/3.sdimg", "output_bytes": "1048576", "output_sha256": r.Output.SHA256, "attempts": "1", "reason": ""}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s = %q, want %q", name, got[name], value)
		}
	}
	if rows[49]["reason"] != "'=the server said 400: bad identity" {
		t.Errorf("reason %q", rows[49]["reason"])
	}
	if _, err := os.Stat(filepath.Join(dir, "events.jsonl")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("csv alone wrote events.jsonl: %v", err)
	}
}

func TestNeutral(t *testing.T) {
	for _, s := range []string{"=1", "+1", "-1", "@x", "\tx", "\rx", "\nx", "＝x", "＋x", "－x", "＠x"} {
		if got := neutral(s); got != "'"+s {
			t.Errorf("neutral(%q) = %q", s, got)
		}
	}
	for _, s := range []string{"", "a=1", "02:12", " x", "'x"} {
		if got := neutral(s); got != s {
			t.Errorf("neutral(%q) = %q", s, got)
		}
	}
}

func TestAttributeNamedLikeAColumn(t *testing.T) {
	s := &Summary{Identity: []string{"row"}, Attributes: []string{"state", "=evil"}}
	var names []string
	for _, c := range columns(s) {
		names = append(names, c.name)
	}
	if want := []string{"row", "attr.row", "attr.state", "=evil", "state"}; !cmp.Equal(names[:5], want) {
		t.Errorf("columns %q, want %q first", names, want)
	}
}

func TestJSONLinesKeepBareValues(t *testing.T) {
	l := newLedger(t)
	l.fill("other", 3)
	l.fill("lot-1", 12)
	dir, res := exportLot(t, l, "lot-1", Options{Formats: []string{"jsonl"}})
	data, err := os.ReadFile(filepath.Join(dir, "devices.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if len(lines) != 12 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, line := range lines {
		var got deviceLine
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(lineOf(l.records["lot-1"][i]), got); diff != "" {
			t.Errorf("row %d: %s", i, diff)
		}
	}
	var events strings.Builder
	n := 0
	for e, err := range l.Events(t.Context(), "lot-1") {
		if err != nil {
			t.Fatal(err)
		}
		events.Write(e.Canonical)
		events.WriteByte('\n')
		n++
	}
	got, err := os.ReadFile(filepath.Join(dir, "events.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != events.String() || res.Events != n {
		t.Errorf("events.jsonl is not the %d canonical events verbatim (%d)", n, res.Events)
	}
}

func TestXLSXIsTypedFilteredAndFrozen(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 60)
	dir, _ := exportLot(t, l, "lot-1", Options{Formats: []string{"xlsx"}})
	book, err := excelize.OpenFile(filepath.Join(dir, "devices.xlsx"))
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	if got := book.GetSheetList(); !cmp.Equal(got, []string{"Summary", "Devices", "Rate"}) {
		t.Errorf("sheets %q", got)
	}
	rows, err := book.GetRows("Devices")
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 61 || rows[1][1] != "02:12:61:00:00:00" || rows[2][3] != "'=1+1" {
		t.Errorf("%d rows, first %q", len(rows), rows[1:3])
	}
	panes, err := book.GetPanes("Devices")
	if err != nil || !panes.Freeze || panes.YSplit != 1 {
		t.Errorf("panes %+v, %v", panes, err)
	}
	for col, want := range map[string]excelize.CellType{"row": excelize.CellTypeUnset, "state": excelize.CellTypeInlineString, "output_bytes": excelize.CellTypeUnset} {
		cell, err := excelize.CoordinatesToCellName(slices.Index(rows[0], col)+1, 2)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := book.GetCellType("Devices", cell); err != nil || got != want {
			t.Errorf("%s: type %v, %v", col, got, err)
		}
	}
	filter := false
	for _, n := range book.GetDefinedName() {
		filter = filter || n.Name == "_xlnm._FilterDatabase" && strings.HasSuffix(n.RefersTo, "$61")
	}
	if !filter {
		t.Errorf("no filter over all rows: %v", book.GetDefinedName())
	}
	summary, err := book.GetRows("Summary")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(summary, func(r []string) bool { return cmp.Equal(r, []string{"Devices", "60"}) }) {
		t.Errorf("summary %q", summary)
	}
}

func TestXLSXSplitsOverSheets(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 25)
	s, err := survey(t.Context(), l, "lot-1")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w, err := newXLSX(&bundleDir{dir: dir}, s, 11)
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range l.Records(t.Context(), "lot-1") {
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Device(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	book, err := excelize.OpenFile(filepath.Join(dir, "devices.xlsx"))
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	total := 0
	for sheet, want := range map[string]int{"Devices": 10, "Devices 2": 10, "Devices 3": 5} {
		rows, err := book.GetRows(sheet)
		if err != nil || len(rows)-1 != want || rows[0][0] != "row" {
			t.Errorf("%s: %d rows, %v", sheet, len(rows)-1, err)
		}
		total += len(rows) - 1
	}
	if total != 25 {
		t.Errorf("%d rows in all", total)
	}
}

func TestExportingTwiceGivesTheSameBytes(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 200)
	_, first := exportLot(t, l, "lot-1", Options{})
	_, second := exportLot(t, l, "lot-1", Options{})
	if diff := cmp.Diff(first.Files, second.Files); diff != "" {
		t.Error(diff)
	}
}

func TestModes(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 5)
	dir, _ := exportLot(t, l, "lot-1", Options{})
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s is %o", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// brokenSource fails after some records.
type brokenSource struct {
	*fakeLedger
	after int
}

func (b brokenSource) Records(ctx context.Context, lot string, states ...pipeline.State) iter.Seq2[*pipeline.Record, error] {
	return func(yield func(*pipeline.Record, error) bool) {
		n := 0
		for r, err := range b.fakeLedger.Records(ctx, lot, states...) {
			if n == b.after {
				yield(nil, errors.New("the disk is gone"))
				return
			}
			n++
			if !yield(r, err) {
				return
			}
		}
	}
}

func TestAFailedExportLeavesNothing(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 20)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, export := range map[string]func(dir string) error{
		"source": func(dir string) error {
			_, err := Export(t.Context(), brokenSource{l, 10}, "lot-1", dir, Options{})
			return err
		},
		"cancelled": func(dir string) error { _, err := Export(canceled, l, "lot-1", dir, Options{}); return err },
		"journal": func(dir string) error {
			_, err := Export(t.Context(), l, "lot-1", dir, Options{Signer: stationKey("a"), Station: "line-3", Journal: brokenJournal{l}})
			return err
		},
		"no lot": func(dir string) error { _, err := Export(t.Context(), l, "lot-2", dir, Options{}); return err },
		"formats": func(dir string) error {
			_, err := Export(t.Context(), l, "lot-1", dir, Options{Formats: []string{"doc"}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			if err := export(filepath.Join(parent, "report")); err == nil {
				t.Fatal("no error")
			}
			if left, err := os.ReadDir(parent); err != nil || len(left) != 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}

func TestReplace(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 5)
	dir, _ := exportLot(t, l, "lot-1", Options{Formats: []string{"csv"}})
	if _, err := Export(t.Context(), l, "lot-1", dir, Options{}); err == nil || pipeline.Hint(err) == "" {
		t.Fatalf("replaced without being asked: %v", err)
	}
	if _, err := Export(t.Context(), l, "lot-1", dir, Options{Formats: []string{"jsonl"}, Replace: true}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadDir(dir); len(got) != 2 {
		t.Errorf("after the replacement: %v", got)
	}
	if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) != 1 {
		t.Errorf("beside it: %v", left)
	}
	if err := os.WriteFile(filepath.Join(dir, "thesis.doc"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Export(t.Context(), l, "lot-1", dir, Options{Replace: true}); err == nil {
		t.Error("replaced a folder with somebody's file in it")
	}
}

// TestLeftoversOfKilledExportsGo checks that a folder which nobody writes any
// more is removed, and one that somebody writes is not.
func TestLeftoversOfKilledExportsGo(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 5)
	dir := filepath.Join(t.TempDir(), "report")
	_, release, err := makePartial(dir)
	if err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(filepath.Dir(dir), ".report.partial-123")
	if err := os.MkdirAll(filepath.Join(stale, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Export(t.Context(), l, "lot-1", dir, Options{}); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) != 2 {
		t.Errorf("the bundle and the other export's folder should be left: %v", left)
	}
	release()
	if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) != 1 {
		t.Errorf("the bundle should be left: %v", left)
	}
}

func TestBalance(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 100)
	s, err := survey(t.Context(), l, "lot-1")
	if err != nil {
		t.Fatal(err)
	}
	if wrong := s.Balance.Check(100); len(wrong) != 0 {
		t.Fatalf("a sound lot does not balance: %q", wrong)
	}
	for name, c := range map[string]struct {
		spoil func(b *Balance)
		says  string
	}{
		"missing row": {func(b *Balance) {
			b.Rows--
			b.Released--
			b.KeysInImages--
			b.KeysGenerated--
			b.AuthSetsReleased--
			b.AuthSetsMade--
		}, "manifest has 100 rows"},
		"open device":     {func(b *Balance) { b.Open++; b.Released-- }, "neither released nor failed"},
		"lost key":        {func(b *Balance) { b.KeysGenerated++ }, "keys were generated"},
		"over-production": {func(b *Balance) { b.KeysGenerated += 5; b.KeysInImages += 5 }, "over-production"},
		"stray auth set":  {func(b *Balance) { b.AuthSetsMade++ }, "auth sets"},
	} {
		t.Run(name, func(t *testing.T) {
			b := s.Balance
			c.spoil(&b)
			if wrong := strings.Join(b.Check(100), "; "); !strings.Contains(wrong, c.says) {
				t.Errorf("says %q, want %q in it", wrong, c.says)
			}
		})
	}
}

// TestExportIsRecordedOnce: a night in which nothing happens to a lot adds
// nothing to the station log.
func TestExportIsRecordedOnce(t *testing.T) {
	l, key := newLedger(t), stationKey("a")
	l.fill("lot-0", 3)
	l.fill("lot-1", 3)
	for i, want := range []int{2, 2, 2, 3, 3} { // the key, and the lot's heads
		switch i {
		case 2:
			l.append(pipeline.Event{Lot: "lot-0", Action: pipeline.ActionVerify})
		case 3:
			l.append(pipeline.Event{Lot: "lot-1", Action: pipeline.ActionVerify})
		}
		exportLot(t, l, "lot-1", signedOptions(l, key, "csv"))
		if got := len(l.logs["line-3"]); got != want {
			t.Errorf("export %d: the station log has %d leaves, want %d", i+1, got, want)
		}
	}
}

// brokenJournal takes nothing.
type brokenJournal struct{ *fakeLedger }

func (brokenJournal) Append(context.Context, pipeline.Event) (int64, error) {
	return 0, errors.New("no")
}

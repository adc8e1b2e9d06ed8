package sources

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/xuri/excelize/v2"

	"keymill/pipeline"
)

// book writes a workbook after edit has worked on its one sheet, whose rows are
// given.
func book(t testing.TB, rows [][]any, edit func(f *excelize.File, sheet string) error) []byte {
	t.Helper()
	f := excelize.NewFile()
	defer f.Close()
	for i, r := range rows {
		if err := f.SetSheetRow("Sheet1", fmt.Sprintf("A%d", i+1), &r); err != nil {
			t.Fatal(err)
		}
	}
	if edit != nil {
		if err := edit(f, "Sheet1"); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := f.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// surgery rewrites parts of a workbook; a nil result removes the part. Parts that
// it lacks are added.
func surgery(t testing.TB, xlsx []byte, edit map[string]func([]byte) []byte) []byte {
	t.Helper()
	in, err := zip.NewReader(bytes.NewReader(xlsx), int64(len(xlsx)))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	out := zip.NewWriter(&b)
	for name, e := range edit {
		if slices.ContainsFunc(in.File, func(f *zip.File) bool { return f.Name == name }) {
			continue
		}
		w, err := out.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e(nil)); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range in.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if e := edit[f.Name]; e != nil {
			if data = e(data); data == nil {
				continue
			}
		}
		w, err := out.Create(f.Name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const (
	sheetPart   = "xl/worksheets/sheet1.xml"
	stringsPart = "xl/sharedStrings.xml"
)

func replace(t testing.TB, old, with string) func([]byte) []byte {
	return func(b []byte) []byte {
		if !bytes.Contains(b, []byte(old)) {
			t.Fatalf("no %q in:\n%s", old, b)
		}
		return bytes.Replace(b, []byte(old), []byte(with), 1)
	}
}

func someRows(n int) [][]any {
	rows := [][]any{{"MAC address", "Serial no.", "note"}}
	for i := range n {
		rows = append(rows, []any{fmt.Sprintf("00:1B:63:84:%02X:%02X", i>>8, i&255), fmt.Sprintf("%06d", i), "x & <y>"})
	}
	return rows
}

func takeXLSX(t testing.TB, content []byte, cfg Config) outcome {
	t.Helper()
	return take(t, write(t, "m.xlsx", content), cfg)
}

func TestWorkbook(t *testing.T) {
	devs := accept(t, takeXLSX(t, book(t, someRows(3), nil), Config{Expect: 3}))
	if got := pipeline.Identity(devs[2].Attrs).String(); got != "mac=00:1b:63:84:00:02, serial=000002, note=x & <y>" || devs[2].Row != 4 {
		t.Errorf("device %s in row %d", got, devs[2].Row)
	}
	// The same content gives the same devices whatever the format.
	csv := "MAC address,Serial no.,note\n"
	for _, r := range someRows(3)[1:] {
		csv += fmt.Sprintf("%s,%s,%s\n", r...)
	}
	if diff := cmp.Diff(accept(t, takeCSV(t, csv, Config{})), devs); diff != "" {
		t.Errorf("CSV and XLSX differ:\n%s", diff)
	}
}

func TestWhatExcelDid(t *testing.T) {
	day := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		cell any
		what string
	}{
		"number":      {12345678901234567, "into a number"},
		"date":        {day, "into a date"},
		"truth value": {true, "into a truth value"},
	} {
		t.Run(name, func(t *testing.T) {
			rows := someRows(2)
			rows[2][1] = tc.cell
			p := want(t, takeXLSX(t, book(t, rows, nil), Config{}), 3, "Serial no.", tc.what)
			if p.Cell != "B3" || !strings.Contains(p.Remedy, "Text") {
				t.Errorf("problem %+v", p)
			}
			// In a column that nothing hangs on it is taken as it is shown.
			rows = someRows(2)
			rows[2][2] = tc.cell
			o := takeXLSX(t, book(t, rows, nil), Config{})
			accept(t, o)
			warned(t, o, 3, tc.what)
		})
	}
	t.Run("MAR-26", func(t *testing.T) {
		rows := someRows(2)
		xlsx := book(t, rows, func(f *excelize.File, s string) error {
			style, err := f.NewStyle(&excelize.Style{NumFmt: 17})
			if err != nil {
				return err
			}
			return firstError(f.SetCellValue(s, "B3", 46082), f.SetCellStyle(s, "B3", "B3", style))
		})
		p := want(t, takeXLSX(t, xlsx, Config{}), 3, "Serial no.", "into a date (stored as 46082)")
		if p.Value != "Mar-26" {
			t.Errorf("value %q", p.Value)
		}
	})
	t.Run("whole number elsewhere", func(t *testing.T) {
		rows := someRows(2)
		rows[1][2] = 42
		o := takeXLSX(t, book(t, rows, nil), Config{})
		if devs := accept(t, o); devs[0].Attrs[2].Value != "42" || len(o.warnings) > 0 {
			t.Errorf("device %+v, warnings %v", devs[0], o.warnings)
		}
	})
	t.Run("formula", func(t *testing.T) {
		formula := func(cell string) []byte {
			return book(t, someRows(2), func(f *excelize.File, s string) error {
				return f.SetCellFormula(s, cell, `"SN"&"5"`)
			})
		}
		want(t, takeXLSX(t, formula("B3"), Config{}), 3, "Serial no.", "formula")
		o := takeXLSX(t, formula("C3"), Config{})
		accept(t, o)
		warned(t, o, 3, "formula")
	})
	t.Run("formula error", func(t *testing.T) {
		xlsx := surgery(t, book(t, someRows(2), nil), map[string]func([]byte) []byte{
			sheetPart: func(b []byte) []byte {
				i := bytes.Index(b, []byte(`<c r="C3"`))
				end := i + bytes.Index(b[i:], []byte("</c>"))
				return slices.Concat(b[:i], []byte(`<c r="C3" t="e"><v>#REF!</v>`), b[end:])
			}})
		if p := want(t, takeXLSX(t, xlsx, Config{}), 3, "note", "formula error"); p.Value != "#REF!" {
			t.Errorf("value %q", p.Value)
		}
	})
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestMergedAndHidden(t *testing.T) {
	o := takeXLSX(t, book(t, someRows(4), func(f *excelize.File, s string) error {
		return firstError(f.MergeCell(s, "C2", "C4"), f.SetRowVisible(s, 4, false), f.SetColVisible(s, "B", false))
	}), Config{})
	if p := want(t, o, 2, "note", "merged"); p.Cell != "C2:C4" {
		t.Errorf("problem %+v", p)
	}
	want(t, o, 4, "", "hidden")
	warned(t, o, 1, "column is hidden")
	// Beside the table it is nobody's business.
	accept(t, takeXLSX(t, book(t, someRows(4), func(f *excelize.File, s string) error { return f.MergeCell(s, "F2", "G4") }), Config{}))
}

func TestSheets(t *testing.T) {
	two := func(visible bool) []byte {
		return book(t, someRows(2), func(f *excelize.File, s string) error {
			_, err := f.NewSheet("Spare parts")
			return firstError(err, f.SetCellValue("Spare parts", "A1", "x"), f.SetSheetVisible("Spare parts", visible))
		})
	}
	accept(t, takeXLSX(t, two(false), Config{}))
	accept(t, takeXLSX(t, two(true), Config{Sheet: "sheet1"}))
	// The one that maps is taken, and said so.
	o := takeXLSX(t, two(true), Config{})
	if devs := accept(t, o); len(devs) != 2 {
		t.Errorf("devices %v", devs)
	}
	warned(t, o, 0, `only "Sheet1" has the columns`)
	o = takeXLSX(t, two(true), Config{Sheet: "Devices"})
	if !Refused(o.err) || !strings.Contains(pipeline.Hint(o.err), `"Spare parts"`) {
		t.Errorf("no such sheet: %v, %s", o.err, pipeline.Hint(o.err))
	}
	// A sheet that goes on where the other ends is not left out.
	for name, cells := range map[string][]string{"no header": {"00:1b:63:84:09:00", "7"}, "another header": {"MAC address", "Serial no."}} {
		xlsx := book(t, someRows(2), func(f *excelize.File, s string) error {
			_, err := f.NewSheet("More")
			return firstError(err, f.SetSheetRow("More", "A1", &cells))
		})
		if o := takeXLSX(t, xlsx, Config{}); !Refused(o.err) || !strings.Contains(pipeline.Hint(o.err), `"Sheet1", "More"`) {
			t.Errorf("%s: %v, %s", name, o.err, pipeline.Hint(o.err))
		}
	}
	o = takeXLSX(t, two(false), Config{Sheet: "Spare parts"})
	warned(t, o, 0, "hidden")
}

func TestDamagedWorkbooks(t *testing.T) {
	whole := book(t, someRows(300), nil)
	o := takeXLSX(t, whole, Config{})
	accept(t, o)
	cut := func(share float64) func([]byte) []byte {
		return func(b []byte) []byte { return b[:int(float64(len(b))*share)] }
	}
	cutAt := func(tag string) func([]byte) []byte {
		return func(b []byte) []byte { return b[:bytes.LastIndex(b, []byte(tag))] }
	}
	for name, tc := range map[string]struct {
		part, what string
		edit       func([]byte) []byte
	}{
		"sheet cut in half":      {sheetPart, "ends in the middle", cut(0.5)},
		"sheet cut between rows": {sheetPart, "ends in the middle", cutAt("<row")},
		"sheet without its end":  {sheetPart, "ends in the middle", cutAt("</worksheet")},
		"sheet without data":     {sheetPart, "ends in the middle", cut(0)},
		"sheet gone":             {sheetPart, "lacks its part", func([]byte) []byte { return nil }},
		"strings cut":            {stringsPart, "ends in the middle", cut(0.5)},
		"workbook cut":           {"xl/workbook.xml", "damaged", cut(0.5)},
		"workbook gone":          {"xl/workbook.xml", "lacks its part", func([]byte) []byte { return nil }},
		"rows out of order":      {sheetPart, "row numbered", replace(t, `<row r="200"`, `<row r="20"`)},
		"cell out of place":      {sheetPart, "out of place", replace(t, `<c r="B200"`, `<c r="B20"`)},
		"cells out of order":     {sheetPart, "out of place", replace(t, `<c r="B200"`, `<c r="A200"`)},
		"document type":          {sheetPart, "document type", replace(t, "<worksheet", `<!DOCTYPE x [<!ENTITY a "b">]><worksheet`)},
		"crossed elements":       {sheetPart, "closed as", replace(t, `</c></row><row r="9"`, `</row></c><row r="9"`)},
		"rows twice":             {sheetPart, "rows twice", replace(t, `<sheetData>`, `<sheetData/><sheetData>`)},
	} {
		t.Run(name, func(t *testing.T) {
			o := takeXLSX(t, surgery(t, whole, map[string]func([]byte) []byte{tc.part: tc.edit}), Config{})
			if !Refused(o.err) || !strings.Contains(o.err.Error(), tc.what) || pipeline.Hint(o.err) == "" {
				t.Errorf("got %v (%s) %v", o.err, pipeline.Hint(o.err), o.problems)
			}
			if o.summary.Rows > 0 {
				want(t, o, 0, "", tc.what)
			}
		})
	}
	t.Run("file cut", func(t *testing.T) {
		if o := takeXLSX(t, whole[:len(whole)*9/10], Config{}); !Refused(o.err) {
			t.Errorf("got %v", o.err)
		}
	})
	t.Run("flipped byte", func(t *testing.T) {
		z, err := zip.NewReader(bytes.NewReader(whole), int64(len(whole)))
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(z.File, func(f *zip.File) bool { return f.Name == sheetPart })
		offset, err := z.File[at].DataOffset()
		if err != nil {
			t.Fatal(err)
		}
		damaged := bytes.Clone(whole)
		damaged[offset+int64(z.File[at].CompressedSize64/2)] ^= 1
		if o := takeXLSX(t, damaged, Config{}); !Refused(o.err) {
			t.Errorf("got %v", o.err)
		}
	})
}

func TestBadSharedString(t *testing.T) {
	xlsx := surgery(t, book(t, someRows(2), nil), map[string]func([]byte) []byte{
		sheetPart: func(b []byte) []byte {
			i := bytes.Index(b, []byte(`<c r="B3"`))
			i += bytes.Index(b[i:], []byte("<v>"))
			return slices.Concat(b[:i+3], []byte("99999"), b[i+bytes.Index(b[i:], []byte("</v>")):])
		}})
	if p := want(t, takeXLSX(t, xlsx, Config{}), 3, "Serial no.", "text number 99999"); p.Cell != "B3" {
		t.Errorf("problem %+v", p)
	}
}

func TestZipBombs(t *testing.T) {
	small := book(t, someRows(2), nil)
	bomb := surgery(t, small, map[string]func([]byte) []byte{
		sheetPart: func(b []byte) []byte { return append(b, bytes.Repeat([]byte(" "), 80<<20)...) }})
	aside := surgery(t, small, map[string]func([]byte) []byte{
		"docProps/app.xml": func(b []byte) []byte { return append(b, bytes.Repeat([]byte(" 0123456789abcdef"), 5<<20)...) }})
	for name, content := range map[string][]byte{"sheet": bomb, "another part": aside} {
		o := takeXLSX(t, content, Config{})
		if !Refused(o.err) || !strings.Contains(o.err.Error(), "unpack to too much") {
			t.Errorf("%s: %v", name, o.err)
		}
	}
}

func TestTemporaryFilesGo(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	path := write(t, "m.xlsx", book(t, someRows(2), nil))
	cut := write(t, "c.xlsx", surgery(t, book(t, someRows(2), nil), map[string]func([]byte) []byte{sheetPart: func(b []byte) []byte { return b[:300] }}))
	for _, p := range []string{path, cut} {
		take(t, p, Config{})
		left, err := os.ReadDir(tmp)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range left {
			if strings.HasPrefix(e.Name(), "keymill-") || strings.HasPrefix(e.Name(), "excelize-") {
				t.Errorf("%s is left behind", e.Name())
			}
		}
	}
}

func TestWorkbookReplacedWhileOpen(t *testing.T) {
	path := write(t, "m.xlsx", book(t, someRows(2), nil))
	m, err := Open(path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := os.WriteFile(path+"2", book(t, someRows(3), nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"2", path); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Check(t.Context(), func(Problem) {}); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("got %v", err)
	}
}

func TestScanAgreesWithExcelize(t *testing.T) {
	// Every kind of cell, gaps, rich text and prefixes, read by both.
	xlsx := book(t, someRows(50), func(f *excelize.File, s string) error {
		return firstError(
			f.SetCellRichText(s, "C7", []excelize.RichTextRun{{Text: "a"}, {Text: "b", Font: &excelize.Font{Bold: true}}}),
			f.SetCellValue(s, "F9", 1.5), f.SetCellBool(s, "G9", true), f.SetCellValue(s, "D60", "far"),
			f.SetCellFormula(s, "H9", "1+1"))
	})
	f, err := excelize.OpenReader(bytes.NewReader(xlsx))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	byExcelize, err := f.GetRows("Sheet1")
	if err != nil {
		t.Fatal(err)
	}
	m, err := openWorkbook(write(t, "m.xlsx", xlsx), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	pass, err := m.open()
	if err != nil {
		t.Fatal(err)
	}
	defer pass.Close()
	for {
		r, err := pass.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(byExcelize[r.number-1], r.values); diff != "" {
			t.Errorf("row %d:\n%s", r.number, diff)
		}
		for i, v := range r.values {
			if (v == "") != (r.cells[i].kind == kindEmpty) && !r.cells[i].formula {
				t.Errorf("row %d, column %d: value %q, kind %d", r.number, i, v, r.cells[i].kind)
			}
		}
		byExcelize[r.number-1] = nil
	}
	for i, r := range byExcelize {
		if len(r) > 0 {
			t.Errorf("row %d was left out: %v", i+1, r)
		}
	}
}

// isOutage fails the test unless err is the storage's, with a hint.
func isOutage(t *testing.T, err error) {
	t.Helper()
	o, ok := errors.AsType[*pipeline.Outage](err)
	if !ok || o.Part != pipeline.PartStorage || pipeline.Hint(err) == "" || Refused(err) {
		t.Errorf("got %v", err)
	}
}

func TestNoRoomForTexts(t *testing.T) {
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "none"))
	_, err := openWorkbookLimit(write(t, "m.xlsx", book(t, someRows(2), nil)), Config{}, 16)
	isOutage(t, err)
	// The file of texts that are read back short, as from a disk that fails.
	table := &textTable{ends: []uint64{40 << 1}, blocks: make([]textBlock, textBlocks)}
	file, err := os.Create(filepath.Join(t.TempDir(), "short"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	table.file = file
	_, _, err = table.append(nil, 0)
	isOutage(t, err)
}

// TestLargeWorkbook goes the way of many shared strings, through a file.
func TestLargeWorkbook(t *testing.T) {
	rows := someRows(300)
	for i, r := range rows[1:] {
		r[2] = fmt.Sprint("note ", i)
	}
	path := write(t, "m.xlsx", book(t, rows, nil))
	want := accept(t, take(t, path, Config{}))
	src, err := openWorkbookLimit(path, Config{}, 4096)
	if err != nil {
		t.Fatal(err)
	}
	m := &Manifest{path: path, src: src}
	defer m.Close()
	if src.(*workbook).texts.file == nil {
		t.Fatal("the texts are in memory")
	}
	if err := m.readHeader(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Check(t.Context(), func(p Problem) { t.Error(p) }); err != nil {
		t.Fatal(err)
	}
	var got []pipeline.Device
	for d, err := range m.Devices(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, d)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

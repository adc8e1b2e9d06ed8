package sources

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/xuri/excelize/v2"
)

// oddity is one odd thing in a workbook that is sound otherwise: what programs
// put into row 3 of three devices, and what may be read.
type oddity struct {
	Name   string     `json:"name"`
	Column string     `json:"column"`
	Type   string     `json:"type"` // text, number, bool, date, formula, error, rich, blank
	Value  string     `json:"value"`
	Format string     `json:"format"`
	Extra  string     `json:"extra"`
	Result string     `json:"result"` // a formula's
	Rows   [][]string `json:"rows"`

	reads []string // any of these; none: refused
	// row is where a refusal must say something; 0: row 3.
	row int
}

func oddities() []oddity {
	text := func(name, value string) oddity {
		return oddity{Name: name, Column: "note", Type: "text", Value: value, reads: []string{value}}
	}
	serial := func(o oddity) oddity { o.Name, o.Column = "serial-"+o.Name, "serial"; return o }
	number := func(name, value, format string) oddity {
		return oddity{Name: name, Column: "note", Type: "number", Value: value, Format: format, reads: []string{value}}
	}
	refused := func(o oddity) oddity { o.reads = nil; return o }
	extra := func(what string) oddity {
		return oddity{Name: what, Column: "note", Type: "text", Value: "odd", Extra: what, reads: []string{"odd"}}
	}
	list := []oddity{
		text("plain", "plain"), text("digits", "000123"), text("long-digits", "12345678901234567890"), text("xml", `<a href="x">&amp; 'y'</a>`), text("unicode", "Größe 東京 😀"),
		text("emoji", "👩‍🔧"), text("newline", "two\nlines"), text("formula-text", "=1+1"), text("at-text", "@x"), text("long", strings.Repeat("0123456789", 3000)),
		text("inner-spaces", "a  b   c"), text("true-text", "TRUE"), text("date-text", "2026-03-01"), text("hash", "#1"), text("quotes", `"a"`),
		text("underscore", "_x00"), text("sci-text", "1e5x"),
		text("escape", "_x0041_"), refused(text("spaces", " a ")), refused(text("tab", "a\tb")), refused(text("error-text", "#N/A")),
		serial(text("digits", "000123")), serial(text("long-digits", "12345678901234567890")), serial(text("hex", "0503E000")), refused(serial(text("sci", "1.23457E+11"))), refused(serial(text("apostrophe", "'00123"))),
		refused(serial(number("number", "17", ""))), refused(serial(number("zeros", "17", "0000000"))),
		number("integer", "42", ""), number("negative", "-7", ""), number("fraction", "12.5", ""), number("percent", "0.5", "0%"), number("zeros", "17", "0000000"), number("rounded", "12.75", "0"),
		number("accounting", "12.5", `_(* #,##0.00_);_(* \(#,##0.00\);_(* "-"??_);_(@_)`), number("hidden", "17", ";;;"), number("unit", "17", `0" kg"`), number("colours", "17", "[Red][<10]0;[Blue]0.0"),
		number("fifteen", "123456789012345", ""), number("huge", "1e300", ""), number("tiny", "0.000001", ""),
		{Name: "bool", Column: "note", Type: "bool", Value: "true", reads: []string{"TRUE"}},
		{Name: "date", Column: "note", Type: "date", Value: "2026-03-01T00:00:00", Format: "yyyy-mm-dd", reads: []string{"2026-03-01"}},
		{Name: "serial-date", Column: "serial", Type: "date", Value: "2026-03-01T00:00:00", Format: "mmm-yy"},
		{Name: "date-1904", Column: "note", Type: "date", Value: "2026-03-01T00:00:00", Format: "yyyy-mm-dd", Extra: "1904", reads: []string{"2026-03-01"}},
		{Name: "formula", Column: "note", Type: "formula", Value: `CONCATENATE("a","b")`, Result: "ab", reads: []string{"ab"}},
		{Name: "serial-formula", Column: "serial", Type: "formula", Value: `CONCATENATE("a","b")`, Result: "ab"},
		{Name: "error", Column: "note", Type: "error", Value: "#N/A"},
		{Name: "rich", Column: "serial", Type: "rich", Value: "SN0003", reads: []string{"SN0003"}},
		{Name: "blank", Column: "note", Type: "blank", reads: []string{""}},
		{Name: "hidden-text", Column: "serial", Type: "text", Value: "SN3", Format: ";;;"},
		{Name: "prefix-text", Column: "serial", Type: "text", Value: "SN3", Format: `"SN-"@`},
		{Name: "prefix-note", Column: "note", Type: "text", Value: "SN3", Format: `"SN-"@`, reads: []string{"SN3"}},
		{Name: "accounting-blank", Column: "note", Type: "blank", Format: `_(* #,##0.00_);_(* "-"??_);_(@_)`, reads: []string{""}},
		{Name: "text-format", Column: "serial", Type: "text", Value: "000017", Format: "@", reads: []string{"000017"}},
		extra("comment"), extra("link"), extra("filter"), extra("freeze"), extra("second-sheet"), extra("hidden-sheet"), extra("formatted-below"), extra("gap"), extra("hidden-column"),
		refused(extra("merge")), refused(extra("hidden-row")), refused(extra("beside")),
	}
	for i := range list {
		o := &list[i]
		o.Rows = [][]string{{"mac", "serial", "note"}, {"00:1b:63:00:00:02", "SN0002", "first"}, {"00:1b:63:00:00:03", "SN0003", "odd"}, {"00:1b:63:00:00:04", "SN0004", "last"}}
		if o.row = 3; o.Extra == "merge" {
			o.row = 0
		}
	}
	return list
}

// needs skips the test where a tool is missing; in CI that is a failure.
func needs(t *testing.T, what string, ok bool) {
	t.Helper()
	if !ok && os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: .ci/setup test installs it", what)
	}
	if !ok {
		t.Skipf("%s is missing", what)
	}
}

func command(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func tool(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

// nodeModules is where .ci/setup installs the packages of npm.
func nodeModules() string {
	dir := os.Getenv("KEYMILL_NODE")
	if home, err := os.UserHomeDir(); dir == "" && err == nil {
		dir = filepath.Join(home, ".cache", "keymill", "node")
	}
	return filepath.Join(dir, "node_modules")
}

// TestWritersOfWorkbooks reads workbooks of six programs, each with one odd
// thing: what was put in is read, or the manifest is refused and the row named.
func TestWritersOfWorkbooks(t *testing.T) {
	const python = "/usr/bin/python3" // Debian's, which has the packages
	script := func(name string) string { return filepath.Join("testdata", "differential", name) }
	has := func(module string) bool {
		return exec.CommandContext(t.Context(), python, "-c", "import "+module).Run() == nil
	}
	exists := func(module string) bool {
		_, err := os.Stat(filepath.Join(nodeModules(), module))
		return err == nil && tool("node")
	}
	for name, write := range map[string]func(t *testing.T, spec, dir string){
		"excelize": func(t *testing.T, _, dir string) { writeByExcelize(t, dir) },
		"openpyxl": func(t *testing.T, spec, dir string) {
			needs(t, "python3-openpyxl", has("openpyxl"))
			command(t, nil, python, script("write_openpyxl.py"), spec, dir)
		},
		"xlsxwriter": func(t *testing.T, spec, dir string) {
			needs(t, "python3-xlsxwriter", has("xlsxwriter"))
			command(t, nil, python, script("write_xlsxwriter.py"), spec, dir)
		},
		"exceljs": func(t *testing.T, spec, dir string) {
			needs(t, "exceljs", exists("exceljs"))
			command(t, []string{"NODE_PATH=" + nodeModules(), "TZ=UTC"}, "node", script("write_node.js"), "exceljs", spec, dir)
		},
		"sheetjs": func(t *testing.T, spec, dir string) {
			needs(t, "SheetJS", exists("xlsx"))
			command(t, []string{"NODE_PATH=" + nodeModules(), "TZ=UTC"}, "node", script("write_node.js"), "sheetjs", spec, dir)
		},
		"gnumeric": func(t *testing.T, spec, dir string) {
			needs(t, "ssconvert", tool("ssconvert") && has("xlsxwriter"))
			all := filepath.Join(t.TempDir(), "all.xlsx")
			command(t, nil, python, script("write_xlsxwriter.py"), spec, all)
			command(t, []string{"LC_ALL=C.UTF-8"}, "ssconvert", "--export-type=Gnumeric_Excel:xlsx2", all, filepath.Join(dir, "all.xlsx"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, list := t.TempDir(), oddities()
			spec := filepath.Join(dir, "spec.json")
			text, err := json.Marshal(list)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(spec, text, 0o600); err != nil {
				t.Fatal(err)
			}
			write(t, spec, dir)
			read, taken := 0, 0
			for _, o := range list {
				file, cfg := filepath.Join(dir, o.Name+".xlsx"), Config{}
				if _, err := os.Stat(file); name == "gnumeric" && o.Extra != "1904" && !strings.HasSuffix(o.Extra, "-sheet") {
					file, cfg.Sheet = filepath.Join(dir, "all.xlsx"), o.Name
				} else if err != nil {
					continue // the program has no such thing
				}
				read++
				t.Run(o.Name, func(t *testing.T) {
					if o.judge(t, take(t, file, cfg)) {
						taken++
					}
				})
			}
			if read < len(list)-6 || taken < 30 {
				t.Errorf("%d of %d were written, %d accepted", read, len(list), taken)
			}
		})
	}
}

// judge fails the test unless the manifest was read as it was written or refused
// at its row, and reports whether it was accepted.
func (o *oddity) judge(t *testing.T, got outcome) bool {
	t.Helper()
	if got.err != nil {
		if !Refused(got.err) {
			t.Fatal(got.err)
		}
		// What can be read is not refused, but for texts that writers spell so that
		// nobody knows what was meant, and formulas without a value.
		if len(o.reads) > 0 && o.Type != "formula" && o.Name != "escape" {
			t.Errorf("refused: %v %v", got.err, got.problems)
		}
		if o.row > 0 && !slices.ContainsFunc(got.problems, func(p Problem) bool { return p.Row == o.row }) && !strings.Contains(got.err.Error(), fmt.Sprintf("row %d", o.row)) {
			t.Errorf("refused, but not for row %d: %v %v", o.row, got.err, got.problems)
		}
		return false
	}
	if len(got.devices) != 3 {
		t.Fatalf("%d devices", len(got.devices))
	}
	value, _ := got.devices[1].Attr(o.Column)
	n, err1 := strconv.ParseFloat(value, 64)
	put, err2 := strconv.ParseFloat(o.Value, 64)
	same := o.Type == "number" && len(o.reads) > 0 && err1 == nil && err2 == nil && n == put // however it is spelt
	if !same && !slices.Contains(o.reads, value) {
		t.Errorf("read %.60q, put in %.60q", value, o.Value)
	}
	for i, want := range o.Rows {
		if i == 0 || i == 2 {
			continue
		}
		for c, name := range o.Rows[0] {
			if value, _ := got.devices[i-1].Attr(name); value != want[c] {
				t.Errorf("device %d has the %s %q, want %q", i, name, value, want[c])
			}
		}
	}
	return true
}

// writeByExcelize writes the oddities by the library that keymill has anyway.
func writeByExcelize(t *testing.T, dir string) {
	t.Helper()
	for _, o := range oddities() {
		f := excelize.NewFile()
		const sheet = "Sheet1"
		skip := 0
		if o.Extra == "gap" {
			skip = 1
		}
		var errs []error
		for i, row := range o.Rows {
			n := i + 1
			if i > 1 {
				n += skip
			}
			errs = append(errs, f.SetSheetRow(sheet, fmt.Sprintf("A%d", n), &row))
		}
		at := fmt.Sprintf("%c%d", "ABC"[slices.Index(o.Rows[0], o.Column)], 3+skip)
		if o.Extra == "1904" {
			yes := true
			errs = append(errs, f.SetWorkbookProps(&excelize.WorkbookPropsOptions{Date1904: &yes}))
		}
		errs = append(errs, o.putByExcelize(f, sheet, at), o.dressByExcelize(f, sheet, at), f.SaveAs(filepath.Join(dir, o.Name+".xlsx")), f.Close())
		if err := firstError(errs...); err != nil {
			t.Fatalf("%s: %v", o.Name, err)
		}
	}
}

func (o *oddity) putByExcelize(f *excelize.File, sheet, at string) error {
	switch o.Type {
	case "text":
		return f.SetCellStr(sheet, at, o.Value)
	case "number":
		return f.SetCellDefault(sheet, at, o.Value)
	case "bool":
		return f.SetCellBool(sheet, at, o.Value == "true")
	case "date":
		day, err := time.Parse("2006-01-02T15:04:05", o.Value)
		return firstError(err, f.SetCellValue(sheet, at, day))
	case "formula", "error": // it calculates nothing
		return firstError(f.SetCellValue(sheet, at, nil), f.SetCellFormula(sheet, at, o.Value))
	case "rich":
		return f.SetCellRichText(sheet, at, []excelize.RichTextRun{{Text: o.Value[:2]}, {Text: o.Value[2:], Font: &excelize.Font{Bold: true}}})
	}
	return f.SetCellValue(sheet, at, nil)
}

func (o *oddity) dressByExcelize(f *excelize.File, sheet, at string) error {
	if o.Format != "" {
		style, err := f.NewStyle(&excelize.Style{CustomNumFmt: &o.Format})
		if err := firstError(err, f.SetCellStyle(sheet, at, at, style)); err != nil {
			return err
		}
	}
	switch o.Extra {
	case "merge":
		return f.MergeCell(sheet, "C3", "C4")
	case "hidden-row":
		return f.SetRowVisible(sheet, 3, false)
	case "hidden-column":
		return f.SetColVisible(sheet, "C", false)
	case "comment":
		return f.AddComment(sheet, excelize.Comment{Cell: at, Text: "a comment"})
	case "link":
		return f.SetCellHyperLink(sheet, at, "https://example.com/", "External")
	case "filter":
		return f.AutoFilter(sheet, "A1:C4", nil)
	case "freeze":
		return f.SetPanes(sheet, &excelize.Panes{Freeze: true, YSplit: 1, TopLeftCell: "A2", ActivePane: "bottomLeft"})
	case "second-sheet", "hidden-sheet":
		_, err := f.NewSheet("Notes")
		return firstError(err, f.SetCellStr("Notes", "A1", "nothing here"), f.SetSheetVisible("Notes", o.Extra == "second-sheet"))
	case "formatted-below":
		style, err := f.NewStyle(&excelize.Style{NumFmt: 44})
		return firstError(err, f.SetCellStyle(sheet, "C5", "C8", style))
	case "beside":
		return f.SetCellStr(sheet, "G3", "lost")
	}
	return nil
}

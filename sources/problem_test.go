package sources

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/xuri/excelize/v2"
)

func TestProblemString(t *testing.T) {
	for want, p := range map[string]Problem{
		`row 3, column "MAC", value "zz": what; remedy`: {Row: 3, Column: "MAC", Cell: "A3", Value: "zz", What: "what", Remedy: "remedy"},
		`row 3: what; remedy`:                           {Row: 3, What: "what", Remedy: "remedy"},
		`warning: what`:                                 {What: "what", Warning: true},
	} {
		if got := p.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	b, err := json.Marshal(Problem{Row: 3, Column: "MAC", What: "what", Remedy: "r"})
	if err != nil || string(b) != `{"row":3,"column":"MAC","what":"what","remedy":"r"}` {
		t.Errorf("%s, %v", b, err)
	}
}

func TestShown(t *testing.T) {
	for v, want := range map[string]string{
		"":                                     "",
		"Größe 3":                              "Größe 3",
		`a "b"`:                                `a "b"`,
		"a\x1b[2Jb\n":                          `a\x1b[2Jb\n`,
		"\xff":                                 `\xff`,
		"3f2504e0-4f89-11d3-9a0c-0305e82c3301": "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
		strings.Repeat("é", 41):                strings.Repeat("é", 12) + "… (41 characters)",
	} {
		if got := shown(v); got != want {
			t.Errorf("%q: %s, want %s", v, got, want)
		}
	}
}

func TestHeaderBelowTheFirstRow(t *testing.T) {
	o := takeCSV(t, "\n,,\nMAC,SN\n00:1b:63:84:45:e6,1\n", Config{})
	if devs := accept(t, o); devs[0].Row != 4 {
		t.Errorf("row %d", devs[0].Row)
	}
	warned(t, o, 3, "the header is in row 3")
	xlsx := book(t, [][]any{{}, {"MAC", "SN"}, {}, {"00:1b:63:84:45:e6", "1"}}, nil)
	o = takeXLSX(t, xlsx, Config{})
	if devs := accept(t, o); devs[0].Row != 4 {
		t.Errorf("row %d", devs[0].Row)
	}
	warned(t, o, 2, "the header is in row 2")
	warned(t, o, 3, "row 3 is empty")
}

func TestAccessors(t *testing.T) {
	m, err := Open(write(t, "m.csv", []byte("MAC;SN\n")), Config{})
	if err != nil {
		t.Fatal(err)
	}
	if c := m.Columns(); len(c) != 2 || c[1].Attribute != "serial" {
		t.Errorf("columns %+v", c)
	}
	if id := m.Identity(); len(id) != 1 || id[0] != "mac" {
		t.Errorf("identity %v", id)
	}
}

func TestFormulaInAnEmptyRow(t *testing.T) {
	// A formula that gives nothing is nothing to see, and still a formula.
	o := takeXLSX(t, book(t, someRows(2), func(f *excelize.File, s string) error {
		return f.SetCellFormula(s, "B6", `IF(1=1,"","x")`)
	}), Config{})
	want(t, o, 6, "Serial no.", "formula")
	want(t, o, 6, "MAC address", "missing")
}

func TestDateFormats(t *testing.T) {
	for code, want := range map[string]bool{
		"yyyy-mm-dd": true, "[$-409]d mmm": true, "[h]:mm": true, `0.00" days"`: false, `0\d`: false, "0.00E+00": false, "@": false, "[Red]0": false, "General": false,
	} {
		if got := dateCode(code); got != want {
			t.Errorf("%s: %v", code, got)
		}
	}
	for id, want := range map[int]bool{0: false, 1: false, 11: false, 14: true, 17: true, 22: true, 45: true, 49: false} {
		if got := dateFormat(id); got != want {
			t.Errorf("%d: %v", id, got)
		}
	}
}

func TestCustomDateFormat(t *testing.T) {
	code := "yyyy/mm"
	xlsx := book(t, someRows(2), func(f *excelize.File, s string) error {
		style, err := f.NewStyle(&excelize.Style{CustomNumFmt: &code})
		return firstError(err, f.SetCellValue(s, "B3", 46082), f.SetCellStyle(s, "B3", "B3", style))
	})
	want(t, takeXLSX(t, xlsx, Config{}), 3, "Serial no.", "into a date (stored as 46082)")
}

package sources

import (
	"path/filepath"
	"strings"
	"testing"

	"keymill/pipeline"
)

func takeCase(t *testing.T, name string) outcome {
	t.Helper()
	return take(t, filepath.Join("testdata", "cases", name), Config{})
}

// accepted checks the devices of a case: their number, and one attribute of the
// last one.
func accepted(t *testing.T, o outcome, n int, attr, value string) {
	t.Helper()
	devs := accept(t, o)
	if len(devs) != n {
		t.Fatalf("%d devices, want %d", len(devs), n)
	}
	if got, _ := devs[n-1].Attr(attr); got != value {
		t.Errorf("the last %s is %q, want %q", attr, got, value)
	}
}

// openRefused checks that a file is refused once, at the door.
func openRefused(t *testing.T, o outcome, what, hint string) {
	t.Helper()
	if !Refused(o.err) || !strings.Contains(o.err.Error(), what) || !strings.Contains(pipeline.Hint(o.err), hint) || len(o.problems) > 0 {
		t.Errorf("%v (%s), %v", o.err, pipeline.Hint(o.err), o.problems)
	}
}

// TestCases reads files that were made after public reports of other programs'
// files and of readers that lost something of them.
func TestCases(t *testing.T) {
	for name, check := range map[string]func(t *testing.T, o outcome){
		"rows-lost-empty-s.xlsx": func(t *testing.T, o outcome) { accepted(t, o, 48, "serial", "SN49") },
		"rows-lost-hidden-format.xlsx": func(t *testing.T, o outcome) {
			for row := 3; row <= 49; row++ {
				want(t, o, row, "serial", "shows nothing")
				want(t, o, row, "mac", "shows nothing")
			}
		},
		"text-format-changes-serial.xlsx": func(t *testing.T, o outcome) { want(t, o, 3, "serial", "stores “SN3” and shows “SN-SN3”") },
		"accounting-empty-rows.xlsx":      func(t *testing.T, o outcome) { accepted(t, o, 2, "note", "x") },
		"accounting-price.xlsx": func(t *testing.T, o outcome) {
			accepted(t, o, 2, "note", "12.5")
			warned(t, o, 3, "what is stored is taken")
		},
		"backslash-shared-strings.xlsx": func(t *testing.T, o outcome) { accepted(t, o, 1, "serial", "SN1") },
		"cdata.xlsx":                    func(t *testing.T, o outcome) { accepted(t, o, 1, "serial", "SN1") },
		"binary.xlsb": func(t *testing.T, o outcome) {
			openRefused(t, o, "a binary Excel workbook (.xlsb): save it as XLSX", "XLSX")
		},
		"title-rows.xlsx": func(t *testing.T, o outcome) {
			openRefused(t, o, "the header seems to be in row 4", "manifest.header_row: 4")
		},
		"dup-serial.csv": func(t *testing.T, o outcome) {
			if p := want(t, o, 3, "serial", "same as in row 2"); p.Value != "SN1" {
				t.Errorf("%+v", p)
			}
		},
		"sci-lowercase.csv": func(t *testing.T, o outcome) {
			for row := 2; row <= 4; row++ {
				want(t, o, row, "serial", "scientific notation")
			}
			if len(o.problems) != 3 {
				t.Errorf("%v", o.problems)
			}
		},
		"eq-quoted.csv": func(t *testing.T, o outcome) {
			accepted(t, o, 2, "serial", "00124")
			warned(t, o, 2, "guard")
		},
		"eq-bare.csv": func(t *testing.T, o outcome) {
			if p := want(t, o, 2, "", "quote inside a value"); !strings.Contains(p.Remedy, `="..."`) {
				t.Errorf("remedy %q", p.Remedy)
			}
		},
		"formula-error-text.csv": func(t *testing.T, o outcome) {
			for row := 2; row <= 4; row++ {
				want(t, o, row, "serial", "formula error")
			}
		},
		"mac0-mac1.csv": func(t *testing.T, o outcome) {
			want(t, o, 2, "MAC1", "scientific notation")
			want(t, o, 3, "MAC1", "scientific notation")
			if len(o.problems) != 2 || o.summary.Columns[0].MAC != "name" {
				t.Errorf("%v, %+v", o.problems, o.summary.Columns)
			}
		},
		"excel-missing-trailing-delimiters.csv": func(t *testing.T, o outcome) {
			accepted(t, o, 40, "remark", "")
			warned(t, o, 18, "Excel leaves trailing separators out")
		},
		"cr-only.csv":          func(t *testing.T, o outcome) { accepted(t, o, 2, "serial", "SN2") },
		"dup-header.csv":       func(t *testing.T, o outcome) { want(t, o, 1, "mac", "both give the attribute mac") },
		"allocate-foreign.csv": func(t *testing.T, o outcome) { accepted(t, o, 1, "wifi_mac", "00:1b:63:00:00:01") },
	} {
		t.Run(name, func(t *testing.T) { check(t, takeCase(t, name)) })
	}
	files, err := filepath.Glob("testdata/cases/*")
	if err != nil || len(files) != 19 {
		t.Errorf("%d cases, %v", len(files), err)
	}
}

// TestRemediesWork does what the problems of the cases say.
func TestRemediesWork(t *testing.T) {
	accept(t, take(t, "testdata/cases/title-rows.xlsx", Config{HeaderRow: 4}))
	accept(t, take(t, "testdata/cases/title-rows.xlsx", Config{HeaderRow: 4, Expect: 5}))
	p := want(t, takeCase(t, "dup-header.csv"), 1, "mac", "both give")
	if !strings.Contains(p.Remedy, "rename") || strings.Contains(p.Remedy, "manifest.columns") {
		t.Errorf("remedy %q", p.Remedy)
	}
	accept(t, takeCSV(t, "mac,serial,mac2\n001122334455,SN1,001122334457\n", Config{}))
	// What manifest.columns can tell apart, it is to tell apart.
	const two = "MAC,MAC address,SN\n001122334455,001122334456,1\n"
	want(t, takeCSV(t, two, Config{}), 1, "MAC address", "both give")
	accept(t, takeCSV(t, two, Config{Columns: map[string]string{"mac": "MAC", "mac_2": "MAC address"}}))
	accept(t, takeCSV(t, "mac,serial\n001b63000001,0503E000\n", Config{}))
}

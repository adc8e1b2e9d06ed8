package sources

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/xuri/excelize/v2"

	"keymill/pipeline"
)

// TestLineEnds reads the line ends that programs write.
func TestLineEnds(t *testing.T) {
	const text = "mac,serial,note\n00:1b:63:84:45:01,A,\"x\"\n00:1b:63:84:45:02,B,y\n"
	want := accept(t, takeCSV(t, text, Config{}))
	for name, end := range map[string]string{"CR LF": "\r\n", "CR": "\r", "CR CR LF": "\r\r\n"} {
		o := takeCSV(t, strings.ReplaceAll(text, "\n", end), Config{})
		devs := accept(t, o)
		if len(devs) != len(want) || devs[1].Row != 3 || devs[1].Attrs[2].Value != "y" || len(o.warnings) > 0 {
			t.Errorf("%s: %v, %v", name, devs, o.warnings)
		}
	}
	// Excel for macOS breaks lines inside quotes by LF.
	devs := accept(t, takeCSV(t, "mac,note\r00:1b:63:84:45:01,\"two\nlines\"\r00:1b:63:84:45:02,y\r", Config{}))
	if len(devs) != 2 || devs[0].Attrs[1].Value != "two\nlines" || devs[1].Row != 3 {
		t.Errorf("%+v", devs)
	}
	// So does it in UTF-16.
	accept(t, take(t, write(t, "m.csv", utf16Bytes(binary.LittleEndian, "\ufeffmac\tserial\r00:1b:63:84:45:01\tA\r")), Config{}))
}

func TestLineBreaks(t *testing.T) {
	const head = "mac,serial,note,place\n00:1b:63:84:45:01,A,"
	devs := accept(t, takeCSV(t, head+"\"two\r\nlines, and more\",x\n", Config{}))
	if devs[0].Attrs[2].Value != "two\nlines, and more" {
		t.Errorf("%q", devs[0].Attrs[2].Value)
	}
	for name, row := range map[string]string{
		"a device in it": "\"x\n00:1b:63:84:45:02,B,y,\"\n",
		"a row in it":    "\"x\na,b,c,d\",x\n",
	} {
		o := takeCSV(t, head+row, Config{})
		if !Refused(o.err) || len(o.problems) != 1 || !strings.Contains(o.problems[0].What, "line break") {
			t.Errorf("%s: %v %v", name, o.err, o.problems)
		}
	}
	want(t, takeCSV(t, head+"\"two\nlines\",x\n", Config{Required: []string{"note"}}), 2, "note", "line break")
	want(t, takeCSV(t, head+"\"two\nlines\",x\n", Config{Unique: []string{"note"}}), 2, "note", "line break")
}

func TestHeaderRow(t *testing.T) {
	const devices = "mac,serial\n00:1b:63:84:45:01,A\n"
	for name, tc := range map[string]struct {
		text string
		row  int // of the device
	}{
		"comments":          {"# made by hand\n# on Monday, by me\n" + devices, 4},
		"slashes":           {"// made by hand\n" + devices, 3},
		"empty rows":        {",\n\n" + devices, 4},
		"a header with #":   {"#mac,serial\n00:1b:63:84:45:01,A\n", 2},
		"comment, no comma": {"#\n" + strings.ReplaceAll(devices, ",", ";"), 3},
	} {
		o := takeCSV(t, tc.text, Config{})
		devs := accept(t, o)
		if len(devs) != 1 || devs[0].Row != tc.row {
			t.Errorf("%s: %v", name, devs)
		}
		if tc.row > 2 && len(o.warnings) != 1 {
			t.Errorf("%s: warnings %v", name, o.warnings)
		}
	}
	title := "Order 4711\nfor line 3,\n" + devices
	openRefused(t, takeCSV(t, title, Config{}), "the header seems to be in row 3", "manifest.header_row: 3")
	warned(t, takeCSV(t, title, Config{HeaderRow: 3}), 3, "rows above are not read")
	openRefused(t, takeCSV(t, title, Config{HeaderRow: 9}), "row 9, which is configured as the header", "manifest.header_row")
	// A # among the devices is no comment.
	if devs := accept(t, takeCSV(t, "serial\n#1\n#2\n", Config{})); len(devs) != 2 {
		t.Errorf("devices %v", devs)
	}
	// A header that does not map is told once, not by every row.
	var many strings.Builder
	many.WriteString("Order 4711\n")
	for range 1000 {
		many.WriteString("a,b,c\n")
	}
	if o := takeCSV(t, many.String(), Config{}); len(o.problems) != 1 {
		t.Errorf("%d problems", len(o.problems))
	}
	// Nor is a missing column told for each thing that it is wanted for.
	o := takeCSV(t, devices, Config{Identity: []string{"mac", "imei"}, Required: []string{"imei"}, Unique: []string{"imei"}, Columns: map[string]string{"imei": "IMEI"}})
	if len(o.problems) != 1 {
		t.Errorf("%v", o.problems)
	}
}

func TestDelimiters(t *testing.T) {
	for name, text := range map[string]string{
		"pipe":           "mac|serial|note\n00:1b:63:84:45:01|A|x, y; z\n",
		"decimal commas": "mac;price;length\n00:1b:63:84:45:01;1,5;2,5\n00:1b:63:84:45:02;1,7;2,5\n",
		"comment above":  "# a, b, c, d, e\nmac;serial\n00:1b:63:84:45:01;A\n00:1b:63:84:45:02;B\n",
		"pipes in text":  "mac,serial,note\n00:1b:63:84:45:01,A,a|b|c|d\n00:1b:63:84:45:02,B,a|b\n",
	} {
		t.Run(name, func(t *testing.T) { accept(t, takeCSV(t, text, Config{})) })
	}
}

func TestShortRows(t *testing.T) {
	o := takeCSV(t, "mac,serial,a,b\n00:1b:63:84:45:01,1,x,y\n00:1b:63:84:45:02,2\n00:1b:63:84:45:03,3,x\n00:1b:63:84:45:04,4\n", Config{})
	devs := accept(t, o)
	if len(devs) != 4 || devs[1].Attrs[2].Value != "" {
		t.Errorf("%v", devs)
	}
	if warned(t, o, 3, "(so in 1 row more)"); len(o.warnings) != 2 {
		t.Errorf("%v", o.warnings)
	}
	want(t, takeCSV(t, "mac,serial,a\n00:1b:63:84:45:01\n", Config{}), 2, "", "1 value, the header has 3")
	want(t, takeCSV(t, "mac,serial,a\n00:1b:63:84:45:01,1\n", Config{Required: []string{"a"}}), 2, "", "2 values, the header has 3")
}

// TestForeignFormats calls what is no manifest what it is.
func TestForeignFormats(t *testing.T) {
	zipped := func(names ...string) string {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for _, name := range names {
			if _, err := z.Create(name); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	compoundOf := func(stream string) string {
		return "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + strings.Repeat("\x00", 1<<16-11) + string(wide(stream)) + strings.Repeat("\x00", 900)
	}
	for what, content := range map[string]string{
		"an HTML page":           " \r\n<!DOCTYPE HTML><table><tr><td>mac</td></tr></table>",
		"an HTML page, whatever": "\ufeff<table><tr><td>mac</td></tr></table>",
		"XML spreadsheet":        `<?xml version="1.0"?><?mso-application progid="Excel.Sheet"?><Workbook xmlns="urn:schemas-microsoft-com:office:spreadsheet">`,
		"an XML file":            "<?xml version='1.0'?><devices/>",
		"a JSON file":            `[{"mac": "00:1b:63:84:45:01"}]`,
		"a JSON file, whatever":  "{\n  \"devices\": []\n}",
		"a web archive":          "MIME-Version: 1.0\r\nX-Document-Type: Workbook\r\n",
		"a Word document":        zipped("word/document.xml"),
		"an OpenDocument file":   zipped("mimetype", "content.xml"),
		"a ZIP archive":          zipped("manifest.csv"),
		"binary Excel workbook":  zipped("_rels/.rels", "xl/workbook.bin"),
		"a Numbers document":     zipped("Index/Document.iwa"),
		"with a password":        compoundOf("EncryptedPackage"),
		"old Excel workbook":     compoundOf("Workbook"),
		"old Word document":      compoundOf("WordDocument"),
		"a SYLK file":            "ID;PWXL;N;E\n",
		"a Parquet file":         "PAR1\x15\x04",
		"HTML page, whatever":    string(utf16Bytes(binary.LittleEndian, "\ufeff<html><body>")),
		"a ZIP archive and":      zipped(),
	} {
		o := take(t, write(t, "m.xls", []byte(content)), Config{})
		openRefused(t, o, what, "")
		if pipeline.Hint(o.err) == "" {
			t.Errorf("%s: no hint", what)
		}
	}
	// What only begins like one of them is read.
	accept(t, takeCSV(t, "[serial]\nA\n", Config{Columns: map[string]string{"serial": "[serial]"}}))
	openRefused(t, takeCSV(t, "mac\n00:1b:63:84:45:01\n", Config{Sheet: "Devices"}), "has no sheets", "--sheet")
}

// TestSheetsOfOneWorkbook: cover and notes are left out, and said so.
func TestSheetsOfOneWorkbook(t *testing.T) {
	xlsx := book(t, [][]any{{"Order 4711"}, {"for line 3"}}, func(f *excelize.File, _ string) error {
		_, err1 := f.NewSheet("Devices")
		_, err2 := f.NewSheet("Notes")
		return firstError(err1, err2, f.SetSheetRow("Devices", "A1", &[]string{"mac", "serial"}), f.SetSheetRow("Devices", "A2", &[]string{"00:1b:63:84:45:01", "A"}),
			f.SetSheetRow("Notes", "A1", &[]string{"call me", "before noon"}))
	})
	o := takeXLSX(t, xlsx, Config{})
	if devs := accept(t, o); len(devs) != 1 {
		t.Errorf("devices %v", devs)
	}
	warned(t, o, 0, `of 3 visible sheets only "Devices"`)
	// By the settings, other columns map.
	openRefused(t, takeXLSX(t, xlsx, Config{Identity: []string{"imei"}}), "3 visible sheets", `"Devices"`)
}

package sources

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
)

const mainNS = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"

// parts are those of a workbook written by hand; empty ones are left out.
type parts struct {
	data    string   // within <sheetData>
	sheet   string   // the whole sheet in place of data
	strings string   // within <sst>
	formats []string // number formats of the styles from 1
	book    string   // before <sheets>
	names   map[string]string
}

// zip returns the workbook. names gives parts other names, also in what relates
// them.
func (p parts) zip(t testing.TB) []byte {
	t.Helper()
	name := func(part string) string {
		if other, ok := p.names[part]; ok {
			return other
		}
		return part
	}
	relations := func(list ...string) string {
		var b strings.Builder
		b.WriteString(`<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">`)
		for i := 0; i < len(list); i += 2 {
			fmt.Fprintf(&b, `<Relationship Id="rId%d" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/%s" Target="%s"/>`, i/2+1, list[i], list[i+1])
		}
		return b.String() + "</Relationships>"
	}
	var styles strings.Builder
	fmt.Fprintf(&styles, `<styleSheet xmlns="%s"><numFmts>`, mainNS)
	for i, code := range p.formats {
		fmt.Fprintf(&styles, `<numFmt numFmtId="%d" formatCode="%s"/>`, 164+i, escapeXML(code))
	}
	styles.WriteString(`</numFmts><fonts count="1"><font/></fonts><fills count="1"><fill/></fills><borders count="1"><border/></borders><cellXfs><xf numFmtId="0"/>`)
	for i := range p.formats {
		fmt.Fprintf(&styles, `<xf numFmtId="%d" applyNumberFormat="1"/>`, 164+i)
	}
	styles.WriteString(`</cellXfs></styleSheet>`)
	sheet := p.sheet
	if sheet == "" {
		sheet = fmt.Sprintf(`<worksheet xmlns="%s"><sheetData>%s</sheetData></worksheet>`, mainNS, p.data)
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, part := range [][2]string{
		{"[Content_Types].xml", "<Types/>"},
		{"_rels/.rels", relations("officeDocument", "xl/workbook.xml")},
		{"xl/workbook.xml", fmt.Sprintf(`<workbook xmlns="%s" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">%s<sheets><sheet name="Devices" sheetId="1" r:id="rId1"/></sheets></workbook>`, mainNS, p.book)},
		{"xl/_rels/workbook.xml.rels", relations("worksheet", strings.TrimPrefix(name(sheetPart), "xl/"), "styles", "styles.xml", "sharedStrings", strings.TrimPrefix(name(stringsPart), "xl/"))},
		{name("xl/styles.xml"), styles.String()},
		{name(stringsPart), fmt.Sprintf(`<sst xmlns="%s">%s</sst>`, mainNS, p.strings)},
		{name(sheetPart), sheet},
	} {
		w, err := z.Create(part[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(part[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// rowsAround puts cells of row 3 between two rows that are sound.
func rowsAround(cells string) string {
	text := func(v string) string { return `<is><t>` + v + `</t></is></c>` }
	row := func(n int) string {
		return fmt.Sprintf(`<row r="%d"><c r="A%d" t="inlineStr">%s<c r="B%d" t="inlineStr">%s<c r="C%d" t="inlineStr">%s</row>`,
			n, n, text(fmt.Sprintf("00:1b:63:00:00:%02x", n)), n, text(fmt.Sprintf("SN%d", n)), n, text("x"))
	}
	return `<row r="1"><c r="A1" t="inlineStr">` + text("mac") + `<c r="B1" t="inlineStr">` + text("serial") + `<c r="C1" t="inlineStr">` + text("note") + `</row>` +
		row(2) + `<row r="3"><c r="A3" t="inlineStr">` + text("00:1b:63:00:00:03") + cells + `</row>` + row(4)
}

const sn3 = `<c r="B3" t="inlineStr"><is><t>SN3</t></is></c>`

// TestCellSpellings reads a cell in every spelling: as what it says, or refused
// with its row; never left out, and never as something else.
func TestCellSpellings(t *testing.T) {
	for cell, expect := range map[string]string{ // the note of row 3, or "!" and what the refusal says
		`<c r="C3" t="inlineStr"><is><t>a</t></is></c>`:                                      "a",
		`<c r="C3" t=" inlineStr "><is><t>a</t></is></c>`:                                    "a",
		`<c r=" C3 " t='inlineStr'><is><t>a</t></is></c>`:                                    "a",
		`<c r="c3" t="inlineStr"><is><t>a</t></is></c>`:                                      "a",
		`<c t="inlineStr"><is><t>a</t></is></c>`:                                             "a",
		`<c r="C3" t="inline&#83;tr"><is><t>a</t></is></c>`:                                  "a",
		"<c\n\tr = \"C3\"\n t = \"inlineStr\" >\n<is>\n<t>a</t>\n</is>\n</c\n>":              "a",
		`<c r="C3" t="str"><v>a</v></c>`:                                                     "a",
		`<c r="C3" t="inlineStr"><v>a</v></c>`:                                               "a",
		`<c r="C3"><is><t>a</t></is></c>`:                                                    "a",
		`<c r="C3" t="s"><v>0</v></c>`:                                                       "shared",
		`<c r="C3" t="s"><v> 0 </v></c>`:                                                     "shared",
		`<c r="C3" t=" s "><v>0</v></c>`:                                                     "shared",
		`<c r="C3" t="s"><v>1</v></c>`:                                                       "rich text",
		`<c r="C3" t="s"><v>2</v></c>`:                                                       "東京",
		`<c r="C3" t="s"><v>3</v></c>`:                                                       "",
		`<c r="C3" t="s"><v>4</v></c>`:                                                       "!text number 4",
		`<c r="C3" t="s"><v>-1</v></c>`:                                                      "!text number -1",
		`<c r="C3" t="s"><v>0.0</v></c>`:                                                     "!text number 0.0",
		`<c r="C3" t="s"><v></v></c>`:                                                        "",
		`<c r="C3" t="S"><v>0</v></c>`:                                                       "!type that does not exist",
		`<c r="C3" T="s"><v>17</v></c>`:                                                      "17", // no type: a number
		`<c r="C3" x:t="s"><v>0</v></c>`:                                                     "!another namespace",
		`<c r="C3" t="s" t="n"><v>0</v></c>`:                                                 "!well-formed",
		`<c r="C3" t=s><v>0</v></c>`:                                                         "!well-formed",
		`<c r="C3" s=""><v>17</v></c>`:                                                       "!style cannot be read",
		`<c r="C3" s="99"><v>17</v></c>`:                                                     "!style cannot be read",
		`<c r="C3" s="1.0"><v>17</v></c>`:                                                    "!style cannot be read",
		`<c r="C3" s="" t="inlineStr"><is><t>a</t></is></c>`:                                 "a",
		`<c r="C3" s="1.0" t="str"><v>a</v></c>`:                                             "a",
		`<c r="C3" s="99" t="s"><v>0</v></c>`:                                                "shared",
		`<c r="C3" s=" 0 " t="str"><v>a</v></c>`:                                             "a",
		`<c r="C3" s="-1" t="str"><v>a</v></c>`:                                              "a",
		`<c r="C3"><v>12.5</v></c>`:                                                          "12.5",
		`<c r="C3" t="n"><v> 12.5 </v></c>`:                                                  "12.5",
		`<c r="C3"><v>a</v></c>`:                                                             "!marked as a number",
		`<c r="C3"><v>1,5</v></c>`:                                                           "!marked as a number",
		`<c r="C3"><v>0x10</v></c>`:                                                          "!marked as a number",
		`<c r="C3"><v>NaN</v></c>`:                                                           "!marked as a number",
		`<c r="C3"/>`:                                                                        "",
		`<c r="C3" s="1"></c>`:                                                               "",
		`<c r="C3" t="b"><v>1</v></c>`:                                                       "TRUE",
		`<c r="C3" t="b"><v>false</v></c>`:                                                   "FALSE",
		`<c r="C3" t="b"><v>yes</v></c>`:                                                     "!marked as a truth value",
		`<c r="C3" t="e"><v>#N/A</v></c>`:                                                    "!formula error",
		`<c r="C3" t="d"><v>2026-03-01</v></c>`:                                              "2026-03-01",
		`<c r="C3" t="str"><f>"a"</f><v>a</v></c>`:                                           "a",
		`<c r="C3" t="str"><f>""</f><v></v></c>`:                                             "",
		`<c r="C3"><f>B2</f></c>`:                                                            "!never calculated",
		`<c r="C3" t="str"><v>a</v><v>b</v></c>`:                                             "!two values",
		`<c r="C3" t="str"><v>a</v><is><t>b</t></is></c>`:                                    "!two values",
		`<c r="C3" t="str"><v>a<b/></v></c>`:                                                 "!inside its value",
		`<c r="C3" t="str">a</c>`:                                                            "!text outside",
		`<c r="C3" t="str"><w>a</w></c>`:                                                     "!unknown element",
		`<x:c r="C3" t="str"><v>a</v></x:c>`:                                                 "!in place of a cell",
		`<c r="C3" t="str"><x:v>a</x:v></c>`:                                                 "!unknown element",
		`<b><c r="C3" t="str"><v>a</v></c></b>`:                                              "!in place of a cell",
		`text<c r="C3" t="str"><v>a</v></c>`:                                                 "!text between its cells",
		`<c r="C4" t="str"><v>a</v></c>`:                                                     "!out of place",
		`<c r="A3" t="str"><v>a</v></c>`:                                                     "!out of place",
		`<c r="" t="str"><v>a</v></c>`:                                                       "!out of place",
		`<c r="C" t="str"><v>a</v></c>`:                                                      "!out of place",
		`<c r="R3C3" t="str"><v>a</v></c>`:                                                   "!out of place",
		`<c r="$C$3" t="str"><v>a</v></c>`:                                                   "!out of place",
		`<c r="C3" t="inlineStr"><is><r><t>a</t></r><r><rPr><b/></rPr><t>b</t></r></is></c>`: "ab",
		`<c r="C3" t="inlineStr"><is><t>漢</t><rPh sb="0" eb="1"><t>カン</t></rPh><phoneticPr fontId="1"/></is></c>`: "漢",
		`<c r="C3" t="inlineStr"><is><t xml:space="preserve">a  b</t></is></c>`:                                   "a  b",
		`<c r="C3" t="inlineStr"><is><t>a<!-- no -->b</t></is></c>`:                                               "ab",
		`<c r="C3" t="inlineStr"><is><t>a<![CDATA[<&b]]]>c</t></is></c>`:                                          "a<&b]c",
		`<c r="C3" t="inlineStr"><is><t>&lt;&#65;&#x42;&amp;amp;</t></is></c>`:                                    "<AB&amp;",
		`<c r="C3" t="inlineStr"><is><t>&nbsp;</t></is></c>`:                                                      "!unknown reference",
		`<c r="C3" t="inlineStr"><is>a</is></c>`:                                                                  "!text outside",
		`<c r="C3" t="inlineStr"><is><t>a<t>b</t></t></is></c>`:                                                   "!inside <t>",
		`<c r="C3" t="inlineStr"><is><b><t>a</t></b></is></c>`:                                                    "!unknown element",
		`<c r="C3" t="inlineStr"><is><t>a_x000A_b</t></is></c>`:                                                   "a\nb",
		`<c r="C3" t="inlineStr"><is><t>a_x000D_` + "\n" + `b</t></is></c>`:                                       "a\r\nb",
		`<c r="C3" t="inlineStr"><is><t>_x005F_x0041_</t></is></c>`:                                               "_x0041_",
		`<c r="C3" t="inlineStr"><is><t>_x0041_</t></is></c>`:                                                     "!escape",
		`<c r="C3" t="inlineStr"><is><t>_x005F_</t></is></c>`:                                                     "!escape",
		`<c r="C3" t="inlineStr"><is><t>_x_0041_x00</t></is></c>`:                                                 "_x_0041_x00",
		`<c r="C3" t="inlineStr"><is><t>_xD83D__xDE00_</t></is></c>`:                                              "😀",
		`<c r="C3" t="inlineStr"><is><t>_xD83D_</t></is></c>`:                                                     "!destroyed",
		`<c r="C3" t="inlineStr"><is><t>a</t></is><extLst><ext><x:v>b</x:v></ext></extLst></c>`:                   "a",
		`<c r="C3" t="str"><v>a</v></c><extLst/>`:                                                                 "a",
	} {
		t.Run(cell, func(t *testing.T) {
			xlsx := parts{data: rowsAround(sn3 + cell), formats: []string{"0.00"},
				strings: `<si><t>shared</t></si><si><r><t>rich </t></r><r><rPr><b/></rPr><t>text</t></r></si><si><t>東京</t><rPh sb="0" eb="2"><t>トウキョウ</t></rPh></si><si/>`}.zip(t)
			o := takeXLSX(t, xlsx, Config{})
			if what, ok := strings.CutPrefix(expect, "!"); ok {
				if !Refused(o.err) || !strings.Contains(o.err.Error()+fmt.Sprint(o.problems), what) || !strings.Contains(o.err.Error()+fmt.Sprint(o.problems), "row 3") {
					t.Errorf("%v %v", o.err, o.problems)
				}
				return
			}
			devs := accept(t, o)
			if len(devs) != 3 {
				t.Fatalf("%d devices", len(devs))
			}
			if note, _ := devs[1].Attr("note"); note != expect {
				t.Errorf("note %q, want %q", note, expect)
			}
		})
	}
}

// TestSheetSpellings does the same for rows and the sheet around them.
func TestSheetSpellings(t *testing.T) {
	whole := rowsAround(sn3)
	in := func(data string) string {
		return fmt.Sprintf(`<worksheet xmlns="%s"><sheetData>%s</sheetData></worksheet>`, mainNS, data)
	}
	with := func(old, new string) string {
		if !strings.Contains(whole, old) {
			t.Fatalf("no %q", old)
		}
		return in(strings.Replace(whole, old, new, 1))
	}
	prefixed := strings.NewReplacer("</", "</x:", "<", "<x:", "<x:/", "</").Replace(in(whole))
	for name, tc := range map[string]struct {
		sheet, what string // accepted with three devices where what is empty
		rows        []int
	}{
		"as it is":                  {in(whole), "", nil},
		"rows without numbers":      {in(strings.NewReplacer(`<row r="1">`, "<row>", `<row r="2">`, "<row>", `<row r="3">`, "<row>", `<row r="4">`, "<row>").Replace(whole)), "", nil},
		"spaces in a number":        {with(`<row r="3">`, `<row r=" 3 ">`), "", nil},
		"a gap":                     {in(strings.NewReplacer(`r="4"`, `r="9"`, `A4"`, `A9"`, `B4"`, `B9"`, `C4"`, `C9"`).Replace(whole)), "", []int{2, 3, 9}},
		"empty rows":                {with(`<row r="4">`, `<row r="4"/><row r="5" s="1"><c r="A5"/></row><row>`), "out of place", nil},
		"a prefix":                  {strings.Replace(prefixed, `xmlns=`, `xmlns:x=`, 1), "", nil},
		"strict":                    {strings.Replace(in(whole), mainNS, "http://purl.oclc.org/ooxml/spreadsheetml/main", 1), "", nil},
		"no number":                 {with(`<row r="3">`, `<row r="">`), "row numbered", nil},
		"a fraction":                {with(`<row r="3">`, `<row r="3.0">`), "row numbered", nil},
		"a number twice":            {with(`<row r="3">`, `<row r="2">`), "row numbered", nil},
		"row 0":                     {with(`<row r="1">`, `<row r="0">`), "row numbered", nil},
		"a row of another name":     {with(`<row r="3">`, `<x:row r="3">`), "", nil},
		"another element":           {in("<AlternateContent>" + whole + "</AlternateContent>"), "in place of a row", nil},
		"text between rows":         {with(`<row r="3">`, `lost<row r="3">`), "text between its rows", nil},
		"rows outside":              {fmt.Sprintf(`<worksheet xmlns="%s">%s</worksheet>`, mainNS, whole), "outside of its rows", nil},
		"rows twice":                {in(whole + "</sheetData><sheetData>"), "rows twice", nil},
		"data deeper":               {fmt.Sprintf(`<worksheet xmlns="%s"><x><sheetData>%s</sheetData></x></worksheet>`, mainNS, whole), "place of their own", nil},
		"a chart":                   {`<chartsheet><sheetData>` + whole + `</sheetData></chartsheet>`, "no worksheet", nil},
		"after the data":            {strings.Replace(in(whole), "</worksheet>", `<extLst><ext uri="x"><z:row/></ext></extLst></worksheet>`, 1), "", nil},
		"an encoding":               {`<?xml version="1.0" encoding="windows-1252"?>` + in(whole), "encoded as", nil},
		"UTF-8 with a mark":         {"\ufeff" + `<?xml version="1.0" encoding="UTF-8"?>` + in(whole), "", nil},
		"UTF-16":                    {string(utf16Bytes(binary.LittleEndian, "\ufeff"+`<?xml version="1.0" encoding="UTF-16"?>`+in(whole))), "", nil},
		"an array formula's column": {with(`<c r="B2" t="inlineStr">`, `<c r="B2" t="str"><f t="array" ref="B2:B4">x</f><v>SN2</v></c><c r="B2" t="inlineStr">`), "out of place", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "a row of another name" {
				tc.sheet, tc.what = strings.Replace(tc.sheet, "</row><row r=\"4\"", "</x:row><row r=\"4\"", 1), "in place of a row"
			}
			o := takeXLSX(t, parts{sheet: tc.sheet}.zip(t), Config{})
			if tc.what != "" {
				if !Refused(o.err) || !strings.Contains(o.err.Error()+fmt.Sprint(o.problems), tc.what) {
					t.Errorf("%v %v", o.err, o.problems)
				}
				return
			}
			rows := tc.rows
			if rows == nil {
				rows = []int{2, 3, 4}
			}
			devs := accept(t, o)
			if len(devs) != len(rows) {
				t.Fatalf("%d devices", len(devs))
			}
			for i, d := range devs {
				if d.Row != rows[i] {
					t.Errorf("row %d, want %d", d.Row, rows[i])
				}
			}
		})
	}
}

// TestArrayFormulas: the cells that an array formula fills have values and no
// formula of their own.
func TestArrayFormulas(t *testing.T) {
	data := strings.Replace(rowsAround(sn3), `<c r="B2" t="inlineStr"><is><t>SN2</t></is></c>`, `<c r="B2" t="str"><f t="array" ref="B2:B3">x</f><v>SN2</v></c>`, 1)
	o := takeXLSX(t, parts{data: data}.zip(t), Config{})
	want(t, o, 2, "serial", "formula")
	want(t, o, 3, "serial", "formula")
	if len(o.problems) != 2 {
		t.Errorf("%v", o.problems)
	}
}

// TestPartNames finds parts under the names that programs give them.
func TestPartNames(t *testing.T) {
	for name, names := range map[string]map[string]string{
		"others":      {stringsPart: "xl/texts/t.xml", sheetPart: "xl/w.xml"},
		"backslashes": {stringsPart: `xl\sharedStrings.xml`, sheetPart: `xl\worksheets\sheet1.xml`, "xl/styles.xml": `xl\styles.xml`},
		"upper case":  {stringsPart: "xl/SHAREDSTRINGS.XML", "xl/styles.xml": "XL/Styles.xml"},
	} {
		t.Run(name, func(t *testing.T) {
			p := parts{data: rowsAround(`<c r="B3" t="s"><v>0</v></c><c r="C3" s="1"><v>46082</v></c>`), strings: "<si><t>SN3</t></si>", formats: []string{"yyyy-mm-dd"}, names: names}
			devs := accept(t, takeXLSX(t, p.zip(t), Config{}))
			serial, _ := devs[1].Attr("serial")
			note, _ := devs[1].Attr("note")
			if len(devs) != 3 || serial != "SN3" || note != "2026-03-01" {
				t.Errorf("%+v", devs)
			}
		})
	}
}

// TestFormats reads values under number formats: what is stored counts.
func TestFormats(t *testing.T) {
	number := func(v string) string { return "<v>" + v + "</v>" }
	for _, tc := range []struct {
		format, cell, note string
		book               string
	}{
		{"General", number("17"), "17", ""},
		{"0", number("12.7"), "12.7", ""},
		{"0000000", number("17"), "17", ""},
		{"0%", number("0.5"), "0.5", ""},
		{";;;", number("17"), "17", ""},
		{`"SN-"0`, number("17"), "17", ""},
		{"[Red][<10]0;0.0", number("17"), "17", ""},
		{"# ?/?", number("0.5"), "0.5", ""},
		{"0.00E+00", number("123456"), "123456", ""},
		{`_(* #,##0.00_);_(* \(#,##0.00\);_(* "-"??_);_(@_)`, number("-12.5"), "-12.5", ""},
		{"@", number("00123"), "00123", ""},
		{"yyyy-mm-dd", number("46082"), "2026-03-01", ""},
		{"yyyy-mm-dd", number("44620"), "2026-03-01", `<workbookPr date1904="1"/>`},
		{"[$-407]dd/mm/yyyy", number("46082"), "01/03/2026", ""},
		{"[h]:mm", number("1.5"), "36:00", ""},
		{"[Red]yyyy", number("46082"), "2026", ""},
		{"dd.mm.yyyy;;;", number("46082"), "01.03.2026", ""},
	} {
		t.Run(tc.format+tc.book, func(t *testing.T) {
			p := parts{data: rowsAround(sn3 + `<c r="C3" s="1">` + tc.cell + `</c>`), formats: []string{tc.format}, book: tc.book}
			o := takeXLSX(t, p.zip(t), Config{})
			if note, _ := accept(t, o)[1].Attr("note"); note != tc.note {
				t.Errorf("note %q, want %q", note, tc.note)
			}
			// In a column that must be exact a number is never taken.
			p.data = rowsAround(`<c r="B3" s="1">` + tc.cell + `</c>`)
			want(t, takeXLSX(t, p.zip(t), Config{}), 3, "serial", "the spreadsheet turned the value into")
		})
	}
	for format, alters := range map[string]bool{
		"@": false, "General": false, "0": false, "0;0": false, "0;-0;0": false, ";;": false, `_(@_)`: false, `[Red]@`: false, "0;0;0;@": false, `* @`: false, "0;0;0;General": false,
		`"SN-"@`: true, "@@": true, ";;;": true, `0;0;0;"x"`: true, `@" kg"`: true, `\S@`: true, "0;0;0;": true, `"@"`: false, `0;"a"@`: true,
	} {
		if got := altersText(format); got != alters {
			t.Errorf("%s: %v", format, got)
		}
		// A text is taken as it is stored, but not where it must be exact.
		p := parts{data: rowsAround(sn3 + `<c r="C3" s="1" t="str"><v>SN9</v></c>`), formats: []string{format}}
		if note, _ := accept(t, takeXLSX(t, p.zip(t), Config{}))[1].Attr("note"); note != "SN9" {
			t.Errorf("%s: note %q", format, note)
		}
		p.data = rowsAround(`<c r="B3" s="1" t="str"><v>SN3</v></c>`)
		o := takeXLSX(t, p.zip(t), Config{})
		if alters {
			want(t, o, 3, "serial", "the cell stores “SN3” and shows")
		} else {
			accept(t, o)
		}
		// And a format makes no value where there is none.
		p.data = rowsAround(sn3 + `<c r="C3" s="1"/>`)
		if note, _ := accept(t, takeXLSX(t, p.zip(t), Config{}))[1].Attr("note"); note != "" {
			t.Errorf("%s: an empty cell is %q", format, note)
		}
	}
}

// TestHeaderCells: a header that cannot be read is no header.
func TestHeaderCells(t *testing.T) {
	for cell, what := range map[string]string{
		`<c r="C1" t="s"><v>7</v></c>`:                               "text number 7",
		`<c r="C1" t="e"><v>#REF!</v></c>`:                           "formula error",
		`<c r="C1" t="x"><v>note</v></c>`:                            "type that does not exist",
		`<c r="C1"><f>A2</f></c>`:                                    "never calculated",
		`<c r="C1" t="inlineStr"><is><t>a_x0041_</t></is></c>`:       "escape",
		`<c r="C1"><v>2026</v></c>`:                                  "",
		`<c r="C1" s="" t="inlineStr"><is><t>Größe, mm</t></is></c>`: "",
	} {
		data := strings.Replace(rowsAround(sn3), `<c r="C1" t="inlineStr"><is><t>note</t></is></c>`, cell, 1)
		o := takeXLSX(t, parts{data: data}.zip(t), Config{})
		if what == "" {
			accept(t, o)
		} else {
			openRefused(t, o, what, "")
		}
	}
}

package sources

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
)

// smallReader reads a sheet by encoding/xml, as simply as can be: the texts of
// its cells by row, in the cells' order. It is what the scan is compared with.
func smallReader(sheet []byte, shared []string) (map[int][]string, error) {
	rows := map[int][]string{}
	d := xml.NewDecoder(bytes.NewReader(sheet))
	var open []string
	row, kind := 0, ""
	var text strings.Builder
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, err
		}
		switch token := token.(type) {
		case xml.StartElement:
			open = append(open, token.Name.Local)
			attr := func(name string) string {
				for _, a := range token.Attr {
					if a.Name.Local == name && a.Name.Space == "" {
						return strings.TrimSpace(a.Value)
					}
				}
				return ""
			}
			switch token.Name.Local {
			case "row":
				row++
				if r := attr("r"); r != "" {
					if row, err = strconv.Atoi(r); err != nil {
						return nil, err
					}
				}
			case "c":
				kind = attr("t")
				text.Reset()
			}
		case xml.CharData:
			in := open[max(0, len(open)-1):]
			if slices.Equal(in, []string{"v"}) || slices.Equal(in, []string{"t"}) && !slices.Contains(open, "rPh") {
				text.Write(token)
			}
		case xml.EndElement:
			open = open[:len(open)-1]
			if token.Name.Local != "c" {
				continue
			}
			rows[row] = append(rows[row], smallValue(kind, text.String(), shared))
		}
	}
}

var hexEscape = regexp.MustCompile(`(?:_x[0-9A-Fa-f]{4}_)+`)

func smallValue(kind, text string, shared []string) string {
	switch kind {
	case "s":
		if n, err := strconv.Atoi(strings.TrimSpace(text)); err == nil && n >= 0 && n < len(shared) {
			return shared[n]
		}
		return text
	case "str", "inlineStr":
		return hexEscape.ReplaceAllStringFunc(text, func(m string) string {
			var units []uint16
			for ; m != ""; m = m[7:] {
				n, _ := strconv.ParseUint(m[2:6], 16, 16)
				units = append(units, uint16(n))
			}
			return string(utf16.Decode(units))
		})
	case "b":
		return map[string]string{"1": "TRUE", "true": "TRUE", "0": "FALSE", "false": "FALSE"}[strings.TrimSpace(text)]
	}
	return strings.TrimSpace(text)
}

// FuzzCells changes the attributes and the content of two cells, their row's
// attributes and the number format of their style: whatever is accepted is what
// the small reader finds, in as many rows.
func FuzzCells(f *testing.F) {
	for _, attrs := range []string{`r="C3" s="1" t="inlineStr"`, `r="C3" s="" t="s"`, `s=" 1 " t=" str "`, `r="C3" s="1.0"`, `t="b"`, `r="c3" x="y"`, `r='C3' t="e"`, `r="D3" s="2"`} {
		for _, body := range []string{`<is><t>a</t></is>`, `<v>1</v>`, `<v>46082</v>`, `<f>x</f><v>1.5</v>`, `<is><r><t>a</t></r><rPh><t>b</t></rPh></is>`, `<v>a_x000A_b</v>`, ``} {
			f.Add(` r="3"`, attrs, body, "0.00")
		}
	}
	for _, format := range []string{"General", ";;;", `"SN-"@`, "@@", "yyyy-mm-dd", "[h]:mm", `_(* #,##0.00_);_(* \(#,##0.00\);_(* "-"??_);_(@_)`, "[Red][<10]0;[Blue]0.0", "# ?/?", "0%", `\`, "[", `"`, "*", "0;0;0;0;0"} {
		f.Add("", `r="C3" s="1"`, `<v>12.5</v>`, format)
		f.Add(` hidden="0"`, `r="C3" s="1" t="str"`, `<v>SN9</v>`, format)
	}
	shared := []string{"shared", "two", ""}
	f.Fuzz(func(t *testing.T, row, attrs, body, format string) {
		if strings.ContainsAny(format, "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\uFFFE\uFFFF") {
			t.Skip("excelize cannot read such a style")
		}
		data := strings.Replace(rowsAround(sn3+"<c "+attrs+">"+body+"</c>"), `<row r="3">`, "<row"+row+">", 1)
		p := parts{data: data, formats: []string{format, "@"}, strings: "<si><t>shared</t></si><si><r><t>t</t></r><r><t>wo</t></r></si><si/>"}
		o := takeXLSX(t, p.zip(t), Config{})
		if o.err != nil {
			if !Refused(o.err) {
				t.Fatal(o.err)
			}
			return
		}
		read, err := smallReader([]byte("<worksheet><sheetData>"+data+"</sheetData></worksheet>"), shared)
		if err != nil {
			t.Fatalf("accepted, though encoding/xml says: %v", err)
		}
		filled := 0
		for _, values := range read {
			if strings.Join(values, "") != "" {
				filled++
			}
		}
		if filled != len(o.devices)+1 {
			t.Fatalf("%d devices of %d rows:\n%s", len(o.devices), filled, data)
		}
		for _, d := range o.devices {
			want := read[d.Row]
			for i, a := range d.Attrs {
				w := ""
				if i < len(want) {
					w = want[i]
				}
				if a.Name == "mac" || a.Value == w || dateCode(format) && isNumber([]byte(w)) {
					continue // a date is shown as its format says
				}
				if plain, ok := unguard(w); ok && plain == a.Value || apostrophe(w, false) && w[1:] == a.Value {
					continue
				}
				t.Errorf("row %d: the %s is %q, the sheet has %q:\n%s", d.Row, a.Name, a.Value, w, data)
			}
		}
	})
}

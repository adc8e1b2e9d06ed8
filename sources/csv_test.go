package sources

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"unicode/utf16"

	"keymill/pipeline"
)

func utf16Bytes(order binary.AppendByteOrder, text string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(text)) {
		b = order.AppendUint16(b, u)
	}
	return b
}

func TestEncodingsAndDelimiters(t *testing.T) {
	const text = "MAC address,Serial no.,Größe\r\n00:1b:63:84:45:e6,0017,\"12,5; groß\"\r\n00:1b:63:84:45:e7,0018,klein\r\n"
	semicolon := "MAC address;Serial no.;Größe\r\n00:1b:63:84:45:e6;0017;\"12,5; groß\"\r\n00:1b:63:84:45:e7;0018;klein\r\n"
	tab := strings.ReplaceAll(semicolon, "no.;G", "no.\tG")
	tab = strings.NewReplacer("address;", "address\t", "e6;", "e6\t", "e7;", "e7\t", "7;", "7\t", "8;", "8\t").Replace(tab)
	for name, content := range map[string][]byte{
		"comma":           []byte(text),
		"LF":              []byte(strings.ReplaceAll(text, "\r\n", "\n")),
		"no last newline": []byte(strings.TrimSuffix(text, "\r\n")),
		"BOM":             []byte("\ufeff" + text),
		"semicolon":       []byte(semicolon),
		"semicolon, BOM":  []byte("\ufeff" + semicolon),
		"tab":             []byte(tab),
		"sep line":        []byte("sep=;\r\n" + semicolon),
		"sep line, BOM":   []byte("\ufeff\"sep=,\"\r\n" + text),
		"UTF-16LE BOM":    utf16Bytes(binary.LittleEndian, "\ufeff"+tab),
		"UTF-16BE BOM":    utf16Bytes(binary.BigEndian, "\ufeff"+text),
		"UTF-16LE":        utf16Bytes(binary.LittleEndian, text),
		"UTF-16BE":        utf16Bytes(binary.BigEndian, semicolon),
	} {
		t.Run(name, func(t *testing.T) {
			devs := accept(t, take(t, write(t, "m.csv", content), Config{}))
			if len(devs) != 2 || devs[1].Row != 3 {
				t.Fatalf("devices %+v", devs)
			}
			if got := pipeline.Identity(devs[0].Attrs).String(); got != "mac=00:1b:63:84:45:e6, serial=0017, größe=12,5; groß" {
				t.Errorf("attributes %s", got)
			}
		})
	}
}

func TestSniffDelimiter(t *testing.T) {
	for text, want := range map[string]rune{
		"MAC\n00:1b:63:84:45:e6\n":           ',',
		"a;b\n1;2\n":                         ';',
		"a\tb, c\n1\t2\n":                    '\t',
		"Length, mm;Width, mm;MAC\n1;2;3\n":  ';',
		"\"a;b;c;d\",e\n1,2\n":               ',',
		"Board, rev, x;MAC\n1;2\n":           ';',
		"a;b\n":                              ';',
		"\n\na;b\n1;2\n":                     ';',
		"\"Serial, \"\"new\"\"\";mac\n1;2\n": ';',
	} {
		if got := sniffDelimiter([]byte(text)); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestDamagedText(t *testing.T) {
	const head = "MAC,SN,note\n00:1b:63:84:45:e6,"
	for name, tc := range map[string]struct{ row, column, what, remedy string }{
		"NUL":              {"a\x00b,x", "SN", "NUL", "CSV UTF-8"},
		"NUL in attribute": {"1,x\x00", "note", "NUL", "CSV UTF-8"},
		"Latin-1":          {"1,Gr\xf6\xdfe", "note", "not UTF-8", "CSV UTF-8"},
		"destroyed":        {"1,Gr\ufffde", "note", "destroyed", "CSV UTF-8"},
		"no-break space":   {"\u00a07,x", "SN", "spaces at its ends", "remove"},
		"tab at the end":   {"7\t,x", "SN", "spaces at its ends", "remove"},
		"padded attribute": {"7,x ", "note", "spaces at its ends", "remove"},
		"zero width":       {"7\u200b1,x", "SN", "cannot be seen", "type"},
		"right to left":    {"7\u202e1,x", "SN", "cannot be seen", "type"},
		"escape":           {"7\x1b[31m,x", "SN", "control characters", "type"},
		"line break":       {"\"7\n8\",x", "SN", "line break", "quote"},
		"lone CR":          {"7\r8,x", "SN", "line break", "quote"},
		"apostrophe":       {"'=7,x", "SN", "apostrophe", "remove"},
		"rounded":          {"1.23457E+11,x", "SN", "scientific", "Text"},
		"rounded, comma":   {"\"1,23457E+11\",x", "SN", "scientific", "Text"},
		"only spaces":      {"  ,x", "SN", "spaces at its ends", "remove"},
	} {
		t.Run(name, func(t *testing.T) {
			p := want(t, takeCSV(t, head+tc.row+"\n", Config{Identity: []string{"mac", "serial"}}), 2, tc.column, tc.what)
			if !strings.Contains(p.Remedy, tc.remedy) {
				t.Errorf("remedy %q", p.Remedy)
			}
			if strings.ContainsAny(p.Value, "\x00\x1b\r\n\u202e\u200b") {
				t.Errorf("value %q can harm a terminal", p.Value)
			}
		})
	}
}

func TestUnseenCharactersOutsideOfTheIdentity(t *testing.T) {
	// Spreadsheets are full of no-break spaces in texts.
	o := takeCSV(t, "MAC,note\n00:1b:63:84:45:e6,two\u00a0words\n", Config{})
	accept(t, o)
	warned(t, o, 2, "U+00A0")
}

func TestStrayQuotes(t *testing.T) {
	o := takeCSV(t, strings.Join([]string{
		`MAC,SN`,
		`00:1b:63:84:45:e6,1"2`,
		`00:1b:63:84:45:e7,"1"2`,
		`00:1b:63:84:45:zz,3`,
		`00:1b:63:84:45:e8,"4`,
		`00:1b:63:84:45:e9,5`,
	}, "\n"), Config{})
	want(t, o, 2, "", "not quoted")
	want(t, o, 3, "", "closed wrongly")
	want(t, o, 4, "MAC", "not a MAC")
	p := want(t, o, 5, "", "could not be read")
	if strings.Contains(p.String(), "45:e8") {
		t.Errorf("the problem shows the row: %s", p)
	}
}

func TestRowNumbersAreTheSpreadsheets(t *testing.T) {
	// A line break in quotes does not begin a row; an empty line is one.
	o := takeCSV(t, "MAC,note\n00:1b:63:84:45:e6,\"a\nb\r\nc\"\n\n00:1b:63:84:45:e7,x\n00:1b:63:84:45:zz,y\n", Config{})
	warned(t, o, 3, "row 3 is empty")
	want(t, o, 5, "MAC", "not a MAC")
}

func TestRunawayQuoteTakesNoMemory(t *testing.T) {
	text := "MAC,SN\n00:1b:63:84:45:e6,\"1\n" + strings.Repeat("00:1b:63:84:45:e7,2\n", 1<<18)
	o := takeCSV(t, text, Config{})
	if !Refused(o.err) || !strings.Contains(o.err.Error(), "longer than 1 MiB") {
		t.Errorf("got %v", o.err)
	}
}

func TestCutUTF16(t *testing.T) {
	b := utf16Bytes(binary.LittleEndian, "\ufeffMAC,SN\n00:1b:63:84:45:e6,17\n")
	want(t, take(t, write(t, "m.csv", b[:len(b)-3]), Config{}), 2, "SN", "destroyed")
}

func TestTrailingDelimiters(t *testing.T) {
	accept(t, takeCSV(t, "MAC,SN\n00:1b:63:84:45:e6,1,,\n", Config{}))
	want(t, takeCSV(t, "MAC,SN\n00:1b:63:84:45:e6,1,x\n", Config{}), 2, "", "3 values")
}

func TestTemplateAndGenerate(t *testing.T) {
	var b bytes.Buffer
	if err := TemplateCSV(&b); err != nil {
		t.Fatal(err)
	}
	o := take(t, write(t, "t.csv", b.Bytes()), Config{})
	if len(o.problems) != 1 {
		t.Errorf("template: %v", o.problems)
	}
	want(t, o, 0, "", "no devices")

	b.Reset()
	if err := TemplateXLSX(&b); err != nil {
		t.Fatal(err)
	}
	o = take(t, write(t, "t.xlsx", b.Bytes()), Config{})
	want(t, o, 0, "", "no devices")

	b.Reset()
	if err := Generate(&b, 5000, 7); err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if err := Generate(&again, 5000, 7); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("the same seed gives another manifest: %v", err)
	}
	o = take(t, write(t, "g.csv", b.Bytes()), Config{Expect: 5000})
	accept(t, o)
	if len(o.warnings) > 0 {
		t.Errorf("warnings %v", o.warnings[:1])
	}
	if err := Generate(&b, maxGenerated+1, 7); err == nil {
		t.Error("more devices than an OUI has")
	}
}

// TestCutOff: a file that ends in the middle of a row may have lost some.
func TestCutOff(t *testing.T) {
	for text, warned := range map[string]bool{
		"mac,serial\n00:1b:63:84:00:01,SN12":                                                        true,
		"mac,serial\n00:1b:63:84:00:01,SN12\n":                                                      false,
		"mac,serial\r\n00:1b:63:84:00:01,SN12\r\n":                                                  false,
		"mac,serial\n00:1b:63:84:00:01,SN12\n\n":                                                    false,
		"mac,serial\n00:1b:63:84:00:01,\"SN12\"":                                                    true,
		"\xff\xfem\x00a\x00c\x00\n\x000\x000\x001\x00b\x006\x003\x008\x004\x000\x000\x000\x001\x00": true,
	} {
		o := takeCSV(t, text, Config{})
		accept(t, o)
		if got := len(o.warnings) == 1 && o.warnings[0].Row == 2 && strings.Contains(o.warnings[0].What, "line end"); got != warned {
			t.Errorf("%q: %v", text, o.warnings)
		}
	}
}

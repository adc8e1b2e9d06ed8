package sources

import (
	"archive/zip"
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"keymill/pipeline"
)

// sound fails unless an accepted manifest's devices are what the pipeline may
// rely on.
func sound(t *testing.T, o outcome) {
	t.Helper()
	if o.err != nil {
		return
	}
	seen := map[pipeline.IdentitySum]bool{}
	for _, d := range o.devices {
		if len(d.Identity) == 0 || seen[d.Identity.Sum()] {
			t.Errorf("row %d: identity %v is empty or a duplicate", d.Row, d.Identity)
		}
		seen[d.Identity.Sum()] = true
		for _, a := range d.Attrs {
			if isMACName(a.Name) && a.Value != "" && !canonicalMAC(a.Value) {
				t.Errorf("row %d: MAC %q", d.Row, a.Value)
			}
		}
	}
}

func FuzzCSV(f *testing.F) {
	for _, s := range []string{
		"MAC,SN\n00:1b:63:84:45:e6,1\n00-1B-63-84-45-E7,2\n",
		"\xef\xbb\xbfSerial no.;note\n1;\"a\nb\"\n\n2;\"x\"\"y\"\n",
		"\xff\xfeM\x00A\x00C\x00\n\x000\x00",
		"sep=\t\nMAC\tkeymill_state\n001b.6384.45e6\tfailed\n",
		"MAC,SN\n00:1b:63:84:45:e6,\"1\n", "a\x00b,c\n", "MAC,MAC\n,\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if bytes.HasPrefix(content, []byte("PK\x03\x04")) {
			return
		}
		o := take(t, write(t, "m.csv", content), Config{})
		sound(t, o)
		if o.err != nil || len(o.devices) == 0 {
			return
		}
		// What is accepted can be written as failures.csv and read again.
		again := take(t, write(t, "failures.csv", failures(t, o.devices)), Config{Identity: o.summary.Identity})
		if again.err != nil {
			t.Fatalf("failures.csv is refused: %v %v", again.err, again.problems)
		}
		for i, d := range again.devices {
			if d.Identity.Sum() != o.devices[i].Identity.Sum() {
				t.Errorf("identity %v became %v", o.devices[i].Identity, d.Identity)
			}
		}
	})
}

// FuzzXLSX puts foreign XML into the sheet and the shared strings of a sound
// workbook.
func FuzzXLSX(f *testing.F) {
	whole := book(f, someRows(3), nil)
	parts, err := zip.NewReader(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		f.Fatal(err)
	}
	read := func(name string) []byte {
		file, err := parts.Open(name)
		if err != nil {
			f.Fatal(err)
		}
		defer file.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(file); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	sheet, texts := read(sheetPart), read(stringsPart)
	f.Add(sheet, texts)
	f.Add(sheet[:len(sheet)/2], texts)
	f.Add([]byte(`<x:worksheet xmlns:x="a"><x:sheetData><x:row r="2"><x:c r="B2" t="inlineStr"><x:is><x:t>MAC</x:t></x:is></x:c></x:row></x:sheetData></x:worksheet>`), []byte("<sst/>"))
	f.Add([]byte(`<worksheet><sheetData><row><c t="s"><v>0</v></c></row><row><c t="e"><f/><v>#N/A</v></c></row></sheetData><mergeCells><mergeCell ref="A1:B2"/></mergeCells></worksheet>`), []byte("<sst><si><t>SN</t></si></sst>"))
	f.Fuzz(func(t *testing.T, sheet, texts []byte) {
		xlsx := surgery(t, whole, map[string]func([]byte) []byte{
			sheetPart:   func([]byte) []byte { return append([]byte{}, sheet...) },
			stringsPart: func([]byte) []byte { return append([]byte{}, texts...) },
		})
		sound(t, takeXLSX(t, xlsx, Config{}))
	})
}

// FuzzWorkbook reads foreign bytes as a whole workbook.
func FuzzWorkbook(f *testing.F) {
	whole := book(f, someRows(3), nil)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "m.xlsx")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		sound(t, take(t, path, Config{}))
	})
}

// FuzzSheetScan holds the scan to its purpose: what encoding/xml finds cut off
// is never read as whole.
func FuzzSheetScan(f *testing.F) {
	f.Add([]byte(`<worksheet><cols><col min="1" max="2" hidden="1"/></cols><sheetData><row r="1"><c r="A1" t="s"><v>0</v></c></row></sheetData></worksheet>`))
	f.Add([]byte(`<?xml version="1.0"?><!-- a --><w><sheetData><row><c t='inlineStr' q=">"><is><t>x</t></is></c></row></sheetData></w>`))
	f.Fuzz(func(t *testing.T, content []byte) {
		s := newSheetScan(bytes.NewReader(content), &textTable{ends: []uint64{0}})
		var err error
		for err == nil {
			_, err = s.next()
		}
		if !errors.Is(err, io.EOF) {
			return
		}
		d := xml.NewDecoder(bytes.NewReader(content))
		for err = nil; err == nil; {
			_, err = d.Token()
		}
		if syntax, ok := errors.AsType[*xml.SyntaxError](err); ok && syntax.Msg == "unexpected EOF" {
			t.Errorf("%q is cut off", content)
		}
	})
}

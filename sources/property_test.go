package sources

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/xuri/excelize/v2"
	"pgregory.net/rapid"

	"keymill/pipeline"
)

// table is a manifest that must be accepted, and what it must give.
type table struct {
	rows [][]string
	devs []pipeline.Device
}

// drawTable draws a sound manifest with any text in its free column.
func drawTable(t *rapid.T) table {
	tab := table{rows: [][]string{{"Serial", "Note", "MAC"}}}
	text := rapid.StringOf(rapid.RuneFrom([]rune("ab01 ,;\t\"'=éß漢🙂&<>_x"))).Filter(func(s string) bool {
		return strings.TrimSpace(s) == s && !strings.Contains(s, "\t") && !apostrophe(s, true) && !strings.HasPrefix(s, `="`)
	})
	n := rapid.IntRange(1, 6).Draw(t, "devices")
	for i := range n {
		mac := MAC{0x00, 0x1b, 0x63, byte(i), rapid.Byte().Draw(t, "b"), byte(i)}
		notation := rapid.SampledFrom([]string{"%02x:%02x:%02x:%02x:%02x:%02x", "%02X-%02X-%02X-%02X-%02X-%02X", "%02x%02x.%02x%02x.%02x%02x", "%02X%02X%02X%02X%02X%02X"}).Draw(t, "notation")
		serial, note := fmt.Sprintf("%04d", i), text.Draw(t, "note")
		tab.rows = append(tab.rows, []string{serial, note, fmt.Sprintf(notation, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5])})
		tab.devs = append(tab.devs, pipeline.Device{
			Row:      i + 2,
			Identity: pipeline.Identity{{Name: "mac", Value: mac.String()}},
			Attrs:    []pipeline.Attr{{Name: "serial", Value: serial}, {Name: "note", Value: note}, {Name: "mac", Value: mac.String()}},
		})
	}
	return tab
}

// readBack writes content to a file and returns its devices.
func readBack(t *rapid.T, dir string, content []byte) []pipeline.Device {
	path := filepath.Join(dir, "m")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := Open(path, Config{})
	if err != nil {
		t.Fatal(err, pipeline.Hint(err))
	}
	defer m.Close()
	if _, err := m.Check(context.Background(), func(p Problem) { t.Log(p) }); err != nil {
		t.Fatal(err)
	}
	var devs []pipeline.Device
	for d, err := range m.Devices(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		devs = append(devs, d)
	}
	return devs
}

func TestAnySoundCSV(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		tab := drawTable(t)
		var b bytes.Buffer
		w := csv.NewWriter(&b)
		w.Comma = rapid.SampledFrom(delimiters[:]).Draw(t, "delimiter")
		w.UseCRLF = rapid.Bool().Draw(t, "CRLF")
		if err := w.WriteAll(tab.rows); err != nil {
			t.Fatal(err)
		}
		content := b.Bytes()
		switch rapid.SampledFrom([]string{"UTF-8", "BOM", "LE", "BE", "LE BOM"}).Draw(t, "encoding") {
		case "BOM":
			content = append([]byte("\ufeff"), content...)
		case "LE":
			content = utf16Bytes(binary.LittleEndian, b.String())
		case "BE":
			content = utf16Bytes(binary.BigEndian, b.String())
		case "LE BOM":
			content = utf16Bytes(binary.LittleEndian, "\ufeff"+b.String())
		}
		if diff := cmp.Diff(tab.devs, readBack(t, dir, content)); diff != "" {
			t.Fatalf("%s\n%s", diff, b.String())
		}
	})
}

func TestAnySoundXLSX(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		tab := drawTable(t)
		f := excelize.NewFile()
		defer f.Close()
		inline := rapid.Bool().Draw(t, "inline")
		var stream *excelize.StreamWriter
		if inline {
			var err error
			if stream, err = f.NewStreamWriter("Sheet1"); err != nil {
				t.Fatal(err)
			}
		}
		for i, row := range tab.rows {
			cells := make([]any, len(row))
			for c, v := range row {
				cells[c] = v
			}
			at := fmt.Sprintf("A%d", i+1)
			var err error
			if inline {
				err = stream.SetRow(at, cells)
			} else {
				err = f.SetSheetRow("Sheet1", at, &cells)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if inline {
			if err := stream.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		var b bytes.Buffer
		if err := f.Write(&b); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tab.devs, readBack(t, dir, b.Bytes())); diff != "" {
			t.Fatal(diff)
		}
	})
}

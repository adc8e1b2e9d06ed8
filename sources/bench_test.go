package sources

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/xuri/excelize/v2"
)

const benchRows = 100_000

// manifestFile writes n devices with 6 columns, as CSV or as XLSX with inline or
// shared strings.
func manifestFile(t testing.TB, n int, format string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m."+format)
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var rows io.Reader
	pipeR, pipeW := io.Pipe()
	rows = pipeR
	go func() { pipeW.CloseWithError(Generate(pipeW, n, 1)) }()
	if format == "csv" {
		w := csv.NewWriter(out)
		each(t, rows, func(i int, r []string) { _ = w.Write(r) })
		w.Flush()
		if w.Error() != nil {
			t.Fatal(w.Error())
		}
		return path
	}
	f := excelize.NewFile()
	defer f.Close()
	w, err := f.NewStreamWriter("Sheet1")
	if err != nil {
		t.Fatal(err)
	}
	row := make([]any, 6)
	each(t, rows, func(i int, r []string) {
		for c, v := range r {
			row[c] = v
		}
		if err := w.SetRow(fmt.Sprintf("A%d", i+1), row); err != nil {
			t.Fatal(err)
		}
	})
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Write(out); err != nil {
		t.Fatal(err)
	}
	return path
}

func each(t testing.TB, rows io.Reader, add func(i int, r []string)) {
	t.Helper()
	in := csv.NewReader(rows)
	for i := 0; ; i++ {
		r, err := in.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			r = append(r, "Order", "Line")
		} else {
			r = append(r, fmt.Sprintf("PO-%d", i/1000), "line-3")
		}
		add(i, r)
	}
}

// benchCheck opens and checks a manifest as `check` and `run` do.
func benchCheck(b *testing.B, path string, n int) {
	b.ReportAllocs()
	for b.Loop() {
		m, err := Open(path, Config{Expect: n})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := m.Check(b.Context(), func(p Problem) { b.Fatal(p) }); err != nil {
			b.Fatal(err)
		}
		if err := m.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkCSV(b *testing.B)  { benchCheck(b, manifestFile(b, benchRows, "csv"), benchRows) }
func BenchmarkXLSX(b *testing.B) { benchCheck(b, manifestFile(b, benchRows, "xlsx"), benchRows) }

// BenchmarkSheetScan is the scan of the sheet's XML alone.
func BenchmarkSheetScan(b *testing.B) {
	src, err := openWorkbook(manifestFile(b, benchRows, "xlsx"), Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	w := src.(*workbook)
	for b.Loop() {
		part, err := w.openPart(w.part)
		if err != nil {
			b.Fatal(err)
		}
		s := newSheetScan(part, &w.texts)
		for err == nil {
			_, err = s.next()
		}
		if !errors.Is(err, io.EOF) {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(benchRows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkDevices is the second pass, over CSV.
func BenchmarkDevices(b *testing.B) {
	m, err := Open(manifestFile(b, benchRows, "csv"), Config{})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := m.Check(b.Context(), func(p Problem) { b.Fatal(p) }); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range m.Devices(b.Context()) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(benchRows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

// TestMillionIdentities measures what the search for duplicates keeps.
func TestMillionIdentities(t *testing.T) {
	if testing.Short() {
		t.Skip("a million rows")
	}
	var b bytes.Buffer
	if err := Generate(&b, 1_000_000, 1); err != nil {
		t.Fatal(err)
	}
	path := write(t, "m.csv", b.Bytes())
	b = bytes.Buffer{}
	m, err := Open(path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c := newChecker(&m.layout, Config{}, func(p Problem) { t.Fatal(p) })
	if _, err := m.pass(t.Context(), c, nil); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(c)
	kept := float64(after.HeapAlloc) - float64(before.HeapAlloc)
	t.Logf("%.0f MB kept for %d identities", kept/1e6, c.rows)
	if c.rows != 1_000_000 || kept > 100e6 {
		t.Errorf("%d rows, %.0f MB", c.rows, kept/1e6)
	}
}

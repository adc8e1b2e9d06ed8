package sources

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

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

// BenchmarkXLSXOfRows is the check of 300,000 rows beside excelize's own reading
// of them in the same run: times-rows is the time of ours by that of Rows().
func BenchmarkXLSXOfRows(b *testing.B) {
	const n = 300_000
	path := manifestFile(b, n, "xlsx")
	for _, texts := range []string{"inline", "shared"} {
		if texts == "shared" {
			path = sharedTexts(b, path)
		}
		b.Run(texts, func(b *testing.B) {
			for b.Loop() {
				theirs := benchTime(b, func() {
					f, err := excelize.OpenFile(path)
					if err != nil {
						b.Fatal(err)
					}
					rows, err := f.Rows("Sheet1")
					if err != nil {
						b.Fatal(err)
					}
					for rows.Next() {
						if _, err := rows.Columns(); err != nil {
							b.Fatal(err)
						}
					}
					if err := errors.Join(rows.Error(), rows.Close(), f.Close()); err != nil {
						b.Fatal(err)
					}
				})
				ours := benchTime(b, func() { checkOnce(b, path, Config{Expect: n}, 0) })
				b.ReportMetric(ours.Seconds()/theirs.Seconds(), "times-rows")
			}
		})
	}
}

func benchTime(b *testing.B, do func()) time.Duration {
	b.Helper()
	runtime.GC()
	begin := time.Now()
	do()
	return time.Since(begin)
}

// checkOnce checks a manifest and fails unless it has so many problems.
func checkOnce(t testing.TB, path string, cfg Config, problems int) {
	t.Helper()
	m, err := Open(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	if _, err := m.Check(t.Context(), func(p Problem) { found++ }); (err != nil) != (problems > 0) || found != problems {
		t.Fatalf("%d problems, %v", found, err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

// sharedTexts rewrites a workbook of inline strings with shared ones, as Excel
// has them.
func sharedTexts(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var texts bytes.Buffer
	texts.WriteString("<sst>")
	count := 0
	inline := regexp.MustCompile(`t="inlineStr"><is>(<t[^>]*>[^<]*</t>)</is>`)
	xlsx := surgery(t, content, map[string]func([]byte) []byte{sheetPart: func(b []byte) []byte {
		return inline.ReplaceAllFunc(b, func(m []byte) []byte {
			texts.WriteString("<si>")
			texts.Write(inline.FindSubmatch(m)[1])
			texts.WriteString("</si>")
			count++
			return fmt.Appendf(nil, `t="s"><v>%d</v>`, count-1)
		})
	}})
	texts.WriteString("</sst>")
	if count == 0 {
		t.Fatal("no inline strings")
	}
	return write(t, "shared.xlsx", surgery(t, xlsx, map[string]func([]byte) []byte{stringsPart: func([]byte) []byte { return texts.Bytes() }}))
}

// BenchmarkManifestMemory is what a check of its own process takes at its peak:
// MB-peak-rss of a million rows of CSV, of 300,000 rows of XLSX, and of a million
// problems.
func BenchmarkManifestMemory(b *testing.B) {
	if file := os.Getenv("KEYMILL_CHECK"); file != "" { // the process of its own
		for b.Loop() {
			m, err := Open(file, Config{})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := m.Check(b.Context(), func(Problem) {}); err != nil && !Refused(err) {
				b.Fatal(err)
			}
		}
		b.ReportMetric(peakRSS(b), "MB-peak-rss")
		return
	}
	wrong := func(t testing.TB, n int) string {
		var text bytes.Buffer
		text.WriteString("MAC,Serial no.\n")
		for i := range n {
			fmt.Fprintf(&text, "00:1b:63:zz:%02x:%02x,SN%07d\n", i>>8&255, i&255, i)
		}
		return write(t, "wrong.csv", text.Bytes())
	}
	for name, file := range map[string]func() string{
		"csv":      func() string { return manifestFile(b, 1_000_000, "csv") },
		"xlsx":     func() string { return sharedTexts(b, manifestFile(b, 300_000, "xlsx")) },
		"problems": func() string { return wrong(b, 1_000_000) },
	} {
		b.Run(name, func(b *testing.B) {
			path := file()
			for b.Loop() {
				cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkManifestMemory$", "-test.benchtime=1x")
				cmd.Env = append(os.Environ(), "KEYMILL_CHECK="+path)
				out, err := cmd.CombinedOutput()
				if err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				var mb float64
				for _, field := range strings.Fields(string(out)) {
					if field == "MB-peak-rss" {
						break
					}
					if n, err := strconv.ParseFloat(field, 64); err == nil {
						mb = n
					}
				}
				b.ReportMetric(mb, "MB-peak-rss")
			}
		})
	}
}

// peakRSS returns the most memory that this process ever held, in MB.
func peakRSS(t testing.TB) float64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var kb float64
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(after, &kb); err != nil {
		t.Fatal(err)
	}
	return kb * 1024 / 1e6
}

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

// TestManyIdentities measures what the search for duplicates keeps: at most
// 120 bytes a device.
func TestManyIdentities(t *testing.T) {
	const n = 200_000
	var b bytes.Buffer
	if err := Generate(&b, n, 1); err != nil {
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
	if c.rows != n || kept > 120*n {
		t.Errorf("%d rows, %.0f MB", c.rows, kept/1e6)
	}
}

package sources

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestWriters reads the same manifest as common programs wrote it: Debian 12's
// openpyxl (whole and write-only), XlsxWriter (shared and inline strings),
// Gnumeric's ssconvert and LibreOffice (XLSX, CSV with semicolons, CSV in UTF-16
// with tabs).
func TestWriters(t *testing.T) {
	files, err := filepath.Glob("testdata/writers/*")
	if err != nil || len(files) < 8 {
		t.Fatalf("%v, %v", files, err)
	}
	want := accept(t, takeCSV(t, "MAC address,Serial no.,Größe & Maß\n"+
		"00:1b:63:84:45:e6,000017,\"a <b> \"\"c\"\"\"\n00:1b:63:84:45:e7,000018,zwei\u00a0drei\n00:1b:63:84:45:e8,000019,\n", Config{}))
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			o := take(t, file, Config{Expect: 3})
			if diff := cmp.Diff(want, accept(t, o)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

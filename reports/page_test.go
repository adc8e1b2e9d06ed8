package reports

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"keymill/pipeline"
)

func TestPageIsSelfContainedAndSafe(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 120)
	nasty := `</script><script>alert(1)</script><!--`
	l.records["lot-1"][7].Attrs[2].Value = nasty
	l.records["lot-1"][49].Reason = nasty
	dir, _ := exportLot(t, l, "lot-1", signedOptions(l, stationKey("a"), "html"))
	data, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	html := string(data)
	if strings.Contains(html, "alert(1)</script>") || strings.Count(html, "<script") != 2 {
		t.Error("a value got out of its place")
	}
	if m := regexp.MustCompile(`(src|href|url)\s*[=(]`).FindString(html); m != "" {
		t.Errorf("the page refers to something: %q", m)
	}
	_, rest, _ := strings.Cut(html, `<script id="rows" type="application/json">`)
	text, _, _ := strings.Cut(rest, "</script>")
	var rows [][]any
	if err := json.Unmarshal([]byte(text), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 120 || rows[7][3] != nasty || rows[0][4] != "released" {
		t.Errorf("%d rows, %q", len(rows), rows[7])
	}
	for _, want := range []string{"The totals reconcile", "line-3/lot-1", "bad identity"} {
		if !strings.Contains(html, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

func TestPageSaysWhatDoesNotReconcile(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 20)
	l.records["lot-1"][3].State = pipeline.Staged
	dir, _ := exportLot(t, l, "lot-1", Options{Formats: []string{"html", "pdf"}})
	data, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), "do not reconcile") || !strings.Contains(string(data), "1 devices are neither") {
		t.Error("an open device is not mentioned")
	}
}

// TestPageRuns lets a browser run the page's script and looks at the outcome.
func TestPageRuns(t *testing.T) {
	chromium := needTool(t, "chromium", "chromium")
	l := newLedger(t)
	l.fill("lot-1", 300)
	dir, _ := exportLot(t, l, "lot-1", Options{Formats: []string{"html"}})
	cmd := exec.CommandContext(t.Context(), chromium, "--headless", "--no-sandbox", "--disable-gpu",
		"--user-data-dir="+t.TempDir(), "--virtual-time-budget=2000", "--dump-dom", "file://"+filepath.Join(dir, "report.html"))
	dom, err := cmd.Output()
	if err != nil {
		t.Fatalf("chromium: %v", err)
	}
	if !strings.Contains(string(dom), "300 devices</output>") || !strings.Contains(string(dom), `title="02:12:61:00:00:05"`) {
		t.Error("the table did not appear")
	}
	if n := strings.Count(string(dom), `class="r"`); n < 20 || n > 100 {
		t.Errorf("%d rows are in the page, a screenful was wanted", n)
	}
}

func TestPDF(t *testing.T) {
	pdftotext := needTool(t, "pdftotext", "poppler-utils")
	l := newLedger(t)
	l.fill("Lösung 測試", 120)
	dir, _ := exportLot(t, l, "Lösung 測試", signedOptions(l, stationKey("a"), "pdf"))
	text, err := exec.CommandContext(t.Context(), pdftotext, "-layout", filepath.Join(dir, "report.pdf"), "-").Output()
	if err != nil {
		t.Fatal(err)
	}
	pages := strings.Split(string(text), "\f")
	for i, want := range map[int][]string{
		0: {`Lot Lösung \u6E2C\u8A66`, "The totals reconcile", "line-3", "Quality: name"},
		1: {"Failed and conflicting devices", "02:12:61:00:00:31", "bad identity"},
		3: {"All devices", l.records["Lösung 測試"][0].Fingerprint()[:40]},
	} {
		for _, s := range want {
			if !strings.Contains(pages[i], s) {
				t.Errorf("page %d lacks %q:\n%s", i+1, s, pages[i])
			}
		}
	}
}

// TestPDFCode reads the QR code as a phone would.
func TestPDFCode(t *testing.T) {
	pdftoppm, zbar := needTool(t, "pdftoppm", "poppler-utils"), needTool(t, "zbarimg", "zbar-tools")
	l := newLedger(t)
	l.fill("lot-1", 10)
	dir, res := exportLot(t, l, "lot-1", signedOptions(l, stationKey("a"), "pdf"))
	image := filepath.Join(t.TempDir(), "cover")
	if out, err := exec.CommandContext(t.Context(), pdftoppm, "-r", "150", "-l", "1", "-singlefile", "-png",
		filepath.Join(dir, "report.pdf"), image).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	code, err := exec.CommandContext(t.Context(), zbar, "-q", "--raw", image+".png").Output()
	if err != nil {
		t.Fatal(err)
	}
	body, _, _ := strings.Cut(string(res.Checkpoint), "\n\n")
	if strings.TrimSpace(string(code)) != body {
		t.Errorf("the code says %q, the checkpoint %q", code, body)
	}
}

func TestLatencyAndRate(t *testing.T) {
	var r rate
	for _, s := range []int64{1000, 1000, 1001, 1119} {
		r.add(s)
	}
	if p := r.points(); r.width != 1 || len(p) != 120 || p[0].Count != 2 || p[119].Count != 1 {
		t.Errorf("width %d, %d points", r.width, len(p))
	}
	r.add(100_000) // a break of a day
	p, sum := r.points(), 0
	for _, q := range p {
		sum += q.Count
	}
	if len(p) > rateBins || sum != 5 || r.width < 512 {
		t.Errorf("width %d, %d points, %d devices", r.width, len(p), sum)
	}
	for micros, want := range map[int64]int{0: 0, 999: 0, 1000: 1, 1999: 1, 2000: 2, 1 << 60: latencyBins - 1, -5: 0} {
		if got := latencyBin(micros); got != want {
			t.Errorf("%d µs is in bin %d, want %d", micros, got, want)
		}
	}
	if got := thousands(1234567); got != "1,234,567" {
		t.Error(got)
	}
}

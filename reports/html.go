package reports

import (
	"bytes"
	_ "embed" // for the page
	"encoding/json"
	"html/template"
	"strings"

	"keymill/pipeline"
)

//go:embed report.tmpl.html
var pageText string

// Limits of the page: how many rows its table holds, and how many failures are
// listed above it.
const (
	pageRows     = 100_000
	pageFailures = 200
)

// rowsMark is where the table's rows go into the page.
const rowsMark = `"@rows@"`

// htmlWriter writes report.html: one self-contained file, without any reference
// to the outside. The table's rows are data that the page shows as it scrolls.
type htmlWriter struct {
	file    *outFile
	tail    string
	summary *Summary
	rows    int
	line    bytes.Buffer
	enc     *json.Encoder
	row     []any
}

// page is what the template shows.
type page struct {
	*Summary
	Facts      []pipeline.Attr
	Shares     []share
	Imbalances []string
	Columns    []string
	StateIndex int // of the state among the columns
	Failed     []*pipeline.Record
	MoreFailed int
	Truncated  bool
	Charts     []chart
}

type chart struct {
	Title string
	SVG   template.HTML
}

func openHTML(out *bundleDir, s *Summary) (deviceWriter, error) {
	t, err := template.New("report").Funcs(template.FuncMap{
		"stamp": stamp, "thousands": thousands, "percent": percent,
	}).Parse(pageText)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, newPage(s)); err != nil {
		return nil, err
	}
	head, tail, _ := strings.Cut(text.String(), rowsMark)
	file, err := out.create("report.html")
	if err != nil {
		return nil, err
	}
	w := &htmlWriter{file: file, tail: tail, summary: s}
	w.enc = json.NewEncoder(&w.line) // escapes <, > and &: nothing ends the script
	_, err = file.WriteString(head)
	return w, err
}

func newPage(s *Summary) page {
	p := page{Summary: s, Facts: s.facts(), Shares: s.shares(), Imbalances: s.Balance.Check(s.Lot.Devices),
		Failed: s.Failures, Truncated: s.Totals.Devices > pageRows}
	if len(p.Failed) > pageFailures {
		p.Failed = p.Failed[:pageFailures]
	}
	p.MoreFailed = s.Totals.Failed + s.Totals.Conflict - len(p.Failed)
	p.Columns = append(p.Columns, "row")
	p.Columns = append(append(p.Columns, s.Identity...), s.Attributes...)
	p.StateIndex = len(p.Columns)
	p.Columns = append(p.Columns, "state", "reason", "key (SPKI SHA-256)", "updated")
	p.Charts = []chart{
		{s.rateTitle(), barChart("rate", s.rateBars())},
		{"From key to release", barChart("latency", s.latencyBars())},
		{"Repeated requests, by device", barChart("retries", s.retryBars())},
	}
	return p
}

func (w *htmlWriter) Device(r *pipeline.Record) error {
	if w.rows == pageRows {
		return nil
	}
	w.row = append(w.row[:0], r.Row)
	for _, name := range w.summary.Identity {
		w.row = append(w.row, attribute(r, name))
	}
	for _, name := range w.summary.Attributes {
		w.row = append(w.row, attribute(r, name))
	}
	w.row = append(w.row, r.State, r.Reason, r.Fingerprint(), r.Updated.UTC().Format("2006-01-02 15:04:05"))
	w.line.Reset()
	if w.rows > 0 {
		w.line.WriteByte(',')
	}
	if err := w.enc.Encode(w.row); err != nil {
		return err
	}
	w.rows++
	_, err := w.file.Write(w.line.Bytes())
	return err
}

func (w *htmlWriter) Close() error {
	if _, err := w.file.WriteString(w.tail); err != nil {
		return err
	}
	return w.file.Close()
}

func (w *htmlWriter) Abort() { w.file.Abort() }

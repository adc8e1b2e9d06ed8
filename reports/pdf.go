package reports

import (
	"fmt"
	"strings"

	"codeberg.org/go-pdf/fpdf"

	"keymill/pipeline"
)

// pdfRows is how many devices the PDF lists: what somebody would leaf through.
// Larger lots are in the tables.
const pdfRows = 1000

// Measures of an A4 page, in millimetres.
const (
	pdfLeft  = 18.0
	pdfWidth = 174.0
	pdfFloor = 278.0 // nothing is printed below, but the page's number
)

// pdfWriter writes report.pdf: a cover with the totals, the log's head as a QR
// code and room for signatures; then what failed; then charts and, of small
// lots, all devices.
type pdfWriter struct {
	out     *bundleDir
	doc     *fpdf.Fpdf
	summary *Summary
	text    func(string) string // UTF-8 to the fonts' code page
	listed  []*pipeline.Record
}

func openPDF(out *bundleDir, s *Summary) (deviceWriter, error) {
	doc := fpdf.New("P", "mm", "A4", "")
	translate := doc.UnicodeTranslatorFromDescriptor("cp1252")
	w := &pdfWriter{out: out, doc: doc, summary: s, text: func(t string) string { return translate(visible(t)) }}
	doc.SetCatalogSort(true) // and the times below: the same bytes every time
	doc.SetCreationDate(s.Time)
	doc.SetModificationDate(s.Time)
	doc.SetTitle("Production report, lot "+s.Lot.Name, true)
	doc.SetCreator("keymill", false)
	doc.SetMargins(pdfLeft, 18, pdfLeft)
	doc.SetAutoPageBreak(false, 0)
	doc.SetFooterFunc(w.footer)
	doc.AliasNbPages("")
	w.cover()
	w.failures()
	w.charts()
	return w, doc.Error()
}

// visible replaces what the PDF's own fonts cannot show by its code point, so
// that two names never look the same: the measures are those of code page 1252.
func visible(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r < 0x20 || r >= 0x7f && r < 0xa0:
			fmt.Fprintf(&b, "\\u%04X", r)
		case r < 0x100 || strings.ContainsRune("€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ", r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "\\u%04X", r)
		}
	}
	return b.String()
}

func (w *pdfWriter) footer() {
	w.doc.SetY(-12)
	w.font("", 8, "#5b6b75")
	w.doc.CellFormat(pdfWidth/2, 5, w.text("Lot "+w.summary.Lot.Name+", state as of "+stamp(w.summary.Time)), "", 0, "L", false, 0, "")
	w.doc.CellFormat(pdfWidth/2, 5, fmt.Sprintf("Page %d of {nb}", w.doc.PageNo()), "", 0, "R", false, 0, "")
}

// font sets style ("", "B", "I"), size in points and colour.
func (w *pdfWriter) font(style string, size float64, colour string) {
	w.doc.SetFont("Helvetica", style, size)
	r, g, b := rgb(colour)
	w.doc.SetTextColor(r, g, b)
}

// rgb reads "#rrggbb".
func rgb(colour string) (r, g, b int) {
	_, _ = fmt.Sscanf(colour, "#%02x%02x%02x", &r, &g, &b) // colours are constants
	return r, g, b
}

func (w *pdfWriter) fill(colour string) { w.doc.SetFillColor(rgb(colour)) }

// put writes one line of text at a place and returns nothing; what is too wide
// is cut with an ellipsis.
func (w *pdfWriter) put(x, y, width float64, align, text string) {
	w.doc.SetXY(x, y)
	w.doc.CellFormat(width, 5, w.fit(w.text(text), width), "", 0, align, false, 0, "")
}

func (w *pdfWriter) fit(text string, width float64) string {
	if w.doc.GetStringWidth(text) <= width-1.5 {
		return text
	}
	for len(text) > 0 && w.doc.GetStringWidth(text+"...") > width-1.5 {
		text = text[:len(text)-1]
	}
	return text + "..."
}

// heading begins a part and returns the y below it.
func (w *pdfWriter) heading(y float64, text string) float64 {
	w.font("B", 13, "#1f4e5f")
	w.put(pdfLeft, y, pdfWidth, "L", text)
	w.doc.SetDrawColor(rgb("#dbe2e6"))
	w.doc.Line(pdfLeft, y+7, pdfLeft+pdfWidth, y+7)
	return y + 10
}

func (w *pdfWriter) Device(r *pipeline.Record) error {
	if w.summary.Totals.Devices <= pdfRows && len(w.listed) < pdfRows {
		kept := *r
		w.listed = append(w.listed, &kept)
	}
	return nil
}

func (w *pdfWriter) Close() error {
	if len(w.listed) > 0 {
		w.table("All devices", w.listed, func(r *pipeline.Record) string { return r.Fingerprint() }, "Key (SPKI SHA-256)", 7)
	}
	if err := w.doc.Error(); err != nil {
		return err
	}
	out, err := w.out.create("report.pdf")
	if err != nil {
		return err
	}
	defer out.Abort()
	if err := w.doc.Output(out); err != nil {
		return err
	}
	return out.Close()
}

// Abort has nothing to release: the document is in memory.
func (w *pdfWriter) Abort() {}

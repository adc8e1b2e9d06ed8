package reports

import (
	"fmt"

	"github.com/boombuler/barcode"
	"github.com/boombuler/barcode/qr"

	"keymill/pipeline"
)

// cover is the page that is signed.
func (w *pdfWriter) cover() {
	s := w.summary
	w.doc.AddPage()
	w.fill("#1f4e5f")
	w.doc.Rect(0, 0, 210, 44, "F")
	w.font("B", 22, "#ffffff")
	w.put(pdfLeft, 15, pdfWidth, "L", "Lot "+s.Lot.Name)
	w.font("", 11, "#ffffff")
	subtitle := "Production report, state as of " + stamp(s.Time)
	if s.Lot.Station != "" {
		subtitle = "Production report of station " + s.Lot.Station + ", state as of " + stamp(s.Time)
	}
	w.put(pdfLeft, 26, pdfWidth, "L", subtitle)
	w.tiles(52)
	y := w.verdict(80)
	y = w.heading(y+4, "The lot")
	for _, f := range s.facts() {
		w.font("", 9, "#5b6b75")
		w.put(pdfLeft, y, 44, "L", f.Name)
		w.font("", 9, "#1d2b33")
		w.put(pdfLeft+44, y, pdfWidth-44, "L", f.Value)
		y += 5.2
	}
	w.evidence(y + 4)
	w.signatures(258)
}

func (w *pdfWriter) tiles(y float64) {
	t := w.summary.Totals
	tiles := []struct {
		count  int
		label  string
		colour string
	}{
		{t.Devices, "devices", "#1f4e5f"},
		{t.Released, "released (" + percent(t.Released, t.Devices) + ")", stateColour[pipeline.Released]},
		{t.Failed, "failed", stateColour[pipeline.Failed]},
		{t.Conflict, "in conflict", stateColour[pipeline.Conflicted]},
		{w.summary.Balance.Open, "not finished", "#5b6b75"},
	}
	width := (pdfWidth - 4*4) / 5
	for i, tile := range tiles {
		x := pdfLeft + float64(i)*(width+4)
		w.fill("#f4f7f8")
		w.doc.Rect(x, y, width, 22, "F")
		w.fill(tile.colour)
		w.doc.Rect(x, y, width, 1.4, "F")
		w.font("B", 16, "#1d2b33")
		w.put(x+1.5, y+5, width, "L", thousands(tile.count))
		w.font("", 8.5, "#5b6b75")
		w.put(x+1.5, y+13.5, width, "L", tile.label)
	}
}

// verdict says whether the totals reconcile, and how; it returns the y below.
func (w *pdfWriter) verdict(y float64) float64 {
	b := w.summary.Balance
	wrong := b.Check(w.summary.Lot.Devices)
	title, colour := "The totals reconcile", stateColour[pipeline.Released]
	lines := []string{
		fmt.Sprintf("%s rows = %s released + %s failed + %s in conflict + %s undone", thousands(b.Rows),
			thousands(b.Released), thousands(b.Failed), thousands(b.Conflict), thousands(b.Undone)),
		fmt.Sprintf("%s keys made = %s in images + %s destroyed + %s kept for devices that can be retried",
			thousands(b.KeysGenerated), thousands(b.KeysInImages), thousands(b.KeysDestroyed), thousands(b.KeysStaged)),
		fmt.Sprintf("%s auth sets made = %s of released devices + %s left with failed ones",
			thousands(b.AuthSetsMade), thousands(b.AuthSetsReleased), thousands(b.AuthSetsLeft)),
	}
	if len(wrong) > 0 {
		title, colour, lines = "The totals do not reconcile", stateColour[pipeline.Failed], wrong[:min(len(wrong), 5)]
	}
	height := 10 + 5.2*float64(len(lines))
	w.fill(colour)
	w.doc.Rect(pdfLeft, y, 1.6, height, "F")
	w.font("B", 12, colour)
	w.put(pdfLeft+5, y+1, pdfWidth-5, "L", title)
	w.font("", 9.5, "#1d2b33")
	for i, line := range lines {
		w.put(pdfLeft+5, y+8+5.2*float64(i), pdfWidth-5, "L", line)
	}
	return y + height
}

// evidence shows the log's head, in words and as a QR code of the checkpoint's
// body: whoever keeps this page can later check a bundle against it.
func (w *pdfWriter) evidence(y float64) {
	s := w.summary
	if len(s.Logs) == 0 {
		return
	}
	y = w.heading(y, "Evidence")
	const side = 34.0
	head := s.Logs[0]
	for _, h := range s.Logs {
		if h.Station == s.Lot.Station && h.Kind == KindStation { // which names the lot's
			head = h
		}
	}
	w.qr(pdfLeft+pdfWidth-side, y, side, head.text())
	for _, f := range []pipeline.Attr{
		{Name: "Transparency log", Value: head.Origin}, {Name: "Events in it", Value: thousands(int(head.Size))},
		{Name: "Root hash", Value: head.Root}, {Name: "Signed by key", Value: s.KeyID[:32]}, {Name: "", Value: s.KeyID[32:]},
		{Name: "To verify", Value: "keymill audit verify DIR --key STATION.pem"},
	} {
		w.font("", 9, "#5b6b75")
		w.put(pdfLeft, y, 34, "L", f.Name)
		w.font("", 9, "#1d2b33")
		w.put(pdfLeft+34, y, pdfWidth-34-side-4, "L", f.Value)
		y += 5.4
	}
}

// qr draws a QR code as filled squares.
func (w *pdfWriter) qr(x, y, side float64, text string) {
	code, err := qr.Encode(text, qr.M, qr.Auto)
	if err != nil {
		w.doc.SetError(fmt.Errorf("QR code: %w", err))
		return
	}
	n := code.Bounds().Dx()
	dot := side / float64(n)
	w.fill("#000000")
	for row := range n {
		for col := range n {
			if dark(code, col, row) {
				// A hair wider than the grid, so that no viewer shows gaps.
				w.doc.Rect(x+float64(col)*dot, y+float64(row)*dot, dot+0.02, dot+0.02, "F")
			}
		}
	}
}

func dark(code barcode.Barcode, x, y int) bool {
	r, _, _, _ := code.At(x, y).RGBA()
	return r == 0
}

func (w *pdfWriter) signatures(y float64) {
	w.doc.SetDrawColor(rgb("#1d2b33"))
	w.font("", 8, "#5b6b75")
	for i, who := range []string{"Production: name, date, signature", "Quality: name, date, signature"} {
		x := pdfLeft + float64(i)*(pdfWidth/2+4)
		w.doc.Line(x, y, x+pdfWidth/2-8, y)
		w.put(x-1, y+1, pdfWidth/2-8, "L", who)
	}
}

// failures lists what a person must look at.
func (w *pdfWriter) failures() {
	s := w.summary
	if len(s.Failures) == 0 {
		return
	}
	listed := s.Failures[:min(len(s.Failures), pdfRows)]
	w.table("Failed and conflicting devices", listed, func(r *pipeline.Record) string { return r.Reason }, "Reason", 8)
	if more := s.Totals.Failed + s.Totals.Conflict - len(listed); more > 0 {
		w.font("I", 9, "#5b6b75")
		w.put(pdfLeft, w.doc.GetY()+6, pdfWidth, "L", fmt.Sprintf("and %s more: see devices.csv", thousands(more)))
	}
}

// table prints devices, with the header again on every page.
func (w *pdfWriter) table(title string, records []*pipeline.Record, last func(*pipeline.Record) string, lastTitle string, size float64) {
	widths := []float64{14, 46, 22, pdfWidth - 82}
	y := pdfFloor + 1
	for i, r := range records {
		if y > pdfFloor-6 {
			w.doc.AddPage()
			y = 18
			if i == 0 {
				y = w.heading(y, title)
			}
			w.font("B", size, "#5b6b75")
			w.cells(y, widths, "Row", "Device", "State", lastTitle)
			y += 6
		}
		if i%2 == 0 {
			w.fill("#f4f7f8")
			w.doc.Rect(pdfLeft, y, pdfWidth, 5.4, "F")
		}
		w.font("", size, "#1d2b33")
		w.cells(y, widths, fmt.Sprint(r.Row), r.Identity.Name(), "", last(r))
		colour, ok := stateColour[r.State]
		if !ok || r.State == pipeline.Planned {
			colour = "#5b6b75"
		}
		w.font("B", size, colour)
		w.put(pdfLeft+60, y, 22, "L", string(r.State))
		y += 5.4
	}
	w.doc.SetY(y)
}

func (w *pdfWriter) cells(y float64, widths []float64, texts ...string) {
	x := pdfLeft
	for i, text := range texts {
		w.put(x, y, widths[i], "L", text)
		x += widths[i]
	}
}

// charts draws what the page on screen shows, too.
func (w *pdfWriter) charts() {
	s := w.summary
	if s.Stats.Released == 0 {
		return
	}
	w.doc.AddPage()
	y := w.heading(18, "How it went")
	w.fillShares(y)
	y += 18
	for _, c := range []struct {
		title string
		bars  []bar
	}{{s.rateTitle(), s.rateBars()}, {"From key to release", s.latencyBars()}, {"Repeated requests, by device", s.retryBars()}} {
		w.font("B", 10, "#1d2b33")
		w.put(pdfLeft, y, pdfWidth, "L", c.title)
		w.barChart(y+8, 48, c.bars)
		y += 72
	}
}

func (w *pdfWriter) fillShares(y float64) {
	x := pdfLeft
	label := pdfLeft
	for _, part := range w.summary.shares() {
		w.fill(part.Colour)
		w.doc.Rect(x, y, part.W*pdfWidth/1000, 7, "F")
		x += part.W * pdfWidth / 1000
		w.doc.Rect(label+1, y+10.2, 2.6, 2.6, "F")
		w.font("", 9, "#1d2b33")
		text := fmt.Sprintf("%s %s (%s)", part.Title, thousands(part.Count), part.Percent)
		w.put(label+4, y+9, pdfWidth/3, "L", text)
		label += w.doc.GetStringWidth(text) + 14
	}
}

func (w *pdfWriter) barChart(y, height float64, bars []bar) {
	most := 1
	for _, b := range bars {
		most = max(most, b.count)
	}
	const axis = 16.0
	w.doc.SetDrawColor(rgb("#dbe2e6"))
	w.font("", 7.5, "#5b6b75")
	for _, part := range []float64{0, 0.5, 1} {
		line := y + height*(1-part)
		w.doc.Line(pdfLeft+axis, line, pdfLeft+pdfWidth, line)
		w.put(pdfLeft, line-2.5, axis, "R", thousands(int(part*float64(most)+0.5)))
	}
	step := (pdfWidth - axis) / float64(max(len(bars), 1))
	width := min(step*0.82, 22)
	for i, b := range bars {
		x := pdfLeft + axis + step*float64(i) + (step-width)/2
		h := height * float64(b.count) / float64(most)
		w.fill("#3d7c93")
		w.doc.Rect(x, y+height-h, width, h, "F")
		if b.label == "" {
			continue
		}
		switch align := anchor(i, len(bars)); align {
		case "start":
			w.put(x-1, y+height+1, 50, "L", b.label)
		case "end":
			w.put(x+width-50, y+height+1, 50, "R", b.label)
		default:
			w.put(x+width/2-25, y+height+1, 50, "C", b.label)
		}
	}
}

package reports

import (
	"fmt"

	"github.com/xuri/excelize/v2"

	"keymill/pipeline"
)

// writeSummary fills the first sheet: what the lot is, its balance, a chart of
// outcomes and one of the rate over time.
func (w *xlsxWriter) writeSummary() error {
	const sheet = "Summary"
	bold, err := w.book.NewStyle(&excelize.Style{Font: &excelize.Font{Bold: true, Size: 14}})
	if err != nil {
		return err
	}
	label, err := w.book.NewStyle(&excelize.Style{Font: &excelize.Font{Bold: true}})
	if err != nil {
		return err
	}
	if err := w.book.SetCellStr(sheet, "A1", neutral("Lot "+w.summary.Lot.Name)); err != nil {
		return err
	}
	if err := w.book.SetCellStyle(sheet, "A1", "A1", bold); err != nil {
		return err
	}
	row := 3
	for _, f := range w.summary.facts() {
		if err := w.book.SetSheetRow(sheet, fmt.Sprintf("A%d", row), &[]any{f.Name, neutral(f.Value)}); err != nil {
			return err
		}
		row++
	}
	row++
	first := row
	for _, n := range w.summary.outcomes() {
		if err := w.book.SetSheetRow(sheet, fmt.Sprintf("A%d", row), &[]any{n.name, n.count}); err != nil {
			return err
		}
		row++
	}
	if err := w.book.SetCellStyle(sheet, "A3", fmt.Sprintf("A%d", row), label); err != nil {
		return err
	}
	if err := w.book.SetColWidth(sheet, "A", "A", 24); err != nil {
		return err
	}
	if err := w.book.SetColWidth(sheet, "B", "B", 68); err != nil {
		return err
	}
	states := first + 1 // below the number of devices
	if err := w.outcomeChart(sheet, states, states+len(pipeline.States)-1); err != nil {
		return err
	}
	return w.rateChart(sheet)
}

func (w *xlsxWriter) outcomeChart(sheet string, first, last int) error {
	return w.book.AddChart(sheet, "D3", &excelize.Chart{
		Type: excelize.Bar,
		Series: []excelize.ChartSeries{{
			Name:       "Devices",
			Categories: fmt.Sprintf("Summary!$A$%d:$A$%d", first, last),
			Values:     fmt.Sprintf("Summary!$B$%d:$B$%d", first, last),
		}},
		Title:  excelize.ChartTitle{Paragraph: []excelize.RichTextRun{{Text: "Outcome"}}},
		Legend: excelize.ChartLegend{Position: "none"},
	})
}

// rateChart draws devices released over time from a sheet of its own.
func (w *xlsxWriter) rateChart(sheet string) error {
	rate := w.summary.Stats.Rate()
	if len(rate) == 0 {
		return nil
	}
	if _, err := w.book.NewSheet("Rate"); err != nil {
		return err
	}
	if err := w.book.SetSheetRow("Rate", "A1", &[]any{"time (UTC)", "released"}); err != nil {
		return err
	}
	for i, p := range rate {
		cell := fmt.Sprintf("A%d", i+2)
		if err := w.book.SetSheetRow("Rate", cell, &[]any{p.Time, p.Count}); err != nil {
			return err
		}
		if err := w.book.SetCellStyle("Rate", cell, cell, w.date); err != nil {
			return err
		}
	}
	if err := w.book.SetColWidth("Rate", "A", "A", 22); err != nil {
		return err
	}
	return w.book.AddChart(sheet, "D20", &excelize.Chart{
		Type: excelize.Col,
		Series: []excelize.ChartSeries{{
			Name:       "Released",
			Categories: fmt.Sprintf("Rate!$A$2:$A$%d", len(rate)+1),
			Values:     fmt.Sprintf("Rate!$B$2:$B$%d", len(rate)+1),
		}},
		Title:  excelize.ChartTitle{Paragraph: []excelize.RichTextRun{{Text: "Devices released over time"}}},
		Legend: excelize.ChartLegend{Position: "none"},
	})
}

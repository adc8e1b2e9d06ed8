package reports

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/xuri/excelize/v2"

	"keymill/pipeline"
)

// sheetRows is how many rows a worksheet holds (ECMA-376, as Excel limits it).
const sheetRows = 1_048_576

// xlsxWriter writes devices.xlsx: a summary sheet with charts, then the
// devices with typed columns, frozen header and filter, on as many sheets as
// they need. Rows are streamed: memory does not grow with the lot.
type xlsxWriter struct {
	out     *bundleDir
	book    *excelize.File
	summary *Summary
	cols    []column
	rows    int // that a sheet may hold, header included

	header, date int // style ids
	sheet        string
	sheets       int
	stream       *excelize.StreamWriter
	row          int // last row written on the sheet
	values       []any
}

func openXLSX(out *bundleDir, s *Summary) (deviceWriter, error) {
	return newXLSX(out, s, sheetRows)
}

func newXLSX(out *bundleDir, s *Summary, rows int) (*xlsxWriter, error) {
	w := &xlsxWriter{out: out, summary: s, cols: columns(s), rows: rows,
		book: excelize.NewFile(excelize.Options{TmpDir: out.dir})}
	w.values = make([]any, len(w.cols))
	var err error
	w.header, err = w.book.NewStyle(&excelize.Style{
		Font:   &excelize.Font{Bold: true, Color: "FFFFFF"},
		Fill:   excelize.Fill{Type: "pattern", Pattern: 1, Color: []string{"1F4E5F"}},
		Border: []excelize.Border{{Type: "bottom", Color: "1F4E5F", Style: 1}},
	})
	if err != nil {
		return nil, err
	}
	format := "yyyy-mm-dd hh:mm:ss"
	if w.date, err = w.book.NewStyle(&excelize.Style{CustomNumFmt: &format}); err != nil {
		return nil, err
	}
	if err := w.book.SetSheetName("Sheet1", "Summary"); err != nil {
		return nil, err
	}
	return w, w.nextSheet()
}

// nextSheet finishes the sheet at hand and begins another.
func (w *xlsxWriter) nextSheet() error {
	if err := w.finishSheet(); err != nil {
		return err
	}
	w.sheets++
	w.sheet = "Devices"
	if w.sheets > 1 {
		w.sheet = fmt.Sprintf("Devices %d", w.sheets)
	}
	if _, err := w.book.NewSheet(w.sheet); err != nil {
		return err
	}
	var err error
	if w.stream, err = w.book.NewStreamWriter(w.sheet); err != nil {
		return err
	}
	for i, c := range w.cols {
		if err := w.stream.SetColWidth(i+1, i+1, c.width); err != nil {
			return err
		}
		w.values[i] = excelize.Cell{StyleID: w.header, Value: neutral(c.name)}
	}
	if err := w.stream.SetPanes(&excelize.Panes{Freeze: true, YSplit: 1, TopLeftCell: "A2", ActivePane: "bottomLeft"}); err != nil {
		return err
	}
	w.row = 1
	return w.stream.SetRow("A1", w.values)
}

// finishSheet gives the sheet its filter, now that its last row is known.
func (w *xlsxWriter) finishSheet() error {
	if w.stream == nil {
		return nil
	}
	last, err := excelize.CoordinatesToCellName(len(w.cols), w.row)
	if err != nil {
		return err
	}
	if err := w.book.AutoFilter(w.sheet, "A1:"+last, nil); err != nil {
		return err
	}
	return w.stream.Flush()
}

func (w *xlsxWriter) Device(r *pipeline.Record) error {
	if w.row == w.rows {
		if err := w.nextSheet(); err != nil {
			return err
		}
	}
	for i, c := range w.cols {
		w.values[i] = w.typed(c.value(r))
	}
	w.row++
	return w.stream.SetRow(fmt.Sprintf("A%d", w.row), w.values)
}

// typed returns a cell that keeps its type: numbers and dates can be computed
// with, texts stay texts.
func (w *xlsxWriter) typed(v any) any {
	switch v := v.(type) {
	case string:
		if v == "" {
			return nil
		}
		return neutral(v)
	case time.Time:
		if v.IsZero() {
			return nil
		}
		return excelize.Cell{StyleID: w.date, Value: v.UTC()}
	}
	return v
}

// Close writes the summary and the file.
func (w *xlsxWriter) Close() error {
	defer w.book.Close()
	if err := w.finishSheet(); err != nil {
		return err
	}
	if err := w.writeSummary(); err != nil {
		return fmt.Errorf("summary sheet: %w", err)
	}
	raw, err := os.CreateTemp(w.out.dir, ".xlsx-*")
	if err != nil {
		return err
	}
	defer os.Remove(raw.Name())
	defer raw.Close()
	// Left alone, excelize makes the whole file in memory before it writes.
	w.book.SetZipWriter(func(io.Writer) excelize.ZipWriter { return newZip(raw) })
	if err := w.book.Write(io.Discard); err != nil {
		return err
	}
	return settleXLSX(raw, w.out, "devices.xlsx")
}

func (w *xlsxWriter) Abort() { _ = w.book.Close() }

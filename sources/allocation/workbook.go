package allocation

import (
	"io"

	"github.com/xuri/excelize/v2"
)

// MaxSheetRows is how many rows a sheet can have, the header included
// (ECMA-376; Excel's limit).
const MaxSheetRows = excelize.TotalRows

// WriteXLSX writes the allocation as a manifest in a workbook, all cells as text.
func (a *Allocation) WriteXLSX(w io.Writer) error {
	f := excelize.NewFile()
	defer f.Close()
	const sheet = "Devices"
	if err := f.SetSheetName("Sheet1", sheet); err != nil {
		return err
	}
	text, err := f.NewStyle(&excelize.Style{NumFmt: 49}) // "@", ECMA-376 part 1, 18.8.30
	if err != nil {
		return err
	}
	rows, err := f.NewStreamWriter(sheet)
	if err != nil {
		return err
	}
	if err := rows.SetColWidth(1, len(a.req.attributes()), 22); err != nil {
		return err
	}
	n := 0
	put := func(values []string) error {
		n++
		first, err := excelize.CoordinatesToCellName(1, n)
		if err != nil {
			return err
		}
		cells := make([]any, len(values))
		for i, value := range values {
			cells[i] = excelize.Cell{StyleID: text, Value: value}
		}
		return rows.SetRow(first, cells)
	}
	if err := put(a.req.attributes()); err != nil {
		return err
	}
	if err := a.each(put); err != nil {
		return err
	}
	if err := rows.Flush(); err != nil {
		return err
	}
	return f.Write(w)
}

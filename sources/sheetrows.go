package sources

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// sheetRows is one pass over a sheet.
type sheetRows struct {
	w    *workbook
	part io.ReadCloser
	scan *sheetScan
	row  rawRow
}

func (w *workbook) open() (rows, error) {
	part, err := w.openPart(w.part)
	if err != nil {
		return nil, err
	}
	return &sheetRows{w: w, part: part, scan: newSheetScan(part, &w.texts)}, nil
}

func (r *sheetRows) next() (*rawRow, error) {
	row, err := r.scan.next()
	if errors.Is(err, io.EOF) {
		return nil, err
	}
	if err != nil {
		return nil, damaged(fmt.Sprintf("sheet %q", r.w.sheet), err)
	}
	r.row.number, r.row.hidden, r.row.cells, r.row.formats = row.number, row.hidden, row.cells, r.w.formats
	r.row.values = r.row.values[:0]
	text := string(row.text) // one allocation for all values of the row
	for i := range row.cells {
		r.row.values = append(r.row.values, text[row.cells[i].begin:row.cells[i].end])
	}
	return &r.row, nil
}

// findings reports merged cells and hidden columns among the devices.
func (r *sheetRows) findings(l *layout) []Problem {
	found := r.w.notes
	for _, m := range r.scan.merged {
		if i := firstMapped(l, m); i >= 0 && m.row2 >= l.row {
			found = append(found, Problem{Row: max(m.row1, l.row), Column: l.cols[i].Header,
				Cell: cellName(m.col1, m.row1) + ":" + cellName(m.col2, m.row2),
				What: "the cells are merged: only the first of them has a value", Remedy: "unmerge them and fill in every cell"})
		}
	}
	for _, h := range r.scan.hidden {
		if i := firstMapped(l, h); i >= 0 {
			found = append(found, Problem{Row: l.row, Column: l.cols[i].Header, What: "the column is hidden", Remedy: "show it and look at its values", Warning: true})
		}
	}
	return found
}

// firstMapped returns the first column of a range that is an attribute, -1 if
// there is none.
func firstMapped(l *layout, r cellRange) int {
	for i := max(r.col1, 0); i <= r.col2 && i < len(l.cols); i++ {
		if l.cols[i].Attribute != "" {
			return i
		}
	}
	return -1
}

func (r *sheetRows) sum() ([]byte, error) {
	sum, err := hashFile(r.w.path)
	if err != nil {
		return nil, err
	}
	if sum != r.w.sha {
		return nil, errChanged(r.w.path)
	}
	return hex.DecodeString(sum)
}

func (r *sheetRows) Close() error { return r.part.Close() }

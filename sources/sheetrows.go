package sources

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/xuri/excelize/v2"
)

// sheetRows is one pass over a sheet: excelize's rows and the scan's side by
// side. They must agree on which rows there are.
type sheetRows struct {
	w      *workbook
	values *excelize.Rows
	part   io.ReadCloser
	scan   *sheetScan
	ahead  *sheetRow // next row of the scan, nil at its end
	number int
	row    rawRow
}

func (w *workbook) open() (rows, error) {
	part, err := w.openPart(w.part)
	if err != nil {
		return nil, err
	}
	values, err := w.book.Rows(w.sheet)
	if err != nil {
		return nil, errors.Join(refuse("the sheet cannot be read: "+err.Error(), "save the workbook again"), part.Close())
	}
	r := &sheetRows{w: w, values: values, part: part, scan: newSheetScan(part, w.strings.count)}
	if err := r.advance(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *sheetRows) advance() error {
	ahead, err := r.scan.next()
	if errors.Is(err, io.EOF) {
		r.ahead = nil
		return nil
	}
	if err != nil {
		return damaged(fmt.Sprintf("sheet %q", r.w.sheet), err)
	}
	r.ahead = ahead
	return nil
}

func (r *sheetRows) next() (*rawRow, error) {
	if r.row.cells != nil && r.ahead != nil && r.ahead.number == r.number {
		if err := r.advance(); err != nil {
			return nil, err
		}
	}
	for r.values.Next() {
		r.number++
		values, err := r.values.Columns()
		if err != nil {
			return nil, damaged(fmt.Sprintf("sheet %q", r.w.sheet), err)
		}
		if r.ahead == nil || r.ahead.number != r.number {
			if !blank(values) {
				return nil, r.disagree()
			}
			continue
		}
		if err := r.lookedUp(values); err != nil {
			return nil, err
		}
		r.row = rawRow{number: r.number, values: values, cells: r.ahead.cells, isDate: r.w.isDate, hidden: r.ahead.hidden}
		if !r.empty() {
			return &r.row, nil
		}
		if err := r.advance(); err != nil {
			return nil, err
		}
	}
	if err := r.values.Error(); err != nil {
		return nil, damaged(fmt.Sprintf("sheet %q", r.w.sheet), err)
	}
	if r.ahead != nil {
		return nil, r.disagree()
	}
	return nil, io.EOF
}

// lookedUp makes sure that excelize did find the shared strings: where its
// unpacked copy is short, as on a full disk, it returns their index instead.
func (r *sheetRows) lookedUp(values []string) error {
	for i, v := range values {
		if i >= len(r.ahead.cells) {
			break
		}
		n := r.ahead.cells[i].index
		if n >= 0 && len(v) < 10 && v == strconv.Itoa(n) && !r.w.strings.isOwn(n) {
			return errTemporary(errors.New("its texts are incomplete"))
		}
	}
	return nil
}

// empty reports whether a row has neither values nor anything to report.
func (r *sheetRows) empty() bool {
	if !blank(r.row.values) {
		return false
	}
	for _, c := range r.row.cells {
		if c.kind == kindBadString || c.formula {
			return false
		}
	}
	return true
}

func (r *sheetRows) disagree() error {
	return refuse(fmt.Sprintf("the workbook is damaged: two readings of the sheet %q differ at row %d", r.w.sheet, r.number),
		"save it again from the spreadsheet program, or as CSV UTF-8")
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

func (r *sheetRows) Close() error { return errors.Join(r.values.Close(), r.part.Close()) }

func blank(values []string) bool {
	for _, v := range values {
		if v != "" {
			return false
		}
	}
	return true
}

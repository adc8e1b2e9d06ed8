package sources

import "fmt"

// cell checks what a workbook says about the cell in column i, whose value is
// v, and reports whether that settles the matter. A spreadsheet silently turns
// serial numbers into numbers and dates; what it did is told and never undone
// by guessing.
func (c *checker) cell(r *rawRow, i int, v string) bool {
	col := &c.l.cols[i]
	if i >= len(r.cells) || col.taken && col.Attribute == "" {
		return false
	}
	cell := &r.cells[i]
	f := cellFlaw(cell, v, r.isDate, col.exact)
	if f == nil {
		return false
	}
	if f.warning && c.seen == nil {
		return false
	}
	c.flaw(r, i, v, *f)
	return !f.warning
}

const asText = "format the column as Text and enter the values again from their source (CSV needs no such care)"

func cellFlaw(cell *cellInfo, v string, isDate func(int) bool, exact bool) *flaw {
	switch cell.kind {
	case kindBadString:
		return &flaw{what: fmt.Sprintf("the cell refers to text number %d, which the workbook does not have", cell.index),
			remedy: "the file is damaged: save it again from the spreadsheet program, or export it again"}
	case kindError:
		return &flaw{what: "the cell holds a formula error", remedy: "correct the formula, then paste the column as values"}
	}
	if cell.formula {
		return &flaw{what: "the cell holds a formula: its value can change with other cells", remedy: "copy the column and paste it as values", warning: !exact}
	}
	made := ""
	switch cell.kind {
	case kindNumber:
		made = "a number: leading zeros and digits after the 15th are lost"
		if isDate(cell.style) {
			made = "a date"
		}
	case kindDate:
		made = "a date"
	case kindBool:
		made = "a truth value"
	}
	if made == "" || !exact && v == cell.raw {
		return nil
	}
	return &flaw{what: fmt.Sprintf("the spreadsheet turned the value into %s (stored as %s)", made, shown(cell.raw)), remedy: asText, warning: !exact}
}

package sources

import (
	"fmt"
	"strings"
	"time"

	"github.com/xuri/excelize/v2"
)

const (
	asText   = "format the column as Text and enter the values again from their source (CSV needs no such care)"
	asValues = "copy the column and paste it as values"
	saveNew  = "enter the value again, or save the file again from the spreadsheet program"
)

// cell judges what a workbook says about the cell in column i, whose stored
// value is v, and returns the value to go on with; ok is false where that
// settles the matter. A spreadsheet silently turns serial numbers into numbers
// and dates; what it did is told and never undone by guessing. What counts is
// what is stored, not what a format makes of it; dates alone are stored as
// nothing that anybody knows.
func (c *checker) cell(r *rawRow, i int, v string) (_ string, ok bool) {
	col := &c.l.cols[i]
	if i >= len(r.cells) || col.taken && col.Attribute == "" {
		return v, true
	}
	cell := &r.cells[i]
	if f := cellFlaw(cell, col.exact); f != nil {
		c.flaw(r, i, v, *f)
		return v, false
	}
	if cell.formula {
		c.note(r, i, v, "the cell holds a formula: its value can change with other cells", asValues)
	}
	switch cell.kind {
	case kindText:
		return v, c.textCell(r, i, v)
	case kindNumber:
		return c.numberCell(r, i, v)
	case kindDate:
		return v, c.made(r, i, v, "", "a date", v)
	case kindBool:
		return v, c.made(r, i, v, "", "a truth value", v)
	}
	return v, true
}

// cellFlaw says why a cell's value cannot be used at all.
func cellFlaw(cell *cellInfo, exact bool) *flaw {
	switch {
	case cell.kind == kindBad:
		return &flaw{what: cell.bad, remedy: "the file is damaged: save it again from the spreadsheet program, or export it again"}
	case cell.kind == kindError:
		return &flaw{what: "the cell holds a formula error", remedy: "correct the formula, then paste the column as values"}
	case cell.strange:
		return &flaw{what: "the text has an escape such as _x0041_, which some programs take for another character", remedy: saveNew}
	case cell.formula && exact:
		return &flaw{what: "the cell holds a formula: its value can change with other cells", remedy: asValues}
	case cell.pending:
		return &flaw{what: "the cell holds a formula that was never calculated", remedy: "open the file in a spreadsheet program and " + asValues}
	}
	return nil
}

// textCell judges a text whose format shows something else.
func (c *checker) textCell(r *rawRow, i int, v string) bool {
	style := r.cells[i].style
	if style <= 0 || !r.formats.of(style).text {
		return true
	}
	if !c.l.cols[i].exact {
		c.note(r, i, v, "the column's format shows texts otherwise than they are stored: what is stored is taken", "make sure that it is what was meant")
		return true
	}
	as := "nothing"
	if s := r.formats.as(style, v, true); s != "" {
		as = "“" + shown(s) + "”"
	}
	c.flaw(r, i, v, flaw{what: fmt.Sprintf("the cell stores “%s” and shows %s", shown(v), as),
		remedy: "set the column's format to Text, look at its values, and correct them"})
	return false
}

// numberCell judges a number, which may be a date.
func (c *checker) numberCell(r *rawRow, i int, v string) (string, bool) {
	style := r.cells[i].style
	format := r.formats.of(style)
	if !format.exists {
		c.flaw(r, i, v, flaw{what: "the cell's style cannot be read: nobody can tell whether its number is a date", remedy: saveNew})
		return v, false
	}
	if format.date {
		as := r.formats.as(style, v, false)
		if as == "" {
			as = r.formats.isoDate(v)
		}
		return as, c.made(r, i, as, v, "a date", as)
	}
	if c.l.cols[i].exact {
		as := ""
		if !format.plain {
			as = r.formats.as(style, v, false)
		}
		return v, c.made(r, i, v, v, "a number: leading zeros and digits after the 15th are lost", as)
	}
	if c.seen == nil {
		return v, true
	}
	if digits(v) > 15 || strings.ContainsAny(v, "eE") {
		c.note(r, i, v, "the spreadsheet turned the value into a number: digits after the 15th are lost", asText)
	} else if !format.plain && !c.noted(i, notShown) {
		if as := r.formats.as(style, v, false); as != v {
			c.note(r, i, v, notShown, "make sure that the stored values are what was meant; format the column as Text where they are not numbers")
		}
	}
	return v, true
}

const notShown = "the column's format shows numbers otherwise than they are stored: what is stored is taken"

// made tells what a spreadsheet made of a value: refused where the value must be
// exact, else worth a look.
func (c *checker) made(r *rawRow, i int, v, stored, what, as string) bool {
	what = "the spreadsheet turned the value into " + what
	if !c.l.cols[i].exact {
		c.note(r, i, v, what, asText)
		return true
	}
	if stored != "" {
		what += " (stored as " + shown(stored)
		if as != "" && as != stored && as != v {
			what += ", shown as " + shown(as)
		}
		what += ")"
	}
	c.flaw(r, i, v, flaw{what: what, remedy: asText})
	return false
}

// digits counts a number's significant digits.
func digits(v string) int {
	v, _, _ = strings.Cut(strings.ToLower(v), "e")
	v = strings.TrimLeft(strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, v), "0")
	return len(v)
}

// isoDate returns a date's number as a date, for formats that show nothing.
func (f *formats) isoDate(v string) string {
	var n float64
	if _, err := fmt.Sscan(v, &n); err != nil {
		return v
	}
	t, err := excelize.ExcelDateToTime(n, f.from1904)
	if err != nil {
		return v
	}
	if t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format(time.DateOnly)
	}
	return t.Format(time.DateTime)
}

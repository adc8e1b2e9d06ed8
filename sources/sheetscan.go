package sources

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// cellKind is what a spreadsheet made of a cell (ECMA-376 part 1, 18.18.11).
type cellKind byte

const (
	kindEmpty cellKind = iota
	kindText
	kindNumber // dates too: their style tells
	kindDate   // ISO 8601, rarely written
	kindBool
	kindError
	kindBad // it cannot be read; cellInfo.bad says why
)

// cellInfo is what the sheet's XML says about a cell beside its value.
type cellInfo struct {
	kind cellKind
	// formula: the value is a formula's result, which was stored with it unless
	// pending.
	formula, pending bool
	// strange: the text has an escape that may mean two things.
	strange bool
	style   int    // index into the workbook's formats, -1 if that cannot be read
	bad     string // what is wrong with the cell

	begin, end int // of the value in sheetRow.text
}

// sheetRow is a row of a sheet that has something in it.
type sheetRow struct {
	number int
	hidden bool
	cells  []cellInfo // by column
	text   []byte     // the values, one behind the other
}

// cellRange is a rectangle of cells, columns from 0, rows from 1, ends included.
type cellRange struct{ col1, row1, col2, row2 int }

func (r cellRange) has(col, row int) bool {
	return r.col1 <= col && col <= r.col2 && r.row1 <= row && row <= r.row2
}

// sheetScan reads a worksheet part to its end (ECMA-376 part 1, 18.3.1). What it
// does not understand among rows and cells it refuses: a cell must never vanish
// because a writer has a spelling of its own.
type sheetScan struct {
	x       *xmlScan
	texts   *textTable
	prefix  string // of the main namespace
	begun   bool
	row     sheetRow
	last    int // last row number, also of empty rows
	total   int // bytes of text so far: few shared strings can make many
	inData  bool
	hadData bool
	merged  []cellRange
	hidden  []cellRange // columns: rows are zero
	arrays  []cellRange // whose values the formula of their first cell gave
}

func newSheetScan(r io.Reader, texts *textTable) *sheetScan {
	return &sheetScan{x: newXMLScan(r), texts: texts}
}

const (
	maxSheetRows = 1 << 20 // 1,048,576
	maxSheetCols = 1 << 14
	maxRanges    = 1 << 16 // merged cells, array formulas
	maxRowText   = 1 << 24 // bytes
)

// next returns the next row that has something in it, io.EOF after the
// document's end.
func (s *sheetScan) next() (*sheetRow, error) {
	for {
		if err := s.x.next(); err != nil {
			return nil, err
		}
		if !s.inData {
			if err := s.outside(); err != nil {
				return nil, err
			}
			continue
		}
		if !s.x.blank() {
			return nil, fmt.Errorf("it has text between its rows, after row %d", s.last)
		}
		switch {
		case !s.x.start: // </sheetData>: whatever else begins here is read whole
			s.inData = false
		case s.is("row") && s.x.level == 3:
			filled, err := s.readRow()
			if err != nil {
				return nil, err
			}
			if filled {
				return &s.row, nil
			}
		default:
			return nil, fmt.Errorf("after row %d it has the element %.20q in place of a row", s.last, s.x.name)
		}
	}
}

// is reports whether the tag is an element of the main namespace by its prefix.
func (s *sheetScan) is(name string) bool {
	return string(s.x.name) == name && string(s.x.prefix) == s.prefix
}

// outside handles the tags around the rows.
func (s *sheetScan) outside() error {
	if !s.begun {
		if string(s.x.name) != "worksheet" {
			return fmt.Errorf("it is no worksheet: its root is %.20q", s.x.name)
		}
		s.begun, s.prefix = true, string(s.x.prefix)
		return nil
	}
	if !s.x.start || string(s.x.prefix) != s.prefix {
		return nil
	}
	switch string(s.x.name) {
	case "sheetData":
		if s.x.level != 2 || s.hadData {
			return errors.New("it has its rows twice, or in a place of their own")
		}
		s.hadData, s.inData = true, !s.x.end
	case "row", "c":
		return fmt.Errorf("it has a %.3q outside of its rows", s.x.name)
	case "col":
		return s.column()
	case "mergeCell":
		ref, err := s.x.attr("ref")
		if err != nil {
			return err
		}
		r, err := parseRange(ref)
		if err != nil {
			return err
		}
		if len(s.merged) == maxRanges {
			return errors.New("it has too many merged cells")
		}
		s.merged = append(s.merged, r)
	}
	return nil
}

// column notes hidden columns.
func (s *sheetScan) column() error {
	hidden, err1 := s.x.attr("hidden")
	first, err2 := s.x.attr("min")
	last, err3 := s.x.attr("max")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	a, ok1 := decimal(first)
	b, ok2 := decimal(last)
	if isTrue(hidden) && ok1 && ok2 && len(s.hidden) < maxSheetCols {
		s.hidden = append(s.hidden, cellRange{col1: a - 1, col2: b - 1})
	}
	return nil
}

// readRow reads a row after its start tag and reports whether it has anything
// in it.
func (s *sheetScan) readRow() (bool, error) {
	number, err := s.rowStart()
	if err != nil {
		return false, err
	}
	s.last = number
	s.row.number, s.row.cells, s.row.text = number, s.row.cells[:0], s.row.text[:0]
	if s.x.end {
		return false, nil
	}
	for filled := false; ; {
		if err := s.x.next(); err != nil {
			return false, err
		}
		if !s.x.blank() {
			return false, fmt.Errorf("row %d has text between its cells", number)
		}
		switch {
		case !s.x.start:
			if s.total += len(s.row.text); s.total > maxUnpacked {
				return false, errors.New("it has too much text")
			}
			return filled, nil
		case s.is("c"):
			has, err := s.readCell()
			if err != nil {
				return false, fmt.Errorf("row %d, cell %s: %w", number, cellName(len(s.row.cells), number), err)
			}
			if len(s.row.text) > maxRowText {
				return false, fmt.Errorf("row %d has too much text", number)
			}
			filled = filled || has
		case s.is("extLst"):
			if err := s.x.skip(); err != nil {
				return false, err
			}
		default:
			return false, fmt.Errorf("row %d has the element %.20q in place of a cell", number, s.x.name)
		}
	}
}

// rowStart reads a row's attributes and returns its number.
func (s *sheetScan) rowStart() (int, error) {
	number := s.last + 1
	s.row.hidden = false
	for rest := s.x.attrs; ; {
		name, value, after, err := cutAttr(rest)
		if err != nil {
			return 0, fmt.Errorf("after row %d: %w", s.last, err)
		}
		if name == nil {
			break
		}
		switch string(name) {
		case "r":
			n, ok := decimal(value)
			if !ok || n <= s.last || n > maxSheetRows {
				return 0, fmt.Errorf("after row %d it has a row numbered %.12q", s.last, value)
			}
			number = n
		case "hidden":
			s.row.hidden = isTrue(value)
		}
		rest = after
	}
	if number > maxSheetRows {
		return 0, errors.New("it has too many rows")
	}
	return number, nil
}

// readCell reads a cell after its start tag and reports whether it has a value.
func (s *sheetScan) readCell() (bool, error) {
	col := len(s.row.cells)
	cell, kind, err := s.cellStart(&col)
	if err != nil {
		return false, err
	}
	for len(s.row.cells) < col {
		s.row.cells = append(s.row.cells, cellInfo{})
	}
	cell.begin = len(s.row.text)
	if !s.x.end {
		if err := s.cellBody(&cell, kind); err != nil {
			return false, err
		}
	}
	cell.end = len(s.row.text)
	if cell.kind == kindText && cell.end == cell.begin {
		cell.kind = kindEmpty
	}
	for i := 0; cell.kind != kindEmpty && !cell.formula && i < len(s.arrays); i++ {
		cell.formula = s.arrays[i].has(col, s.row.number)
	}
	s.row.cells = append(s.row.cells, cell)
	return cell.kind != kindEmpty || cell.formula, nil
}

// cellStart reads a cell's attributes.
func (s *sheetScan) cellStart(col *int) (cell cellInfo, kind string, err error) {
	var seen [3]bool
	for rest := s.x.attrs; ; {
		name, value, after, err := cutAttr(rest)
		if err != nil {
			return cell, "", err
		}
		if name == nil {
			return cell, kind, nil
		}
		rest = after
		if _, base := local(name); len(base) != 1 {
			continue
		} else if len(name) != 1 && bytes.IndexByte([]byte("rst"), base[0]) >= 0 {
			return cell, "", fmt.Errorf("it has the attribute %.20q of another namespace", name)
		}
		switch name[0] {
		case 'r':
			c, row, err := parseCell(value)
			if err != nil || row != s.row.number || c < *col || seen[0] {
				return cell, "", fmt.Errorf("it is written as cell %.12q, which is out of place there", value)
			}
			*col, seen[0] = c, true
		case 's':
			n, ok := decimal(value)
			if cell.style = n; !ok {
				cell.style = -1
			}
			if seen[1] {
				return cell, "", errTag
			}
			seen[1] = true
		case 't':
			if seen[2] {
				return cell, "", errTag
			}
			kind, seen[2] = cellType(value), true
		}
		if *col >= maxSheetCols {
			return cell, "", errors.New("there are too many columns")
		}
	}
}

// cellType returns a cell's type without an allocation for those that exist.
func cellType(t []byte) string {
	switch string(t) {
	case "s":
		return "s"
	case "n", "":
		return ""
	case "inlineStr":
		return "inlineStr"
	case "str":
		return "str"
	}
	return string(t)
}

// cellBody reads what is between a cell's tags.
func (s *sheetScan) cellBody(cell *cellInfo, kind string) error {
	x := s.x
	values := 0
	for {
		if err := x.next(); err != nil {
			return err
		}
		if !x.blank() {
			return errors.New("it has text outside of its value")
		}
		switch {
		case !x.start:
			// An empty text is a result, too; an empty number is none.
			cell.pending = cell.formula && (values == 0 || kind == "" && cell.kind == kindEmpty)
			return nil
		case s.is("v"):
			empty := x.end
			if !empty {
				if err := x.next(); err != nil {
					return err
				}
				if x.start {
					return fmt.Errorf("it has an element %.20q inside its value", x.name)
				}
			}
			if values++; values > 1 {
				return errors.New("it has two values")
			}
			if !empty && len(x.text) > 0 {
				if err := s.value(cell, kind); err != nil {
					return err
				}
			}
		case s.is("is"):
			if values++; values > 1 {
				return errors.New("it has two values")
			}
			if kind != "inlineStr" && kind != "str" && kind != "" {
				return fmt.Errorf("it has a text of its own and the type %.20q", kind)
			}
			var err error
			cell.kind = kindText
			if s.row.text, cell.strange, err = x.richText(s.row.text); err != nil {
				return err
			}
		case s.is("f"):
			if err := s.formula(cell); err != nil {
				return err
			}
		case s.is("extLst"):
			if err := x.skip(); err != nil {
				return err
			}
		default:
			return fmt.Errorf("it has the unknown element %.20q", x.name)
		}
	}
}

// formula reads a cell's formula. Array formulas and data tables give values to
// other cells, which have none of their own (ECMA-376 part 1, 18.3.1.40).
func (s *sheetScan) formula(cell *cellInfo) error {
	cell.formula = true
	ref, err := s.x.attr("ref")
	if err != nil {
		return err
	}
	kind, err := s.x.attr("t")
	if err != nil {
		return err
	}
	if ref != nil && (string(kind) == "array" || string(kind) == "dataTable") {
		r, err := parseRange(ref)
		if err != nil {
			return err
		}
		live := s.arrays[:0]
		for _, a := range s.arrays {
			if a.row2 >= s.row.number {
				live = append(live, a)
			}
		}
		if s.arrays = live; len(s.arrays) == maxRanges {
			return errors.New("it has too many array formulas")
		}
		if r.col1 != r.col2 || r.row1 != r.row2 {
			s.arrays = append(s.arrays, r)
		}
	}
	return s.x.skip()
}

// value takes the text of a cell's <v> element.
func (s *sheetScan) value(cell *cellInfo, kind string) error {
	v := s.x.text
	var err error
	switch kind {
	case "str", "inlineStr":
		cell.kind = kindText
		s.row.text, cell.strange, err = unescape(s.row.text, v)
		return err
	case "s":
		return s.shared(cell, bytes.TrimSpace(v))
	}
	if v = bytes.TrimSpace(v); len(v) == 0 {
		return nil
	}
	s.row.text = append(s.row.text, v...)
	switch kind {
	case "":
		cell.kind = kindNumber
		if !isNumber(v) {
			cell.kind, cell.bad = kindBad, "the cell is marked as a number and holds none"
		}
	case "b":
		cell.kind = kindBool
		s.row.text = s.row.text[:cell.begin]
		switch string(v) {
		case "1", "true":
			s.row.text = append(s.row.text, "TRUE"...)
		case "0", "false":
			s.row.text = append(s.row.text, "FALSE"...)
		default:
			s.row.text = append(s.row.text, v...)
			cell.kind, cell.bad = kindBad, "the cell is marked as a truth value and holds none"
		}
	case "e":
		cell.kind = kindError
	case "d":
		cell.kind = kindDate
	default:
		cell.kind, cell.bad = kindBad, fmt.Sprintf("the cell has a type that does not exist (%s)", shown(kind))
	}
	return nil
}

// shared looks up a shared string.
func (s *sheetScan) shared(cell *cellInfo, index []byte) error {
	if len(index) == 0 {
		return nil
	}
	n, ok := decimal(index)
	if !ok || n >= s.texts.len() {
		s.row.text = append(s.row.text, index...)
		cell.kind, cell.bad = kindBad, fmt.Sprintf("the cell refers to text number %s, which the workbook does not have", shown(string(index)))
		return nil
	}
	cell.kind = kindText
	var err error
	s.row.text, cell.strange, err = s.texts.append(s.row.text, n)
	return err
}

// isNumber reports whether v is a number as XML has it (XML Schema, double; a
// spreadsheet has no infinities).
func isNumber(v []byte) bool {
	digits, i := 0, 0
	if i < len(v) && (v[i] == '+' || v[i] == '-') {
		i++
	}
	for dot := false; i < len(v) && (v[i] >= '0' && v[i] <= '9' || v[i] == '.' && !dot); i++ {
		if v[i] == '.' {
			dot = true
		} else {
			digits++
		}
	}
	if digits == 0 || i == len(v) {
		return digits > 0
	}
	if v[i] != 'e' && v[i] != 'E' {
		return false
	}
	if i++; i < len(v) && (v[i] == '+' || v[i] == '-') {
		i++
	}
	_, ok := decimal(v[i:])
	return ok
}

// decimal reads a whole number of at most nine digits, without a sign.
func decimal(v []byte) (n int, ok bool) {
	if len(v) == 0 || len(v) > 9 {
		return 0, false
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

func isTrue(v []byte) bool { return string(v) == "1" || string(v) == "true" }

// parseCell reads a reference such as B7: column from 0, row from 1.
func parseCell(ref []byte) (col, row int, err error) {
	i := 0
	for ; i < len(ref) && i < 4; i++ {
		c := ref[i] &^ 0x20
		if c < 'A' || c > 'Z' {
			break
		}
		col = col*26 + int(c-'A') + 1
	}
	for _, c := range ref[i:] {
		if c < '0' || c > '9' || row > maxSheetRows {
			return 0, 0, fmt.Errorf("bad cell reference %.12q", ref)
		}
		row = row*10 + int(c-'0')
	}
	if i == 0 || i > 3 || row == 0 || row > maxSheetRows || col > maxSheetCols {
		return 0, 0, fmt.Errorf("bad cell reference %.12q", ref)
	}
	return col - 1, row, nil
}

// parseRange reads a reference such as A2:A5.
func parseRange(ref []byte) (cellRange, error) {
	first, last, two := bytes.Cut(ref, []byte{':'})
	if !two {
		last = first
	}
	c1, r1, err1 := parseCell(first)
	c2, r2, err2 := parseCell(last)
	if err := errors.Join(err1, err2); err != nil {
		return cellRange{}, err
	}
	return cellRange{min(c1, c2), min(r1, r2), max(c1, c2), max(r1, r2)}, nil
}

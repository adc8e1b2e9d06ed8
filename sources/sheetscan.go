package sources

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
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
	kindShared    // only while reading: becomes kindText or kindBadString
	kindBadString // an index outside of the shared strings
)

// cellInfo is what the sheet's XML says about a cell beside its value.
type cellInfo struct {
	kind    cellKind
	formula bool
	style   int
	index   int // of the shared string, -1 for other cells
	raw     string
}

// sheetRow is a row of a sheet that has at least one value.
type sheetRow struct {
	number int
	hidden bool
	cells  []cellInfo // by column
}

// cellRange is a rectangle of cells, columns from 0, rows from 1, ends included.
type cellRange struct{ col1, row1, col2, row2 int }

// sheetScan reads a worksheet part to its end.
type sheetScan struct {
	x       *xmlScan
	strings int // number of shared strings
	row     sheetRow
	last    int // last row number, also of empty rows
	inData  bool
	merged  []cellRange
	hidden  []cellRange // columns: rows are zero
}

func newSheetScan(r io.Reader, sharedStrings int) *sheetScan {
	return &sheetScan{x: newXMLScan(r), strings: sharedStrings}
}

const (
	maxSheetRows = 1 << 20 // 1,048,576
	maxSheetCols = 1 << 14
	maxMerged    = 1 << 16
)

// next returns the next row with values, io.EOF after the document's end.
func (s *sheetScan) next() (*sheetRow, error) {
	for {
		if err := s.x.next(); err != nil {
			return nil, err
		}
		if s.x.start && string(s.x.name) == "row" && s.inData {
			filled, err := s.readRow()
			if err != nil {
				return nil, err
			}
			if filled {
				return &s.row, nil
			}
			continue
		}
		if err := s.outside(); err != nil {
			return nil, err
		}
	}
}

// outside handles the tags around the rows.
func (s *sheetScan) outside() error {
	switch string(s.x.name) {
	case "sheetData":
		s.inData = s.x.start && !s.x.end
	case "col":
		if s.x.start && isTrue(s.x.attr("hidden")) {
			first, err1 := strconv.Atoi(string(s.x.attr("min")))
			last, err2 := strconv.Atoi(string(s.x.attr("max")))
			if err1 == nil && err2 == nil && len(s.hidden) < maxSheetCols {
				s.hidden = append(s.hidden, cellRange{col1: first - 1, col2: last - 1})
			}
		}
	case "mergeCell":
		if s.x.start {
			r, err := parseRange(s.x.attr("ref"))
			if err != nil {
				return err
			}
			if len(s.merged) < maxMerged {
				s.merged = append(s.merged, r)
			}
		}
	}
	return nil
}

// readRow reads a row after its start tag and reports whether it has values.
func (s *sheetScan) readRow() (bool, error) {
	number := s.last + 1
	if r := s.x.attr("r"); r != nil {
		n, err := strconv.Atoi(string(r))
		if err != nil || n <= s.last || n > maxSheetRows {
			return false, fmt.Errorf("after row %d it has a row numbered %.12q", s.last, r)
		}
		number = n
	}
	if number > maxSheetRows {
		return false, errors.New("it has too many rows")
	}
	s.last = number
	s.row.number, s.row.hidden, s.row.cells = number, isTrue(s.x.attr("hidden")), s.row.cells[:0]
	if s.x.end {
		return false, nil
	}
	filled := false
	for depth := s.x.depth; ; {
		if err := s.x.next(); err != nil {
			return false, err
		}
		if s.x.depth < depth {
			return filled, nil
		}
		if s.x.start && string(s.x.name) == "c" {
			has, err := s.readCell()
			if err != nil {
				return false, err
			}
			filled = filled || has
		}
	}
}

// readCell reads a cell after its start tag and reports whether it has a value.
func (s *sheetScan) readCell() (bool, error) {
	col := len(s.row.cells)
	if r := s.x.attr("r"); r != nil {
		c, row, err := parseCell(r)
		if err != nil || row != s.row.number || c < col {
			return false, fmt.Errorf("in row %d it has a cell %.12q out of place", s.row.number, r)
		}
		col = c
	}
	if col >= maxSheetCols {
		return false, fmt.Errorf("row %d has too many columns", s.row.number)
	}
	for len(s.row.cells) < col {
		s.row.cells = append(s.row.cells, cellInfo{index: -1})
	}
	cell := cellInfo{index: -1}
	if v := s.x.attr("s"); v != nil {
		cell.style, _ = strconv.Atoi(string(v)) // no number, no style: it only words messages
	}
	kind := kindOf(s.x.attr("t"))
	if !s.x.end {
		if err := s.cellBody(&cell, kind); err != nil {
			return false, err
		}
	}
	s.row.cells = append(s.row.cells, cell)
	return cell.kind != kindEmpty || cell.formula, nil
}

// cellBody reads what is between a cell's tags.
func (s *sheetScan) cellBody(cell *cellInfo, kind cellKind) error {
	for depth := s.x.depth; ; {
		if err := s.x.next(); err != nil {
			return err
		}
		if s.x.depth < depth {
			return nil
		}
		switch string(s.x.name) {
		case "f":
			cell.formula = true
		case "is":
			if s.x.start && !s.x.end {
				cell.kind = kindText
			}
		case "v":
			if !s.x.start && len(s.x.text) > 0 {
				s.value(cell, kind)
			}
		}
	}
}

// value notes the text of a cell's <v> element.
func (s *sheetScan) value(cell *cellInfo, kind cellKind) {
	v := s.x.text
	cell.kind = kind
	switch kind {
	case kindText:
	case kindShared:
		cell.kind = kindText
		n, err := strconv.Atoi(string(bytes.TrimSpace(v)))
		if err != nil || n < 0 || n >= s.strings {
			cell.kind = kindBadString
		}
		cell.index = n
	default:
		cell.raw = string(v[:min(len(v), 64)])
	}
}

// kindOf reads a cell's t attribute.
func kindOf(t []byte) cellKind {
	switch string(t) {
	case "s":
		return kindShared
	case "str", "inlineStr":
		return kindText
	case "b":
		return kindBool
	case "e":
		return kindError
	case "d":
		return kindDate
	}
	return kindNumber
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

package sources

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// sampleRows is how many rows are looked at before a manifest's columns are
// mapped: to find the header, and the columns that hold MAC addresses.
const sampleRows = 200

// sample is the beginning of a file.
type sample struct {
	rows []rawRow // without what a workbook says about their cells
	at   int      // of the header, once header found it
}

// readSample reads the first rows. What ends the reading after the first one is
// left to the pass that reads everything.
func readSample(pass rows) (*sample, error) {
	s := &sample{}
	for len(s.rows) < sampleRows {
		r, err := pass.next()
		if errors.Is(err, io.EOF) || err != nil && len(s.rows) > 0 && Refused(err) {
			break
		}
		if err != nil {
			return nil, err
		}
		s.rows = append(s.rows, rawRow{number: r.number, values: slices.Clone(r.values), fault: cmp.Or(r.fault, r.badCell())})
	}
	return s, nil
}

// header finds the row that holds the columns' headers: the one that is
// configured, else the first that is no comment. Where that one does not map and
// a later one does, it says so once, instead of refusing every row by it.
func (s *sample) header(cfg Config) (*rawRow, error) {
	if len(s.rows) == 0 {
		return nil, refuse("the manifest is empty", "its first row must hold the column headers; `keymill init` writes a template")
	}
	maps := func(i int) bool {
		if s.rows[i].fault != nil {
			return false
		}
		l := newLayout(&s.rows[i], cfg)
		return l.mapped(cfg)
	}
	ours := slices.ContainsFunc(s.rows[0].values, func(h string) bool { return fold(h) == ownState })
	switch {
	case ours: // failures.csv has its header in row 1, whatever its manifest had
	case cfg.HeaderRow > 0:
		s.at = slices.IndexFunc(s.rows, func(r rawRow) bool { return r.number == cfg.HeaderRow })
		if s.at < 0 {
			return nil, refuse(fmt.Sprintf("row %d, which is configured as the header, is empty or missing", cfg.HeaderRow), "correct manifest.header_row")
		}
	default:
		for s.at = 0; s.at < len(s.rows)-1 && s.rows[s.at].comment() && !maps(s.at); {
			s.at++
		}
		if !maps(s.at) {
			for i := s.at + 1; i < len(s.rows); i++ {
				if maps(i) {
					n := s.rows[i].number
					return nil, refuse(fmt.Sprintf("the header seems to be in row %d", n),
						"set manifest.header_row: %d, or delete the rows above it", n)
				}
			}
		}
	}
	h := &s.rows[s.at]
	if h.fault != nil {
		return nil, refuse("the header cannot be read: "+h.fault.What, "%s", h.fault.Remedy)
	}
	return h, nil
}

// badCell returns a problem of a workbook's row that could not be a header: one
// of its cells cannot be read.
func (r *rawRow) badCell() *Problem {
	for i := range r.cells {
		if f := cellFlaw(&r.cells[i], false); f != nil {
			return &Problem{Row: r.number, Cell: cellName(i, r.number), What: f.what + " (" + cellName(i, r.number) + ")", Remedy: f.remedy}
		}
	}
	return nil
}

// comment reports whether a row is one that people put above a header.
func (r *rawRow) comment() bool {
	for _, v := range r.values {
		if v != "" {
			return strings.HasPrefix(v, "#") || strings.HasPrefix(v, "//")
		}
	}
	return false
}

// findMACs marks the columns most of whose values in the sample are MAC
// addresses, whatever their headers say. Columns that the configuration names,
// and serial numbers, are left alone. 12 hexadecimal digits without separators
// count only if they begin as an address of a column that is known by its name
// does: there are other numbers of that form.
func (s *sample) findMACs(l *layout, cfg Config) {
	rows := s.rows[s.at+1:]
	makers := map[[3]byte]bool{}
	for i := range l.cols {
		for _, r := range rows {
			if m, err := ParseMAC(r.value(i)); err == nil && l.cols[i].mac {
				makers[[3]byte(m[:3])] = true
			}
		}
	}
	for i := range l.cols {
		c := &l.cols[i]
		if _, named := cfg.Columns[c.Attribute]; named || c.mac || c.Attribute == "" || c.Attribute == AttrSerial {
			continue
		}
		filled, macs := 0, 0
		for _, r := range rows {
			v := r.value(i)
			if v != "" {
				filled++
			}
			if m, err := ParseMAC(v); err == nil && (len(v) > 12 || makers[[3]byte(m[:3])]) {
				macs++
			}
		}
		if 2*macs > filled {
			c.mac, c.exact, c.MAC = true, true, "values"
		}
	}
}

// value returns the value in column i.
func (r *rawRow) value(i int) string {
	if i < len(r.values) {
		return r.values[i]
	}
	return ""
}

package sources

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"keymill/pipeline"
)

// checker looks at every row of one pass. With report nil it only normalises,
// and counts problems.
type checker struct {
	l        *layout
	cfg      Config
	report   func(Problem)
	seen     *seen // nil where only normalising
	rows     int
	problems int
	warnings int
	lot      string
	cols     []columnState
	gap      int // last row number
	values   []string
	id       pipeline.Identity
	notes    map[noteKey]*note
	keys     map[[16]byte]int // the rows of public keys, by the beginning of their SHA-256
}

func newChecker(l *layout, cfg Config, report func(Problem)) *checker {
	c := &checker{l: l, cfg: cfg, report: report, gap: l.row, notes: map[noteKey]*note{},
		cols: make([]columnState, len(l.cols)), values: make([]string, len(l.cols)), id: make(pipeline.Identity, len(l.identity))}
	for i, col := range l.identity {
		c.id[i].Name = l.cols[col].Attribute
	}
	if report != nil {
		c.seen = newSeen(cfg, c.identityHeaders())
	}
	return c
}

// header reports what is wrong with the header itself.
func (c *checker) header() {
	c.reportAll(c.l.problems)
	switch {
	case c.l.above > 0:
		c.add(Problem{Row: c.l.row, What: fmt.Sprintf("the header is in row %d, the rows above are not read", c.l.row), Warning: true,
			Remedy: "make sure that no device is among them"})
	case c.l.row > 1:
		c.add(Problem{Row: c.l.row, What: fmt.Sprintf("the header is in row %d, the rows above are empty", c.l.row), Warning: true,
			Remedy: "delete the empty rows if row numbers shall agree with the line's own lists"})
	}
	for i, col := range c.l.cols {
		if col.MAC == "values" {
			c.add(Problem{Row: c.l.row, Column: col.Header, Cell: cellName(i, c.l.row), Warning: true,
				What:   "most of the column's values are MAC addresses: all are checked as such and written as 02:12:61:13:6c:42",
				Remedy: fmt.Sprintf("name the column in manifest.columns if they are not, such as {%s: %q}", col.Attribute, col.Header)})
		}
	}
}

// row checks one row. ok says that dev is sound; its values are then copies
// that outlive the row.
func (c *checker) row(ctx context.Context, r *rawRow) (dev pipeline.Device, ok bool, err error) {
	if c.seen != nil && c.seen.full() {
		if err := c.askLedger(ctx); err != nil {
			return dev, false, err
		}
	}
	c.rows++
	before := c.problems
	c.gaps(r.number)
	switch {
	case r.fault != nil:
		c.add(*r.fault)
	case c.width(r):
		for i := range c.l.cols {
			sound := c.problems
			if c.value(r, i); c.problems > sound {
				c.values[i] = "" // its one problem is enough
			}
		}
		c.unique(r)
		c.own(r)
	}
	if r.hidden {
		c.add(Problem{Row: r.number, What: "the row is hidden, by hand or by a filter",
			Remedy: "clear the filter or show the row; delete it if it is no device of this lot"})
	}
	if c.problems > before || len(c.l.identity) == 0 {
		return dev, false, nil
	}
	for i, col := range c.l.identity {
		c.id[i].Value = c.values[col]
	}
	if c.seen != nil {
		c.reportAll(c.seen.add(r.number, c.id))
		return dev, false, nil
	}
	return c.device(r.number), true, nil
}

// device builds the device of the row just checked.
func (c *checker) device(row int) pipeline.Device {
	dev := pipeline.Device{Row: row, Identity: make(pipeline.Identity, len(c.id)), Attrs: make([]pipeline.Attr, 0, len(c.values))}
	copy(dev.Identity, c.id)
	for i, col := range c.l.cols {
		if col.Attribute != "" {
			dev.Attrs = append(dev.Attrs, pipeline.Attr{Name: col.Attribute, Value: c.values[i]})
		}
	}
	return dev
}

// gaps warns of empty rows between devices.
func (c *checker) gaps(row int) {
	if n := row - c.gap - 1; n > 0 {
		what := fmt.Sprintf("rows %d to %d are empty", c.gap+1, row-1)
		if n == 1 {
			what = fmt.Sprintf("row %d is empty", row-1)
		}
		c.add(Problem{Row: c.gap + 1, What: what, Remedy: "make sure that no device was lost there", Warning: true})
	}
	c.gap = row
}

// width reports whether the row has the header's number of cells. Rows of
// workbooks end with their last filled cell, and Excel leaves the separators
// after it out of CSV files, too, though not in every row.
func (c *checker) width(r *rawRow) bool {
	n := len(r.values)
	for n > len(c.l.cols) && r.values[n-1] == "" {
		n--
	}
	if n == len(c.l.cols) || n < len(c.l.cols) && r.cells != nil {
		return true
	}
	missing := c.l.cols[min(n, len(c.l.cols)):]
	if n < len(c.l.cols) && !slices.ContainsFunc(missing, func(col column) bool { return col.required }) {
		c.note(r, n, "", "the row ends before this column: the values from here on are taken as empty, as Excel leaves trailing separators out",
			"make sure that no separator is missing in the middle of the row")
		return true
	}
	c.add(Problem{Row: r.number, What: fmt.Sprintf("the row has %s, the header has %d", plural(n, "value"), len(c.l.cols)),
		Remedy: "look for a missing or surplus separator, or a value with a separator in it that is not quoted"})
	return false
}

// value checks the row's value in column i and keeps it normalised.
func (c *checker) value(r *rawRow, i int) {
	col := &c.l.cols[i]
	v := r.value(i)
	if c.l.ours && col.Attribute != "" {
		v = restore(v)
	}
	c.values[i] = v
	if r.cells != nil {
		var ok bool
		if v, ok = c.cell(r, i, v); !ok {
			return
		}
		c.values[i] = v
	}
	if v != "" && c.cfg.PublicKey != "" && col.Attribute == c.cfg.PublicKey {
		c.cols[i].filled = true
		c.publicKey(r, i, v)
		return
	}
	if v != "" && col.Attribute != "" && !c.l.ours {
		var ok bool
		if v, ok = c.damage(r, i, v); !ok {
			return
		}
		c.values[i] = v
	}
	if v == "" {
		if col.required {
			c.flaw(r, i, "", flaw{what: "the value is missing", remedy: "fill in the " + col.Attribute + ", or delete the row if it is no device"})
		}
		return
	}
	c.cols[i].filled = true
	if col.Attribute == "" {
		if col.Header == "" {
			c.flaw(r, i, v, flaw{what: "the column has no header", remedy: "give it one, or clear the cell"})
		}
		return
	}
	if kind := holdsKey(v); kind != "" {
		c.flaw(r, i, firstRunes(v, 12)+"…", flaw{what: "the value is " + kind, remedy: keyRemedy})
		return
	}
	if f := textFlaw(v, col.Identity); f != nil && !c.mayBreak(r, i, v) {
		c.flaw(r, i, v, *f)
		if !f.warning {
			return
		}
	}
	if c.rounded(r, i, v) {
		return
	}
	if col.mac {
		c.macValue(r, i, v)
	}
}

// damage judges what spreadsheets leave in text: guards, errors and formulas. It
// returns the value to go on with; ok is false where that settles the matter.
func (c *checker) damage(r *rawRow, i int, v string) (_ string, ok bool) {
	switch v[0] {
	case '#', 'E':
		if formulaError(v) {
			c.flaw(r, i, v, flaw{what: "the value is a formula error", remedy: "correct the formula in the spreadsheet, then export the file again"})
			return v, false
		}
	case '=':
		if plain, ok := unguard(v); ok {
			c.note(r, i, v, `the value is guarded against spreadsheets as ="...": the guard is taken off`, "export the file without it")
			return plain, true
		}
		if c.l.cols[i].exact {
			c.flaw(r, i, v, flaw{what: "the value is a formula", remedy: asValues + `; where it is text, write it without the =, also ="00123" as 00123`})
			return v, false
		}
	case '\'':
		exact := c.l.cols[i].exact
		switch {
		case !apostrophe(v, exact):
		case exact:
			c.flaw(r, i, v, guarded)
			return v, false
		default:
			c.note(r, i, v, guarded.what+": it is taken off", guarded.remedy)
			return v[1:], true
		}
	}
	return v, true
}

// mayBreak reports whether v is a text with line breaks in a column where that
// does no harm. In CSV a lost quote makes line breaks, too: text that goes on
// with what looks like a row is refused, as a device may be in it.
func (c *checker) mayBreak(r *rawRow, i int, v string) bool {
	if c.l.cols[i].exact || !broken(v) || strings.TrimSpace(v) != v {
		return false
	}
	if r.cells != nil {
		return true
	}
	lines := strings.Split(v, "\n")
	for _, line := range lines[1:] {
		for _, d := range delimiters {
			fields := strings.Split(line, string(d))
			if len(fields) > 1 && len(fields) >= len(c.l.cols)-1 {
				return false
			}
			for _, f := range fields {
				if _, err := ParseMAC(strings.Trim(f, `" `)); err == nil {
					return false
				}
			}
		}
	}
	return true
}

// rounded judges a number in scientific notation, and reports whether it settles
// the matter.
func (c *checker) rounded(r *rawRow, i int, v string) bool {
	if c.seen == nil || r.cells != nil && i < len(r.cells) && r.cells[i].kind == kindNumber {
		return false
	}
	col := &c.cols[i]
	may, sure := false, false
	number, exponent := numeric(v)
	if exponent {
		may, sure = scientific(v)
	}
	switch {
	case number:
		col.numbers++
	case !may:
		col.texts++
	case sure && c.l.cols[i].exact:
		c.flaw(r, i, v, rounded)
		return true
	case sure:
		c.note(r, i, v, rounded.what, rounded.remedy)
	default: // it depends on the column's other values
		if col.doubts++; len(col.doubtful) < maxDoubtful {
			col.doubtful = append(col.doubtful, Problem{Row: r.number, Column: c.l.cols[i].Header, Cell: cellName(i, r.number), Value: shown(v), What: rounded.what, Remedy: rounded.remedy})
		}
	}
	return false
}

var rounded = flaw{what: "the value is a number in scientific notation: a program has rounded it before the file was saved",
	remedy: "export the file again from its source, without a spreadsheet between; or format the column as Text first"}

// unique compares the row's values of attributes that no two devices may share.
func (c *checker) unique(r *rawRow) {
	if c.seen == nil {
		return
	}
	for i := range c.l.cols {
		col := &c.l.cols[i]
		if !col.Unique || c.values[i] == "" || col.Identity && len(c.l.identity) == 1 { // that one is compared anyway
			continue
		}
		first := c.seen.value(place{r.number, i}, pipeline.Attr{Name: col.Attribute, Value: c.values[i]})
		if first > 0 {
			c.flaw(r, i, c.values[i], flaw{what: fmt.Sprintf("the %s must be unique, and is the same as in row %d", col.Attribute, first),
				remedy: "correct one of the rows; manifest.unique lists what must be unique"})
		}
	}
}

// askLedger reports which of the identities and unique values that wait are
// those of other devices; of one device, once.
func (c *checker) askLedger(ctx context.Context) error {
	found, made, err := c.seen.flush(ctx)
	c.reportAll(found)
	if err != nil {
		return err
	}
	return c.seen.flushValues(ctx, func(at place, attr pipeline.Attr, where string) {
		if made[at.row] == where {
			return // the whole device was made already
		}
		c.add(Problem{Row: at.row, Column: c.l.cols[at.col].Header, Cell: cellName(at.col, at.row), Value: shown(attr.Value),
			What:   fmt.Sprintf("the %s must be unique, and another device has it already: %s", attr.Name, where),
			Remedy: "find out which of the two is right; manifest.unique lists what must be unique"})
	})
}

const keyRemedy = "take keys and certificates out of the manifest: keymill makes the keys, and every value goes to the server and into reports"

var notMAC = flaw{what: "the value is not a MAC address", remedy: "write 12 hexadecimal digits, such as 02:12:61:13:6c:42"}

// macValue checks and normalises a MAC address.
func (c *checker) macValue(r *rawRow, i int, v string) {
	m, err := ParseMAC(v)
	if err != nil {
		c.flaw(r, i, v, notMAC)
		return
	}
	if what := m.unusable(); what != "" {
		c.flaw(r, i, v, flaw{what: what, remedy: "find out the device's own address"})
		return
	}
	if m.Local() && c.seen != nil {
		c.flaw(r, i, v, flaw{what: "the MAC address is locally administered: no manufacturer's, perhaps a random one", remedy: "make sure that the device keeps it", warning: true})
	}
	// An identity of the address alone is compared anyway.
	if c.seen != nil && !c.l.cols[i].Unique && (len(c.l.identity) > 1 || c.l.identity == nil || c.l.identity[0] != i) {
		if first := c.seen.mac(r.number, m); first > 0 {
			c.flaw(r, i, v, flaw{what: fmt.Sprintf("the MAC address occurs also in row %d", first), remedy: "no two interfaces can have one address: find out which is right", warning: true})
		}
	}
	if !canonicalMAC(v) {
		c.values[i] = m.String()
	}
}

// own reads what keymill itself added to a failures.csv.
func (c *checker) own(r *rawRow) {
	if i := c.l.lot; i >= 0 && i < len(r.values) && c.lot == "" {
		c.lot = restore(r.values[i])
	}
}

// finish reports what only the end of the file shows.
func (c *checker) finish(ctx context.Context) error {
	if len(c.l.identity) == 0 {
		return nil // no row was read
	}
	err := c.askLedger(ctx)
	c.finishColumns()
	for i, col := range c.l.cols {
		if c.rows > 0 && col.Attribute != "" && !c.cols[i].filled && !col.required {
			c.add(Problem{Row: c.l.row, Column: col.Header, Cell: cellName(i, c.l.row), What: "the column is empty", Remedy: "delete it if it is not needed", Warning: true})
		}
	}
	if c.rows == 0 {
		c.add(Problem{What: "the manifest has a header but no devices", Remedy: "add one row for each device"})
	}
	if c.cfg.Expect > 0 && c.rows != c.cfg.Expect {
		c.add(Problem{Value: strconv.Itoa(c.rows), What: fmt.Sprintf("the manifest has %s, the control total is %d", plural(c.rows, "device"), c.cfg.Expect),
			Remedy: "find the rows that are missing or too many; or correct the control total (--expect, manifest.expect)"})
	}
	return err
}

func (c *checker) flaw(r *rawRow, i int, v string, f flaw) {
	c.add(Problem{Row: r.number, Column: c.l.cols[i].Header, Cell: cellName(i, r.number), Value: shown(v), What: f.what, Remedy: f.remedy, Warning: f.warning})
}

func (c *checker) reportAll(ps []Problem) {
	for _, p := range ps {
		c.add(p)
	}
}

func (c *checker) add(p Problem) {
	if p.Warning {
		c.warnings++
	} else {
		c.problems++
	}
	if c.report != nil {
		c.report(p)
	}
}

func (c *checker) identityHeaders() string {
	s := ""
	for n, i := range c.l.identity {
		if n > 0 {
			s += " + "
		}
		s += c.l.cols[i].Header
	}
	return s
}

func (c *checker) summary() Summary {
	return Summary{Rows: c.rows, Problems: c.problems, Warnings: c.warnings, Columns: c.l.columns(), Identity: c.l.identityNames(), Unique: c.l.uniqueNames(), Lot: c.lot}
}

// cellName returns the spreadsheet reference of a column (from 0) and a row
// (from 1): "B7".
func cellName(col, row int) string {
	var name []byte
	for col++; col > 0; col = (col - 1) / 26 {
		name = append([]byte{byte('A' + (col-1)%26)}, name...)
	}
	return string(name) + strconv.Itoa(row)
}

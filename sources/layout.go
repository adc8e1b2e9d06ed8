package sources

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// column is one column of the manifest.
type column struct {
	Column
	taken    bool // an attribute was found for it, or it is to be ignored
	mac      bool // values are MAC addresses
	required bool // no cell may be empty
	exact    bool // the cell must be text: whatever a spreadsheet made of it is refused
}

// layout says what the columns of a manifest are. It is fixed once the header
// is read.
type layout struct {
	row      int      // the header's row number
	above    int      // rows above it that are not empty
	headers  []string // as in the file
	cols     []column // one for each header
	identity []int    // columns that form the identity, in its order
	lot      int      // column keymill_lot of our own failures.csv, else -1
	ours     bool     // written by FailuresWriter: cells are unescaped
	problems []Problem
	absent   []string // attributes that were said to be missing
}

// newLayout maps the header's columns to attributes. Everything that is wrong
// is left in problems.
func newLayout(header *rawRow, cfg Config) layout {
	l := layout{row: header.number, headers: slices.Clone(header.values), lot: -1}
	l.cols = make([]column, len(l.headers))
	l.ours = slices.ContainsFunc(l.headers, func(h string) bool { return fold(h) == ownState })
	for i, h := range l.headers {
		if l.ours {
			h = restore(h)
		}
		l.cols[i].Header = strings.Join(strings.Fields(h), " ")
		l.setOwn(i)
	}
	l.mapConfigured(cfg)
	l.mapGuessed()
	l.refuseClashes()
	l.chooseIdentity(cfg.Identity)
	for _, name := range cfg.Required {
		if l.byAttribute(name) < 0 {
			l.missing(name, "is required")
		}
	}
	unique := cfg.Unique
	if unique == nil {
		unique = []string{AttrSerial}
	}
	for _, name := range cfg.Unique {
		if l.byAttribute(name) < 0 {
			l.missing(name, "must be unique")
		}
	}
	for _, name := range sortedKeys(cfg.Columns) {
		if cfg.Columns[name] == "" && l.byAttribute(name) < 0 {
			l.missing(name, "is configured")
		}
	}
	for i := range l.cols {
		c := &l.cols[i]
		if c.mac = isMACName(c.Attribute); c.mac {
			c.MAC = "name"
		}
		_, named := cfg.Columns[c.Attribute]
		c.Unique = c.Attribute != "" && slices.Contains(unique, c.Attribute)
		key := c.Identity || c.Attribute == AttrMAC || c.Attribute == AttrSerial || slices.Contains(unique, c.Attribute)
		c.required = c.Identity || c.Attribute == AttrMAC || c.Attribute == AttrSerial || named || slices.Contains(cfg.Required, c.Attribute)
		c.exact = key || c.mac || slices.Contains(cfg.Required, c.Attribute)
	}
	return l
}

// setOwn recognises the columns that keymill adds to failures.csv.
func (l *layout) setOwn(i int) {
	h := strings.ToLower(l.cols[i].Header)
	if !strings.HasPrefix(h, ownPrefix) {
		return
	}
	l.cols[i].taken = true
	if l.ours && h == ownLot {
		l.lot = i
	}
}

// mapConfigured gives columns the attributes that the configuration names.
func (l *layout) mapConfigured(cfg Config) {
	for _, name := range sortedKeys(cfg.Columns) {
		text := cfg.Columns[name]
		if text == "" {
			continue // to be guessed
		}
		found := l.find(text)
		if len(found) == 0 {
			found = l.find(name)
		}
		if len(found) == 0 {
			l.absent = append(l.absent, name)
			l.problem("", text, fmt.Sprintf("no column has the header %q, which is configured for the attribute %s", text, name),
				"the headers are "+l.headerList()+"; correct manifest.columns or the file")
			continue
		}
		if len(found) > 1 {
			l.problem(l.cols[found[1]].Header, "", "two columns have the header that is configured for the attribute "+name,
				"give the columns different headers, or delete one")
			continue
		}
		c := &l.cols[found[0]]
		if c.taken {
			l.problem(c.Header, "", fmt.Sprintf("the column is configured for two attributes, %s and %s", c.Attribute, name),
				"name each column once in manifest.columns")
			continue
		}
		c.Attribute, c.taken = name, true
	}
	// Attributes that the identity or the templates name are looked for under
	// their own name before anything is guessed.
	for _, name := range slices.Concat(cfg.Identity, cfg.Required, sortedKeys(cfg.Columns)) {
		if cfg.Columns[name] != "" {
			continue
		}
		if found := l.find(name); len(found) == 1 && !l.cols[found[0]].taken {
			c := &l.cols[found[0]]
			c.Attribute, c.taken, c.Guessed = name, true, true
		}
	}
}

// mapGuessed names the attributes of the columns that are left.
func (l *layout) mapGuessed() {
	for i := range l.cols {
		c := &l.cols[i]
		if c.taken || c.Header == "" {
			continue
		}
		c.Attribute, c.Guessed = guess(c.Header), true
		if c.Attribute == "" {
			c.Attribute = fmt.Sprintf("column_%d", i+1)
		}
	}
}

// refuseClashes checks the attributes' names.
func (l *layout) refuseClashes() {
	seen := map[string]int{}
	for i := range l.cols {
		c := &l.cols[i]
		if c.Attribute == "" {
			continue
		}
		if f := textFlaw(c.Header, false); f != nil && !f.warning {
			l.problem(c.Header, c.Header, "the header cannot be used: "+f.what, f.remedy)
			continue
		}
		if what, remedy := badName(c.Attribute, c.Header); what != "" {
			l.problem(c.Header, "", what, remedy)
		}
		key := strings.ToLower(c.Attribute)
		first, dup := seen[key]
		if !dup {
			seen[key] = i
			continue
		}
		remedy := fmt.Sprintf("say which is which in manifest.columns, such as {%s: %q, %s_2: %q}", key, l.cols[first].Header, key, c.Header)
		if fold(l.cols[first].Header) == fold(c.Header) { // manifest.columns could not tell them apart
			remedy = fmt.Sprintf("rename one of the two headers %q in the file, or delete its column", c.Header)
		}
		l.problem(c.Header, "", fmt.Sprintf("the columns %q and %q both give the attribute %s", l.cols[first].Header, c.Header, c.Attribute), remedy)
	}
}

// chooseIdentity finds the identity's columns.
func (l *layout) chooseIdentity(names []string) {
	if len(names) == 0 {
		i := l.byAttribute(AttrMAC)
		if i < 0 {
			i = l.byAttribute(AttrSerial)
		}
		if i < 0 {
			remedy := "name it in manifest.columns and manifest.identity; the headers are " + l.headerList()
			if l.looksLikeData() {
				remedy = "the first row looks like a device: the file needs a first row with column headers"
			}
			l.problem("", "", "no column holds a MAC address or a serial number to know the devices by", remedy)
			return
		}
		l.addIdentity(i)
		return
	}
	for n, name := range names {
		if slices.Contains(names[:n], name) {
			l.problem("", name, "the identity names the attribute "+name+" twice", "correct manifest.identity")
			continue
		}
		if what := keyName(name); what != "" {
			l.problem("", name, what, "name attributes that stay the same for the device's life in manifest.identity")
			continue
		}
		if i := l.byAttribute(name); i >= 0 {
			l.addIdentity(i)
		} else {
			l.missing(name, "belongs to the identity")
		}
	}
}

func (l *layout) addIdentity(i int) {
	l.identity = append(l.identity, i)
	l.cols[i].Identity = true
}

func (l *layout) missing(name, why string) {
	if slices.Contains(l.absent, name) {
		return // one column is missing, whatever it is wanted for
	}
	l.absent = append(l.absent, name)
	l.problem("", name, fmt.Sprintf("no column holds the attribute %s, which %s", name, why),
		fmt.Sprintf("add a line to manifest.columns, such as {%s: \"its header\"}; the headers are %s", name, l.headerList()))
}

func (l *layout) problem(header, value, what, remedy string) {
	l.problems = append(l.problems, Problem{Row: l.row, Column: header, Value: shown(value), What: what, Remedy: remedy})
}

// mapped reports whether the header is one: the identity's columns were found.
func (l *layout) mapped(cfg Config) bool {
	return len(l.identity) > 0 && len(l.identity) == max(1, len(cfg.Identity))
}

// find returns the columns whose header is text, case and spaces aside.
func (l *layout) find(text string) []int {
	var found []int
	for i, c := range l.cols {
		if c.Header != "" && fold(c.Header) == fold(text) {
			found = append(found, i)
		}
	}
	return found
}

func (l *layout) byAttribute(name string) int {
	return slices.IndexFunc(l.cols, func(c column) bool { return c.Attribute == name })
}

func (l *layout) columns() []Column {
	cols := make([]Column, len(l.cols))
	for i, c := range l.cols {
		cols[i] = c.Column
	}
	return cols
}

func (l *layout) identityNames() []string {
	names := make([]string, len(l.identity))
	for i, c := range l.identity {
		names[i] = l.cols[c].Attribute
	}
	return names
}

func (l *layout) uniqueNames() []string {
	names := []string{}
	for _, c := range l.cols {
		if c.Unique {
			names = append(names, c.Attribute)
		}
	}
	return names
}

func (l *layout) headerList() string {
	var quoted []string
	for _, c := range l.cols {
		if c.Header != "" {
			quoted = append(quoted, fmt.Sprintf("%q", shown(c.Header)))
		}
	}
	return strings.Join(quoted, ", ")
}

// looksLikeData reports whether the header row is a device's.
func (l *layout) looksLikeData() bool {
	return slices.ContainsFunc(l.headers, func(h string) bool {
		_, err := ParseMAC(h)
		return err == nil
	})
}

func (l *layout) sameHeader(r *rawRow) bool {
	return r != nil && r.fault == nil && slices.Equal(r.values, l.headers)
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

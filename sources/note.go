package sources

import (
	"cmp"
	"fmt"
	"slices"
)

// columnState is what a checker knows of a column from its rows.
type columnState struct {
	filled bool // a value was seen
	// numbers and texts count values that are digits, and others; doubtful are
	// those that are scientific notation if the column's others are digits.
	numbers, texts, doubts int
	doubtful               []Problem
}

// maxDoubtful is how many doubtful values of a column are listed one by one.
const maxDoubtful = 1000

// note is a warning about many rows of a column, which is given once.
type note struct {
	Problem
	more int
}

type noteKey struct {
	col  int
	what string
}

// note warns of the value in column i: once for the column and all rows that
// have the same said of them.
func (c *checker) note(r *rawRow, i int, v, what, remedy string) {
	if c.seen == nil {
		return
	}
	key := noteKey{i, what}
	if n := c.notes[key]; n != nil {
		n.more++
		return
	}
	c.notes[key] = &note{Problem: Problem{Row: r.number, Column: c.l.cols[i].Header, Cell: cellName(i, r.number), Value: shown(v), What: what, Remedy: remedy, Warning: true}}
}

func (c *checker) noted(i int, what string) bool { return c.notes[noteKey{i, what}] != nil }

// finishColumns reports what hung on all values of a column.
func (c *checker) finishColumns() {
	for i := range c.cols {
		col := &c.cols[i]
		if col.texts > 0 || col.numbers == 0 {
			continue
		}
		for n, p := range col.doubtful {
			if p.Warning = !c.l.cols[i].exact; p.Warning && n > 0 {
				break
			}
			c.add(p)
		}
		if left := col.doubts - len(col.doubtful); left > 0 && c.l.cols[i].exact {
			c.add(Problem{Row: c.l.row, Column: c.l.cols[i].Header, What: fmt.Sprintf("%s of the column are in scientific notation, too", plural(left, "more value")), Remedy: rounded.remedy})
		}
	}
	all := make([]*note, 0, len(c.notes))
	for _, n := range c.notes {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b *note) int {
		return cmp.Or(cmp.Compare(a.Row, b.Row), cmp.Compare(a.Cell, b.Cell), cmp.Compare(a.What, b.What))
	})
	for _, n := range all {
		if n.more > 0 {
			n.What += fmt.Sprintf(" (so in %s more)", plural(n.more, "row"))
		}
		c.add(n.Problem)
	}
}

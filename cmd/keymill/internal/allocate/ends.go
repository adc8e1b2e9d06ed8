package allocate

import (
	"bytes"
	"encoding/csv"
	"strings"
)

// ends keeps the first and the last row of a CSV manifest that is written to it.
type ends struct {
	header, one, other string // other is the last whole line
	part               []byte
	lines              int
}

func (e *ends) Write(p []byte) (int, error) {
	e.part = append(e.part, p...)
	rest := e.part
	var last []byte
	for {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		if !whole {
			break
		}
		last, rest = line, after
		switch e.lines++; e.lines {
		case 1:
			e.header = string(line)
		case 2:
			e.one = string(line)
		}
	}
	if last != nil {
		e.other = string(last)
	}
	e.part = append(e.part[:0], rest...)
	return len(p), nil
}

func (e *ends) first() string { return e.named(e.one) }
func (e *ends) last() string  { return e.named(e.other) }

// named shows a row as NAME=VALUE pairs.
func (e *ends) named(line string) string {
	rows, err := csv.NewReader(strings.NewReader(e.header + "\n" + line + "\n")).ReadAll()
	if err != nil || len(rows) != 2 {
		return line
	}
	var pairs []string
	for i, name := range rows[0] {
		pairs = append(pairs, name+"="+rows[1][i])
	}
	return strings.Join(pairs, " ")
}

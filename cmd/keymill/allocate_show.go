package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"strings"

	"keymill/cmd/keymill/internal/say"
	"keymill/sources"
)

// allocated is the JSON of `allocate --json`.
type allocated struct {
	Lot      string       `json:"lot"`
	Devices  int          `json:"devices"`
	Manifest string       `json:"manifest,omitempty"` // empty when nothing was recorded
	First    string       `json:"first"`              // row of the manifest
	Last     string       `json:"last"`
	Ranges   []allocRange `json:"ranges"`
	Left     uint64       `json:"left"`
	Low      bool         `json:"low"`
}

type allocRange struct {
	Space string `json:"space"`
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

func (a *app) printAllocation(lot, output string, granted *sources.Allocation, seen *ends) error {
	if granted.Low() {
		fmt.Fprintf(a.err, "The pool has room for %s only: fewer than three more lots of this size. Order or configure more.\n", say.Count(int(granted.Left), "further device"))
	}
	if a.json {
		result := allocated{Lot: lot, Devices: granted.Count, Manifest: output, First: seen.first(), Last: seen.last(), Left: granted.Left, Low: granted.Low()}
		for _, g := range granted.Grants {
			result.Ranges = append(result.Ranges, allocRange{g.Space, g.First, g.Last})
		}
		return a.writeJSON(result)
	}
	done := "Wrote " + output
	if output == "" {
		done = "Would write"
	}
	a.printf("%s: %s of lot %s\n  first  %s\n  last   %s\n", done, say.Count(granted.Count, "device"), lot, seen.first(), seen.last())
	a.printf("%s left after that.\n", say.Count(int(granted.Left), "device"))
	return nil
}

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

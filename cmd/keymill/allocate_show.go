package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"

	"keymill/cmd/keymill/internal/say"
	"keymill/sources"
	"keymill/sources/allocation"
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
	// PassedOver is how many identifiers devices of the ledger held already.
	PassedOver uint64 `json:"passed_over"`
}

type allocRange struct {
	Space string `json:"space"`
	First string `json:"first"` // an address as people write it, or the number in the sequence
	Last  string `json:"last"`
}

func (a *app) printAllocation(lot, output string, granted *allocation.Allocation, seen *ends) error {
	if granted.Low() {
		fmt.Fprintf(a.err, "The pool has room for %s only: fewer than three more lots of this size. Order or configure more.\n", say.Count(int(granted.Left), "further device"))
	}
	if a.json {
		result := allocated{Lot: lot, Devices: granted.Count, Manifest: output, First: seen.first(), Last: seen.last(), Left: granted.Left, Low: granted.Low(), PassedOver: granted.PassedOver}
		for _, g := range granted.Grants {
			result.Ranges = append(result.Ranges, rangeOf(g.Space, g.First, g.Last))
		}
		return a.writeJSON(result)
	}
	done := "Wrote " + output
	if output == "" {
		done = "Would write"
	}
	a.printf("%s: %s of lot %s\n  first  %s\n  last   %s\n", done, say.Count(granted.Count, "device"), lot, seen.first(), seen.last())
	if granted.PassedOver > 0 {
		a.printf("%s passed over: devices of the ledger have them.\n", say.Count(int(granted.PassedOver), "identifier"))
	}
	a.printf("%s left after that.\n", say.Count(int(granted.Left), "device"))
	return nil
}

// rangeOf shows a range of numbers of a space.
func rangeOf(space string, first, last uint64) allocRange {
	if space == allocation.MACSpace {
		return allocRange{space, sources.MACFromUint64(first).String(), sources.MACFromUint64(last).String()}
	}
	return allocRange{space, strconv.FormatUint(first, 10), strconv.FormatUint(last, 10)}
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

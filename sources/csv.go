package sources

import (
	"bufio"
	"crypto/sha256"
	"encoding/csv"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"slices"
	"strings"
)

// maxRecord is the length in bytes that one CSV record may have: a quote that
// is never closed would otherwise swallow the file.
const maxRecord = 1 << 20

// csvSource is a CSV file.
type csvSource struct{ path string }

func (s *csvSource) Close() error { return nil }

func (s *csvSource) open() (rows, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	text, delimiter, err := decodeCSV(io.TeeReader(f, h))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r := newCSVRows(text, delimiter)
	r.f, r.hash = f, h
	return r, nil
}

func newCSVRows(text io.Reader, delimiter rune) *csvRows {
	r := &csvRows{guard: guard{r: text}}
	r.csv = csv.NewReader(bufio.NewReaderSize(&r.guard, 1<<16))
	r.csv.Comma = delimiter
	r.csv.FieldsPerRecord = -1
	r.csv.ReuseRecord = true
	return r
}

// csvRows is one pass over a CSV file by encoding/csv.
type csvRows struct {
	f     *os.File
	hash  hash.Hash
	guard guard
	csv   *csv.Reader
	extra int // lines so far that continue a record
	row   rawRow
}

func (r *csvRows) next() (*rawRow, error) {
	for {
		r.guard.left = maxRecord
		fields, err := r.csv.Read()
		if parse, ok := errors.AsType[*csv.ParseError](err); ok {
			return r.broken(parse), nil
		}
		if errors.Is(err, errRunaway) {
			return nil, refuse(fmt.Sprintf("the record after row %d is longer than 1 MiB", r.row.number),
				"a quote there is never closed, or the file is not CSV")
		}
		if err != nil {
			return nil, err
		}
		line, _ := r.csv.FieldPos(0)
		if err := r.number(line); err != nil {
			return nil, err
		}
		blank := true
		for _, f := range fields {
			blank = blank && f == ""
			r.extra += strings.Count(f, "\n")
		}
		if blank {
			continue
		}
		r.row.values, r.row.fault = fields, nil
		return &r.row, nil
	}
}

// number sets the row's number from the line that its record begins on: a
// spreadsheet counts empty lines, but not those inside quotes.
func (r *csvRows) number(line int) error {
	r.row.number = line - r.extra
	if r.row.number > math.MaxInt32 {
		return refuse("the manifest has too many rows", "split it")
	}
	return nil
}

// broken turns a syntax error into a row that carries it. The row's text is not
// shown: it may be anything.
func (r *csvRows) broken(e *csv.ParseError) *rawRow {
	fault := &Problem{Row: e.StartLine - r.extra, What: "the row is not valid CSV: " + e.Err.Error(),
		Remedy: "put values with quotes or separators in quotes and double the quotes inside"}
	switch {
	case errors.Is(e.Err, csv.ErrBareQuote):
		fault.What = "the row has a quote inside a value that is not quoted"
		fault.Remedy += `; a value that is guarded against Excel as ="..." needs no guard: write it plainly`
	case errors.Is(e.Err, csv.ErrQuote) && e.Line > e.StartLine:
		fault.What = fmt.Sprintf("the row opens a quote that is closed wrongly or never; %s after it could not be read", plural(e.Line-e.StartLine, "line"))
	case errors.Is(e.Err, csv.ErrQuote):
		fault.What = "the row has a quoted value that is closed wrongly or never"
	}
	r.extra += e.Line - e.StartLine
	r.row.number, r.row.values, r.row.fault = fault.Row, nil, fault
	return &r.row
}

// findings says that the last row may be cut: half a serial number looks like one.
func (r *csvRows) findings(*layout) []Problem {
	if r.guard.last == 0 || r.guard.last == '\n' || r.guard.last == '\r' {
		return nil
	}
	return []Problem{{Row: r.row.number, What: "the last row does not end with a line end", Remedy: "make sure that the file was not cut off there", Warning: true}}
}

func (r *csvRows) sum() ([]byte, error) { return r.hash.Sum(nil), nil }

func (r *csvRows) Close() error { return r.f.Close() }

var errRunaway = errors.New("record too long")

// guard ends reading when one record takes more than its share.
type guard struct {
	r    io.Reader
	left int
	last byte // that was read
}

func (g *guard) Read(p []byte) (int, error) {
	if g.left <= 0 {
		return 0, errRunaway
	}
	n, err := g.r.Read(p)
	g.left -= n
	if n > 0 {
		g.last = p[n-1]
	}
	return n, err
}

var delimiters = [...]rune{',', ';', '\t', '|'}

// sniffedRecords is how many records tell the delimiter.
const sniffedRecords = 20

// sniffDelimiter tells which delimiter parts the values: the one that most of
// the first records have equally often, then the one that they have more often.
func sniffDelimiter(sample []byte) rune {
	var counts [sniffedRecords][len(delimiters)]int
	records := 0
	for rest := sample; records < sniffedRecords && len(rest) > 0; records++ {
		counts[records], rest = countDelimiters(rest)
	}
	best, most := ',', 0
	for i, d := range delimiters {
		same := map[int]int{}
		for _, c := range counts[:records] {
			if c[i] > 0 {
				same[c[i]]++
			}
		}
		for number, records := range same {
			if score := records*10_000 + min(number, 9_999); score > most {
				best, most = d, score
			}
		}
	}
	return best
}

// countDelimiters counts the delimiters outside quotes in the first record that
// is not empty, and returns what follows it.
func countDelimiters(sample []byte) (n [len(delimiters)]int, rest []byte) {
	quoted, empty := false, true
	for i, c := range sample {
		switch {
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '\n':
			if !empty {
				return n, sample[i+1:]
			}
			continue
		default:
			if d := slices.Index(delimiters[:], rune(c)); d >= 0 {
				n[d]++
			}
		}
		empty = empty && (c == '\r' || c == ' ')
	}
	return n, nil
}

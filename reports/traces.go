package reports

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"

	"keymill/pipeline"
)

// A trace is where a device's events leave it. A million of them must fit, so
// they are 128 bytes each and hold no pointers.
type trace struct {
	identity          short
	spki, output      short // as hexadecimal; zero for none
	auth              short // what the server said
	said              short // station, attempt and reason of the last change
	serial            short
	updated           int64  // microseconds, of the last change
	unit              uint32 // the live unit's number; 0 for none
	row               uint32
	staged, destroyed uint32 // keys
	state             uint8  // index into pipeline.States, of which planned is the first
	marks             uint8
}

// Marks of a trace.
const (
	tracePreauthorized = 1 << iota
	traceListed        // in devices.jsonl
	traceKeyed         // there with a key
	traceSerial        // an event named its serial
)

// A short stands for a longer text: half of its SHA-256 under a key that is new
// in every verification. Whoever makes a bundle cannot look for two texts with
// the same one, as that of half a plain hash could.
type short [sha256.Size / 2]byte

// traces holds the traces of a lot by row.
type traces struct {
	key    [sha256.Size]byte
	index  map[uint32]uint32 // row to number
	chunks []*[traceChunk]trace
	count  uint32
}

const traceChunk = 1024

func newTraces() *traces {
	t := &traces{index: map[uint32]uint32{}}
	_, _ = rand.Read(t.key[:]) // never fails
	return t
}

// short shortens a text; that of none is zero.
func (t *traces) short(text []byte) (s short) {
	if len(text) == 0 {
		return s
	}
	h := sha256.New()
	h.Write(t.key[:])
	h.Write(text)
	var sum [sha256.Size]byte
	copy(s[:], h.Sum(sum[:0]))
	return s
}

func (t *traces) shortSum(sum pipeline.IdentitySum) short { return t.short(sum[:]) }

// of returns a row's trace, nil if there is none.
func (t *traces) of(row int) *trace {
	if n, ok := t.index[uint32(row)]; ok && row >= 0 && row <= math.MaxUint32 {
		return t.at(n)
	}
	return nil
}

func (t *traces) at(n uint32) *trace { return &t.chunks[n/traceChunk][n%traceChunk] }

// add makes the trace of a row that has none.
func (t *traces) add(row int) (*trace, error) {
	if row < 0 || row > math.MaxUint32 {
		return nil, fmt.Errorf("there can be no row %d", row)
	}
	if t.count%traceChunk == 0 {
		t.chunks = append(t.chunks, new([traceChunk]trace))
	}
	t.index[uint32(row)] = t.count
	made := t.at(t.count)
	made.row = uint32(row)
	t.count++
	return made, nil
}

// unlisted returns a row that has a trace, but is not in devices.jsonl.
func (t *traces) unlisted() (row uint32, found bool) {
	for n := range t.count {
		if one := t.at(n); one.marks&traceListed == 0 && (!found || one.row < row) {
			row, found = one.row, true
		}
	}
	return row, found
}

// twins returns the first two rows that have the same of what part returns,
// among the traces with these marks.
func (t *traces) twins(marks uint8, part func(*trace) *short) (a, b uint32, found bool) {
	order := make([]uint32, 0, t.count)
	for n := range t.count {
		if t.at(n).marks&marks == marks {
			order = append(order, n)
		}
	}
	slices.SortFunc(order, func(x, y uint32) int {
		return cmp.Or(slices.Compare(part(t.at(x))[:], part(t.at(y))[:]), cmp.Compare(t.at(x).row, t.at(y).row))
	})
	for i := 1; i < len(order); i++ {
		x, y := t.at(order[i-1]), t.at(order[i])
		if *part(x) == *part(y) && (!found || y.row < b) {
			a, b, found = x.row, y.row, true
		}
	}
	return a, b, found
}

package sources

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"keymill/pipeline"
)

// takenBatch is how many identities Config.Taken is asked about at once.
const takenBatch = 500

// halfSum is the first half of an identity's SHA-256: 128 bits tell a million
// devices apart as surely as 256, in half the memory.
type halfSum [16]byte

// seen finds identities that occur twice, in this file and in the ledger.
type seen struct {
	header string // of the identity's columns
	first  map[halfSum]int32
	// names finds devices of a composite identity that share its first value,
	// macs those that share an address outside of the identity.
	names map[string]int32
	macs  map[MAC]int32
	taken func(ctx context.Context, ids []pipeline.IdentitySum) (map[pipeline.IdentitySum]string, error)
	batch []pipeline.IdentitySum
	rows  []Problem // of the batch, without What
	// values finds values of unique attributes, by the attribute's column.
	values map[int]map[halfSum]int32
	held   func(ctx context.Context, values []pipeline.Attr) (map[pipeline.Attr]string, error)
	asked  []pipeline.Attr
	places []Problem // of asked, without What
}

func newSeen(cfg Config, header string) *seen {
	return &seen{header: header, first: map[halfSum]int32{}, names: map[string]int32{}, macs: map[MAC]int32{}, taken: cfg.Taken,
		values: map[int]map[halfSum]int32{}, held: cfg.Held}
}

// value notes the value of a unique attribute; place is the problem that it
// would be, without What. It returns what is wrong with it and with those that
// the ledger was now asked about.
func (s *seen) value(ctx context.Context, col int, attr pipeline.Attr, place Problem) ([]Problem, error) {
	column := s.values[col]
	if column == nil {
		column = map[halfSum]int32{}
		s.values[col] = column
	}
	sum := sha256.Sum256([]byte(attr.Value))
	key := halfSum(sum[:16])
	if first, dup := column[key]; dup {
		place.What = fmt.Sprintf("the %s must be unique, and is the same as in row %d", attr.Name, first)
		place.Remedy = "correct one of the rows; manifest.unique lists what must be unique"
		return []Problem{place}, nil
	}
	column[key] = int32(place.Row) //nolint:gosec // see add
	if s.held == nil {
		return nil, nil
	}
	s.asked, s.places = append(s.asked, attr), append(s.places, place)
	if len(s.asked) < takenBatch {
		return nil, nil
	}
	return s.flushValues(ctx)
}

// flushValues asks the ledger about the values that wait.
func (s *seen) flushValues(ctx context.Context) ([]Problem, error) {
	if len(s.asked) == 0 {
		return nil, nil
	}
	where, err := s.held(ctx, s.asked)
	if err != nil {
		return nil, err
	}
	var found []Problem
	for i, attr := range s.asked {
		if at, ok := where[attr]; ok {
			p := s.places[i]
			p.What = fmt.Sprintf("the %s must be unique, and another device has it already: %s", attr.Name, at)
			p.Remedy = "find out which of the two is right; manifest.unique lists what must be unique"
			found = append(found, p)
		}
	}
	s.asked, s.places = s.asked[:0], s.places[:0]
	return found, nil
}

// add notes a device and returns what is wrong with its identity, and with
// those of earlier rows that the ledger was now asked about.
func (s *seen) add(ctx context.Context, row int, id pipeline.Identity) ([]Problem, error) {
	sum := id.Sum()
	key := halfSum(sum[:16])
	if first, dup := s.first[key]; dup {
		p := s.problem(row, id)
		p.What = fmt.Sprintf("the identity is the same as in row %d", first)
		p.Remedy = "correct one of the rows, or delete one if it is the same device twice"
		return []Problem{p}, nil
	}
	s.first[key] = int32(row) //nolint:gosec // rows are counted to 2^31 at most, see csvRows
	found := s.sameName(row, id)
	if s.taken == nil {
		return found, nil
	}
	s.batch = append(s.batch, sum)
	s.rows = append(s.rows, s.problem(row, id))
	if len(s.batch) < takenBatch {
		return found, nil
	}
	taken, err := s.flush(ctx)
	return append(found, taken...), err
}

// sameName warns of devices that differ only in later values of a composite
// identity: the first value names files and is what people type.
func (s *seen) sameName(row int, id pipeline.Identity) []Problem {
	if len(id) < 2 {
		return nil
	}
	first, dup := s.names[id.Name()]
	if !dup {
		s.names[strings.Clone(id.Name())] = int32(row) //nolint:gosec // see add
		return nil
	}
	p := s.problem(row, id)
	p.Warning = true
	p.What = fmt.Sprintf("the device's name %q, the identity's first value, is also that of row %d", shown(id.Name()), first)
	p.Remedy = "put an attribute that differs for every device first in manifest.identity"
	return []Problem{p}
}

// mac returns the row in which an address occurred before, 0 for a new one.
func (s *seen) mac(row int, m MAC) int32 {
	first, dup := s.macs[m]
	if !dup {
		s.macs[m] = int32(row) //nolint:gosec // see add
	}
	return first
}

// flush asks the ledger about the identities that wait.
func (s *seen) flush(ctx context.Context) ([]Problem, error) {
	if len(s.batch) == 0 {
		return nil, nil
	}
	where, err := s.taken(ctx, s.batch)
	if err != nil {
		return nil, err
	}
	var found []Problem
	for i, sum := range s.batch {
		if at, ok := where[sum]; ok {
			p := s.rows[i]
			p.What = "the identity belongs to a device that was made already: " + at
			p.Remedy = "take the row out; to make the device anew, undo it there first"
			found = append(found, p)
		}
	}
	s.batch, s.rows = s.batch[:0], s.rows[:0]
	return found, nil
}

func (s *seen) problem(row int, id pipeline.Identity) Problem {
	v := id.Name()
	if len(id) > 1 {
		v = id.String()
	}
	return Problem{Row: row, Column: s.header, Value: shown(v)}
}

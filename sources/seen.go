package sources

import (
	"context"
	"fmt"
	"hash/maphash"
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
	// values finds values of unique attributes, by the attribute's column. Two
	// hashes with seeds of their own tell them apart as halfSum does.
	values map[int]map[[2]uint64]int32
	seeds  [2]maphash.Seed
	held   func(ctx context.Context, values []pipeline.Attr) (map[pipeline.Attr]string, error)
	asked  []pipeline.Attr
	places []place // of asked
}

// place is a cell's.
type place struct{ row, col int }

func newSeen(cfg Config, header string) *seen {
	return &seen{header: header, first: map[halfSum]int32{}, names: map[string]int32{}, macs: map[MAC]int32{}, taken: cfg.Taken,
		values: map[int]map[[2]uint64]int32{}, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, held: cfg.Held}
}

// value notes the value of a unique attribute and returns the row in which it
// occurred before, 0 for a new one.
func (s *seen) value(at place, attr pipeline.Attr) (first int32) {
	column := s.values[at.col]
	if column == nil {
		column = map[[2]uint64]int32{}
		s.values[at.col] = column
	}
	key := [2]uint64{maphash.String(s.seeds[0], attr.Value), maphash.String(s.seeds[1], attr.Value)}
	if first, dup := column[key]; dup {
		return first
	}
	column[key] = int32(at.row) //nolint:gosec // see add
	if s.held != nil {
		s.asked, s.places = append(s.asked, attr), append(s.places, at)
	}
	return 0
}

// full says that it is time to flush.
func (s *seen) full() bool { return len(s.batch) >= takenBatch || len(s.asked) >= takenBatch }

// flushValues asks the ledger about the values that wait, and calls found for
// those that other devices have.
func (s *seen) flushValues(ctx context.Context, found func(at place, attr pipeline.Attr, where string)) error {
	if len(s.asked) == 0 {
		return nil
	}
	where, err := s.held(ctx, s.asked)
	if err != nil {
		return err
	}
	for i, attr := range s.asked {
		if holder, ok := where[attr]; ok {
			found(s.places[i], attr, holder)
		}
	}
	s.asked, s.places = s.asked[:0], s.places[:0]
	return nil
}

// add notes a device and returns what is wrong with its identity.
func (s *seen) add(row int, id pipeline.Identity) []Problem {
	sum := id.Sum()
	key := halfSum(sum[:16])
	if first, dup := s.first[key]; dup {
		p := s.problem(row, id)
		p.What = fmt.Sprintf("the identity is the same as in row %d", first)
		p.Remedy = "correct one of the rows, or delete one if it is the same device twice"
		return []Problem{p}
	}
	s.first[key] = int32(row) //nolint:gosec // rows are counted to 2^31 at most, see csvRows
	found := s.sameName(row, id)
	if s.taken != nil {
		s.batch = append(s.batch, sum)
		s.rows = append(s.rows, s.problem(row, id))
	}
	return found
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

// flush asks the ledger about the identities that wait, and returns what is
// wrong with them and where the devices of their rows are.
func (s *seen) flush(ctx context.Context) (found []Problem, where map[int]string, err error) {
	if len(s.batch) == 0 {
		return nil, nil, nil
	}
	held, err := s.taken(ctx, s.batch)
	if err != nil {
		return nil, nil, err
	}
	where = map[int]string{}
	for i, sum := range s.batch {
		if at, ok := held[sum]; ok {
			p := s.rows[i]
			p.What = "the identity belongs to a device that was made already: " + at
			p.Remedy = "take the row out; to make the device anew, undo it there first"
			found, where[p.Row] = append(found, p), at
		}
	}
	s.batch, s.rows = s.batch[:0], s.rows[:0]
	return found, where, nil
}

func (s *seen) problem(row int, id pipeline.Identity) Problem {
	v := id.Name()
	if len(id) > 1 {
		v = id.String()
	}
	return Problem{Row: row, Column: s.header, Value: shown(v)}
}

package imaging

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"
)

// Mark says that an entry's overlay was about to leave for a unit: a ledger that
// was put back from a copy learns from the marks which keys are out already.
type Mark struct {
	Key       [32]byte // the entry's, as given to Append
	Entry     Ref      // may be destroyed
	Unit      int64    // the unit's number, as the caller counts
	Marker    [16]byte // what the unit's medium bears while it is written; may be zero
	Time      time.Time
	Recipient string // for whom, or on which medium
}

// markBody is a mark's body in the pack.
type markBody struct {
	Length    int64  `json:"length"` // of the entry, in bytes
	Unit      int64  `json:"unit"`
	Marker    string `json:"marker,omitempty"` // hexadecimal
	Time      int64  `json:"time"`             // microseconds since 1970
	Recipient string `json:"recipient,omitempty"`
}

// maxMark bounds a mark's body, in bytes.
const maxMark = 64 << 10

// Mark appends a hand-out mark, and returns when it is durable. Append it before
// the overlay leaves.
func (p *Pack) Mark(ctx context.Context, m Mark) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := p.mark(m); err != nil {
		return fmt.Errorf("mark in pack: %w", err)
	}
	return nil
}

func (p *Pack) mark(m Mark) error {
	r, err := p.entryAt(m.Entry)
	if err != nil {
		return err
	}
	if r.key != m.Key {
		return fmt.Errorf("the entry at offset %d has another key", m.Entry.Offset)
	}
	body := markBody{Length: m.Entry.Length, Unit: m.Unit, Time: m.Time.UnixMicro(), Recipient: m.Recipient}
	if m.Marker != ([16]byte{}) {
		body.Marker = hex.EncodeToString(m.Marker[:])
	}
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	if len(data) > maxMark {
		return errors.New("a mark's recipient is too long")
	}
	b, err := p.queue(func(b *batch) error {
		b.reserve(recordHeaderSize + bodyChecksumSize + len(data))
		_, err := b.add(record{kind: recordMark, template: m.Entry.Offset, key: m.Key}, func(dst []byte) ([]byte, error) {
			return append(dst, data...), nil
		})
		return err
	})
	if err != nil {
		return err
	}
	return p.wait(b)
}

// Marks lists the hand-out marks in the order in which they were appended. A
// mark that doesn't check yields an error that is ErrPackDamaged, and the
// listing goes on; any other error ends it.
func (p *packFile) Marks(ctx context.Context) iter.Seq2[Mark, error] {
	return func(yield func(Mark, error) bool) {
		size, err := p.size()
		if err != nil {
			yield(Mark{}, err)
			return
		}
		s := newScan(p.f, size)
		for s.next() {
			if err := ctx.Err(); err != nil {
				yield(Mark{}, err)
				return
			}
			if s.record.kind != recordMark {
				continue
			}
			if m, err := s.mark(); !yield(m, err) {
				return
			}
		}
		if s.err != nil {
			yield(Mark{}, s.err)
		}
	}
}

// mark reads the mark that the scan has found.
func (s *scan) mark() (Mark, error) {
	r := &s.record
	damaged := fmt.Errorf("%w: the mark at offset %d doesn't check", ErrPackDamaged, r.offset)
	body, ok := bodyOf(s.body)
	if !ok || len(body) > maxMark {
		return Mark{}, damaged
	}
	var b markBody
	if err := json.Unmarshal(body, &b); err != nil {
		return Mark{}, damaged
	}
	m := Mark{Key: r.key, Entry: Ref{r.template, b.Length}, Unit: b.Unit, Time: time.UnixMicro(b.Time).UTC(), Recipient: b.Recipient}
	if b.Marker != "" {
		marker, err := hex.DecodeString(b.Marker)
		if err != nil || len(marker) != len(m.Marker) {
			return Mark{}, damaged
		}
		copy(m.Marker[:], marker)
	}
	return m, nil
}

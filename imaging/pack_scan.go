package imaging

import (
	"bytes"
	"io"
)

// scanWindow is how much of a pack a scan reads at a time, in bytes.
const scanWindow = 256 << 10

// scan goes through a pack's records. It reads nothing beyond size, and keeps
// no more than a window or one record in memory.
type scan struct {
	r    io.ReaderAt
	size int64

	window []byte
	start  int64 // offset of the window in the file

	// Of the record that next found:
	record record
	intact bool   // the body's checksum holds
	body   []byte // checksum and body; valid until the next call
	gap    int64  // damaged bytes before the record

	end int64 // where the last record ends
	err error // of the reader
}

func newScan(r io.ReaderAt, size int64) *scan {
	return &scan{r: r, size: size, end: packHeaderSize}
}

// next finds the next record. It returns false at the end of the pack, at its
// torn end, and on an error of the reader.
func (s *scan) next() bool {
	s.gap = 0
	if s.take(s.end) {
		return true
	}
	if s.err != nil || s.end >= s.size {
		return false
	}
	at, ok := s.resync()
	if !ok {
		return false
	}
	s.gap = at - s.end
	return s.take(at)
}

// take reads the record at offset; it reports whether there is one.
func (s *scan) take(offset int64) bool {
	head := s.bytes(offset, recordHeaderSize)
	if !s.record.unmarshal(head, offset, s.size) {
		return false
	}
	s.body = s.bytes(offset+recordHeaderSize, s.record.length)
	if s.body == nil {
		return false
	}
	_, s.intact = bodyOf(s.body)
	s.end = s.record.end()
	return true
}

// resync looks for the next record behind bytes that are none. It finds one
// only where a durable mark says that those bytes were durable once.
func (s *scan) resync() (int64, bool) {
	bad := s.end
	first := int64(-1)
	var r record
	for at := bad + 1; at+recordHeaderSize <= s.size; {
		if s.bytes(at, recordHeaderSize) == nil {
			return 0, false
		}
		chunk := s.window[at-s.start:]
		i := bytes.Index(chunk, []byte(recordMagic))
		if i < 0 {
			at += int64(len(chunk) - len(recordMagic) + 1)
			continue
		}
		at += int64(i)
		if !r.unmarshal(s.bytes(at, recordHeaderSize), at, s.size) {
			at++
			continue
		}
		if first < 0 {
			first = at
		}
		if r.durable > bad {
			return first, true
		}
		at = r.end()
	}
	return 0, false
}

// bytes returns n bytes at offset, nil where the file has fewer.
func (s *scan) bytes(offset, n int64) []byte {
	if s.err != nil || n > s.size-offset {
		return nil
	}
	if offset < s.start || offset+n > s.start+int64(len(s.window)) {
		if err := s.fill(offset, n); err != nil {
			s.err = err
			return nil
		}
	}
	at := offset - s.start
	return s.window[at : at+n]
}

func (s *scan) fill(offset, n int64) error {
	n = min(max(n, scanWindow), s.size-offset)
	if int64(cap(s.window)) < n {
		s.window = make([]byte, n)
	}
	s.window = s.window[:n]
	s.start = offset
	_, err := s.r.ReadAt(s.window, offset)
	if err == io.EOF { // cut off meanwhile
		return io.ErrUnexpectedEOF
	}
	return err
}

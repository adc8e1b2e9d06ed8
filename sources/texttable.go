package sources

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxTexts is the number of shared strings that a workbook may have: several for
// each row that a sheet can have.
const maxTexts = 1 << 24

// textTable holds a workbook's shared strings (ECMA-376 part 1, 18.4): in memory
// up to a limit, beyond it in a temporary file without a name.
type textTable struct {
	limit int
	mem   []byte
	ends  []uint64 // of each text, shifted left by one; the low bit: it is strange
	file  *os.File
	out   *bufio.Writer // while the file is written
	// Blocks of the file by their number modulo len(blocks).
	blocks []textBlock
}

type textBlock struct {
	number int64 // from 1
	data   []byte
}

const (
	textBlockSize = 1 << 14
	textBlocks    = 256
)

func (t *textTable) len() int { return len(t.ends) }

// read reads the part of the shared strings to its end.
func (t *textTable) read(r io.Reader) error {
	x := newXMLScan(r)
	var size uint64
	var text []byte
	for {
		err := x.next()
		if errors.Is(err, io.EOF) {
			return t.flush()
		}
		if err != nil {
			return err
		}
		switch {
		case x.level == 1 && x.start && string(x.name) != "sst":
			return fmt.Errorf("it is no table of texts: its root is %.20q", x.name)
		case !x.blank():
			return errors.New("it has text outside of its elements")
		case x.level != 2 || !x.start:
		case string(x.name) == "extLst":
			if err := x.skip(); err != nil {
				return err
			}
		case string(x.name) != "si":
			return fmt.Errorf("it has the element %.20q in place of a text", x.name)
		case len(t.ends) == maxTexts:
			return errors.New("it has too many texts")
		default:
			var strange bool
			if text, strange, err = x.richText(text[:0]); err != nil {
				return fmt.Errorf("text number %d: %w", len(t.ends), err)
			}
			if size += uint64(len(text)); size > maxUnpacked {
				return errors.New("its texts are too long")
			}
			end := size << 1
			if strange {
				end |= 1
			}
			t.ends = append(t.ends, end)
			if err := t.add(text); err != nil {
				return err
			}
		}
	}
}

func (t *textTable) add(text []byte) error {
	if t.file == nil && len(t.mem)+len(text) <= t.limit {
		t.mem = append(t.mem, text...)
		return nil
	}
	if t.file == nil {
		file, err := os.CreateTemp("", "keymill-manifest-")
		if err != nil {
			return errTemporary(err)
		}
		t.file = file
		if err := os.Remove(file.Name()); err != nil {
			return errTemporary(err)
		}
		t.out = bufio.NewWriterSize(file, 1<<16)
		if _, err := t.out.Write(t.mem); err != nil {
			return errTemporary(err)
		}
		t.mem = nil
	}
	if _, err := t.out.Write(text); err != nil {
		return errTemporary(err)
	}
	return nil
}

func (t *textTable) flush() error {
	if t.file == nil {
		return nil
	}
	if err := t.out.Flush(); err != nil {
		return errTemporary(err)
	}
	t.out, t.blocks = nil, make([]textBlock, textBlocks)
	return nil
}

// append appends text number i. strange says that it has an escape which may
// mean two things.
func (t *textTable) append(to []byte, i int) (_ []byte, strange bool, err error) {
	var begin uint64
	if i > 0 {
		begin = t.ends[i-1] >> 1
	}
	end := t.ends[i] >> 1
	strange = t.ends[i]&1 == 1
	if t.file == nil {
		return append(to, t.mem[begin:end]...), strange, nil
	}
	for begin < end {
		block, err := t.block(int64(begin / textBlockSize)) //nolint:gosec // at most maxUnpacked, see read
		if err != nil {
			return nil, false, err
		}
		part := block[begin%textBlockSize:]
		part = part[:min(uint64(len(part)), end-begin)]
		if len(part) == 0 {
			return nil, false, errTemporary(io.ErrUnexpectedEOF)
		}
		to = append(to, part...)
		begin += uint64(len(part))
	}
	return to, strange, nil
}

func (t *textTable) block(number int64) ([]byte, error) {
	b := &t.blocks[number%textBlocks]
	if b.number == number+1 {
		return b.data, nil
	}
	if b.data == nil {
		b.data = make([]byte, textBlockSize)
	}
	n, err := t.file.ReadAt(b.data[:textBlockSize], number*textBlockSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errTemporary(err)
	}
	b.number, b.data = number+1, b.data[:n]
	return b.data, nil
}

// Close gives the file back.
func (t *textTable) Close() error {
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}

package reports

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"keymill/pipeline"
)

// Heads is a file of signed checkpoints, to which they are only ever appended: a
// station's own beside its signing key, each written before it is used, or those
// that a witness cosigned. It lies apart from the ledger, so that a ledger that
// was put back cannot make a second history unseen.
//
// The file is the checkpoints one after the other, each followed by an empty
// line. What a crash left at the end is cut off.
type Heads struct {
	path string
	last map[string]namedHead // by origin
}

// maxHeads bounds the file: at 200 bytes a checkpoint it holds 5 million.
const maxHeads = 1 << 30

// A RolledBackError says that a log is older than a head of it that was signed,
// or another one.
type RolledBackError struct {
	Origin string
	Size   int64 // of the log
	Signed int64 // of the head that was signed
	Path   string
}

func (e *RolledBackError) Error() string {
	if e.Size < e.Signed {
		return fmt.Sprintf("the log %s has %d events, but a head of %d was signed: an older copy of the ledger was put back", e.Origin, e.Size, e.Signed)
	}
	return fmt.Sprintf("the log %s is not the one whose head of %d events was signed: the ledger was changed", e.Origin, e.Signed)
}

// Hint says what to do about it.
func (e *RolledBackError) Hint() string {
	return "find the newer ledger and put it back. If it is lost, go on under a new epoch, which bundles will say: " +
		"keymill audit restart. A ledger of its own under this key needs another audit.station. What was signed is in " + e.Path
}

// HeadsFile returns the path of the heads file that belongs to a key file.
func HeadsFile(key string) string { return key + ".heads" }

// OpenHeads reads a heads file; one that does not exist is empty.
func OpenHeads(path string) (*Heads, error) {
	h := &Heads{path: path, last: map[string]namedHead{}}
	data, err := readBounded(path, maxHeads)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return nil, err
	}
	text := string(data)
	for text != "" {
		one, rest, ok := cutHead(text)
		if !ok {
			return h, nil // torn by a crash: the head was never used
		}
		head, err := readHead(one)
		if err != nil {
			return nil, pipeline.WithHint(fmt.Errorf("%s: %w", path, err), "put the file back from a backup; without it a ledger that was put back cannot be told")
		}
		if old, known := h.last[head.Origin]; !known || old.Size <= head.Size {
			h.last[head.Origin] = head
		}
		text = rest
	}
	return h, nil
}

// cutHead cuts off one signed checkpoint: body, empty line, signatures, empty line.
func cutHead(text string) (one, rest string, ok bool) {
	body := strings.Index(text, "\n\n")
	if body < 0 {
		return "", "", false
	}
	end := strings.Index(text[body+2:], "\n\n")
	if end < 0 {
		return "", "", false
	}
	end += body + 2
	return text[:end+1], text[end+2:], true
}

func readHead(signed string) (namedHead, error) {
	c, err := openCheckpoint([]byte(signed), nil, nil)
	if err != nil {
		return namedHead{}, err
	}
	return namedHead{Origin: c.origin, Root: c.root.String(), Size: c.size}, nil
}

// Last returns the largest head of a log that the file holds.
func (h *Heads) Last(origin string) (size int64, root string, ok bool) {
	if h == nil {
		return 0, "", false
	}
	last, ok := h.last[origin]
	return last.Size, last.Root, ok
}

// Append adds a signed checkpoint, durably. One that the file ends with for this
// log is not written again; one that contradicts it is a *RolledBackError.
func (h *Heads) Append(signed []byte) error {
	if h == nil {
		return nil
	}
	head, err := readHead(string(signed))
	if err != nil {
		return err
	}
	last, known := h.last[head.Origin]
	switch {
	case known && last == head:
		return nil
	case known && last.Size >= head.Size:
		return &RolledBackError{Origin: head.Origin, Size: head.Size, Signed: last.Size, Path: h.path}
	}
	if err := appendDurably(h.path, append(bytes.Clone(signed), '\n')); err != nil {
		return &pipeline.Outage{Part: pipeline.PartStorage, Err: fmt.Errorf("heads file: %w", err),
			Hint: "check that the folder of the signing key is writable and has room"}
	}
	h.last[head.Origin] = head
	return nil
}

// Inherit takes over what another heads file holds, if this one holds nothing.
func (h *Heads) Inherit(from *Heads) error {
	if len(h.last) > 0 || h.path == from.path {
		return nil
	}
	data, err := readBounded(from.path, maxHeads)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := appendDurably(h.path, data); err != nil {
		return err
	}
	maps.Copy(h.last, from.last)
	return nil
}

// appendDurably appends to a file under a lock, after what is whole in it.
func appendDurably(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	end, err := wholeEnd(f)
	if err != nil {
		return err
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	if _, err := f.WriteAt(data, end); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// wholeEnd returns where the last whole head ends: a whole one ends with an
// empty line after its signatures, and a torn one has at most one empty line.
func wholeEnd(f *os.File) (int64, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	tail := make([]byte, min(size, 1<<20))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil && len(tail) > 0 {
		return 0, err
	}
	text := string(tail)
	none := func() (int64, error) {
		if int64(len(tail)) < size {
			return 0, fmt.Errorf("%s does not end with a signed checkpoint", f.Name())
		}
		return 0, nil
	}
	// Torn: go back to the last empty line that follows signatures.
	for text != "" {
		i := strings.LastIndex(text, "\n\n")
		if i < 0 {
			return none()
		}
		line := text[strings.LastIndex(text[:i], "\n")+1 : i]
		if strings.HasPrefix(line, "— ") {
			return size - int64(len(tail)) + int64(i) + 2, nil
		}
		text = text[:i+1]
	}
	return none()
}

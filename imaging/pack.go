package imaging

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// Ref says where in a pack an entry lies.
type Ref struct {
	Offset int64 // bytes from the start of the pack
	Length int64 // bytes
}

// Entry is what Entries tells of one overlay.
type Entry struct {
	Key       [32]byte // as given to Append
	Ref       Ref
	Destroyed bool
	// Damaged entries don't check: Read refuses them, Destroy wipes them.
	Damaged bool
}

// ErrPackInUse is returned by CreatePack and OpenPack while another process,
// or this one, has the pack open for writing.
var ErrPackInUse = errors.New("another process has the pack open for writing")

// Pack is an append-only file of overlays of one golden image. With golden it
// is all that device images are made from. It holds private keys: the file's
// mode is 0600. All methods but Close may be called by many goroutines at once.
type Pack struct {
	packFile

	// turn is held by the goroutine that commits a batch.
	turn chan struct{}

	mu      sync.Mutex // guards what follows
	gather  *batch     // the batch that is being gathered
	spare   []byte     // memory for a batch, wiped
	durable int64      // the file is durable up to this offset
	ids     map[[32]byte]int64
	offsets map[*Template]int64
	err     error // the failed commit, after which nothing is written
}

// CreatePack makes a pack for the golden image with this SHA-256 and length in
// bytes, and opens it for writing. The file and its name are durable on
// return. The error is an fs.ErrExist where the file exists.
func CreatePack(path string, golden [32]byte, goldenBytes int64) (*Pack, error) {
	header := packHeader{golden: golden, goldenBytes: goldenBytes}
	if _, err := rand.Read(header.seed[:]); err != nil {
		return nil, fmt.Errorf("make pack: %w", err)
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, packTemp+"*")
	if err != nil {
		return nil, fmt.Errorf("make pack: %w", err)
	}
	err = func() error {
		defer os.Remove(f.Name())
		if err := lock(f); err != nil { // it is no leftover
			return err
		}
		if _, err := f.Write(header.marshal()); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		if err := os.Link(f.Name(), path); err != nil {
			return err
		}
		return syncDir(dir)
	}()
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("make pack %s: %w", path, err)
	}
	return OpenPack(path)
}

// OpenPack opens a pack for writing. It reads the pack to its end, wipes and
// cuts off a torn tail, which may hold bytes of keys, and completes
// destructions that were interrupted. A pack whose file header is missing is
// refused with ErrNotPack, one that is open elsewhere with ErrPackInUse, and one
// of which durable bytes were lost is opened: Entries and HeaderDamaged tell what
// is damaged. A pack of version 1 becomes one of version 2, with a UUID.
func OpenPack(path string) (*Pack, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open pack: %w", err)
	}
	p := &Pack{
		turn:    make(chan struct{}, 1),
		ids:     make(map[[32]byte]int64),
		offsets: make(map[*Template]int64),
	}
	err = lock(f)
	if err == nil {
		err = p.init(f)
	}
	if err == nil {
		err = p.recover()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open pack %s: %w", path, err)
	}
	return p, nil
}

// lock takes the pack's exclusive lock without waiting.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrPackInUse
	}
	return err
}

// recover brings the file into order after a crash and learns its end.
func (p *Pack) recover() error {
	size, err := p.size()
	if err != nil {
		return err
	}
	changed := false
	s := newScan(p.f, size)
	for s.next() {
		r, body := s.record, s.body
		switch {
		case r.kind == recordTemplate && s.intact:
			p.ids[r.key] = r.offset
		case r.destroyed && !allZero(body):
			changed = true
			if err := p.wipe(r.ref()); err != nil {
				return err
			}
		}
	}
	if s.err != nil {
		return s.err
	}
	if p.header.version == packVersion1 && !p.damaged {
		changed = true
		if err := p.upgrade(); err != nil {
			return err
		}
	}
	end := s.end
	if end < size {
		changed = true
		if err := p.cut(end, size); err != nil {
			return err
		}
	}
	if changed {
		if err := p.f.Sync(); err != nil {
			return err
		}
	}
	p.durable = end
	p.gather = newBatch(end)
	return nil
}

// upgrade makes a pack of version 1 one of version 2. The header lies in one
// sector, so that no crash leaves half of it.
func (p *Pack) upgrade() error {
	h := p.header
	h.version = packVersion
	if _, err := rand.Read(h.seed[:]); err != nil {
		return err
	}
	if _, err := p.f.WriteAt(h.marshal(), 0); err != nil {
		return err
	}
	p.header = h
	return nil
}

// cut overwrites what lies behind end with zeros, and then cuts it off.
func (p *Pack) cut(end, size int64) error {
	if err := zero(p.f, end, size-end); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(p.f.Fd())); err != nil {
		return err
	}
	return p.f.Truncate(end)
}

// Close closes the pack and gives up its lock. Appends must have returned.
func (p *Pack) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = fs.ErrClosed
	}
	return p.f.Close()
}

// PackReader reads a pack, also while a run appends to it.
type PackReader struct{ packFile }

// ReadPack opens a pack for reading only and takes no lock.
func ReadPack(path string) (*PackReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read pack: %w", err)
	}
	p := new(PackReader)
	if err := p.init(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("read pack %s: %w", path, err)
	}
	return p, nil
}

// Close closes the file.
func (p *PackReader) Close() error { return p.f.Close() }

// Find returns the latest entry with this key, fs.ErrNotExist if there is none.
// It reads the whole pack.
func (p *PackReader) Find(ctx context.Context, key [32]byte) (Entry, error) {
	var found *Entry
	for e, err := range p.Entries(ctx) {
		if err != nil && !errors.Is(err, ErrPackDamaged) {
			return Entry{}, err
		}
		if err == nil && e.Key == key {
			found = &e
		}
	}
	if found == nil {
		return Entry{}, fmt.Errorf("find %x in the pack: %w", key, fs.ErrNotExist)
	}
	return *found, nil
}

// packFile is what reading and writing packs share.
type packFile struct {
	f       *os.File
	header  packHeader
	damaged bool // the header: what is known comes from the first template

	templatesMu sync.Mutex
	templates   map[int64]*Template // by the offset of their records
}

func (p *packFile) init(f *os.File) error {
	b := make([]byte, packHeaderSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		return fmt.Errorf("%w: it ends within its header", ErrNotPack)
	}
	p.f = f
	p.templates = make(map[int64]*Template)
	err := p.header.unmarshal(b)
	if err == nil || p.header.version != 0 && errors.Is(err, ErrNotPack) {
		return err
	}
	if !p.salvage() {
		return err
	}
	p.damaged = true
	return nil
}

// salvageWithin is where a pack whose header is damaged must have its first
// template, in bytes from its start.
const salvageWithin = 64 << 20

// salvage learns from the first template what a damaged header doesn't say.
func (p *packFile) salvage() bool {
	size, err := p.size()
	if err != nil {
		return false
	}
	s := newScan(p.f, min(size, salvageWithin))
	for s.next() {
		if s.record.kind != recordTemplate || !s.intact {
			continue
		}
		body, _ := bodyOf(s.body)
		t, err := UnmarshalTemplate(body)
		if err != nil {
			return false
		}
		p.header = packHeader{version: packVersion, golden: t.Golden, goldenBytes: t.GoldenBytes}
		return true
	}
	return false
}

// HeaderDamaged reports whether the file's header doesn't check. Entries can be
// read and destroyed, but UUID is zero.
func (p *packFile) HeaderDamaged() bool { return p.damaged }

// UUID names the pack: no two packs have the same. It is zero where a pack of
// version 1 was opened for reading only, or the header is damaged.
func (p *packFile) UUID() [16]byte { return p.header.uuid() }

func (p *packFile) size() (int64, error) {
	info, err := p.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Golden returns SHA-256 and length in bytes of the golden image that the
// pack's overlays belong to.
func (p *packFile) Golden() (sum [32]byte, size int64) {
	return p.header.golden, p.header.goldenBytes
}

// Entries lists all overlays in the order in which they were appended. A
// region that doesn't check yields an error that is ErrPackDamaged, and the
// listing goes on behind it; any other error ends it. A torn end is no error.
func (p *packFile) Entries(ctx context.Context) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		size, err := p.size()
		if err != nil {
			yield(Entry{}, err)
			return
		}
		s := newScan(p.f, size)
		for s.next() {
			if err := ctx.Err(); err != nil {
				yield(Entry{}, err)
				return
			}
			r := s.record
			if s.gap > 0 && !yield(Entry{}, fmt.Errorf("%w: %d bytes at offset %d", ErrPackDamaged, s.gap, r.offset-s.gap)) {
				return
			}
			if r.kind != recordEntry {
				continue
			}
			e := Entry{Key: r.key, Ref: r.ref(), Destroyed: r.destroyed, Damaged: !r.destroyed && !s.intact}
			if !yield(e, nil) {
				return
			}
		}
		if s.err != nil {
			yield(Entry{}, s.err)
		}
	}
}

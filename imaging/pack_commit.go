package imaging

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// batchSize is the memory that a batch starts with, in bytes.
const batchSize = 256 << 10

// batch is what one sync makes durable.
type batch struct {
	base  int64  // offset in the file of buf
	buf   []byte // whole records
	wipes []Ref
	done  chan struct{} // closed when err is final
	err   error
}

func newBatch(base int64) *batch {
	return &batch{base: base, done: make(chan struct{})}
}

// reserve makes room for n bytes without leaving a copy of keys behind.
func (b *batch) reserve(n int) {
	if cap(b.buf)-len(b.buf) >= n {
		return
	}
	grown := make([]byte, len(b.buf), max(batchSize, 2*(len(b.buf)+n)))
	copy(grown, b.buf)
	clear(b.buf)
	b.buf = grown
}

// add appends a record whose body is written by the function, and returns
// where it lies.
func (b *batch) add(r record, body func(dst []byte) ([]byte, error)) (Ref, error) {
	from := len(b.buf)
	r.offset = b.base + int64(from)
	buf := r.appendTo(b.buf)
	buf, err := body(append(buf, 0, 0, 0, 0))
	if err == nil && len(buf)-from > 1<<31 {
		err = errors.New("an overlay of more than 2 GiB doesn't fit into a pack")
	}
	if err != nil {
		return Ref{}, err
	}
	b.buf = buf
	r.length = int64(len(buf)-from) - recordHeaderSize
	putLength(buf[from:], r.length)
	return r.ref(), nil
}

// Append adds an overlay under a key of the caller's choice, and returns when
// it is durable. Callers at the same time share one sync, so use many. The
// template is stored before the first entry that uses it. A cancelled context is
// heeded before the entry is queued, not after. After an error of the disk
// every further call returns it, and nothing of the failed entries remains:
// the pack must be opened again.
func (p *Pack) Append(ctx context.Context, key [32]byte, o *Overlay) (Ref, error) {
	if err := ctx.Err(); err != nil {
		return Ref{}, err
	}
	if o.Template.Golden != p.header.golden || o.Template.GoldenBytes != p.header.goldenBytes {
		return Ref{}, errors.New("append to pack: the overlay belongs to another golden image than the pack")
	}
	var ref Ref
	b, err := p.queue(func(b *batch) error {
		template, err := p.store(b, o.Template)
		if err != nil {
			return err
		}
		b.reserve(entryBound(o))
		ref, err = b.add(record{kind: recordEntry, template: template, key: key}, func(dst []byte) ([]byte, error) {
			return appendSlots(dst, o.Slots)
		})
		return err
	})
	if err == nil {
		err = p.wait(b)
	}
	if err != nil {
		return Ref{}, fmt.Errorf("append to pack: %w", err)
	}
	return ref, nil
}

// entryBound returns what an entry takes at most, in bytes.
func entryBound(o *Overlay) int {
	n := recordHeaderSize + bodyChecksumSize + 10
	for _, s := range o.Slots {
		n += 30 + len(s.Data)
	}
	return n
}

// store returns the offset of the template's record and queues it if it is
// new. The caller holds p.mu.
func (p *Pack) store(b *batch, t *Template) (int64, error) {
	if offset, ok := p.offsets[t]; ok {
		return offset, nil
	}
	data, err := t.MarshalBinary()
	if err != nil {
		return 0, err
	}
	id := sha256.Sum256(data)
	offset, ok := p.ids[id]
	if !ok {
		b.reserve(recordHeaderSize + bodyChecksumSize + len(data))
		ref, err := b.add(record{kind: recordTemplate, key: id}, func(dst []byte) ([]byte, error) {
			return append(dst, data...), nil
		})
		if err != nil {
			return 0, err
		}
		offset = ref.Offset
		p.ids[id] = offset
	}
	p.offsets[t] = offset
	return offset, nil
}

// Destroy overwrites entries with zeros, marks them as destroyed, and returns
// when that is durable. Destroying twice is no error. On copy-on-write file
// systems and in flash memory the old bytes may survive where no file shows
// them, until the medium uses their place again.
func (p *Pack) Destroy(refs ...Ref) error {
	for _, ref := range refs {
		if _, err := p.entryAt(ref); err != nil {
			return fmt.Errorf("destroy in pack: %w", err)
		}
	}
	b, err := p.queue(func(b *batch) error {
		b.wipes = append(b.wipes, refs...)
		return nil
	})
	if err == nil {
		err = p.wait(b)
	}
	if err != nil {
		return fmt.Errorf("destroy in pack: %w", err)
	}
	return nil
}

// queue adds to the batch that is being gathered, and returns it.
func (p *Pack) queue(add func(b *batch) error) (*batch, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	return p.gather, add(p.gather)
}

// wait returns when the batch is durable. Whoever gets the turn commits for
// all that have gathered meanwhile.
func (p *Pack) wait(b *batch) error {
	select {
	case <-b.done:
	case p.turn <- struct{}{}:
		p.commit(b)
		<-p.turn
	}
	return b.err
}

// commit writes a batch and makes it durable, unless that was done already.
func (p *Pack) commit(b *batch) {
	p.mu.Lock()
	if p.gather != b {
		p.mu.Unlock()
		return
	}
	end := b.base + int64(len(b.buf))
	p.gather = newBatch(end)
	p.gather.buf, p.spare = p.spare, nil
	durable, err := p.durable, p.err
	p.mu.Unlock()

	if err == nil {
		err = p.write(b, durable)
	}
	clear(b.buf)
	p.mu.Lock()
	if err == nil {
		p.durable = end
	} else {
		p.err = err
	}
	p.spare = b.buf[:0]
	p.mu.Unlock()
	b.err = err
	close(b.done)
}

// write writes a batch and makes it durable. Where that fails it removes what
// it can of the batch.
func (p *Pack) write(b *batch, durable int64) error {
	seal(b.buf, durable)
	_, err := p.f.WriteAt(b.buf, b.base)
	slices.SortFunc(b.wipes, func(a, b Ref) int { return int(a.Offset - b.Offset) })
	for _, ref := range b.wipes {
		if err != nil {
			break
		}
		err = p.wipe(ref)
	}
	if err == nil {
		err = unix.Fdatasync(int(p.f.Fd()))
	}
	if err == nil || len(b.buf) == 0 {
		return err
	}
	if size, serr := p.size(); serr == nil && size > b.base {
		return errors.Join(err, p.cut(b.base, size))
	}
	return err
}

// wipe zeroes an entry's body, and marks it as destroyed.
func (p *Pack) wipe(ref Ref) error {
	if _, err := p.f.WriteAt([]byte{stateDestroyed}, ref.Offset+recordStateAt); err != nil {
		return err
	}
	return zero(p.f, ref.Offset+recordHeaderSize, ref.Length-recordHeaderSize)
}

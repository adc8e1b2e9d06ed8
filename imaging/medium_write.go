package imaging

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// WriteMediumOptions says how a medium is written.
type WriteMediumOptions struct {
	// Marker is the unit's own random number; it must not be zero.
	Marker [16]byte
	// Resumed says that this unit's bytes may be on the medium already, from a
	// writing that was interrupted.
	Resumed bool
	// BeforeKey is called when all but the device's own bytes is on the medium and
	// was compared. Its error stops the writing, and no key is out. It may be nil.
	BeforeKey func(ctx context.Context) error
	// Progress is told how far the writing is; it may be nil.
	Progress func(MediumProgress)
}

// MediumProgress says how far a medium's writing is.
type MediumProgress struct {
	Phase       string // "write", "compare", "key"
	Done, Total int64  // bytes of the phase
}

// MediumResult says what was done.
type MediumResult struct {
	Written int64 // bytes written, and compared
	Skipped int64 // bytes that golden's own block map leaves out
}

// MediumError is why a medium was not written.
type MediumError struct {
	// Code is "unfit", "interrupted", "write", "read-back", "golden", "refused"
	// (by BeforeKey) or "hang".
	Code string
	// KeyLeft says that bytes of the key may be on the medium: they could not be
	// overwritten, or that could not be seen. Otherwise none is: none was written,
	// or all of them were overwritten and read back.
	KeyLeft bool
	Err     error
}

func (e *MediumError) Error() string {
	if e.KeyLeft {
		return e.Err.Error() + "; the device's key may be on the medium"
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *MediumError) Unwrap() error { return e.Err }

// Hint returns the advice.
func (e *MediumError) Hint() string {
	var hinted interface{ Hint() string }
	switch {
	case e.KeyLeft:
		return "Put the same medium back and write it again, or destroy the medium and scrap the unit."
	case errors.As(e.Err, &hinted):
		return hinted.Hint()
	case e.Code == "interrupted":
		return "Nothing of the device's key is on the medium. Write it again."
	}
	return "Nothing of the device's key is on the medium. Look at the medium and its reader, and take another one."
}

// mediumGrace is how long an interrupted writing may take to end and to wipe the
// key's bytes, before the medium is given up as hanging.
const mediumGrace = 20 * time.Second

// Write puts a device's image on the medium in an order in which it can boot only
// when all of it is right: a unit marker into the first sector; golden without the
// device's own bytes; compare; these bytes; compare; the first MiB, the first
// sector last. The disk's cache is flushed between the steps. Golden's hash is
// compared with what was read of it. An error is a *MediumError; once bytes of the
// key were written, it has overwritten them, or says that it could not.
func (m *Medium) Write(ctx context.Context, g Image, o *Overlay, opt WriteMediumOptions) (MediumResult, error) {
	w := &mediumWriter{m: m, golden: g, overlay: o, opt: opt}
	if opt.Marker == [16]byte{} {
		return MediumResult{}, &MediumError{Code: "unfit", Err: errors.New("a medium needs a unit's marker")}
	}
	w.keyOut.Store(opt.Resumed)
	done := make(chan error, 1)
	go func() { done <- w.run(ctx) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		timer := time.NewTimer(mediumGrace)
		defer timer.Stop()
		select {
		case err = <-done:
		case <-timer.C:
			return MediumResult{}, &MediumError{Code: "hang", KeyLeft: w.keyOut.Load(),
				Err: fmt.Errorf("write to %s: the medium doesn't answer: %w", m.id.Path, ctx.Err())}
		}
	}
	if err != nil {
		return MediumResult{}, err
	}
	return w.result, nil
}

// mediumWriter writes one medium once.
type mediumWriter struct {
	m       *Medium
	golden  Image
	overlay *Overlay
	opt     WriteMediumOptions

	image  *Reader // the device's
	plain  *Reader // without the device's own bytes
	head   int64
	body   []Span // what is written of plain, in steps of 64 KiB
	own    []Span // blocks that hold the device's own bytes, behind the head
	result MediumResult
	noZero bool // the medium has no command for zeros

	keyOut atomic.Bool // bytes of the key may be on the medium
}

// run writes, and wipes after a failure.
func (w *mediumWriter) run(ctx context.Context) error {
	code, err := w.write(ctx)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		code = "interrupted"
	}
	failed := &MediumError{Code: code, Err: fmt.Errorf("write to %s: %w", w.m.id.Path, err)}
	if !w.keyOut.Load() {
		return failed
	}
	if werr := w.m.wipe(w.overlay.Template, w.opt.Marker); werr != nil {
		failed.KeyLeft = true
		failed.Err = fmt.Errorf("%w; overwriting the key failed, too: %w", failed.Err, werr)
		return failed
	}
	w.keyOut.Store(false)
	return failed
}

// write returns the error's code with it.
func (w *mediumWriter) write(ctx context.Context) (code string, err error) {
	if err := w.prepare(ctx); err != nil {
		return "unfit", err
	}
	if err := w.begin(); err != nil {
		return codeOf(err), err
	}
	sum, err := w.pass(ctx, "write", w.put)
	if err != nil {
		return codeOf(err), err
	}
	if sum != w.golden.SHA256() {
		return "golden", goldenRotted(w.golden.Path())
	}
	if err := w.golden.Unchanged(); err != nil {
		return "golden", err
	}
	if err := w.m.sync(); err != nil {
		return "write", err
	}
	back := alignedBuffer(mediumStep)
	defer clear(back)
	_, err = w.pass(ctx, "compare", func(buf []byte, s Span) error { return w.m.compare(buf[:s.Length], back, s.Offset) })
	if err != nil {
		return codeOf(err), err
	}
	if w.opt.BeforeKey != nil {
		if err := w.opt.BeforeKey(ctx); err != nil {
			return "refused", err
		}
	}
	if err := ctx.Err(); err != nil {
		return "interrupted", err
	}
	w.keyOut.Store(true)
	for _, s := range w.ownParts() {
		if err := w.whole(s); err != nil {
			return codeOf(err), err
		}
	}
	for _, s := range []Span{{w.m.sector, w.head - w.m.sector}, {0, min(w.m.sector, w.head)}} {
		if err := ctx.Err(); err != nil {
			return "interrupted", err
		}
		if err := w.whole(s); err != nil {
			return codeOf(err), err
		}
	}
	w.tell("key", w.head, w.head)
	if !w.m.plain {
		_ = unix.IoctlSetInt(int(w.m.f.Fd()), unix.BLKRRPART, 0) // for the kernel's convenience
	}
	return "", nil
}

func codeOf(err error) string {
	if differs := (*mediumDiffers)(nil); errors.As(err, &differs) {
		return "read-back"
	}
	return "write"
}

// prepare finds out what is to be written, and whether it fits.
func (w *mediumWriter) prepare(ctx context.Context) (err error) {
	if w.image, err = NewReader(w.golden, w.overlay); err != nil {
		return err
	}
	size := w.image.size
	if !w.m.plain && w.m.size < size {
		return refuse("Use a larger medium.", "the image has %d bytes, the medium only %d", size, w.m.size)
	}
	t := w.overlay.Template
	w.plain = newReader(w.golden, size, t.Constant)
	w.head = min(mediumHead, size)
	spans, err := w.golden.Matter(ctx)
	if err != nil {
		return err
	}
	var own []Span
	for _, e := range t.Constant {
		spans = append(spans[:len(spans):len(spans)], Span{e.Offset, int64(len(e.Data))})
	}
	for _, e := range w.overlay.Slots {
		own = append(own, Span{e.Offset, int64(len(e.Data))})
	}
	w.body = within(widenSpans(spans, mediumRun, size), w.head, size)
	w.own = within(widenSpans(own, mediumBlock, size), w.head, size)
	w.result.Written = w.head
	for _, s := range w.body {
		w.result.Written += s.Length
	}
	w.result.Skipped = size - w.result.Written
	return nil
}

// mediumRun is the granularity of what is written, in bytes: what flash media
// write at once is at least that large.
const mediumRun = 64 << 10

// begin puts the unit's marker in the first sector, and zeros behind it.
func (w *mediumWriter) begin() error {
	if w.m.plain {
		if err := w.m.f.Truncate(w.image.size); err != nil {
			return err
		}
		w.m.size = w.image.size
	}
	buf, back := alignedBuffer(mediumHead), alignedBuffer(mediumHead)
	copy(buf, marshalMarker(w.opt.Marker, w.golden.SHA256(), w.m.sector))
	// The sector with the marker first: what else the head holds may still boot.
	for _, n := range []int64{min(w.m.sector, w.head), w.head} {
		if err := w.m.write(buf, n, 0); err != nil {
			return err
		}
		if err := w.m.sync(); err != nil {
			return err
		}
	}
	return w.m.compare(buf[:w.head], back, 0)
}

// mediumPiece is a part of the image on its way to the medium.
type mediumPiece struct {
	buf []byte
	at  int64
	n   int64
}

// pass reads all of golden, and calls do with each run of what the medium gets of
// it, while the next part is read. It returns golden's hash.
func (w *mediumWriter) pass(ctx context.Context, phase string, do func(buf []byte, s Span) error) (sum [sha256.Size]byte, err error) {
	work, ctx := errgroup.WithContext(ctx)
	free, full := make(chan []byte, 3), make(chan mediumPiece, 3)
	for range cap(free) {
		free <- alignedBuffer(mediumStep)
	}
	digest := sha256.New()
	work.Go(func() error {
		defer close(full)
		return w.read(ctx, digest, free, full)
	})
	work.Go(func() error {
		var done int64
		total := w.result.Written - w.head
		for p := range full {
			if err := ctx.Err(); err != nil {
				return err
			}
			for _, s := range within(w.body, p.at, p.at+p.n) {
				if err := do(p.buf[s.Offset-p.at:], s); err != nil {
					return err
				}
				done += s.Length
				w.tell(phase, done, total)
			}
			free <- p.buf
		}
		return nil
	})
	if err := work.Wait(); err != nil {
		return sum, err
	}
	digest.Sum(sum[:0])
	return sum, nil
}

// read reads golden from its start, and puts the template's constant bytes over
// it.
func (w *mediumWriter) read(ctx context.Context, digest hash.Hash, free <-chan []byte, full chan<- mediumPiece) error {
	for at := int64(0); at < w.image.size; at += mediumStep {
		var buf []byte
		select {
		case buf = <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
		n := min(mediumStep, w.image.size-at)
		if err := readFull(w.golden, buf[:n], at); err != nil {
			return fmt.Errorf("read the golden image: %w", err)
		}
		digest.Write(buf[:n])
		overlayOnto(buf[:n], at, w.plain.extents)
		select {
		case full <- mediumPiece{buf, at, n}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// overlayOnto puts extents over the image's bytes from at on.
func overlayOnto(p []byte, at int64, extents []Extent) {
	for _, e := range extents {
		from, to := max(e.Offset, at), min(e.Offset+int64(len(e.Data)), at+int64(len(p)))
		if from < to {
			copy(p[from-at:to-at], e.Data[from-e.Offset:])
		}
	}
}

// put writes a run; long runs of zeros by the medium's own command.
func (w *mediumWriter) put(buf []byte, s Span) error {
	for s.Length > 0 {
		isZero := allZero(buf[:min(mediumRun, s.Length)])
		n := min(mediumRun, s.Length)
		for n < s.Length && allZero(buf[n:min(n+mediumRun, s.Length)]) == isZero {
			n = min(n+mediumRun, s.Length)
		}
		if isZero && !w.noZero && n >= 4*mediumRun && n%mediumBlock == 0 {
			if w.m.zero(Span{s.Offset, n}) {
				buf, s = buf[n:], Span{s.Offset + n, s.Length - n}
				continue
			}
			w.noZero = true
		}
		if err := w.m.write(buf, n, s.Offset); err != nil {
			return err
		}
		buf, s = buf[n:], Span{s.Offset + n, s.Length - n}
	}
	return nil
}

// ownParts returns the blocks with the device's own bytes, none longer than a
// step.
func (w *mediumWriter) ownParts() []Span {
	var out []Span
	for _, s := range w.own {
		for at, end := s.Offset, s.Offset+s.Length; at < end; at += mediumHead {
			out = append(out, Span{at, min(mediumHead, end-at)})
		}
	}
	return out
}

// whole writes a part of the device's image, makes it durable and compares it.
func (w *mediumWriter) whole(s Span) error {
	if s.Length <= 0 {
		return nil
	}
	buf, back := alignedBuffer(mediumHead), alignedBuffer(mediumHead)
	defer clear(buf)
	defer clear(back)
	if err := readFull(w.image, buf[:s.Length], s.Offset); err != nil {
		return err
	}
	if err := w.m.write(buf, s.Length, s.Offset); err != nil {
		return err
	}
	if err := w.m.sync(); err != nil {
		return err
	}
	return w.m.compare(buf[:s.Length], back, s.Offset)
}

func (w *mediumWriter) tell(phase string, done, total int64) {
	if w.opt.Progress != nil {
		w.opt.Progress(MediumProgress{phase, done, total})
	}
}

// Wipe makes a medium useless that may hold a device's image of this template: the
// first and the last MiB and the blocks with the device's own bytes are
// overwritten and read back. Only its success says that no key is left.
func (m *Medium) Wipe(t *Template) error {
	marker, _, err := readMarker(m)
	if err == nil {
		err = m.wipe(t, marker)
	}
	if err != nil {
		return fmt.Errorf("wipe %s: %w", m.id.Path, err)
	}
	return nil
}

func (m *Medium) wipe(t *Template, marker [16]byte) error {
	size := min(m.size, t.GoldenBytes)
	ends := []Span{{0, min(mediumHead, m.size)}, {max(0, size-mediumHead) / mediumBlock * mediumBlock, 0}}
	ends[1].Length = size - ends[1].Offset
	if !m.plain {
		from := max(0, m.size-mediumHead) / mediumBlock * mediumBlock
		ends = append(ends, Span{from, m.size - from})
	}
	// The boot record first, so that the medium can't boot whatever comes. The marker
	// stays as long as bytes of the key may be there.
	head := alignedBuffer(mediumHead)
	if marker != [16]byte{} {
		copy(head, marshalMarker(marker, t.Golden, m.sector))
	}
	if err := m.write(head, ends[0].Length, 0); err != nil {
		return err
	}
	if err := m.sync(); err != nil {
		return err
	}
	if err := m.overwrite(widenSpans(t.variable(), mediumBlock, size), true); err != nil {
		return err
	}
	return m.overwrite(joinSpans(ends), false)
}

// overwrite fills ranges with random bytes, which no faulty medium reads back by
// chance, or with zeros, makes that durable and reads it back.
func (m *Medium) overwrite(spans []Span, random bool) error {
	var list []Extent
	for _, s := range spans {
		for at, end := s.Offset, s.Offset+s.Length; at < end; at += mediumStep {
			n := min(mediumStep, end-at)
			buf := alignedBuffer((n + mediumBlock - 1) / mediumBlock * mediumBlock)[:n]
			if random {
				if _, err := rand.Read(buf); err != nil {
					return err
				}
			}
			list = append(list, Extent{at, buf})
			if err := m.write(buf[:cap(buf)], n, at); err != nil {
				return err
			}
		}
	}
	if err := m.sync(); err != nil {
		return err
	}
	back := alignedBuffer(mediumStep)
	for _, e := range list {
		if err := m.compare(e.Data, back, e.Offset); err != nil {
			return err
		}
	}
	return nil
}

package imaging

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// FlashOptions says how a device is written.
type FlashOptions struct {
	// Zero writes zeros where golden has holes; otherwise these keep what lies
	// on the device. Set it for golden images whose holes mean zeros: those that
	// were made sparse by copying.
	Zero bool
	// Progress is told from time to time how many of all bytes were written or,
	// when verify is set, compared; it may be nil.
	Progress func(verify bool, done, total int64)
}

// FlashResult says what was done.
type FlashResult struct {
	Written int64 // bytes written, and compared afterwards
	Skipped int64 // bytes of golden's holes
}

// flashStep is how much is written or read at a time, in bytes.
const flashStep = 1 << 20

// Flash writes a device's image to a block device, and compares what the
// medium holds then with what was written. It refuses what is no whole disk,
// is mounted, or otherwise in use. The beginning of the image, which holds the
// partition table, is written last, so that a device whose writing was
// interrupted doesn't look like a whole one.
func Flash(ctx context.Context, device string, g Image, o *Overlay, opt FlashOptions) (FlashResult, error) {
	result, err := flash(ctx, device, g, o, opt)
	if err != nil {
		return FlashResult{}, fmt.Errorf("write to %s: %w", device, err)
	}
	return result, nil
}

func flash(ctx context.Context, device string, g Image, o *Overlay, opt FlashOptions) (FlashResult, error) {
	image, err := NewReader(g, o)
	if err != nil {
		return FlashResult{}, err
	}
	dev, err := openDisk(device, image.size)
	if err != nil {
		return FlashResult{}, err
	}
	defer dev.Close()
	golden, err := os.Open(g.Path())
	if err != nil {
		return FlashResult{}, err
	}
	defer golden.Close()
	filled, err := dataWithin(golden, 0, image.size)
	if err != nil {
		return FlashResult{}, err
	}
	spans := flashSpans(filled, image, opt.Zero)
	f := &flasher{ctx: ctx, dev: dev, image: image, opt: opt, spans: spans}
	for _, s := range spans {
		f.total += s.Length
	}
	if err := f.run(); err != nil {
		return FlashResult{}, err
	}
	_ = unix.IoctlSetInt(int(dev.Fd()), unix.BLKRRPART, 0) // for the kernel's convenience
	return FlashResult{Written: f.total, Skipped: image.size - f.total}, g.Unchanged()
}

// flashSpans returns what to write: golden's data and the overlay in whole
// blocks, cut into steps, in ascending order.
func flashSpans(filled []Span, image *Reader, all bool) []Span {
	if all {
		filled = []Span{{0, image.size}}
	}
	need := make([]bool, (image.size+flashBlock-1)/flashBlock)
	mark := func(offset, length int64) {
		for b := offset / flashBlock; b*flashBlock < offset+length; b++ {
			need[b] = true
		}
	}
	for _, s := range filled {
		mark(s.Offset, s.Length)
	}
	for _, e := range image.extents {
		mark(e.Offset, int64(len(e.Data)))
	}
	var spans []Span
	for b, wanted := range need {
		at := int64(b) * flashBlock
		if !wanted {
			continue
		}
		n := min(flashBlock, image.size-at)
		last := len(spans) - 1
		if last >= 0 && spans[last].Offset+spans[last].Length == at && spans[last].Length+n <= flashStep {
			spans[last].Length += n
			continue
		}
		spans = append(spans, Span{at, n})
	}
	return spans
}

// flashBlock is the granularity of writing, in bytes: what flash media write
// at once is at least that large.
const flashBlock = 64 << 10

type flasher struct {
	ctx   context.Context
	dev   *os.File
	image *Reader
	opt   FlashOptions
	spans []Span
	total int64
}

func (f *flasher) run() error {
	order := f.spans
	if len(order) > 0 { // the first one last
		order = append(order[1:len(order):len(order)], order[0])
	}
	err := f.each(order, false, func(want []byte, at int64) error {
		_, err := f.dev.WriteAt(want, at)
		return err
	})
	if err != nil {
		return err
	}
	if err := f.dev.Sync(); err != nil {
		return err
	}
	f.forget()
	got := make([]byte, flashStep)
	defer clear(got)
	return f.each(f.spans, true, func(want []byte, at int64) error {
		if _, err := f.dev.ReadAt(got[:len(want)], at); err != nil {
			return fmt.Errorf("read back: %w", err)
		}
		if string(got[:len(want)]) != string(want) {
			return fmt.Errorf("read back: what lies at offset %d is not what was written: the medium is faulty, or forges its size", at)
		}
		return nil
	})
}

// forget drops the kernel's cache of the device, so that reading asks the
// medium.
func (f *flasher) forget() {
	fd := int(f.dev.Fd())
	_ = unix.IoctlSetInt(fd, unix.BLKFLSBUF, 0)
	_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
}

// each calls do with the image's bytes of each span.
func (f *flasher) each(spans []Span, verify bool, do func(want []byte, at int64) error) error {
	buf := make([]byte, flashStep)
	defer clear(buf)
	var done int64
	for _, s := range spans {
		if err := f.ctx.Err(); err != nil {
			return err
		}
		want := buf[:s.Length]
		if n, err := f.image.ReadAt(want, s.Offset); n < len(want) {
			return err
		}
		if err := do(want, s.Offset); err != nil {
			return err
		}
		done += s.Length
		if f.opt.Progress != nil {
			f.opt.Progress(verify, done, f.total)
		}
	}
	return nil
}

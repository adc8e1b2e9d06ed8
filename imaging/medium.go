package imaging

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Medium is a disk, or a plain file in a disk's place, that gets one device's
// image. It is held exclusively while it is open. Its methods are called by one
// goroutine at a time.
type Medium struct {
	f      *os.File
	plain  bool  // a file, which grows as it is written
	size   int64 // bytes; of a plain file when it was opened
	sector int64 // bytes that the medium writes at least, and as a whole
	id     MediumIdentity
}

// blkZeroOut is the ioctl BLKZEROOUT of linux/fs.h, which package unix lacks.
const blkZeroOut = 0x127f

// mediumStep is how much is read or written at a time, in bytes; mediumBlock the
// granularity of what is written, which is a multiple of any sector.
const (
	mediumStep  = 4 << 20
	mediumBlock = 4096
	mediumHead  = 1 << 20 // what is written last
)

// OpenMedium opens a disk, or a plain file that may not exist yet, for one image.
// It refuses what is no whole disk, is mounted, or otherwise in use.
func OpenMedium(path string) (*Medium, error) {
	m, err := openMedium(path)
	if err != nil {
		return nil, fmt.Errorf("open the medium %s: %w", path, err)
	}
	return m, nil
}

func openMedium(path string) (*Medium, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist) || err == nil && info.Mode().IsRegular():
		return openPlain(path)
	case err != nil:
		return nil, err
	case info.Mode().Type() != os.ModeDevice:
		return nil, refuse("Name a block device such as /dev/sdX, or a file.", "it is neither a block device nor a file")
	}
	f, err := openDisk(path)
	if err != nil {
		return nil, err
	}
	m := &Medium{f: f, sector: 512}
	if n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET); err == nil && n >= 512 && n <= mediumBlock {
		m.sector = int64(n)
	}
	if m.size, err = f.Seek(0, io.SeekEnd); err == nil {
		m.id, err = identify(path, "/sys", "/dev/disk/by-path")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	m.id.Bytes = m.size
	return m, nil
}

// openPlain opens or makes a file in a disk's place.
func openPlain(path string) (*Medium, error) {
	if strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/dev/shm/") { // a disk that is not there
		return nil, &Error{Remedy: "Is the medium plugged in?", Err: &os.PathError{Op: "open", Path: path, Err: os.ErrNotExist}}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		f.Close()
		if errors.Is(err, errWriting) {
			err = refuse("Let it end, or stop it.", "another process writes to it")
		}
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Medium{f: f, plain: true, size: info.Size(), sector: 512,
		id: MediumIdentity{Kind: MediumFile, Path: path, Bytes: info.Size()}}, nil
}

// Identity says which medium it is, and in which slot.
func (m *Medium) Identity() MediumIdentity { return m.id }

// Close gives the medium up.
func (m *Medium) Close() error { return m.f.Close() }

// ReadAt reads as io.ReaderAt says, past the kernel's cache.
func (m *Medium) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= m.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), m.size-off)]
	buf := alignedBuffer(min(mediumStep, (int64(len(want))/mediumBlock+2)*mediumBlock))
	defer clear(buf)
	n := 0
	for n < len(want) {
		at := off + int64(n)
		from := at / mediumBlock * mediumBlock
		length := min(int64(len(buf)), (m.size-from+m.sector-1)/m.sector*m.sector)
		got, err := m.f.ReadAt(buf[:length], from)
		if int64(got) <= at-from {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
		n += copy(want[n:], buf[at-from:got])
	}
	if len(want) < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// alignedBuffer returns n bytes that begin at a multiple of a block, as direct
// access to disks wants it (open(2), O_DIRECT).
func alignedBuffer(n int64) []byte {
	b := make([]byte, n+mediumBlock)
	skip := (mediumBlock - int64(uintptr(unsafe.Pointer(&b[0]))%mediumBlock)) % mediumBlock //nolint:gosec // Go's collector doesn't move what make returned
	return b[skip : skip+n : skip+n]
}

// write writes buf[:n], where buf is aligned and has room for whole sectors. What
// an image's last sector lacks is zero; plain files end where the image does.
func (m *Medium) write(buf []byte, n, at int64) error {
	if !m.plain {
		whole := (n + m.sector - 1) / m.sector * m.sector
		clear(buf[n:whole])
		n = whole
	}
	_, err := m.f.WriteAt(buf[:n], at)
	return err
}

// compare reads a range back into buf, and compares it with want.
func (m *Medium) compare(want, buf []byte, at int64) error {
	n := int64(len(want))
	if !m.plain {
		n = (n + m.sector - 1) / m.sector * m.sector
	}
	if _, err := m.f.ReadAt(buf[:n], at); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !bytes.Equal(buf[:len(want)], want) {
		return &mediumDiffers{at}
	}
	return nil
}

// mediumDiffers says that a medium gave back something else than was written.
type mediumDiffers struct{ at int64 }

func (e *mediumDiffers) Error() string {
	return fmt.Sprintf("read back: what lies near byte %d is not what was written", e.at)
}

func (e *mediumDiffers) Hint() string {
	return "The medium or its reader is faulty, or the medium forges its size: take another one."
}

// sync makes durable what was written, and drops the kernel's cache of it, so that
// reading asks the medium.
func (m *Medium) sync() error {
	if err := m.f.Sync(); err != nil {
		return err
	}
	fd := int(m.f.Fd())
	if !m.plain {
		_ = unix.IoctlSetInt(fd, unix.BLKFLSBUF, 0) // without it the direct access still asks the medium
	}
	_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) // advice only
	return nil
}

// zero makes a range of whole blocks zero, by the medium's own command where the
// kernel has one for it (blk-lib.c, blkdev_issue_zeroout: what it reports as done
// reads as zeros). It reports false where it did nothing.
func (m *Medium) zero(s Span) bool {
	fd := m.f.Fd()
	if m.plain {
		const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		return unix.Fallocate(int(fd), mode, s.Offset, s.Length) == nil
	}
	arg := [2]uint64{uint64(s.Offset), uint64(s.Length)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, blkZeroOut, uintptr(unsafe.Pointer(&arg[0]))) //nolint:gosec // the call takes two numbers
	return errno == 0
}

package imaging

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Destroyed says what became of a file that held a key.
type Destroyed struct {
	Path  string `json:"path"`
	Found bool   `json:"found"`
	// Overwritten says that every place of the file where the key could lie was
	// overwritten, made durable and read back. Without it the key must not be called
	// destroyed.
	Overwritten bool `json:"overwritten"`
	// Caveat says why old bytes may survive where no file shows them; "" where nothing
	// is known of that.
	Caveat string `json:"caveat,omitempty"`
}

// Destroy overwrites a published image of this format where the key lies, then
// removes it and what lies beside it. The template says where the key is; without it,
// all of the file that it doesn't share with others is overwritten. A file that is
// not there is no error: Found is false.
func (f Format) Destroy(ctx context.Context, path string, t *Template) (Destroyed, error) {
	d := Destroyed{Path: path}
	var spans []Span
	if t != nil && f.keyIn != nil {
		spans = f.keyIn(path, t)
	}
	if err := ctx.Err(); err != nil {
		return d, err
	}
	if err := d.file(path, spans); err != nil {
		return d, fmt.Errorf("destroy image %s: %w", path, err)
	}
	for _, beside := range ProductFiles(path)[1:] {
		if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return d, fmt.Errorf("destroy image: %w", err)
		}
	}
	if err := syncDir(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d, fmt.Errorf("destroy image %s: %w", path, err)
	}
	return d, nil
}

// DestroyFile overwrites all of a file that it doesn't share with others, and
// removes it.
func DestroyFile(path string) (Destroyed, error) {
	d := Destroyed{Path: path}
	if err := d.file(path, nil); err != nil {
		return d, fmt.Errorf("destroy %s: %w", path, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d, fmt.Errorf("destroy %s: %w", path, err)
	}
	return d, nil
}

// file overwrites and removes one file. A link is never followed.
func (d *Destroyed) file(path string, spans []Span) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	d.Found = true
	d.Caveat = keepsOldBytes(f)
	if err := overwriteFile(f, spans); err != nil {
		return err
	}
	d.Overwritten = true
	return os.Remove(path)
}

// overwriteFile writes zeros over ranges of a file, or over all that it doesn't
// share with others where spans is nil, makes that durable and reads it back.
func overwriteFile(f *os.File, spans []Span) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return refuse("Look what it is, and remove it yourself.", "it is not a regular file")
	}
	if spans == nil {
		if spans, err = ownExtents(f, info.Size()); err != nil {
			return err
		}
	}
	spans = within(joinSpans(spans), 0, info.Size())
	for _, s := range spans {
		if err := zero(f, s.Offset, s.Length); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	buf := make([]byte, streamBuffer)
	for _, s := range spans {
		_ = unix.Fadvise(int(f.Fd()), s.Offset, s.Length, unix.FADV_DONTNEED) // advice only
		for at, end := s.Offset, s.Offset+s.Length; at < end; at += int64(len(buf)) {
			part := buf[:min(int64(len(buf)), end-at)]
			if err := readFull(f, part, at); err != nil {
				return fmt.Errorf("read back what was overwritten: %w", err)
			}
			if !allZero(part) {
				return fmt.Errorf("what was overwritten at byte %d reads otherwise", at)
			}
		}
	}
	return nil
}

// The ioctl FIEMAP (Linux, Documentation/filesystems/fiemap.rst).
const (
	fiemapCall   = 0xc020660b
	fiemapHeader = 32
	fiemapExtent = 56
	fiemapSync   = 1
	fiemapLast   = 0x1
	fiemapShared = 0x2000
	fiemapAtOnce = 128
)

// ownExtents returns the ranges of a file that hold data which it doesn't share
// with other files: a reflink of golden shares all but the device's own blocks.
func ownExtents(f *os.File, size int64) ([]Span, error) {
	le := binary.NativeEndian
	var out []Span
	for at := int64(0); at < size; {
		b := make([]byte, fiemapHeader+fiemapAtOnce*fiemapExtent)
		le.PutUint64(b[0:], uint64(at))
		le.PutUint64(b[8:], uint64(size-at))
		le.PutUint32(b[16:], fiemapSync)
		le.PutUint32(b[24:], fiemapAtOnce)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fiemapCall, uintptr(bytesPointer(b))); errno != 0 {
			return dataWithin(f, 0, size) // no such call here: all that is no hole
		}
		n := int(le.Uint32(b[20:]))
		if n == 0 {
			return out, nil
		}
		for i := range min(n, fiemapAtOnce) {
			e := b[fiemapHeader+i*fiemapExtent:]
			s := Span{int64(le.Uint64(e[0:])), int64(le.Uint64(e[16:]))}
			flags := le.Uint32(e[40:])
			if flags&fiemapShared == 0 {
				out = append(out, s)
			}
			if flags&fiemapLast != 0 || s.Length <= 0 {
				return out, nil
			}
			at = s.Offset + s.Length
		}
	}
	return out, nil
}

// fileSystemsThatKeep names file systems that write elsewhere than the old bytes lie,
// or whose disk is not ours, by their magic numbers (statfs(2)).
var fileSystemsThatKeep = map[uint32]string{
	unix.BTRFS_SUPER_MAGIC:     "btrfs writes elsewhere, and frees the old bytes without overwriting them",
	unix.F2FS_SUPER_MAGIC:      "f2fs writes elsewhere, and frees the old bytes without overwriting them",
	unix.NILFS_SUPER_MAGIC:     "nilfs writes elsewhere, and keeps old bytes",
	0x2fc12fc1:                 "ZFS writes elsewhere, and frees the old bytes without overwriting them",
	0xca451a4e:                 "bcachefs writes elsewhere, and frees the old bytes without overwriting them",
	unix.NFS_SUPER_MAGIC:       "what lies below a network file system is the server's business",
	unix.SMB2_SUPER_MAGIC:      "what lies below a network file system is the server's business",
	unix.CIFS_SUPER_MAGIC:      "what lies below a network file system is the server's business",
	unix.FUSE_SUPER_MAGIC:      "what lies below a FUSE file system is its program's business",
	unix.OVERLAYFS_SUPER_MAGIC: "an overlay may have written to a copy, and the old bytes may lie in the layer below",
}

// keepsOldBytes says why overwriting a file may leave old bytes on the disk, "" if
// nothing is known of that.
func keepsOldBytes(f *os.File) string {
	var info unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &info); err != nil {
		return ""
	}
	return fileSystemsThatKeep[uint32(info.Type)]
}

// Where the key lies in files of the formats.

// rawKey returns where a raw image differs from device to device.
func rawKey(_ string, t *Template) []Span { return t.variable() }

// packedKey returns where the stored chunks lie in a compressed image, nil if the
// index of its base is not beside it.
func packedKey(format string) func(path string, t *Template) []Span {
	return func(path string, t *Template) []Span {
		name, err := baseName(filepath.Dir(path), format, t)
		if err != nil {
			return nil
		}
		data, err := os.ReadFile(name + baseIndexSuffix)
		if err != nil {
			return nil
		}
		var index baseIndex
		info, err := os.Stat(path)
		if err != nil || json.Unmarshal(data, &index) != nil || index.Bytes != info.Size() || len(index.Stored) == 0 {
			return nil
		}
		var spans []Span
		for _, s := range index.Stored {
			if s.Offset < 0 || s.Length <= 0 || s.Offset > index.Bytes-s.Length {
				return nil
			}
			spans = append(spans, s)
		}
		return spans
	}
}

// Leftover is what a killed process left.
type Leftover struct {
	Path string
	// Key says that it may hold a key.
	Key bool
}

// Leftovers lists what killed processes left in a folder of images or packs. Files
// that are being written are not among them.
func Leftovers(dir string) ([]Leftover, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for leftovers: %w", err)
	}
	var out []Leftover
	for _, e := range entries {
		name := e.Name()
		if !e.Type().IsRegular() {
			continue
		}
		path := filepath.Join(dir, name)
		switch {
		case strings.HasPrefix(name, tempPrefix) && strings.HasSuffix(name, tempSuffix), strings.HasPrefix(name, packTemp):
			if isSecondName(path) || !isHeld(path) {
				out = append(out, Leftover{path, true})
			}
		case strings.HasPrefix(name, basePrefix) && !strings.HasSuffix(name, baseIndexSuffix):
			out = append(out, Leftover{path, false})
		case strings.HasSuffix(name, ".delta"+bmapSuffix):
			if _, err := os.Lstat(strings.TrimSuffix(path, bmapSuffix)); errors.Is(err, fs.ErrNotExist) {
				out = append(out, Leftover{path, false})
			}
		}
	}
	return out, nil
}

// isSecondName reports whether a file is a second name of a pack, which is left where
// its making was killed.
func isSecondName(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && strings.HasPrefix(filepath.Base(path), packTemp) && links(info) > 1
}

// isHeld reports whether a process writes the file.
func isHeld(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(flock(f), errWriting)
}

// RemoveLeftovers overwrites and removes what killed processes left in the folder
// dir, and returns how many files that were. Files that are being written stay.
func RemoveLeftovers(dir string) (int, error) {
	found, err := Leftovers(dir)
	if err != nil {
		return 0, err
	}
	for i, l := range found {
		if err := l.remove(); err != nil {
			return i, fmt.Errorf("remove leftovers: %w", err)
		}
	}
	return len(found), nil
}

func (l Leftover) remove() error {
	if !l.Key {
		return os.Remove(l.Path)
	}
	if isSecondName(l.Path) {
		return os.Remove(l.Path)
	}
	err := removeLeft(l.Path)
	if errors.Is(err, errWriting) {
		return nil
	}
	return err
}

// wipeReplaced overwrites the key in a file that was open when another one took its
// name, if it was its last name.
func wipeReplaced(f *os.File, own []Span, size int64) error {
	info, err := f.Stat()
	if err != nil || links(info) > 0 {
		return err
	}
	if info.Size() != size {
		own = nil
	}
	return overwriteFile(f, slices.Clone(own))
}

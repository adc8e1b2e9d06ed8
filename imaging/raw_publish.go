package imaging

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Files that are being written bear hidden names. Their writers hold an flock,
// so that what a killed process left can be told from what is being written.
const (
	tempPrefix = ".keymill-"
	tempSuffix = ".part"
	packTemp   = ".keymill-pack-"
	basePrefix = ".keymill-base-"
)

// errWriting is returned where two write the same image at once.
var errWriting = errors.New("another process is writing this image")

// tempName returns the hidden name under which dst is written: the same every
// time, and never too long.
func tempName(dst string) string {
	sum := sha256.Sum256([]byte(filepath.Base(dst)))
	return filepath.Join(filepath.Dir(dst), fmt.Sprintf("%s%x%s", tempPrefix, sum[:12], tempSuffix))
}

// staged is a file that was written under its hidden name.
type staged struct {
	*os.File
	dst string
	own []Span // where the key lies; nil: anywhere
}

// stage writes a file under a hidden name. write makes the content durable.
// Nothing remains of a file whose writing failed; what a killed process left of
// dst is removed first.
func stage(ctx context.Context, dst string, write func(f *os.File) error) (*staged, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	temp := tempName(dst)
	if err := removeLeft(temp); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, errWriting
	}
	if err != nil {
		return nil, err
	}
	if err := hold(f, temp); err != nil {
		f.Close()
		return nil, err
	}
	s := &staged{File: f, dst: dst}
	if err := write(f); err != nil {
		return nil, errors.Join(err, s.discard())
	}
	return s, nil
}

// discard removes the file.
func (s *staged) discard() error {
	defer s.Close()
	return os.Remove(s.Name())
}

// release renames staged files to their final names, in the order given, and
// makes the names durable. All lie in one folder. What bore a name before is
// overwritten, as it may hold a key.
func (s *folderSync) release(files ...*staged) error {
	for i, f := range files {
		if err := f.release(); err != nil {
			for _, f := range files[i:] {
				err = errors.Join(err, f.discard())
			}
			return err
		}
		f.Close()
	}
	return s.sync(filepath.Dir(files[0].dst))
}

func (s *staged) release() error {
	before, err := os.OpenFile(s.dst, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return os.Rename(s.Name(), s.dst) // nothing is there, or nothing of ours
	}
	defer before.Close()
	if err := os.Rename(s.Name(), s.dst); err != nil {
		return err
	}
	info, err := s.Stat()
	if err != nil {
		return err
	}
	return wipeReplaced(before, s.own, info.Size())
}

// publish stages and releases one file.
func (s *folderSync) publish(ctx context.Context, dst string, write func(f *os.File) error) error {
	f, err := stage(ctx, dst, write)
	if err != nil {
		return err
	}
	return s.release(f)
}

// hold locks the hidden file, and makes sure that it still bears its name: for
// a moment it looked as if a killed process had left it.
func hold(f *os.File, temp string) error {
	if err := flock(f); err != nil {
		return err
	}
	ours, err := f.Stat()
	if err != nil {
		return err
	}
	if named, err := os.Stat(temp); err != nil || !os.SameFile(ours, named) {
		return errWriting
	}
	return nil
}

// removeLeft overwrites and removes a hidden file that nobody writes any more.
func removeLeft(temp string) error {
	f, err := os.OpenFile(temp, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := flock(f); err != nil {
		return err
	}
	if err := overwriteFile(f, nil); err != nil {
		return err
	}
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func flock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errWriting
	}
	return err
}

package imaging

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Files that are being written bear hidden names. Their writers hold an flock,
// so that what a killed process left can be told from what is being written.
const (
	tempPrefix = ".keymill-"
	tempSuffix = ".part"
)

// errWriting is returned where two write the same image at once.
var errWriting = errors.New("another process is writing this image")

// tempName returns the hidden name under which dst is written: the same every
// time, and never too long.
func tempName(dst string) string {
	sum := sha256.Sum256([]byte(filepath.Base(dst)))
	return filepath.Join(filepath.Dir(dst), fmt.Sprintf("%s%x%s", tempPrefix, sum[:12], tempSuffix))
}

// publish writes a file under a hidden name, and renames it to dst when write
// has returned. write makes the content durable, publish the name. Nothing
// remains of a file whose writing failed; what a killed process left of dst is
// removed first.
func publish(ctx context.Context, dst string, write func(f *os.File) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	temp := tempName(dst)
	if err := removeLeft(temp); err != nil {
		return err
	}
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return errWriting
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := hold(f, temp); err != nil {
		return err
	}
	if err = write(f); err == nil {
		err = os.Rename(temp, dst)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(filepath.Dir(dst))
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

// removeLeft removes a hidden file that nobody writes any more.
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

// RemoveLeftovers removes what killed processes left half-written in the
// folder dir, which may hold keys, and returns how many files that were. Files
// that are being written stay.
func RemoveLeftovers(dir string) (int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("remove leftovers: %w", err)
	}
	removed := 0
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, tempPrefix) || !strings.HasSuffix(name, tempSuffix) {
			continue
		}
		err := removeLeft(filepath.Join(dir, name))
		if errors.Is(err, errWriting) {
			continue
		}
		if err != nil {
			return removed, fmt.Errorf("remove leftovers: %w", err)
		}
		removed++
	}
	return removed, nil
}

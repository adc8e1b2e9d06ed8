// Package files does with files what several parts need: whole files or none,
// locks, safe names.
package files

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
)

// InOrder does one step after the other until one fails.
func InOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// Exists reports whether there is anything at path.
func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// CopyTree copies a folder of plain files; folders are 0700, files 0600.
func CopyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		return Write(filepath.Join(to, name), func(w io.Writer) error { _, err := io.Copy(w, file); return err })
	})
}

// Move renames a manifest, or copies it where in/, done/ or refused/ is a file
// system of its own, such as a share. A crash in between leaves both: the same
// manifest twice is one lot.
func Move(from, to string) error {
	err := os.Rename(from, to)
	if !errors.Is(err, syscall.EXDEV) {
		return err
	}
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := Write(to, func(w io.Writer) error { _, err := io.Copy(w, file); return err }); err != nil {
		return err
	}
	if err := os.Remove(from); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

// ReadShort reads a file that people write.
func ReadShort(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	const most = 1 << 20
	data, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("%s is longer than 1 MiB; is it the right file?", path)
	}
	return data, err
}

// Write writes a file of mode 0600 so that the name never shows half of it.
func Write(path string, write func(io.Writer) error) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close(), os.Remove(file.Name()))
		}
	}()
	if err := write(file); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	return errors.Join(file.Close(), SyncDir(filepath.Dir(path)))
}

// SHA256 returns the hash of a file, in hexadecimal.
func SHA256(ctx context.Context, path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), ctx.Err()
}

// MakeDirs makes folders of mode 0700, with their parents, durably.
func MakeDirs(dirs ...string) error {
	for _, dir := range dirs {
		if err := makeDir(dir); err != nil {
			return fault.StorageOutage(err)
		}
	}
	return nil
}

// makeDir makes a folder. Each new one is synced in its parent: without that a
// power cut takes the folder, and all that was made durable in it.
func makeDir(dir string) error {
	info, err := os.Stat(dir)
	if err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(parent)
}

// SyncDir makes the names in a folder durable.
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = dir.Sync()
	if errors.Is(err, syscall.EINVAL) { // a file system that has no such thing
		err = nil
	}
	return errors.Join(err, dir.Close())
}

// Own refuses a file or folder that private keys shall lie in, or that vouches
// for something, but that belongs to another user or that others may write to.
// Root may work on another's lot. With secret, others may not read it either. What
// isn't there is no problem.
func Own(path string, secret bool) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.StorageOutage(err)
	}
	owner := -1
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = int(stat.Uid)
	}
	forbidden, what := fs.FileMode(0o022), "written to"
	if secret {
		forbidden, what = 0o077, "read"
	}
	switch me := os.Geteuid(); {
	case owner != me && me != 0:
		return fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("%s belongs to another user (uid %d)", path, owner),
			"Keys must not lie where another user put a folder or a file. Name another place, or have it given to you (chown)."))
	case info.Mode().Perm()&forbidden != 0:
		return fault.As(fault.Storage, pipeline.WithHint(fmt.Errorf("%s can be %s by other users (mode %04o)", path, what, info.Mode().Perm()),
			"Close it: chmod go-rwx %s", path))
	}
	return nil
}

// Closing closes c after err, and returns err if there is one.
func Closing(c io.Closer, err error) error {
	if closeErr := c.Close(); err == nil {
		return closeErr
	}
	return err
}

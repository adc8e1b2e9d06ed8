package reports

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"keymill/pipeline"
)

// makePartial makes the folder beside dir in which a bundle is written, and
// removes those that were left behind by exports that were killed. A lock on
// the folder tells the two apart. release removes what was not published.
func makePartial(dir string) (temp string, release func(), err error) {
	pattern := "." + filepath.Base(dir) + ".partial-"
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil {
		return "", nil, err
	}
	for _, e := range entries {
		if e.IsDir() && len(e.Name()) > len(pattern) && e.Name()[:len(pattern)] == pattern {
			if err := removeStale(filepath.Join(filepath.Dir(dir), e.Name())); err != nil {
				return "", nil, err
			}
		}
	}
	if temp, err = os.MkdirTemp(filepath.Dir(dir), pattern); err != nil {
		return "", nil, err
	}
	lock, err := lockFolder(temp)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(temp))
	}
	return temp, func() {
		_ = os.RemoveAll(temp)
		_ = lock.Close()
	}, nil
}

// removeStale removes a partial bundle unless somebody is writing it.
func removeStale(path string) error {
	lock, err := lockFolder(path)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	return os.RemoveAll(path)
}

// lockFolder locks a folder until the returned file is closed or the process
// ends, or fails at once with EWOULDBLOCK.
func lockFolder(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// checkTarget refuses to write where something is that no export made.
func checkTarget(dir string, replace bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return storage(err)
	}
	if !replace {
		return pipeline.WithHint(fmt.Errorf("%s exists already", dir), "choose another folder, or allow it to be replaced")
	}
	for _, entry := range entries {
		if !bundleName(entry.Name()) {
			return pipeline.WithHint(fmt.Errorf("%s holds %q, which no export wrote", dir, entry.Name()),
				"choose another folder")
		}
	}
	return nil
}

// bundleName reports whether an export writes a file or folder of this name.
func bundleName(name string) bool {
	if slices.Contains([]string{fileEvents, fileDevices, fileImages, fileReadme, fileSums, fileStatement, folderLog,
		"statement.json", "statement.pae", "statement.sig"}, name) { // the last three come from following README.txt
		return true
	}
	for _, f := range formats() {
		for _, file := range f.files {
			if file == name {
				return true
			}
		}
	}
	return false
}

// exchangePlainly does what publish does, in three steps, on file systems that
// rename without flags only (bindfs, sshfs): between them the name is missing, and a
// rename onto a bundle fails.
func exchangePlainly(temp, dir string) error {
	err := os.Rename(temp, dir)
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	aside := temp + ".earlier"
	if err := os.Rename(dir, aside); err != nil {
		return err
	}
	if err := os.Rename(temp, dir); err != nil {
		return errors.Join(err, os.Rename(aside, dir))
	}
	return os.Rename(aside, temp)
}

// publish moves a complete bundle to its name. An earlier bundle there changes
// places with it in one step, and is then removed.
func publish(temp, dir string) error {
	_ = os.Remove(dir) // an empty folder may be in the way
	err := unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		err = unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		err = exchangePlainly(temp, dir)
	}
	if err != nil {
		return storage(fmt.Errorf("rename to %s: %w", dir, err))
	}
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return storage(err)
	}
	defer parent.Close()
	return parent.Sync()
}

package imaging

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	planDirName = "keymill-plan-*"
	planLock    = "lock"
)

// workDir is a plan's own folder. A lock says that its plan still lives.
type workDir struct {
	path string
	lock *os.File
}

// makeWorkDir makes a folder with mode 0700 in parent, or in the system's
// temporary folder, and removes those that killed processes left there.
func makeWorkDir(parent string) (*workDir, error) {
	if parent == "" {
		parent = os.TempDir()
	} else if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("make the working folder: %w", err)
	}
	removeDead(parent)
	for {
		dir, err := os.MkdirTemp(parent, planDirName)
		if err != nil {
			return nil, fmt.Errorf("make the working folder: %w", err)
		}
		lock, err := os.OpenFile(filepath.Join(dir, planLock), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err == nil {
			err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock the working folder: %w", err), os.RemoveAll(dir))
		}
		if _, err := os.Stat(lock.Name()); err == nil {
			return &workDir{dir, lock}, nil
		}
		lock.Close() // another process took it for dead before it was locked
	}
}

// removeDead removes folders whose lock nobody holds.
func removeDead(parent string) {
	for _, lock := range unlocked(filepath.Join(parent, planDirName, planLock)) {
		_ = os.RemoveAll(filepath.Dir(lock)) // what stays is another user's, or a later plan's business
	}
}

// unlocked returns the files that match a pattern and that no process has locked.
func unlocked(pattern string) (out []string) {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return nil
	}
	for _, name := range names {
		file, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			out = append(out, name)
		}
		file.Close()
	}
	return out
}

// remove removes the folder with all that is in it, once.
func (d *workDir) remove() error {
	err := d.lock.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return errors.Join(os.RemoveAll(d.path), err)
}

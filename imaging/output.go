package imaging

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// CheckOutput refuses to have an image written under a name that stands for
// something else than a plain file of its own: devices, pipes, links, and what must
// be kept. keep lists files that must not be replaced (golden, the pack, the ledger)
// and folders in which nothing may be written (the cache).
func CheckOutput(path string, keep ...string) error {
	const remedy = "Name another file."
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		info = nil
	case err != nil:
		return err
	case info.Mode().IsDir():
		return refuse("Name a file in it.", "%s is a folder", path)
	case info.Mode()&os.ModeSymlink != 0:
		return refuse("Name the file to which it leads, or another one.", "%s is a symbolic link", path)
	case info.Mode().Type() == os.ModeDevice:
		return refuse("To write to a medium, use keymill image flash.", "%s is a block device", path)
	case !info.Mode().IsRegular():
		return refuse("For a stream, say -o - and let the shell direct it.", "%s is a device, a pipe or a socket, not a file", path)
	}
	folder, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return err
	}
	if folder, err = filepath.Abs(folder); err != nil {
		return err
	}
	if strings.HasPrefix(folder+"/", "/dev/") && !strings.HasPrefix(folder+"/", "/dev/shm/") || strings.HasPrefix(folder+"/", "/proc/") {
		return refuse(remedy, "%s is no place for a file", folder)
	}
	for _, k := range keep {
		if k == "" {
			continue
		}
		there, err := os.Stat(k)
		if err != nil {
			continue // what isn't there can't be replaced
		}
		if info != nil && os.SameFile(info, there) {
			return refuse(remedy, "%s is in use by keymill itself: an image would replace it", path)
		}
		if !there.IsDir() {
			continue
		}
		real, err := filepath.EvalSymlinks(k)
		if err == nil {
			real, err = filepath.Abs(real)
		}
		if err == nil && (folder == real || strings.HasPrefix(folder, real+"/")) {
			return refuse(remedy, "%s is keymill's own folder", k)
		}
	}
	return nil
}

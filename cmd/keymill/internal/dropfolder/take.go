package dropfolder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/pipeline"
)

// take moves a manifest from in/ to its lot's folder in work/. ok is false
// where an unfinished lot has that name already.
func (f *dropFolder) take(d dropped) (taken dropped, ok bool, err error) {
	dir := f.path("work", d.lot)
	if countManifests(dir) > 0 {
		return d, false, nil
	}
	taken = dropped{filepath.Join(dir, d.name()), d.lot}
	err = files.InOrder(
		func() error { return os.MkdirAll(dir, 0o700) },
		func() error { return files.Move(d.path, taken.path) })
	if err != nil {
		f.leave(d)
		hint := ""
		if errors.Is(err, fs.ErrPermission) {
			hint = fmt.Sprintf("Let keymill's user write in %s; where that folder has the sticky bit, it must own the manifest, too.", f.in())
		}
		return d, false, fault.StorageOutage(pipeline.WithHint(fmt.Errorf("manifest %s cannot be taken: %w", d.name(), err), "%s", hint))
	}
	return taken, true, nil
}

// writerPatience is how old a manifest must be to be taken although somebody
// seems to have it open: file servers that know no leases always say so.
const writerPatience = time.Minute

// beingWritten reports whether a process on this machine has a manifest open for
// writing, as far as the kernel tells: a copy that stalls looks settled.
func beingWritten(path string, age time.Duration) bool {
	if age >= writerPatience {
		return false
	}
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false // whoever reads it says why
	}
	defer file.Close() // ends the lease
	_, err = unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	return errors.Is(err, syscall.EAGAIN)
}

package imaging

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// openDisk opens a block device for reading and writing, exclusively, after it has
// made sure that nothing on it is in use. Access is direct where the kernel has
// that: a card is then written at its own speed, and reading asks the card.
func openDisk(path string) (*os.File, error) {
	if err := refuseUsedDisk(path); err != nil {
		return nil, err
	}
	// O_EXCL on a block device: the kernel refuses what is mounted or claimed.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		f, err = os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	}
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, refuse("Unmount it, and stop what uses it (swap, RAID, LVM, another keymill).", "the device is in use")
	case errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) && isReadOnly(path):
		return nil, refuse("Open the write protection of the card or adapter.", "the device is write-protected")
	case errors.Is(err, unix.ENOMEDIUM):
		return nil, refuse("Put a medium into the slot.", "there is no medium in it")
	case err != nil:
		return nil, err
	}
	return f, nil
}

// isReadOnly asks the kernel whether a disk is write-protected.
func isReadOnly(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET)
	return err == nil && n != 0
}

// refuseUsedDisk says what on a disk is in use, if anything is. It reads
// /sys/dev/block, /proc/self/mountinfo and /proc/swaps.
func refuseUsedDisk(path string) error {
	number, err := deviceNumber(path)
	if err != nil {
		return err
	}
	sys, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", number))
	if err != nil {
		return fmt.Errorf("find the device in /sys: %w", err)
	}
	if _, err := os.Stat(filepath.Join(sys, "partition")); err == nil {
		return refuse("name the whole disk", "%s is a partition, but the image is that of a whole disk", path)
	}
	parts, err := filepath.Glob(filepath.Join(sys, "*", "partition"))
	if err != nil {
		return err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	swaps, _ := os.ReadFile("/proc/swaps") // absent where the kernel has no swap
	folders := []string{sys}
	for _, p := range parts {
		folders = append(folders, filepath.Dir(p))
	}
	for _, dir := range folders {
		name := filepath.Base(dir)
		if number, err := os.ReadFile(filepath.Join(dir, "dev")); err == nil {
			if at := mountPoint(string(mounts), strings.TrimSpace(string(number))); at != "" {
				return refuse("unmount it, if it is the right device", "%s is mounted at %s", name, at)
			}
		}
		if strings.Contains(string(swaps), "/dev/"+name+" ") {
			return refuse("use another device", "%s is swap space of this system", name)
		}
		if holders, _ := os.ReadDir(filepath.Join(dir, "holders")); len(holders) > 0 {
			return refuse("stop that first, if it is the right device", "%s is in use by %s", name, holders[0].Name())
		}
	}
	return nil
}

// deviceNumber returns a device's number as /sys writes it: "8:16".
func deviceNumber(path string) (string, error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return fmt.Sprintf("%d:%d", unix.Major(s.Rdev), unix.Minor(s.Rdev)), nil
}

// mountPoint returns where a device is mounted, "" if it is not. The third
// field of mountinfo is the device's number, the fifth the place (proc(5)).
func mountPoint(mountinfo, number string) string {
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 && f[2] == number {
			return f[4]
		}
	}
	return ""
}

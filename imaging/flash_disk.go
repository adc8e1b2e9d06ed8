package imaging

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// openDisk opens a block device for writing, exclusively, after it has made
// sure that nothing on it is in use and that size bytes fit on it.
func openDisk(path string, size int64) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Type() != os.ModeDevice {
		return nil, refuse("name a block device such as /dev/sdX; for a file, use keymill image write", "%s is no block device", path)
	}
	if err := refuseUsedDisk(path); err != nil {
		return nil, err
	}
	// O_EXCL on a block device: the kernel refuses what is mounted or claimed.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, refuse("unmount it, and stop what uses it (swap, RAID, LVM)", "the device is in use")
	case errors.Is(err, unix.EROFS):
		return nil, refuse("open the write protection of the card or adapter", "the device is write-protected")
	case err != nil:
		return nil, err
	}
	end, err := f.Seek(0, 2)
	if err == nil && end < size {
		err = refuse("use a larger medium", "the image has %d bytes, the device only %d", size, end)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
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

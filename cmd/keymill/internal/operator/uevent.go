package operator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// ueventGroup is the kernel's own multicast group (lib/kobject_uevent.c).
const ueventGroup = 1

// WatchBlock calls changed whenever the kernel says that a block device came,
// went or changed. It returns when ctx ends, or where netlink can't be had; whoever
// calls looks by itself from time to time as well.
func WatchBlock(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("listen for hot-plug events: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: ueventGroup}); err != nil {
		return fmt.Errorf("listen for hot-plug events: %w", err)
	}
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(time.Second/time.Millisecond))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n <= 0 {
			continue
		}
		size, from, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.ENOBUFS): // events were lost: look anyway
			changed()
			continue
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		}
		// Only the kernel's word counts; other processes have a port of their own.
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue
		}
		if isBlockEvent(buf[:size]) {
			changed()
		}
	}
	return nil
}

// isBlockEvent reports whether an event, ACTION@PATH and KEY=VALUE texts that end
// in zero bytes, is about a block device.
func isBlockEvent(event []byte) bool {
	for part := range bytes.SplitSeq(event, []byte{0}) {
		if string(part) == "SUBSYSTEM=block" {
			return true
		}
	}
	return false
}

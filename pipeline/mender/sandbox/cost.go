package sandbox

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// burn uses up so much CPU time of its thread, whatever else runs on the
// machine. Where the thread's clock can't be read, it burns by the wall clock.
func burn(cost time.Duration) {
	if cost <= 0 {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := threadTime()
	for x := uint64(1); threadTime()-began < cost; {
		for range 1000 {
			x = mix(x)
		}
		runtime.KeepAlive(x)
	}
}

func threadTime() time.Duration {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at); err != nil {
		return time.Duration(time.Now().UnixNano())
	}
	return time.Duration(at.Nano())
}

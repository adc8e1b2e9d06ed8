package imaging

import (
	"os"
	"syscall"
	"unsafe"
)

// bytesPointer returns where b lies, for calls of the kernel that fill it.
func bytesPointer(b []byte) unsafe.Pointer { return unsafe.Pointer(&b[0]) } //nolint:gosec // used within one call

// links returns how many names a file has.
func links(info os.FileInfo) uint64 {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 1
	}
	return uint64(stat.Nlink) //nolint:unconvert // it is a uint32 on other architectures
}

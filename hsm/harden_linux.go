package hsm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// mlockOnFault is MCL_ONFAULT of mlockall(2), Linux 4.4: pages are locked as
// they come into use, so that Go's large reservations cost nothing.
const mlockOnFault = 4

// Harden turns core dumps off (prctl(2) PR_SET_DUMPABLE and RLIMIT_CORE, which
// also keeps other processes of the same user from attaching), and asks the
// kernel to keep the memory that the process has mapped out of the swap. The
// latter needs CAP_IPC_LOCK or a generous RLIMIT_MEMLOCK and is a hint only:
// memory that Go maps later isn't covered. Encrypt or switch off the swap of a
// station. Call it once, at the start of main.
func Harden() Hardening {
	var h Hardening
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		h.Notes = append(h.Notes, fmt.Sprintf("core dumps by the kernel: %v", err))
	} else if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		h.Notes = append(h.Notes, fmt.Sprintf("limit of core dumps: %v", err))
	} else {
		h.NoCoreDumps = true
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | mlockOnFault); err != nil {
		h.Notes = append(h.Notes, fmt.Sprintf("memory can't be kept out of the swap: %v (CAP_IPC_LOCK or LimitMEMLOCK=infinity would allow it)", err))
	} else {
		h.MemoryLocked = true
	}
	h.MemoryErased = secretErasure
	return h
}

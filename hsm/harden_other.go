//go:build !linux

package hsm

// Harden does nothing on this system, and says so.
func Harden() Hardening {
	return Hardening{MemoryErased: secretErasure, Notes: []string{"core dumps and swap: only Linux is supported"}}
}

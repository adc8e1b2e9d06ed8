//go:build !cgo || !linux || (!amd64 && !arm64)

package hsm

// GuardCrashes does nothing here: a PKCS#11 module that crashes takes the
// program along with Go's own message and code.
func GuardCrashes(int) {}

func blameCrashes(string) {}

//go:build !goexperiment.runtimesecret

package hsm

// secretly runs f. This toolchain has no runtime/secret, so that what remains
// is the zeroing that Wipe does. Build with GOEXPERIMENT=runtimesecret for more.
func secretly(f func()) { f() }

const secretErasure = false

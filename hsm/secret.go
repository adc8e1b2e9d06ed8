//go:build goexperiment.runtimesecret

package hsm

import "runtime/secret"

// secretly runs f, after which the runtime erases the registers, the stack and
// the heap that f used.
//
// Buffers that f hands out stay readable: they are erased when they are garbage.
func secretly(f func()) { secret.Do(f) }

const secretErasure = true

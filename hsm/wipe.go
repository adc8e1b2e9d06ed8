package hsm

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"math/big"
	"runtime"
)

// Wipe overwrites a secret with zeros. Go may have copied the bytes before (a
// stack that grew, a register that was spilled); where the toolchain was built
// with GOEXPERIMENT=runtimesecret such copies are erased too, elsewhere they
// live until the memory is used again.
func Wipe(secret []byte) {
	clear(secret)
	runtime.KeepAlive(secret) // the clearing of dead memory must not be optimised away
}

func wipeInt(i *big.Int) {
	if i != nil {
		words := i.Bits()
		clear(words)
		runtime.KeepAlive(words)
	}
}

// wipeEC and wipeRSA clear what of a key can be reached. crypto/rsa and
// crypto/ecdsa keep further forms of the key inside, which can't.
func wipeEC(key *ecdsa.PrivateKey) {
	wipeInt(key.D) //nolint:staticcheck // the deprecated field is the memory that has to be wiped
}

func wipeRSA(key *rsa.PrivateKey) {
	wipeInt(key.D)
	for _, prime := range key.Primes {
		wipeInt(prime)
	}
	wipeInt(key.Precomputed.Dp)
	wipeInt(key.Precomputed.Dq)
	wipeInt(key.Precomputed.Qinv)
}

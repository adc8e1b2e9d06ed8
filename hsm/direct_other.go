//go:build cgo && !linux

package hsm

import "github.com/miekg/pkcs11"

// directWrap exists on Linux only; elsewhere miekg/pkcs11 wraps.
type directWrap struct{}

func findWrap(string) *directWrap { return nil }

func (*directWrap) call(pkcs11.SessionHandle, uint, []byte, pkcs11.ObjectHandle, pkcs11.ObjectHandle) ([]byte, error) {
	return nil, pkcs11.Error(pkcs11.CKR_FUNCTION_NOT_SUPPORTED)
}

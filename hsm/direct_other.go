//go:build cgo && !linux

package hsm

import "github.com/miekg/pkcs11"

// direct exists on Linux only; elsewhere miekg/pkcs11 makes all calls.
type direct struct{}

func findDirect(string) *direct { return nil }

func loadProblem(string) string { return "the dynamic linker says why (LD_DEBUG=files, or otool -L)" }

func (*direct) login(pkcs11.SessionHandle) error {
	return pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)
}

func (*direct) attribute(pkcs11.SessionHandle, pkcs11.ObjectHandle, uint) ([]byte, error) {
	return nil, pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)
}

func (*direct) wrap(pkcs11.SessionHandle, *wrapping, []byte, pkcs11.ObjectHandle, pkcs11.ObjectHandle) ([]byte, error) {
	return nil, pkcs11.Error(pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED)
}

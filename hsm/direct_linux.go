//go:build cgo

package hsm

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>

// What PKCS#11 2.40 defines, as far as it is needed here. CK_FUNCTION_LIST is a
// version (two bytes, padded) and then pointers in the order of the standard.
typedef unsigned long keymill_ulong;
typedef struct { keymill_ulong type; void *parameter; keymill_ulong length; } keymill_mechanism;
typedef struct { unsigned char version[2]; void *function[68]; } keymill_functions;
typedef keymill_ulong (*keymill_list)(keymill_functions **);
typedef keymill_ulong (*keymill_wrap)(keymill_ulong, keymill_mechanism *, keymill_ulong, keymill_ulong, unsigned char *, keymill_ulong *);
enum { KEYMILL_WRAP_KEY = 60 };

// keymill_find returns the C_WrapKey of a module that is loaded already, and
// stays so for as long as the pointer is used: the reference is given back.
static void *keymill_find(const char *path)
{
	keymill_functions *functions = NULL;
	void *module = dlopen(path, RTLD_LAZY);
	keymill_list list = module ? (keymill_list)dlsym(module, "C_GetFunctionList") : NULL;
	void *wrap = list && list(&functions) == 0 && functions ? functions->function[KEYMILL_WRAP_KEY] : NULL;
	if (module)
		dlclose(module);
	return wrap;
}

static keymill_ulong keymill_call(void *wrap, keymill_ulong session, keymill_ulong mechanism, void *iv, keymill_ulong ivlen,
	keymill_ulong kek, keymill_ulong key, unsigned char *out, keymill_ulong *length)
{
	keymill_mechanism m = {mechanism, ivlen ? iv : NULL, ivlen};
	return ((keymill_wrap)wrap)(session, &m, kek, key, out, length);
}
*/
import "C"

import (
	"unsafe"

	"github.com/miekg/pkcs11"
)

// wrapRoom holds the PKCS#8 of an RSA-4096 key (2.4 KiB), wrapped.
const wrapRoom = 4096

// directWrap is C_WrapKey with room for the result. miekg/pkcs11 asks for the
// length first, for which modules wrap the key a first time: a seventh of
// SoftHSM's whole cycle. NSS moreover gives too small an answer for KWP.
type directWrap struct{ function unsafe.Pointer }

// findWrap returns nil where the module doesn't tell; miekg/pkcs11 is used then.
func findWrap(path string) *directWrap {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	if f := C.keymill_find(name); f != nil {
		return &directWrap{f}
	}
	return nil
}

// call wraps key under kek. iv is nil for mechanisms without a parameter.
func (d *directWrap) call(session pkcs11.SessionHandle, mechanism uint, iv []byte, kek, key pkcs11.ObjectHandle) ([]byte, error) {
	out := make([]byte, wrapRoom)
	length := C.keymill_ulong(len(out))
	rv := C.keymill_call(d.function, C.keymill_ulong(session), C.keymill_ulong(mechanism),
		unsafe.Pointer(unsafe.SliceData(iv)), C.keymill_ulong(len(iv)), C.keymill_ulong(kek), C.keymill_ulong(key),
		(*C.uchar)(unsafe.Pointer(&out[0])), &length)
	if rv != 0 {
		return nil, pkcs11.Error(rv)
	}
	return out[:min(int(length), len(out))], nil
}

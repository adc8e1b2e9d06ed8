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
typedef struct { keymill_ulong type; void *value; keymill_ulong length; } keymill_attribute;
typedef keymill_ulong (*keymill_get)(keymill_ulong, keymill_ulong, keymill_attribute *, keymill_ulong);
typedef keymill_ulong (*keymill_wrap)(keymill_ulong, keymill_mechanism *, keymill_ulong, keymill_ulong, unsigned char *, keymill_ulong *);
typedef keymill_ulong (*keymill_login_function)(keymill_ulong, keymill_ulong, unsigned char *, keymill_ulong);
enum { KEYMILL_LOGIN = 18, KEYMILL_GET_ATTRIBUTE = 24, KEYMILL_WRAP_KEY = 60 };

// keymill_problem returns why a module doesn't load, NULL if it does.
static const char *keymill_problem(const char *path)
{
	void *module = dlopen(path, RTLD_LAZY);
	const char *problem = NULL;
	if (!module)
		return dlerror();
	if (!dlsym(module, "C_GetFunctionList"))
		problem = "it has no C_GetFunctionList, so that it is no PKCS#11 module";
	dlclose(module);
	return problem;
}

// keymill_login logs the user in at the token's own pad.
static keymill_ulong keymill_login(keymill_functions *f, keymill_ulong session)
{
	return ((keymill_login_function)f->function[KEYMILL_LOGIN])(session, 1, NULL, 0);
}

// keymill_find returns the functions of a module that is loaded already, and
// stays so for as long as they are used: the reference is given back.
static keymill_functions *keymill_find(const char *path)
{
	keymill_functions *functions = NULL;
	void *module = dlopen(path, RTLD_LAZY);
	keymill_list list = module ? (keymill_list)dlsym(module, "C_GetFunctionList") : NULL;
	if (list && list(&functions) != 0)
		functions = NULL;
	if (module)
		dlclose(module);
	return functions;
}

static keymill_ulong keymill_read(keymill_functions *f, keymill_ulong session, keymill_ulong object, keymill_ulong type,
	void *out, keymill_ulong *length)
{
	keymill_attribute a = {type, out, *length};
	keymill_ulong rv = ((keymill_get)f->function[KEYMILL_GET_ATTRIBUTE])(session, object, &a, 1);
	*length = a.length;
	return rv;
}

// CK_RSA_PKCS_OAEP_PARAMS and CK_RSA_AES_KEY_WRAP_PARAMS.
typedef struct { keymill_ulong hash, mgf, source; void *data; keymill_ulong length; } keymill_oaep;
typedef struct { keymill_ulong bits; keymill_oaep *oaep; } keymill_rsa_aes;

static keymill_ulong keymill_call(keymill_functions *f, keymill_ulong session, keymill_ulong mechanism, void *iv, keymill_ulong ivlen,
	keymill_ulong hash, keymill_ulong mgf, keymill_ulong kek, keymill_ulong key, unsigned char *out, keymill_ulong *length)
{
	keymill_mechanism m = {mechanism, ivlen ? iv : NULL, ivlen};
	keymill_oaep oaep = {hash, mgf, 1, NULL, 0};
	keymill_rsa_aes both = {256, &oaep};
	if (hash) {
		m.parameter = &both;
		m.length = sizeof both;
	}
	return ((keymill_wrap)f->function[KEYMILL_WRAP_KEY])(session, &m, kek, key, out, length);
}
*/
import "C"

import (
	"runtime"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// wrapRoom holds the PKCS#8 of an RSA-4096 key (2.4 KiB), wrapped.
const wrapRoom = 4096

// attributeRoom holds any EC point.
const attributeRoom = 256

// direct is two calls of the module with room for the result. miekg/pkcs11 asks
// for the length first, for which modules wrap the key a first time: a seventh
// of SoftHSM's whole cycle. NSS moreover gives too small an answer for KWP.
type direct struct{ functions *C.keymill_functions }

// findDirect returns nil where the module doesn't tell; miekg/pkcs11 is used then.
func findDirect(path string) *direct {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	if functions := C.keymill_find(name); functions != nil {
		return &direct{functions}
	}
	return nil
}

// loadProblem returns why a module can't be loaded, as the dynamic linker says it.
func loadProblem(path string) string {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	runtime.LockOSThread() // dlerror is the thread's
	defer runtime.UnlockOSThread()
	if problem := C.keymill_problem(name); problem != nil {
		return C.GoString(problem)
	}
	return "it refuses to hand out its functions"
}

// login logs the user in with a null PIN, for which the token asks itself.
func (d *direct) login(session pkcs11.SessionHandle) error {
	if rv := C.keymill_login(d.functions, C.keymill_ulong(session)); rv != 0 {
		return pkcs11.Error(rv)
	}
	return nil
}

// attribute reads one attribute of at most attributeRoom bytes.
func (d *direct) attribute(session pkcs11.SessionHandle, object pkcs11.ObjectHandle, attribute uint) ([]byte, error) {
	out := make([]byte, attributeRoom)
	length := C.keymill_ulong(len(out))
	rv := C.keymill_read(d.functions, C.keymill_ulong(session), C.keymill_ulong(object), C.keymill_ulong(attribute), unsafe.Pointer(&out[0]), &length)
	if rv != 0 {
		return nil, pkcs11.Error(rv)
	}
	return out[:min(int(length), len(out))], nil
}

// wrap wraps key under kek. iv is nil for mechanisms without one.
func (d *direct) wrap(session pkcs11.SessionHandle, w *wrapping, iv []byte, kek, key pkcs11.ObjectHandle) ([]byte, error) {
	out := make([]byte, wrapRoom)
	length := C.keymill_ulong(len(out))
	rv := C.keymill_call(d.functions, C.keymill_ulong(session), C.keymill_ulong(w.mechanism),
		unsafe.Pointer(unsafe.SliceData(iv)), C.keymill_ulong(len(iv)), C.keymill_ulong(w.hashAlg), C.keymill_ulong(w.mgf), C.keymill_ulong(kek), C.keymill_ulong(key),
		(*C.uchar)(unsafe.Pointer(&out[0])), &length)
	if rv != 0 {
		return nil, pkcs11.Error(rv)
	}
	return out[:min(int(length), len(out))], nil
}

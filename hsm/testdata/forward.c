/*
 * A PKCS#11 module for tests: it forwards to the module that FORWARD_TO
 * names, and misbehaves as the file FORWARD_CONTROL tells, an array of
 * 32-bit numbers in memory that the tests change while it runs.
 *
 *   gcc -shared -fPIC -o forward.so forward.c -ldl     (with a pkcs11.h)
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include "pkcs11go.h"

enum {
	FAIL_EVERY,    /* every Nth call fails with FAIL_CODE */
	FAIL_CODE,
	HANG_MS,       /* the next call of C_GenerateKeyPair takes so long; then 0 */
	SESSION_LIMIT, /* C_OpenSession beyond it: CKR_SESSION_COUNT */
	TOKEN_ONLY,    /* key pairs are token objects or nothing */
	TOKEN_FLAGS,   /* added to CK_TOKEN_INFO.flags */
	LOGIN_CODE,    /* what C_Login answers */
	GONE,          /* everything fails with CKR_DEVICE_REMOVED */
	LOST,          /* the same until C_Initialize is called; then 0 */
	CRASH_AFTER,   /* the Nth C_GenerateKeyPair from now on kills the process */
	CORRUPT,       /* the next C_WrapKey hands out a flipped bit; then 0 */
	REPEAT,        /* random numbers are always the same */
	DESTROY_CODE,  /* what C_DestroyObject answers */
	GENERATE_CODE, /* what C_GenerateKeyPair answers */
	LATENCY_US,    /* every call takes so much longer, as with a network in between */
	STALL_MS,      /* from the next call on all calls hang, for so long; then 0 */
	MEET,          /* calls that make keys, or random numbers for them, wait for so many to be under way, half a second at most */
	MET,           /* out: how often they were */
	CALLS,         /* out: calls so far */
	LOGINS,        /* out */
	OPEN,          /* out: sessions open now */
	MOST_OPEN,     /* out: sessions open at most so far */
	FIELDS
};

static volatile uint32_t *control;
static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST ours;

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void rest_us(int64_t us)
{
	struct timespec rest = {us / 1000000, (us % 1000000) * 1000L};
	while (us > 0 && nanosleep(&rest, &rest))
		;
}

static void stall(void)
{
	static volatile int64_t until;
	uint32_t ms = __atomic_exchange_n(&control[STALL_MS], 0, __ATOMIC_SEQ_CST);
	if (ms)
		__atomic_store_n(&until, now_ms() + ms, __ATOMIC_SEQ_CST);
	rest_us((__atomic_load_n(&until, __ATOMIC_SEQ_CST) - now_ms()) * 1000);
}

static void meet(void)
{
	static uint32_t here;
	uint32_t all = control[MEET], before = control[MET];
	int64_t until = now_ms() + 500;
	if (!all)
		return;
	if (__atomic_add_fetch(&here, 1, __ATOMIC_SEQ_CST) == all) {
		__atomic_store_n(&here, 0, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&control[MET], 1, __ATOMIC_SEQ_CST);
		return;
	}
	while (control[MET] == before)
		if (now_ms() < until)
			rest_us(200);
		else if (control[MET] == before) {
			__atomic_sub_fetch(&here, 1, __ATOMIC_SEQ_CST);
			return;
		}
}

static CK_RV misbehave(void)
{
	uint32_t n = __atomic_add_fetch(&control[CALLS], 1, __ATOMIC_SEQ_CST);
	stall();
	rest_us(control[LATENCY_US]);
	if (control[GONE] || control[LOST])
		return CKR_DEVICE_REMOVED;
	if (control[FAIL_EVERY] && n % control[FAIL_EVERY] == 0)
		return control[FAIL_CODE];
	return CKR_OK;
}

#define FORWARD(name, parameters, arguments)   \
	static CK_RV bad_##name parameters     \
	{                                      \
		CK_RV rv = misbehave();        \
		return rv ? rv : real->name arguments; \
	}

FORWARD(C_GetSlotList, (CK_BBOOL present, CK_SLOT_ID_PTR list, CK_ULONG_PTR n), (present, list, n))
FORWARD(C_GetSessionInfo, (CK_SESSION_HANDLE s, CK_SESSION_INFO_PTR info), (s, info))
FORWARD(C_GenerateKey, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o), (s, m, t, n, o))
FORWARD(C_CreateObject, (CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o), (s, t, n, o))
FORWARD(C_GetAttributeValue, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n), (s, o, t, n))
FORWARD(C_SetAttributeValue, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n), (s, o, t, n))
FORWARD(C_FindObjectsInit, (CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n), (s, t, n))
FORWARD(C_SignInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE o), (s, m, o))

static CK_RV bad_C_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info)
{
	CK_RV rv = misbehave();
	if (rv == CKR_OK)
		rv = real->C_GetTokenInfo(slot, info);
	if (rv == CKR_OK)
		info->flags |= control[TOKEN_FLAGS];
	return rv;
}

static CK_RV bad_C_Login(CK_SESSION_HANDLE s, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG n)
{
	CK_RV rv = misbehave();
	__atomic_add_fetch(&control[LOGINS], 1, __ATOMIC_SEQ_CST);
	if (rv == CKR_OK && control[LOGIN_CODE])
		rv = control[LOGIN_CODE];
	return rv ? rv : real->C_Login(s, user, pin, n);
}

static CK_RV bad_C_OpenSession(CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR app, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR s)
{
	CK_RV rv = misbehave();
	uint32_t open;
	if (rv)
		return rv;
	open = __atomic_add_fetch(&control[OPEN], 1, __ATOMIC_SEQ_CST);
	rv = control[SESSION_LIMIT] && open > control[SESSION_LIMIT] ? CKR_SESSION_COUNT : real->C_OpenSession(slot, flags, app, notify, s);
	if (rv)
		__atomic_sub_fetch(&control[OPEN], 1, __ATOMIC_SEQ_CST);
	else if (open > control[MOST_OPEN])
		control[MOST_OPEN] = open;
	return rv;
}

static CK_RV bad_C_CloseSession(CK_SESSION_HANDLE s)
{
	CK_RV rv = misbehave();
	if (rv == CKR_OK)
		rv = real->C_CloseSession(s);
	if (rv == CKR_OK)
		__atomic_sub_fetch(&control[OPEN], 1, __ATOMIC_SEQ_CST);
	return rv;
}

static CK_RV bad_C_GenerateKeyPair(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR pub, CK_ULONG npub,
	CK_ATTRIBUTE_PTR priv, CK_ULONG npriv, CK_OBJECT_HANDLE_PTR opub, CK_OBJECT_HANDLE_PTR opriv)
{
	CK_RV rv = misbehave();
	CK_ULONG i;
	uint32_t ms = __atomic_exchange_n(&control[HANG_MS], 0, __ATOMIC_SEQ_CST);
	rest_us(ms * 1000LL);
	meet();
	if (control[GENERATE_CODE])
		return control[GENERATE_CODE];
	if (rv)
		return rv;
	for (i = 0; control[TOKEN_ONLY] && i < npriv; i++)
		if (priv[i].type == CKA_TOKEN && !*(CK_BBOOL *)priv[i].pValue)
			return CKR_TEMPLATE_INCONSISTENT;
	rv = real->C_GenerateKeyPair(s, m, pub, npub, priv, npriv, opub, opriv);
	if (control[CRASH_AFTER] && __atomic_sub_fetch(&control[CRASH_AFTER], 1, __ATOMIC_SEQ_CST) == 0)
		*(volatile int *)0 = 1;
	return rv;
}

static CK_RV bad_C_WrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE kek, CK_OBJECT_HANDLE key, CK_BYTE_PTR out, CK_ULONG_PTR n)
{
	CK_RV rv = misbehave();
	if (rv == CKR_OK)
		rv = real->C_WrapKey(s, m, kek, key, out, n);
	if (rv == CKR_OK && out && __atomic_exchange_n(&control[CORRUPT], 0, __ATOMIC_SEQ_CST))
		out[*n / 2] ^= 1;
	return rv;
}

static CK_RV bad_C_DestroyObject(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	CK_RV rv = misbehave();
	if (rv == CKR_OK && control[DESTROY_CODE])
		rv = control[DESTROY_CODE];
	return rv ? rv : real->C_DestroyObject(s, o);
}

static CK_RV bad_C_GenerateRandom(CK_SESSION_HANDLE s, CK_BYTE_PTR out, CK_ULONG n)
{
	CK_RV rv = misbehave();
	if (n >= 32)
		meet();
	if (rv == CKR_OK && control[REPEAT]) {
		memset(out, 0x5a, n);
		return CKR_OK;
	}
	return rv ? rv : real->C_GenerateRandom(s, out, n);
}

static CK_RV bad_C_Initialize(CK_VOID_PTR args)
{
	CK_RV rv;
	if (control[GONE])
		return CKR_DEVICE_REMOVED;
	rv = real->C_Initialize(args);
	if (rv == CKR_OK) {
		control[LOST] = 0;
		control[OPEN] = 0;
	}
	return rv;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
	CK_RV (*get)(CK_FUNCTION_LIST_PTR_PTR);
	const char *path = getenv("FORWARD_TO"), *file = getenv("FORWARD_CONTROL");
	void *library, *map;
	int fd;
	if (!path || !file || (fd = open(file, O_RDWR)) < 0)
		return CKR_GENERAL_ERROR;
	map = mmap(NULL, FIELDS * sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (map == MAP_FAILED || !library || !(get = dlsym(library, "C_GetFunctionList")) || get(&real) != CKR_OK)
		return CKR_GENERAL_ERROR;
	control = map;
	ours = *real;
#define OURS(name) ours.name = bad_##name
	OURS(C_Initialize); OURS(C_GetSlotList); OURS(C_GetTokenInfo); OURS(C_OpenSession); OURS(C_CloseSession);
	OURS(C_GetSessionInfo); OURS(C_Login); OURS(C_CreateObject); OURS(C_DestroyObject); OURS(C_GetAttributeValue);
	OURS(C_SetAttributeValue); OURS(C_FindObjectsInit); OURS(C_SignInit); OURS(C_GenerateKey);
	OURS(C_GenerateKeyPair); OURS(C_WrapKey); OURS(C_GenerateRandom);
	ours.C_GetFunctionList = C_GetFunctionList;
	*list = &ours;
	return CKR_OK;
}

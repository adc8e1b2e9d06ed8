/*
 * A PKCS#11 module for tests: it forwards to the module that FORWARD_TO
 * names, and misbehaves as the file FORWARD_CONTROL tells, an array of
 * 32-bit numbers in memory that the tests change while it runs.
 *
 *   gcc -shared -fPIC -o forward.so forward.c -ldl -lpthread     (with a pkcs11.h)
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
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
	CLEAR_FLAGS,   /* taken from CK_TOKEN_INFO.flags; without CKF_LOGIN_REQUIRED the module logs in by itself */
	PAD,           /* C_Login wants a null PIN: the person at the pad knows it */
	LOGIN_MS,      /* C_Login takes so long */
	SIGN_CODE,     /* what C_Sign answers */
	SIGN_MS,       /* C_Sign takes so long */
	SIGN_WRONG,    /* C_Sign makes signatures of something else */
	FINALIZE_MS,   /* C_Finalize takes so long */
	CLOSE_MS,      /* C_CloseSession takes so long */
	SET_CODE,      /* what C_SetAttributeValue answers */
	COPY_CODE,     /* what C_CopyObject answers */
	OAEP_CODE,     /* what C_WrapKey by CKM_RSA_PKCS_OAEP answers */
	NEED_PRIVATE,  /* secret keys' templates: 1 must have CKA_PRIVATE, 2 CKA_LABEL, too, and key pairs' as well */
	RANDOM_MOST,   /* more random bytes at once: CKR_DATA_LEN_RANGE */
	POINT_FORM,    /* CKA_EC_POINT: 1 raw, 2 as BIT STRING */
	MOST_SESSIONS, /* 1: ulMaxRwSessionCount is unavailable, 2: as 32-bit code says it */
	READ_ONLY,     /* the token is write-protected */
	ALWAYS_AUTH,   /* CKA_ALWAYS_AUTHENTICATE reads as true */
	WRAP_AS,       /* CKM_AES_KEY_WRAP_PAD goes by this number alone; 0x1054 wraps under an RSA key */
	GONE_SLOT,     /* the token labelled "factory" alone fails: 1 sessions of its slot, with CKR_DEVICE_REMOVED */
	CRASH_IN,      /* a function's number in CK_FUNCTION_LIST: its next call .. */
	CRASH_HOW,     /* .. 0 reads address 0, 1 aborts, 2 exits with 0, 3 jumps to 0, 4 crashes in a thread of its own */
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

static void *crash_alone(void *unused)
{
	*(volatile int *)8 = 1;
	return unused;
}

/* Numbers of CK_FUNCTION_LIST, from 0. */
enum { IN_INITIALIZE = 0, IN_FINALIZE = 1, IN_SLOTS = 4, IN_TOKEN = 6, IN_OPEN = 12, IN_CLOSE = 13, IN_LOGIN = 18, IN_CREATE = 20,
	IN_DESTROY = 22, IN_GET = 24, IN_FIND = 26, IN_SIGN = 43, IN_GENERATE_KEY = 58, IN_GENERATE = 59, IN_WRAP = 60, IN_RANDOM = 64 };

static void crash(uint32_t in)
{
	pthread_t thread;
	if (in + 1 != control[CRASH_IN])
		return;
	control[CRASH_IN] = 0;
	switch (control[CRASH_HOW]) {
	case 1: abort();
	case 2: exit(0);
	case 3: ((void (*)(void))(uintptr_t)control[CRASH_IN])();
	case 4:
		pthread_create(&thread, NULL, crash_alone, NULL);
		pthread_join(thread, NULL);
	}
	*(volatile int *)8 = 1;
}

static CK_ATTRIBUTE_PTR attribute(CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_ATTRIBUTE_TYPE type)
{
	for (; n; n--, t++)
		if (t->type == type)
			return t;
	return NULL;
}

static int wanting(CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	return (control[NEED_PRIVATE] && !attribute(t, n, CKA_PRIVATE)) || (control[NEED_PRIVATE] > 1 && !attribute(t, n, CKA_LABEL));
}

/* the slot of the token that GONE_SLOT takes away, found by its label */
static CK_SLOT_ID gone_slot = (CK_SLOT_ID)-1;

static int gone(CK_SESSION_HANDLE s)
{
	CK_SESSION_INFO info;
	return control[GONE_SLOT] && real->C_GetSessionInfo(s, &info) == CKR_OK && info.slotID == gone_slot;
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

FORWARD(C_GetSessionInfo, (CK_SESSION_HANDLE s, CK_SESSION_INFO_PTR info), (s, info))

static CK_RV bad_C_GetSlotList(CK_BBOOL present, CK_SLOT_ID_PTR list, CK_ULONG_PTR n)
{
	CK_RV rv = misbehave();
	crash(IN_SLOTS);
	return rv ? rv : real->C_GetSlotList(present, list, n);
}

static CK_RV bad_C_FindObjectsInit(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	CK_RV rv = misbehave();
	crash(IN_FIND);
	return rv ? rv : real->C_FindObjectsInit(s, t, n);
}

static CK_RV bad_C_SignInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE o)
{
	CK_RV rv = misbehave();
	return rv ? rv : real->C_SignInit(s, m, o);
}

static CK_RV bad_C_Sign(CK_SESSION_HANDLE s, CK_BYTE_PTR in, CK_ULONG n, CK_BYTE_PTR out, CK_ULONG_PTR length)
{
	CK_RV rv = misbehave();
	CK_BYTE other[512];
	crash(IN_SIGN);
	rest_us(control[SIGN_MS] * 1000LL);
	if (control[SIGN_WRONG] && out && n <= sizeof other) {
		memcpy(other, in, n); /* the caller's own stays as it is */
		other[n - 1] ^= 1;
		in = other;
	}
	if (rv == CKR_OK && control[SIGN_CODE])
		rv = control[SIGN_CODE];
	return rv ? rv : real->C_Sign(s, in, n, out, length);
}

static CK_RV bad_C_GenerateKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o)
{
	CK_RV rv = misbehave();
	crash(IN_GENERATE_KEY);
	if (wanting(t, n))
		return CKR_TEMPLATE_INCOMPLETE;
	return rv ? rv : real->C_GenerateKey(s, m, t, n, o);
}

static CK_RV bad_C_CreateObject(CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o)
{
	CK_RV rv = misbehave();
	crash(IN_CREATE);
	if (wanting(t, n))
		return CKR_TEMPLATE_INCOMPLETE;
	return rv ? rv : real->C_CreateObject(s, t, n, o);
}

static CK_RV bad_C_CopyObject(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE from, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o)
{
	CK_RV rv = misbehave();
	if (rv == CKR_OK && control[COPY_CODE])
		rv = control[COPY_CODE];
	return rv ? rv : real->C_CopyObject(s, from, t, n, o);
}

static CK_RV bad_C_SetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	CK_RV rv = misbehave();
	if (rv == CKR_OK && control[SET_CODE])
		rv = control[SET_CODE];
	return rv ? rv : real->C_SetAttributeValue(s, o, t, n);
}

static CK_RV bad_C_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n)
{
	CK_RV rv = misbehave();
	CK_ATTRIBUTE_PTR a;
	crash(IN_GET);
	if (rv == CKR_OK)
		rv = real->C_GetAttributeValue(s, o, t, n);
	if (rv == CKR_OK && control[ALWAYS_AUTH] && (a = attribute(t, n, CKA_ALWAYS_AUTHENTICATE)) && a->pValue)
		*(CK_BBOOL *)a->pValue = CK_TRUE;
	if (rv == CKR_OK && control[POINT_FORM] && (a = attribute(t, n, CKA_EC_POINT))) {
		CK_BYTE_PTR p = a->pValue; /* 04 LENGTH POINT */
		if (control[POINT_FORM] == 1) {
			if (p)
				memmove(p, p + 2, a->ulValueLen - 2);
			a->ulValueLen -= 2;
		} else {
			if (p) {
				memmove(p + 3, p + 2, a->ulValueLen - 2);
				p[0] = 3;
				p[1]++;
				p[2] = 0;
			}
			a->ulValueLen++;
		}
	}
	return rv;
}

static CK_RV bad_C_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info)
{
	CK_RV rv = misbehave();
	crash(IN_TOKEN);
	if (rv == CKR_OK)
		rv = real->C_GetTokenInfo(slot, info);
	if (rv == CKR_OK && !memcmp(info->label, "factory ", 8)) {
		gone_slot = slot;
		if (control[GONE_SLOT])
			return CKR_DEVICE_REMOVED;
	}
	if (rv == CKR_OK) {
		info->flags |= control[TOKEN_FLAGS];
		info->flags &= ~(CK_FLAGS)control[CLEAR_FLAGS];
		if (control[PAD])
			info->flags |= CKF_PROTECTED_AUTHENTICATION_PATH;
		if (control[READ_ONLY])
			info->flags |= CKF_WRITE_PROTECTED;
		if (control[MOST_SESSIONS])
			info->ulMaxRwSessionCount = info->ulSessionCount = control[MOST_SESSIONS] == 1 ? CK_UNAVAILABLE_INFORMATION : 0xFFFFFFFF;
	}
	return rv;
}

static CK_RV bad_C_Login(CK_SESSION_HANDLE s, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG n)
{
	CK_RV rv = misbehave();
	crash(IN_LOGIN);
	__atomic_add_fetch(&control[LOGINS], 1, __ATOMIC_SEQ_CST);
	rest_us(control[LOGIN_MS] * 1000LL);
	if (rv == CKR_OK && control[LOGIN_CODE])
		rv = control[LOGIN_CODE];
	if (rv == CKR_OK && control[PAD]) {
		if (pin || n)
			return CKR_PIN_INCORRECT;
		return real->C_Login(s, user, (CK_UTF8CHAR_PTR)"4321", 4);
	}
	return rv ? rv : real->C_Login(s, user, pin, n);
}

static CK_RV bad_C_OpenSession(CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR app, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR s)
{
	CK_RV rv = misbehave();
	uint32_t open;
	crash(IN_OPEN);
	if (rv)
		return rv;
	if (control[READ_ONLY] && flags & CKF_RW_SESSION)
		return CKR_TOKEN_WRITE_PROTECTED;
	open = __atomic_add_fetch(&control[OPEN], 1, __ATOMIC_SEQ_CST);
	rv = control[SESSION_LIMIT] && open > control[SESSION_LIMIT] ? CKR_SESSION_COUNT : real->C_OpenSession(slot, flags, app, notify, s);
	if (rv)
		__atomic_sub_fetch(&control[OPEN], 1, __ATOMIC_SEQ_CST);
	else if (open > control[MOST_OPEN])
		control[MOST_OPEN] = open;
	if (rv == CKR_OK && control[CLEAR_FLAGS] & CKF_LOGIN_REQUIRED)
		real->C_Login(*s, CKU_USER, (CK_UTF8CHAR_PTR)"4321", 4);
	return rv;
}

static CK_RV bad_C_CloseSession(CK_SESSION_HANDLE s)
{
	CK_RV rv = misbehave();
	crash(IN_CLOSE);
	rest_us(control[CLOSE_MS] * 1000LL);
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
	crash(IN_GENERATE);
	rest_us(ms * 1000LL);
	meet();
	if (gone(s))
		return CKR_DEVICE_REMOVED;
	if (control[GENERATE_CODE])
		return control[GENERATE_CODE];
	if (rv)
		return rv;
	if (control[NEED_PRIVATE] > 1 && (wanting(pub, npub) || wanting(priv, npriv)))
		return CKR_TEMPLATE_INCOMPLETE;
	if (control[READ_ONLY] && attribute(priv, npriv, CKA_TOKEN) && *(CK_BBOOL *)attribute(priv, npriv, CKA_TOKEN)->pValue)
		return CKR_TOKEN_WRITE_PROTECTED;
	for (i = 0; control[TOKEN_ONLY] && i < npriv; i++)
		if (priv[i].type == CKA_TOKEN && !*(CK_BBOOL *)priv[i].pValue)
			return CKR_TEMPLATE_INCONSISTENT;
	rv = real->C_GenerateKeyPair(s, m, pub, npub, priv, npriv, opub, opriv);
	if (control[CRASH_AFTER] && __atomic_sub_fetch(&control[CRASH_AFTER], 1, __ATOMIC_SEQ_CST) == 0)
		*(volatile int *)0 = 1;
	return rv;
}

/* CKM_RSA_AES_KEY_WRAP of what SoftHSM has: an AES key under RSA, then the key under that. */
static CK_RV rsa_aes_wrap(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE rsa, CK_OBJECT_HANDLE key, CK_BYTE_PTR out, CK_ULONG_PTR n)
{
	struct { CK_ULONG bits; CK_RSA_PKCS_OAEP_PARAMS *oaep; } *p = m->pParameter;
	CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
	CK_ULONG size = 32, first = *n, second;
	CK_ATTRIBUTE t[] = {{CKA_TOKEN, &no, 1}, {CKA_EXTRACTABLE, &yes, 1}, {CKA_WRAP, &yes, 1}, {CKA_VALUE_LEN, &size, sizeof size}};
	CK_MECHANISM gen = {CKM_AES_KEY_GEN, NULL, 0}, oaep = {CKM_RSA_PKCS_OAEP, NULL, sizeof(CK_RSA_PKCS_OAEP_PARAMS)}, pad = {CKM_AES_KEY_WRAP_PAD, NULL, 0};
	CK_OBJECT_HANDLE aes;
	CK_RV rv;
	if (m->ulParameterLen != sizeof *p || p->bits != 256)
		return CKR_MECHANISM_PARAM_INVALID;
	oaep.pParameter = p->oaep;
	if ((rv = real->C_GenerateKey(s, &gen, t, 4, &aes)))
		return rv;
	if ((rv = real->C_WrapKey(s, &oaep, rsa, aes, out, &first)) == CKR_OK) {
		second = *n - first;
		rv = real->C_WrapKey(s, &pad, aes, key, out + first, &second);
		*n = first + second;
	}
	real->C_DestroyObject(s, aes);
	return rv;
}

static CK_RV bad_C_WrapKey(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE kek, CK_OBJECT_HANDLE key, CK_BYTE_PTR out, CK_ULONG_PTR n)
{
	CK_RV rv = misbehave();
	CK_MECHANISM real_one = *m;
	crash(IN_WRAP);
	if (rv == CKR_OK && m->mechanism == CKM_RSA_PKCS_OAEP && control[OAEP_CODE])
		return control[OAEP_CODE];
	if (control[WRAP_AS] && m->mechanism != CKM_RSA_PKCS_OAEP) {
		if (m->mechanism != control[WRAP_AS])
			return CKR_MECHANISM_INVALID;
		if (m->mechanism == 0x1054)
			return rsa_aes_wrap(s, m, kek, key, out, n);
		real_one.mechanism = CKM_AES_KEY_WRAP_PAD;
	}
	if (rv == CKR_OK)
		rv = real->C_WrapKey(s, &real_one, kek, key, out, n);
	if (rv == CKR_OK && out && __atomic_exchange_n(&control[CORRUPT], 0, __ATOMIC_SEQ_CST))
		out[*n / 2] ^= 1;
	return rv;
}

static CK_RV bad_C_DestroyObject(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	CK_RV rv = misbehave();
	crash(IN_DESTROY);
	if (rv == CKR_OK && control[DESTROY_CODE])
		rv = control[DESTROY_CODE];
	return rv ? rv : real->C_DestroyObject(s, o);
}

static CK_RV bad_C_GenerateRandom(CK_SESSION_HANDLE s, CK_BYTE_PTR out, CK_ULONG n)
{
	CK_RV rv = misbehave();
	crash(IN_RANDOM);
	if (gone(s))
		return CKR_DEVICE_REMOVED;
	if (control[RANDOM_MOST] && n > control[RANDOM_MOST])
		return CKR_DATA_LEN_RANGE;
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
	crash(IN_INITIALIZE);
	if (control[GONE])
		return CKR_DEVICE_REMOVED;
	rv = real->C_Initialize(args);
	if (rv == CKR_OK) {
		control[LOST] = 0;
		control[OPEN] = 0;
	}
	return rv;
}

static CK_RV bad_C_Finalize(CK_VOID_PTR reserved)
{
	crash(IN_FINALIZE);
	rest_us(control[FINALIZE_MS] * 1000LL);
	return real->C_Finalize(reserved);
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
	OURS(C_GenerateKeyPair); OURS(C_WrapKey); OURS(C_GenerateRandom); OURS(C_Sign); OURS(C_CopyObject); OURS(C_Finalize);
	ours.C_GetFunctionList = C_GetFunctionList;
	*list = &ours;
	return CKR_OK;
}

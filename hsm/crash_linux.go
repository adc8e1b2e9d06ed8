//go:build cgo && (amd64 || arm64)

package hsm

/*
#define _GNU_SOURCE
#include <link.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

// A fault outside the program's own code is a module's: all other C code that
// this process runs is loaded by one. The state is the process's, as signal
// handlers are.
static char keymill_modules[2048]; // names, for the sentence
static int keymill_code;           // 0: not guarded
static pid_t keymill_pid;
static uintptr_t keymill_low, keymill_high; // the program's own code
static struct sigaction keymill_before[NSIG];

static void keymill_say(const char *text)
{
	if (write(2, text, strlen(text)) < 0)
		return;
}

static void keymill_end(const char *how)
{
	keymill_say("\nkeymill: the PKCS#11 module ");
	keymill_say(keymill_modules);
	keymill_say(how);
	keymill_say("\n  hint: what is recorded stays recorded, and the same command goes on from here; `keymill hsm gc` shows what is left in the token."
		" If it happens again, it is a matter for the module's maker\n");
	_exit(keymill_code);
}

static uintptr_t keymill_pc(void *context)
{
#if defined(__x86_64__)
	return (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#else
	return (uintptr_t)((ucontext_t *)context)->uc_mcontext.pc;
#endif
}

static void keymill_fault(int number, siginfo_t *info, void *context)
{
	struct sigaction *before = &keymill_before[number];
	uintptr_t pc = keymill_pc(context);
	int ours = (pc >= keymill_low && pc < keymill_high) || !keymill_modules[0] || getpid() != keymill_pid
		|| (info->si_code <= 0 && info->si_pid != keymill_pid); // somebody else's kill(2)
	if (!ours)
		keymill_end(number == SIGSEGV ? " crashed (SIGSEGV)" : number == SIGABRT ? " gave up (SIGABRT)" : number == SIGBUS ? " crashed (SIGBUS)"
			: number == SIGFPE ? " crashed (SIGFPE)" : " crashed (SIGILL)");
	if (before->sa_flags & SA_SIGINFO)
		before->sa_sigaction(number, info, context);
	else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN)
		before->sa_handler(number);
	else {
		signal(number, SIG_DFL);
		raise(number);
	}
}

// Go ends by a system call of its own, so that exit(3) is somebody else's.
static void keymill_exit(void)
{
	if (keymill_code && keymill_modules[0] && getpid() == keymill_pid)
		keymill_end(" ended the program");
}

static int keymill_own(struct dl_phdr_info *info, size_t size, void *data)
{
	int i; // the first object is the program
	for (i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_LOAD && info->dlpi_phdr[i].p_flags & PF_X) {
			uintptr_t from = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
			if (!keymill_low || from < keymill_low)
				keymill_low = from;
			if (from + info->dlpi_phdr[i].p_memsz > keymill_high)
				keymill_high = from + info->dlpi_phdr[i].p_memsz;
		}
	return 1;
}

static void keymill_guard(int code)
{
	static const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
	struct sigaction action;
	size_t i;
	if (keymill_code)
		return;
	dl_iterate_phdr(keymill_own, NULL);
	keymill_pid = getpid();
	keymill_code = code;
	memset(&action, 0, sizeof action);
	action.sa_sigaction = keymill_fault;
	action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
	sigfillset(&action.sa_mask);
	for (i = 0; i < sizeof numbers / sizeof *numbers; i++)
		sigaction(numbers[i], &action, &keymill_before[numbers[i]]);
	atexit(keymill_exit);
}

static void keymill_blame(const char *path)
{
	size_t used = strlen(keymill_modules);
	if (used + strlen(path) + 6 > sizeof keymill_modules || strstr(keymill_modules, path))
		return;
	strcat(keymill_modules + used, used ? " or " : "");
	strcat(keymill_modules + used, path);
}
*/
import "C"

import (
	"strconv"
	"unsafe"
)

// GuardCrashes has the program end with an exit code and a sentence when a
// PKCS#11 module crashes, gives up or calls exit(3): a module runs inside this
// process, and Go would end with code 2 and a trace of things that have nothing
// to do with it. It costs the calls nothing. The program's own faults stay Go's.
// Call it once, at the start of main.
func GuardCrashes(code int) { C.keymill_guard(C.int(code)) }

// blameCrashes names a module that is about to be loaded in the sentence. The
// caller is alone with it: modules are loaded one after the other.
func blameCrashes(path string) {
	shown := strconv.Quote(path)
	name := C.CString(shown[1 : len(shown)-1])
	defer C.free(unsafe.Pointer(name))
	C.keymill_blame(name)
}

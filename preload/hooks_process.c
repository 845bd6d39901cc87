/* The interposed calls that are not about memory by name: ioctl, for userfaultfds of the program; those that make a
 * process; and libc's syscall, which may be any of them. */
#include <dlfcn.h>
#include <linux/userfaultfd.h>
#include <linux/vhost.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "preload/direct.h"
#include "preload/hooks.h"
#include "preload/ranges.h"
#include "preload/raw.h"
#include "preload/sharing.h"

#define EXPORT __attribute__((visibility("default")))

/* ---- userfaultfd: postcopy, background snapshots ---------------------------------------------------------------- */

/* A range has room for one userfaultfd. Theirs comes first: ours lets go. */
static long uffd_register(int fd, struct uffdio_register *reg)
{
	uintptr_t start = reg->range.start, end = start + reg->range.len;
	struct gmm__guard guard;
	long rc = -EBUSY;

	gmm__ranges_lock(&guard);
	if (gmm__ranges_suspend(start, end)) {
		rc = gmm__raw(SYS_ioctl, fd, UFFDIO_REGISTER, reg);
		if (rc == 0)
			gmm__ranges_exclude(start, end, GMM__ASIDE_WATCHED);
	}
	gmm__ranges_resume();
	rc = gmm__raw_result(rc);
	gmm__ranges_unlock(&guard);
	return rc;
}

static long uffd_unregister(int fd, struct uffdio_range *range)
{
	struct gmm__guard guard;

	gmm__ranges_lock(&guard);
	long rc = gmm__raw(SYS_ioctl, fd, UFFDIO_UNREGISTER, range);
	if (rc == 0)
		gmm__ranges_include(range->start, range->start + range->len, GMM__ASIDE_WATCHED);
	gmm__ranges_resume();
	rc = gmm__raw_result(rc);
	gmm__ranges_unlock(&guard);
	return rc;
}

int gmm__hook_ioctl(int fd, unsigned long request, ...)
{
	va_list args;

	va_start(args, request);
	void *arg = va_arg(args, void *);
	va_end(args);
	if (request == VHOST_SCSI_SET_ENDPOINT)
		gmm__ranges_give_up(GMM__ASIDE_UNPINNED, "it uses vhost-scsi, whose transfers the kernel does not show");
	if (request == UFFDIO_REGISTER) {
		struct uffdio_register *reg = arg;
		if (gmm__ranges_touch((void *)(uintptr_t)reg->range.start, reg->range.len))
			return (int)uffd_register(fd, reg);
	} else if (request == UFFDIO_UNREGISTER) {
		struct uffdio_range *range = arg;
		if (gmm__ranges_touch((void *)(uintptr_t)range->start, range->len))
			return (int)uffd_unregister(fd, range);
	}
	return (int)gmm__raw_result(gmm__raw(SYS_ioctl, fd, request, arg));
}

EXPORT_HOOK(ioctl);

/* ---- new processes ----------------------------------------------------------------------------------------------- */

/* A process that gets a copy of the memory without libc's fork, which alone tells the library: nothing may be shared in
 * what it copies, and nothing frozen. */
static void give_all_up(void)
{
	if (gmm__ranges_touch(NULL, SIZE_MAX))
		gmm__ranges_give_up(GMM__ASIDE_CLONED, "it was cloned without fork");
}

EXPORT pid_t _Fork(void)
{
	return fork();
}

EXPORT int clone(int (*run)(void *), void *stack, int flags, void *arg, ...)
{
	static int (*real)(int (*)(void *), void *, int, void *, ...);
	va_list args;

	va_start(args, arg);
	void *parent_tid = va_arg(args, void *), *tls = va_arg(args, void *), *child_tid = va_arg(args, void *);
	va_end(args);
	if (!(flags & CLONE_VM))
		give_all_up();
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "clone");
	return real(run, stack, flags, arg, parent_tid, tls, child_tid);
}

/* ---- syscall ------------------------------------------------------------------------------------------------------ */

static long memory_call(long number, const long *a, bool *ret_done)
{
	*ret_done = true;
	switch (number) {
	case SYS_mmap:
		return (long)gmm__hook_mmap((void *)a[0], (size_t)a[1], (int)a[2], (int)a[3], (int)a[4], a[5]);
	case SYS_munmap:
		return gmm__hook_munmap((void *)a[0], (size_t)a[1]);
	case SYS_mremap:
		return (long)gmm__hook_mremap((void *)a[0], (size_t)a[1], (size_t)a[2], (int)a[3], (void *)a[4]);
	case SYS_madvise:
		return gmm__hook_madvise((void *)a[0], (size_t)a[1], (int)a[2]);
	case SYS_mprotect:
		return gmm__hook_mprotect((void *)a[0], (size_t)a[1], (int)a[2]);
	case SYS_mlock:
		return gmm__hook_mlock((void *)a[0], (size_t)a[1]);
	case SYS_mlock2:
		return gmm__hook_mlock2((void *)a[0], (size_t)a[1], (unsigned)a[2]);
	case SYS_munlock:
		return gmm__hook_munlock((void *)a[0], (size_t)a[1]);
	case SYS_mlockall:
		return gmm__hook_mlockall((int)a[0]);
	case SYS_munlockall:
		return gmm__hook_munlockall();
	case SYS_mbind:
		return gmm__hook_mbind((void *)a[0], (unsigned long)a[1], (int)a[2], (void *)a[3], (unsigned long)a[4], (unsigned)a[5]);
	case SYS_io_setup:
		gmm__direct_uncounted();
		*ret_done = false;
		return 0;
	case SYS_ioctl:
		return gmm__hook_ioctl((int)a[0], (unsigned long)a[1], (void *)a[2]);
	default:
		*ret_done = false;
		return 0;
	}
}

long gmm__hook_syscall(long number, ...)
{
	va_list args;
	long a[6];
	bool done;

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	long rc = memory_call(number, a, &done);
	if (done)
		return rc;
	if (number == SYS_fork)
		return fork();
	if ((number == SYS_clone && !(a[0] & CLONE_VM)) || (number == SYS_clone3 && !(*(uint64_t *)a[0] & CLONE_VM)))
		give_all_up();
	return gmm__raw_result(gmm__raw6(number, a[0], a[1], a[2], a[3], a[4], a[5]));
}

EXPORT_HOOK(syscall);

/* The interposed calls that make, change and end mappings. Each hands on to the kernel what is not about a range that
 * the program declared mergeable. */
#include <numaif.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>

#include "preload/hooks.h"
#include "preload/ranges.h"
#include "preload/raw.h"
#include "preload/sharing.h"

enum { PAGE_BYTES = 4096 };

static uintptr_t round_up(uintptr_t value)
{
	return (value + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1);
}

/* An end beyond the address space wraps to before the start; the kernel refuses that itself. */
static uintptr_t end_of(const void *addr, size_t size)
{
	return round_up((uintptr_t)addr + size);
}

/* ---- mmap, munmap, mremap ----------------------------------------------------------------------------------------- */

static void *map_over(void *addr, size_t size, int prot, int flags, int fd, off_t offset)
{
	uintptr_t start = (uintptr_t)addr, end = end_of(addr, size);
	struct gmm__guard guard;
	long rc = -ENOMEM;

	gmm__ranges_lock(&guard);
	if (gmm__ranges_suspend(start, end)) {
		rc = gmm__raw(SYS_mmap, addr, size, prot, flags, fd, offset);
		if (rc == (long)start)
			gmm__ranges_forget(start, end);
	}
	gmm__ranges_resume();
	rc = gmm__raw_result(rc);
	gmm__ranges_unlock(&guard);
	return (void *)rc;
}

void *gmm__hook_mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset)
{
	bool replaces = (flags & MAP_FIXED) && (flags & MAP_FIXED_NOREPLACE) != MAP_FIXED_NOREPLACE;

	if (replaces && gmm__ranges_touch(addr, size))
		return map_over(addr, size, prot, flags, fd, offset);
	return (void *)gmm__raw_result(gmm__raw(SYS_mmap, addr, size, prot, flags, fd, offset));
}

EXPORT_HOOK(mmap);
extern __typeof__(mmap) mmap64 __attribute__((visibility("default"), alias("gmm__hook_mmap")));

int gmm__hook_munmap(void *addr, size_t size)
{
	uintptr_t start = (uintptr_t)addr, end = end_of(addr, size);
	struct gmm__guard guard;
	long rc = -ENOMEM;

	if (!gmm__ranges_touch(addr, size) || start % PAGE_BYTES != 0)
		return (int)gmm__raw_result(gmm__raw(SYS_munmap, addr, size));
	gmm__ranges_lock(&guard);
	if (gmm__ranges_discard_for_unmap(start, end)) {
		rc = gmm__raw(SYS_munmap, addr, size);
		if (rc == 0)
			gmm__ranges_forget(start, end);
	}
	gmm__ranges_resume();
	rc = gmm__raw_result(rc);
	gmm__ranges_unlock(&guard);
	return (int)rc;
}

EXPORT_HOOK(munmap);

/* The advice goes with the mapping, so what was mergeable is so in its new place. */
static void follow_move(uintptr_t old, size_t old_size, uintptr_t new, size_t new_size, int flags)
{
	bool mergeable = gmm__ranges_cover(old, end_of((void *)old, old_size));

	if (!(flags & MREMAP_DONTUNMAP))
		gmm__ranges_forget(old, end_of((void *)old, old_size));
	if (old != new)
		gmm__ranges_forget(new, end_of((void *)new, new_size));
	gmm__ranges_resume();
	if (mergeable)
		gmm__ranges_want(new, end_of((void *)new, new_size));
}

void *gmm__hook_mremap(void *old, size_t old_size, size_t new_size, int flags, ...)
{
	struct gmm__guard guard;
	va_list args;
	long rc = -ENOMEM;

	va_start(args, flags);
	void *new = va_arg(args, void *);
	va_end(args);
	bool fixed = flags & MREMAP_FIXED;
	if (!gmm__ranges_touch(old, old_size) && !(fixed && gmm__ranges_touch(new, new_size)))
		return (void *)gmm__raw_result(gmm__raw(SYS_mremap, old, old_size, new_size, flags, new));
	gmm__ranges_lock(&guard);
	if (gmm__ranges_suspend((uintptr_t)old, end_of(old, old_size)) &&
	    (!fixed || gmm__ranges_suspend((uintptr_t)new, end_of(new, new_size))))
		rc = gmm__raw(SYS_mremap, old, old_size, new_size, flags, new);
	if (rc < 0 && rc >= -4095)
		gmm__ranges_resume();
	else
		follow_move((uintptr_t)old, old_size, (uintptr_t)rc, new_size, flags);
	rc = gmm__raw_result(rc);
	gmm__ranges_unlock(&guard);
	return (void *)rc;
}

EXPORT_HOOK(mremap);

/* ---- madvise ------------------------------------------------------------------------------------------------------- */

static int advise_mergeable(uintptr_t start, uintptr_t end)
{
	return gmm__ranges_want(start, end) ? 0 : (int)gmm__raw(SYS_madvise, start, end - start, MADV_MERGEABLE);
}

static int advise_unmergeable(uintptr_t start, uintptr_t end)
{
	if (gmm__ranges_suspend(start, end))
		gmm__ranges_forget(start, end);
	int rc = (int)gmm__raw(SYS_madvise, start, end - start, MADV_UNMERGEABLE);
	gmm__ranges_resume();
	return rc;
}

/* In a mapping of the pool the kernel's own MADV_DONTNEED would bring back the pool's bytes, not zeros. */
static int discard_part(const struct gmm__part_of_range *part)
{
	uint8_t *addr = (uint8_t *)part->start;
	size_t size = part->end - part->start;
	unsigned char resident;

	if (part->managed) {
		if (gmm_vm_discard(gmm__sharing_vm(), part->guest, size) != GMM_OK)
			memset(addr, 0, size); /* keeps its memory, but reads as it must */
		return 0;
	}
	/* A forked child that has the range may see pool pages in it, too. With MADV_DONTFORK it is not there. */
	if (part->inherited && gmm__raw(SYS_mincore, addr, PAGE_BYTES, &resident) == 0) {
		long rc = gmm__raw(SYS_mmap, addr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		return rc < 0 ? (int)rc : 0;
	}
	return (int)gmm__raw(SYS_madvise, addr, size, MADV_DONTNEED);
}

static int advise_discard(uintptr_t start, uintptr_t end, int advice)
{
	struct gmm__part_of_range part;
	int first_error = 0;

	while (start < end) {
		bool found = gmm__ranges_next(start, end, &part);
		uintptr_t gap_end = found ? part.start : end;
		int rc = start < gap_end ? (int)gmm__raw(SYS_madvise, start, gap_end - start, advice) : 0;
		if (rc == 0 && found)
			rc = discard_part(&part);
		if (rc != 0 && rc != -ENOMEM) /* holes: the kernel goes on, and tells at the end */
			return rc;
		first_error = first_error ? first_error : rc;
		start = found ? part.end : end;
	}
	return first_error;
}

/* What new mappings would not have by themselves: the range is looked at again. */
static int advise_attribute(uintptr_t start, uintptr_t end, int advice)
{
	gmm__ranges_suspend(start, end);
	int rc = (int)gmm__raw(SYS_madvise, start, end - start, advice);
	gmm__ranges_resume();
	return rc;
}

static int advise_range(uintptr_t start, uintptr_t end, int advice)
{
	switch (advice) {
	case MADV_MERGEABLE:
		return advise_mergeable(start, end);
	case MADV_UNMERGEABLE:
		return advise_unmergeable(start, end);
	case MADV_DONTNEED:
	case MADV_DONTNEED_LOCKED:
	case MADV_FREE: /* may lose the bytes at any time, so also now */
		return advise_discard(start, end, advice);
	case MADV_REMOVE: /* of private memory, which a mapping of the pool must not hide */
		return -EINVAL;
	case MADV_HUGEPAGE:
		return advise_attribute(start, end, gmm__sharing_huge_pages() ? advice : MADV_NOHUGEPAGE);
	case MADV_NOHUGEPAGE:
	case MADV_DONTFORK:
	case MADV_DOFORK:
	case MADV_DONTDUMP:
	case MADV_DODUMP:
	case MADV_WIPEONFORK:
	case MADV_KEEPONFORK:
		return advise_attribute(start, end, advice);
	default:
		return (int)gmm__raw(SYS_madvise, start, end - start, advice);
	}
}

int gmm__hook_madvise(void *addr, size_t size, int advice)
{
	uintptr_t start = (uintptr_t)addr, end = end_of(addr, size);
	struct gmm__guard guard;

	if ((advice != MADV_MERGEABLE && !gmm__ranges_touch(addr, size)) || start % PAGE_BYTES != 0 || end <= start)
		return (int)gmm__raw_result(gmm__raw(SYS_madvise, addr, size, advice));
	gmm__ranges_lock(&guard);
	long rc = gmm__raw_result(advise_range(start, end, advice));
	gmm__ranges_unlock(&guard);
	return (int)rc;
}

EXPORT_HOOK(madvise);

/* ---- protection, locking, policy -------------------------------------------------------------------------------------- */

/* The library's mappings are readable and writable. What the program wants otherwise it gets, without sharing. */
int gmm__hook_mprotect(void *addr, size_t size, int prot)
{
	bool plain = prot == (PROT_READ | PROT_WRITE);
	uintptr_t start = (uintptr_t)addr, end = end_of(addr, size);
	struct gmm__guard guard;

	if (!gmm__ranges_touch(addr, size))
		return (int)gmm__raw_result(gmm__raw(SYS_mprotect, addr, size, prot));
	gmm__ranges_lock(&guard);
	if (!plain)
		gmm__ranges_suspend(start, end);
	long rc = gmm__raw(SYS_mprotect, addr, size, prot);
	if (rc == 0 && plain)
		gmm__ranges_include(start, end, GMM__ASIDE_PROTECTED);
	else if (rc == 0)
		gmm__ranges_exclude(start, end, GMM__ASIDE_PROTECTED);
	gmm__ranges_resume();
	rc = gmm__raw_result(rc);
	gmm__ranges_unlock(&guard);
	return (int)rc;
}

EXPORT_HOOK(mprotect);

/* Locked memory would break every shared page. */
static int lock_range(const void *addr, size_t size, long number, unsigned flags)
{
	uintptr_t start = (uintptr_t)addr & ~(uintptr_t)(PAGE_BYTES - 1), end = end_of(addr, size);
	struct gmm__guard guard;

	if (!gmm__ranges_touch((void *)start, end - start))
		return (int)gmm__raw_result(gmm__raw(number, addr, size, flags));
	gmm__ranges_lock(&guard);
	gmm__ranges_suspend(start, end);
	long rc = gmm__raw(number, addr, size, flags);
	if (rc == 0)
		gmm__ranges_exclude(start, end, GMM__ASIDE_LOCKED);
	gmm__ranges_resume();
	rc = gmm__raw_result(rc);
	gmm__ranges_unlock(&guard);
	return (int)rc;
}

int gmm__hook_mlock(const void *addr, size_t size)
{
	return lock_range(addr, size, SYS_mlock, 0);
}

EXPORT_HOOK(mlock);

int gmm__hook_mlock2(const void *addr, size_t size, unsigned flags)
{
	return lock_range(addr, size, SYS_mlock2, flags);
}

EXPORT_HOOK(mlock2);

int gmm__hook_munlock(const void *addr, size_t size)
{
	uintptr_t start = (uintptr_t)addr & ~(uintptr_t)(PAGE_BYTES - 1), end = end_of(addr, size);
	struct gmm__guard guard;

	if (!gmm__ranges_touch((void *)start, end - start))
		return (int)gmm__raw_result(gmm__raw(SYS_munlock, addr, size));
	gmm__ranges_lock(&guard);
	long rc = gmm__raw(SYS_munlock, addr, size);
	if (rc == 0)
		gmm__ranges_include(start, end, GMM__ASIDE_LOCKED);
	gmm__ranges_resume();
	rc = gmm__raw_result(rc);
	gmm__ranges_unlock(&guard);
	return (int)rc;
}

EXPORT_HOOK(munlock);

int gmm__hook_mlockall(int flags)
{
	struct gmm__guard guard;

	gmm__ranges_lock(&guard);
	if (flags & MCL_CURRENT)
		gmm__ranges_suspend(0, UINTPTR_MAX);
	long rc = gmm__raw(SYS_mlockall, flags);
	if (rc == 0 && (flags & MCL_CURRENT))
		gmm__ranges_exclude(0, UINTPTR_MAX, GMM__ASIDE_LOCKED);
	if (rc == 0 && (flags & MCL_FUTURE))
		gmm__ranges_exclude_future(GMM__ASIDE_LOCKED);
	else if (rc == 0)
		gmm__ranges_include_future(GMM__ASIDE_LOCKED);
	gmm__ranges_resume();
	rc = gmm__raw_result(rc);
	gmm__ranges_unlock(&guard);
	return (int)rc;
}

EXPORT_HOOK(mlockall);

int gmm__hook_munlockall(void)
{
	struct gmm__guard guard;

	gmm__ranges_lock(&guard);
	long rc = gmm__raw(SYS_munlockall);
	if (rc == 0) {
		gmm__ranges_include_future(GMM__ASIDE_LOCKED);
		gmm__ranges_include(0, UINTPTR_MAX, GMM__ASIDE_LOCKED);
		gmm__ranges_resume();
	}
	rc = gmm__raw_result(rc);
	gmm__ranges_unlock(&guard);
	return (int)rc;
}

EXPORT_HOOK(munlockall);

long gmm__hook_mbind(void *addr, unsigned long size, int mode, const unsigned long *nodes, unsigned long max_node,
		  unsigned flags)
{
	struct gmm__guard guard;

	if (!gmm__ranges_touch(addr, size))
		return gmm__raw_result(gmm__raw(SYS_mbind, addr, size, mode, nodes, max_node, flags));
	gmm__ranges_lock(&guard);
	gmm__ranges_suspend((uintptr_t)addr, end_of(addr, size));
	long rc = gmm__raw(SYS_mbind, addr, size, mode, nodes, max_node, flags);
	gmm__ranges_resume();
	rc = gmm__raw_result(rc);
	gmm__ranges_unlock(&guard);
	return rc;
}

EXPORT_HOOK(mbind);

/* The ranges that the program declared mergeable: which of them the library manages now, and which it must keep out of.
 *
 * A range is either managed (adopted as a RAM slot) or not; then the kernel's calls on it have their ordinary effect.
 * A call of the program that changes what the library takes for granted is done in four steps, with the lock held:
 *
 *    gmm__ranges_suspend    managed ranges it touches become ordinary private memory again
 *    the call itself
 *    gmm__ranges_exclude, _include or _forget, as the call has it
 *    gmm__ranges_resume     what may be managed is adopted again
 *
 * Guest addresses: the first range gets 0, each new one the next free multiple of 2 MiB after all before it. A range
 * keeps its address when it is adopted again, parts of it keep theirs, and none is given out twice.
 *
 * Fork: the child inherits the table and sees pool pages in the ranges, but nothing is managed there any more.
 */
#ifndef PRELOAD_RANGES_H
#define PRELOAD_RANGES_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Why a range is not managed. */
enum gmm__aside {
	GMM__ASIDE_NOT,
	GMM__ASIDE_LOCKED = 1 << 0,    /* mlock */
	GMM__ASIDE_WATCHED = 1 << 1,   /* a userfaultfd of the program */
	GMM__ASIDE_PROTECTED = 1 << 2, /* mprotect: not readable and writable, or executable */
	GMM__ASIDE_UNPINNED = 1 << 3,  /* something writes to memory without a pin; for good */
	GMM__ASIDE_CLONED = 1 << 4,    /* the process was cloned without fork; for good */
};

/* Whether any of [addr, addr + size) is in the table. Takes no lock; safe anywhere. */
bool gmm__ranges_touch(const void *addr, size_t size);

/* The lock. Signals and cancellation are off while it is held, so that neither a handler nor a cancelled thread can wait
 * for it or keep it. */
struct gmm__guard {
	sigset_t signals;
	int cancel_state;
	int saved_errno;
};
void gmm__ranges_lock(struct gmm__guard *guard);
void gmm__ranges_unlock(const struct gmm__guard *guard);

/* All of the following with the lock. Ranges are [start, end) in host addresses. */

/* The program asked for merging. Returns false when it is to be the kernel's business: too small, or refused. */
bool gmm__ranges_want(uintptr_t start, uintptr_t end);

/* Makes managed ranges that overlap ordinary memory, bytes kept. False: some could not (pinned, out of memory): nothing in
 * them is shared any more from now on, but they are still managed. */
bool gmm__ranges_suspend(uintptr_t start, uintptr_t end);

/* Ranges that lie wholly inside are about to be unmapped: cheaper, their bytes are gone. Then as suspend. */
bool gmm__ranges_discard_for_unmap(uintptr_t start, uintptr_t end);

void gmm__ranges_exclude(uintptr_t start, uintptr_t end, enum gmm__aside why);
void gmm__ranges_include(uintptr_t start, uintptr_t end, enum gmm__aside why);
void gmm__ranges_forget(uintptr_t start, uintptr_t end);
void gmm__ranges_resume(void);

/* The same for ranges still to come. */
void gmm__ranges_exclude_future(enum gmm__aside why);
void gmm__ranges_include_future(enum gmm__aside why);

/* Takes the lock itself: nothing is shared any more, now or later. Said once. */
void gmm__ranges_give_up(enum gmm__aside why, const char *text);

/* The first part of [start, end) that is in the table. False: none. */
struct gmm__part_of_range {
	uintptr_t start, end;
	uint64_t guest;  /* address */
	bool managed;
	bool inherited;  /* we are a forked child: pool pages may show */
};
bool gmm__ranges_next(uintptr_t start, uintptr_t end, struct gmm__part_of_range *ret_part);

/* Whether all of it is in the table. */
bool gmm__ranges_cover(uintptr_t start, uintptr_t end);

#endif

/* The real kernel, but the n-th call fails; and what the library holds of the host at any time.
 *
 * Counting starts with faulty_begin. Clocks, threads, wakes, closes and frees do not fail, since their kernel
 * counterparts cannot. Not for several threads.
 */
#ifndef TESTS_UNIT_SUPPORT_FAULTY_SYS_H
#define TESTS_UNIT_SUPPORT_FAULTY_SYS_H

#include "gmm/sys/sys.h"

enum faulty_call {
	FAULTY_ALLOC, FAULTY_MAP, FAULTY_UNMAP, FAULTY_REMAP_FIXED, FAULTY_ADVISE, FAULTY_POLICY_GET, FAULTY_POLICY_SET,
	FAULTY_UFFD_OPEN, FAULTY_UFFD_WATCH, FAULTY_UFFD_UNWATCH, FAULTY_UFFD_PROTECT, FAULTY_UFFD_MOVE,
	FAULTY_UFFD_COPY, FAULTY_PAGEMAP_OPEN, FAULTY_PAGEMAP_SCAN, FAULTY_PAGEMAP_ARM, FAULTY_MAPS_OPEN,
	FAULTY_MAPS_BOUNDS, FAULTY_FILE_CREATE, FAULTY_FILE_RESIZE, FAULTY_FILE_WRITE, FAULTY_FILE_PUNCH, FAULTY_FILE_READ, FAULTY_RANDOM,
	FAULTY_ANY, /* of the above */
};

const struct gmm__sys *faulty_sys(void);

/* Forgets everything. From now on `times` calls fail, beginning with the n-th (from 1) of that kind; n 0: none. */
void faulty_begin(enum faulty_call call, uint32_t n, uint32_t times);

/* While paused nothing fails and nothing is counted. */
void faulty_pause(bool pause);

/* How many calls have failed, the kind of the first of them, and its name. */
uint32_t faulty_failures(void);
enum faulty_call faulty_first(void);
const char *faulty_name(enum faulty_call call);

/* What the library has of the host, in words; NULL when it has nothing. Ranges whose unmapping failed do not count. */
const char *faulty_leak(void);

#endif

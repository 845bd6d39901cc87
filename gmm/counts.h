/* Statistics: structures that are arrays of 64-bit counts. One thread at a time changes a count, who holds the claim or
 * the lock that guards it; others may look at it without, for a hint. */
#ifndef GMM_COUNTS_H
#define GMM_COUNTS_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t gmm__count_read(const uint64_t *count)
{
	return __atomic_load_n(count, __ATOMIC_RELAXED);
}

/* To take something away, add the negative: it wraps to the right sum. */
static inline void gmm__count_add(uint64_t *count, uint64_t add)
{
	__atomic_store_n(count, *count + add, __ATOMIC_RELAXED);
}

/* Adds each count of a structure of `bytes` bytes to the same one of the total. */
static inline void gmm__counts_add(void *total, const void *part, size_t bytes)
{
	uint64_t *to = total;
	const uint64_t *from = part;

	for (size_t i = 0; i < bytes / sizeof *to; i++)
		to[i] += from[i];
}

#endif

/* Sums of statistics: structures that are arrays of 64-bit counts. */
#ifndef GMM_COUNTS_H
#define GMM_COUNTS_H

#include <stddef.h>
#include <stdint.h>

/* Adds each count of a structure of `bytes` bytes to the same one of the total. */
static inline void gmm__counts_add(void *total, const void *part, size_t bytes)
{
	uint64_t *to = total;
	const uint64_t *from = part;

	for (size_t i = 0; i < bytes / sizeof *to; i++)
		to[i] += from[i];
}

#endif

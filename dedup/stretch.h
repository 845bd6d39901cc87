/* Stretches: the parts of a region worth a question to the pagemap. A question costs as much as the mappings it walks over,
 * and a system call as much as a few mappings: so pages that lie apart are asked about one by one, and near ones together. */
#ifndef DEDUP_STRETCH_H
#define DEDUP_STRETCH_H

#include <stdbool.h>
#include <stdint.h>

struct gmm__stretch {
	uint32_t first;
	uint32_t count; /* 0 to begin with */
};

/* Goes on to the next stretch of pages for which `wanted` is not 0, among `pages`. False: there is none. */
static inline bool gmm__stretch_next(const uint8_t *wanted, uint32_t pages, struct gmm__stretch *stretch)
{
	enum { GAP = 32 };
	uint32_t first = stretch->first + stretch->count, last;

	while (first < pages && !wanted[first])
		first++;
	if (first >= pages)
		return false;
	last = first;
	for (uint32_t i = first + 1; i < pages && i <= last + GAP; i++)
		if (wanted[i])
			last = i;
	*stretch = (struct gmm__stretch){ first, last - first + 1 };
	return true;
}

#endif

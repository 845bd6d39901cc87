/* The tree of host ranges, by tsearch(3). Ranges that overlap compare as equal, so that looking for one finds any that it
 * overlaps; those in the tree never overlap, hence their order is well defined. */
#include "gmm/host_ranges.h"

#include <search.h>

static int compare(const void *a, const void *b)
{
	const struct gmm__host_range *left = a, *right = b;

	return left->end <= right->start ? -1 : left->start >= right->end ? 1 : 0;
}

bool gmm__host_ranges_overlap(void *const *tree, uintptr_t start, uint64_t size)
{
	const struct gmm__host_range range = { start, start + size };

	return tfind(&range, tree, compare) != NULL;
}

bool gmm__host_ranges_add(void **tree, const struct gmm__host_range *range)
{
	const struct gmm__host_range *const *node = tsearch(range, tree, compare);

	return node && *node == range;
}

void gmm__host_ranges_remove(void **tree, const struct gmm__host_range *range)
{
	tdelete(range, tree, compare);
}

/* Which fill words have an extent of equal copies. */
#include "dedup/fill_extents.h"

struct gmm__fill_extent *gmm__fill_find(struct gmm__fill_extents *extents, uint64_t word)
{
	for (int i = 0; i < GMM__FILL_WORDS; i++)
		if (extents->extent[i].pages && extents->extent[i].word == word)
			return &extents->extent[i];
	return NULL;
}

void gmm__fill_set(struct gmm__fill_extents *extents, uint64_t word, gmm__page_id first, uint32_t pages)
{
	struct gmm__fill_extent *place = gmm__fill_find(extents, word);

	for (int i = 0; !place && i < GMM__FILL_WORDS; i++)
		if (!extents->extent[i].pages)
			place = &extents->extent[i];
	if (!place) {
		place = &extents->extent[0];
		for (int i = 1; i < GMM__FILL_WORDS; i++)
			if (extents->extent[i].pages < place->pages)
				place = &extents->extent[i];
	}
	*place = (struct gmm__fill_extent){ .word = word, .first = first, .pages = pages };
}

void gmm__fill_gone(struct gmm__fill_extents *extents, uint64_t word, gmm__page_id page)
{
	struct gmm__fill_extent *extent = gmm__fill_find(extents, word);

	if (extent && page >= extent->first && page < extent->first + extent->pages)
		extent->pages = page - extent->first;
}

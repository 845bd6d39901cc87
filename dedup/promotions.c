/* Promotions under way: a short list, at most one entry for each worker. */
#include "dedup/promotions.h"

void gmm__promotions_begin(struct gmm__promotions **list, struct gmm__promotions *promotions)
{
	promotions->next = *list;
	promotions->listed = true;
	*list = promotions;
}

void gmm__promotions_end(struct gmm__promotions **list, struct gmm__promotions *promotions)
{
	if (!promotions->listed)
		return;
	while (*list != promotions)
		list = &(*list)->next;
	*list = promotions->next;
	promotions->listed = false;
}

bool gmm__promotions_has(const struct gmm__promotions *list, gmm__page_id page)
{
	for (; list; list = list->next) {
		uint32_t i = page - list->first;
		if (i < GMM__REGION_PAGES && list->promoted[i / 64] >> i % 64 & 1)
			return true;
	}
	return false;
}

/* Promotions under way: which pages of a region a worker is putting into the pool.
 *
 * Where several workers are at it, a copy of such a page waits for the outcome: two that promote one content in the same
 * moment would share it twice, and a twin that the other worker has just frozen looks as if it were gone. Who asked first
 * promotes, so nobody waits for somebody who waits.
 */
#ifndef DEDUP_PROMOTIONS_H
#define DEDUP_PROMOTIONS_H

#include "gmm/slot.h"

/* One worker's. All but the list is constant while it is in it. */
struct gmm__promotions {
	struct gmm__promotions *next;
	gmm__page_id first;                         /* of the region, whose pages have consecutive ids */
	uint64_t promoted[GMM__REGION_PAGES / 64];  /* bits of its pages */
	bool listed;
};

/* The list is the catalog's; all with its lock. */

/* Lists the promotions, which have been filled in. */
void gmm__promotions_begin(struct gmm__promotions **list, struct gmm__promotions *promotions);
void gmm__promotions_end(struct gmm__promotions **list, struct gmm__promotions *promotions);

/* True if somebody is promoting the page. */
bool gmm__promotions_has(const struct gmm__promotions *list, gmm__page_id page);

#endif

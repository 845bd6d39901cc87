/* Index: what is to be done with each page of a region, by the catalog. */
#ifndef DEDUP_INDEX_H
#define DEDUP_INDEX_H

#include "dedup/backend.h"
#include "dedup/promotions.h"
#include "dedup/region.h"

/* Returns how many pages wait for the promotion of a twin, in this very region or by another worker: they get their verdict
 * when that is done. The promotions that are verdicts now are listed in `promotions`, NULL where there is one worker only.
 *
 * Verdicts for pages just digested and for those that wait for their merge; NONE for all others. with_budget: pages
 * once refused for the mapping budget are asked again. backend NULL: guest memory is out of reach, and findings of pages
 * that wait for their merge and repeat a word have that word. The caller has the claim and is an RCU reader. */
uint32_t gmm__index_region(struct gmm__catalog *catalog, const struct gmm__backend *backend,
		       const struct gmm__region *region, const struct gmm__finding *finding, bool with_budget,
		       struct gmm__promotions *promotions, struct gmm__verdict *ret_verdict);

#endif

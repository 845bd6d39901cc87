/* Balloons: the part of a range in one slot. */
#ifndef DEDUP_BALLOON_H
#define DEDUP_BALLOON_H

#include "dedup/backend.h"
#include "gmm/vm.h"

/* Empties the pages of the part that are not ballooned, or were used since, and adds to *pages those that were not. With
 * the claim; none is pinned. A gmm_status. */
int gmm__balloon_inflate(const struct gmm__backend *backend, const struct gmm__part *part, uint64_t *pages);

/* Returns how many were ballooned. With the claim. */
uint64_t gmm__balloon_deflate(const struct gmm__part *part);

#endif

/* Clone: a new VM that starts with all pages of another. */
#ifndef DEDUP_CLONE_H
#define DEDUP_CLONE_H

#include "dedup/merge.h"

/* Gives pages [first, first + count) of `to` what `from` has there, at most GMM__FREEZE_PAGES: `to` has holes there, and
 * nobody uses it yet. A gmm_status; on failure some pages may have been given. For the merge thread, or who stands in for
 * it, holding no lock and no claim. */
int gmm__clone_piece(const struct gmm__merge *merge, struct gmm__slot *from, struct gmm__slot *to, uint32_t first,
		     uint32_t count);

#endif

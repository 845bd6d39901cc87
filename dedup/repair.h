/* Repair: broken pages that are equal to a shared page again are shared again; mappings that decayed (at most one page
 * in 16 is shared still) become plain private memory again, with dirty tracking.
 *
 * The kernel cannot say whether a broken page is pinned, so this is done only under the embedder's promise
 * (GMM_REPAIR_PROMISED), or with its consent each time (GMM_REPAIR_ASK), and while the process has no pinned memory that the kernel knows of.
 */
#ifndef DEDUP_REPAIR_H
#define DEDUP_REPAIR_H

#include "dedup/merge.h"

/* False while pins cannot be excluded: there is nothing to repair then. */
bool gmm__repair_is_allowed(const struct gmm__merge *merge);

/* Sets ret_is (zeroed by the caller) for broken pages of the merge's region that are present and the guest's own copies
 * under a mapping of the pool. False: there are none, or the host failed. */
bool gmm__repair_find_copies(const struct gmm__merge *merge, uint8_t *ret_is);

/* Repairs what it can in the merge's region, claiming the VM for one stretch of pages at a time. */
void gmm__repair_region(const struct gmm__merge *merge);

#endif

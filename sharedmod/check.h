/* The check of a module in one VM: shares what can be shared of it, a slice of pages at a time, under the claim of the VM.
 *
 * For each page it looks for an equal one among those that are known of its place in the module: a pool page, to join,
 * or a private page of another guest, and then this one is promoted and the other joins it. The pages of a slice are
 * merged in the order of the module, so that they come to lie in the pool in that order for all guests.
 */
#ifndef SHAREDMOD_CHECK_H
#define SHAREDMOD_CHECK_H

#include "sharedmod/check_pages.h"

enum { GMM__CHECK_PAGES = 256 }; /* of a slice: a few milliseconds */

/* Checks pages [first, first + GMM__CHECK_PAGES) of a held record and adds to the counts. flags: enum gmm_check_flags.
 * merge: as an errand has it. Returns false when the VM is being destroyed. Without claims and locks. */
bool gmm__check_slice(const struct gmm__merge *merge, struct gmm__module_record *record, uint32_t first, unsigned flags,
		      struct gmm_module_checked *counts);

/* Where pages that do not fit are counted. */
uint64_t *gmm__check_count(struct gmm_module_checked *counts, enum gmm__page_fit fit);

extern const struct gmm__module_hooks gmm__check_hooks;

#endif

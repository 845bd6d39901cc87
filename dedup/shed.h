/* Giving mappings back: the shortest runs are made private again when there are more mappings than the budget allows, or
 * when runs at least four times as long wait for one.
 *
 * Only where repair is allowed (GMM_REPAIR_PROMISED) and the process has no pinned memory that the kernel knows of, since
 * some of the pages may be broken.
 */
#ifndef DEDUP_SHED_H
#define DEDUP_SHED_H

#include "dedup/backend.h"

/* What was given back. Runs shorter than min_run must not take the room that was made for longer ones. */
struct gmm__shed {
	uint32_t mappings;
	uint32_t min_run;
};

/* Gives back at most GMM__SHED_MAX mappings. Not while holding any lock or claim. */
enum { GMM__SHED_MAX = 64 };
struct gmm__shed gmm__shed_shortest(struct gmm *gmm, const struct gmm__backend *backend);

#endif

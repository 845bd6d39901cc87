/* Effort: how often each region of guest memory is visited. Pure functions over a record of four bytes a region.
 *
 * A visit of a region asks the pagemap, which costs the more the more mappings lie in it, and digests what was written. A
 * region where nothing comes to be shared is visited ever less often, down to once in 16 passes; one where something was
 * just shared, and one with new memory, at every pass. Who waits for the engine to settle gets visits of all regions.
 */
#ifndef DEDUP_EFFORT_H
#define DEDUP_EFFORT_H

#include "gmm/slot.h"

/* What a visit found. */
struct gmm__yield {
	bool shared; /* pages were shared, broken or repaired, or wait for their merge */
	bool fresh;  /* memory came that was absent before */
};

/* At each pass: is the region to be visited? full: all are. */
bool gmm__effort_due(struct gmm__effort *effort, bool full);

/* At a visit: is all of it to be looked at, not only what was written? True every 16 passes, or at the first visit after
 * them. */
bool gmm__effort_survey(struct gmm__effort *effort);

/* True for a region that is visited so seldom that written shared pages are looked for at each visit. */
bool gmm__effort_is_low(const struct gmm__effort *effort);

/* After a visit. */
void gmm__effort_learn(struct gmm__effort *effort, struct gmm__yield yield);

#endif

/* Effort: how often each region of guest memory is visited. Pure functions over a record of four bytes a region.
 *
 * A visit of a region asks the pagemap, which costs the more the more mappings lie in it, and digests what was written. A
 * region where nothing comes to be shared is visited ever less often, down to once in 16 passes; one where something was
 * just shared, and one with new memory, at every pass. Where visits are cheap they are no further apart than memory that
 * comes to be sharable should wait. Who waits for the engine to settle gets visits of all regions.
 */
#ifndef DEDUP_EFFORT_H
#define DEDUP_EFFORT_H

#include "gmm/slot.h"

/* All of a region is looked at once in so many passes. */
enum { GMM__SURVEY_PASSES = 16 };

/* What a visit found. */
struct gmm__yield {
	bool shared; /* pages were shared, broken or repaired, or wait for their merge */
	bool fresh;  /* memory came that was absent before */
	uint32_t written; /* pages found written */
};

/* How far apart visits may get that bring nothing: 2^this passes. Where many pages are written in vain it is 16 passes. */
struct gmm__effort_limits {
	uint8_t unwritten; /* nothing was written since the last visit */
	uint8_t few;       /* a few pages were */
	uint32_t few_pages; /* that is, no more than so many for each pass since the last visit */
};

/* Limits for passes that begin so many milliseconds after each other, when the last one was so long ago. */
struct gmm__effort_limits gmm__effort_limits(uint64_t pass_ms, uint64_t since_ms);

/* At each pass: is the region to be visited? full: all are. */
bool gmm__effort_due(struct gmm__effort *effort, bool full);

/* At a visit: is all of it to be looked at, not only what was written? True every 16 passes, or at the first visit after
 * them. */
bool gmm__effort_survey(struct gmm__effort *effort);

/* True for a region that is not visited at every pass: written shared pages are looked for at each visit, since the passes that
 * look for them might never be those that visit it. */
bool gmm__effort_is_low(const struct gmm__effort *effort);

/* After a visit. */
void gmm__effort_learn(struct gmm__effort *effort, struct gmm__yield yield, const struct gmm__effort_limits *limits);

#endif

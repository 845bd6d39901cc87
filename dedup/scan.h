/* Scan: which pages of a region are worth looking at. */
#ifndef DEDUP_SCAN_H
#define DEDUP_SCAN_H

#include "dedup/backend.h"
#include "dedup/heat.h"
#include "dedup/region.h"

struct gmm__scan_options {
	bool no_window;   /* a written page is due at once */
	bool covers;      /* look for shared pages that were written */
	bool repair;      /* broken pages are something to do */
	bool survey;      /* look at all: what was refused, discarded, swapped out or back from swap, mapped by others */
	uint32_t huge_phase; /* sample the pages of huge pages whose turn it is (dedup/huge.h); 0: none */
	bool with_budget; /* pages once refused for the mapping budget wait for a merge again */
	struct gmm__heat_clock clock; /* what is written all the time is left alone by it */
};

/* Arms the pages of the region that were written, but for those that are hot (dedup/heat.h), and says what is to be done with
 * each. Reads no guest memory. Returns 0 when there is nothing to do, and ret_finding is not set; else a positive number; or
 * a negative errno. *ret_unripe is how many pages seem quiet and have not been so for long enough. Any thread, without the
 * claim. */
int gmm__scan_region(const struct gmm__backend *backend, const struct gmm__region *region,
		     const struct gmm__scan_options *options, struct gmm__finding *ret_finding, uint32_t *ret_unripe);

/* True when pages of the region wait for their merge. */
bool gmm__scan_waits(const struct gmm__region *region);

/* Reads hot pages (dedup/heat.h), and arms those that have not changed for a while. Any thread, without the claim. */
void gmm__scan_read_hot(const struct gmm__backend *backend, const struct gmm__region *region,
			const struct gmm__scan_options *options, struct gmm__finding *finding);

/* Looks again at what seemed broken or foreign, with the claim: while the scan looked, without it, somebody may have been
 * exchanging mappings. On failure nothing of it is believed; the next look will find it. */
void gmm__scan_confirm(const struct gmm__backend *backend, const struct gmm__region *region, struct gmm__finding *finding);

#endif

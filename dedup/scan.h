/* Scan: which pages of a region are worth looking at. */
#ifndef DEDUP_SCAN_H
#define DEDUP_SCAN_H

#include "dedup/backend.h"
#include "dedup/region.h"

struct gmm__scan_options {
	bool no_window;   /* a written page is due at once */
	bool retry;       /* look at all that is not shared: what was refused, discarded, swapped out or is back from swap */
};

/* Fills ret_finding for the region's pages and arms those that were written. Reads no guest memory. Returns the
 * number of findings that are not NOTHING, or a negative errno. Any thread, without the claim. */
int gmm__scan_region(const struct gmm__backend *backend, const struct gmm__region *region,
		     const struct gmm__scan_options *options, struct gmm__finding *ret_finding);

/* True if pages of the region wait for a merge. */
bool gmm__scan_has_waiting(const struct gmm__region *region, bool with_budget);

#endif

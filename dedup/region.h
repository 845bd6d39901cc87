/* The plain values that pass from stage to stage: a region of a slot and what was found of its pages. */
#ifndef DEDUP_REGION_H
#define DEDUP_REGION_H

#include "dedup/catalog.h"
#include "gmm/slot.h"

struct gmm__region {
	struct gmm__slot *slot;
	uint32_t first;
	uint32_t count; /* <= GMM__REGION_PAGES */
};

enum gmm__found {
	GMM__FOUND_NOTHING, /* nothing new */
	GMM__FOUND_ABSENT,
	GMM__FOUND_SWAPPED,
	GMM__FOUND_HUGE,
	GMM__FOUND_FOREIGN, /* mapped by somebody else */
	GMM__FOUND_BROKEN,  /* shared, and written since */
	GMM__FOUND_AGAIN,   /* unique, as it was: its twin is looked for once more */
	GMM__FOUND_SAMPLE,  /* in a huge page that is being judged: to be digested for that (dedup/huge.h) */
	GMM__FOUND_WRITTEN, /* its window starts, if it does not rest (dedup/heat.h) */
	GMM__FOUND_DUE,     /* present and quiet: to be digested */
	GMM__FOUND_ZERO,    /* the digest stage's answers */
	GMM__FOUND_FILL,
	GMM__FOUND_OTHER,
};

struct gmm__finding {
	enum gmm__found found;
	bool written;         /* since the look before; DUE only */
	bool whole;           /* the whole page was digested; OTHER only */
	bool equal;           /* SAMPLE: the sharing service knows an equal page */
	uint8_t step;         /* WRITTEN: enum gmm__heat_step */
	uint32_t fingerprint; /* FILL, OTHER, SAMPLE (0: zero); AGAIN of a page that goes by its whole digest: as SAMPLE; WRITTEN: its
	                       * heat */
	uint64_t word;        /* FILL, SAMPLE and such AGAIN (0: none) */
};

#endif

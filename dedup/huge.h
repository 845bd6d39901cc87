/* Huge pages: which of the guests' transparent huge pages are worth breaking into small ones.
 *
 * A huge page is shared only after it is broken, since sharing replaces single pages. Arming one (write-protecting
 * it) would break it at the first write already, so it stays unarmed and is judged by reading: a round of
 * GMM__HUGE_ROUND samplings takes a digest of each of its pages once. A page that had the same digest in two rounds, and
 * is zero or has an equal page in the domain, would be saved (GMM__FLAG_SAVED). Fingerprints of sampled pages lie in
 * the page table and the candidate index as those of small pages do, so pages of huge pages find each other. The
 * decision is a pure function of what was counted.
 *
 * A huge page that is broken becomes 512 volatile small pages, and from then on goes the way of all pages.
 */
#ifndef DEDUP_HUGE_H
#define DEDUP_HUGE_H

#include "dedup/merge.h"
#include "dedup/region.h"
#include "dedup/scan.h"

enum {
	GMM__HUGE_ROUND = 8,      /* samplings in which each page of a huge page is sampled once */
	GMM__HUGE_SAVED_MIN = GMM__CHUNK_PAGES / 2, /* what breaking a huge page must save, in pages */
	GMM__HUGE_SAVED_SHORT = GMM__CHUNK_PAGES / 16, /* and while memory is short */
};

/* ---- the decision: pure ------------------------------------------------------------------------------------------- */

/* What is known of one huge page. */
struct gmm__huge_facts {
	uint32_t saved;   /* pages that would be saved: stable, and zero or equal to another page of the domain */
	uint32_t runs;    /* rows of such pages that are not zero: each will be a mapping, if not more */
	uint32_t changed; /* pages found changed lately */
};

struct gmm__huge_setting {
	enum gmm_huge_pages policy;
	bool memory_short;
	uint64_t mappings_left; /* of the budget */
};

/* True if the huge page is to be broken. The loss of the one large TLB entry is what the threshold stands for. */
bool gmm__huge_is_worth_breaking(const struct gmm__huge_facts *facts, const struct gmm__huge_setting *setting);

/* ---- when to sample: pure ------------------------------------------------------------------------------------------ */

struct gmm__huge_pace {
	uint32_t passes;
	uint32_t quiet;      /* of these in a row that told next to nothing new */
	uint64_t news;       /* pages, in a time in which each region is sampled once at most */
	bool memory_short;
};

/* The pages of a region to be sampled at this visit are those with number % GMM__HUGE_ROUND == phase - 1. 0: none are. While
 * there is news every pass samples, later the surveys: the passes between might never be those that visit the region. */
uint32_t gmm__huge_phase(const struct gmm__huge_pace *pace, bool survey);

/* At the end of a pass; `whole` is how many pages lie in huge pages. */
void gmm__huge_pace_conclude(struct gmm__huge_pace *pace, const struct gmm__progress *progress, uint64_t whole);

/* Everything is known of the huge pages there are: the engine may settle. */
bool gmm__huge_pace_judged(const struct gmm__huge_pace *pace);

/* ---- acting ---------------------------------------------------------------------------------------------------------- */

/* Takes in the samples of a region and breaks the huge pages that end in it and are worth it. The caller has the claim;
 * findings are accounted. Not inside an RCU section. */
void gmm__huge_region(const struct gmm__merge *merge, const struct gmm__finding *finding,
		      const struct gmm__scan_options *options, bool memory_short);

/* Makes huge pages again of those in the range that were broken here and have only private pages now. Best effort, for a
 * quarter of a second. The caller has the claim, and the promise that no direct I/O is in flight into unpinned RAM. */
void gmm__huge_restore(const struct gmm__backend *backend, struct gmm__slot *slot, uint32_t first, uint32_t count);

#endif

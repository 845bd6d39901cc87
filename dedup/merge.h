/* Merge: runs from freeze to thaw, in the order reserve → freeze → verify → share → thaw → account. */
#ifndef DEDUP_MERGE_H
#define DEDUP_MERGE_H

#include "dedup/account.h"
#include "dedup/backend.h"
#include "dedup/guard.h"
#include "dedup/plan.h"

/* Private pages that turned out to have a twin which is not nominated yet. */
struct gmm__nominations {
	uint32_t n;
	gmm__page_id page[3 * GMM__REGION_PAGES];
};

/* How long freezes took, and how many pages one may hold to keep to the bound. Changed by the merge thread only; others
 * may read a figure that is a moment old. */
struct gmm__waits {
	uint64_t bound_ns;
	uint64_t longest_ns;
	uint64_t freezes[GMM_WAIT_BUCKETS];
	struct gmm__guard *guard;     /* of the freeze under way; NULL: there is no watchdog */
	uint32_t pages;               /* to freeze at once: 1 to GMM__FREEZE_PAGES; fewer in several runs */
	bool slow;                    /* the last freeze of about so many took longer than it should */
};

/* Counts a freeze and learns from it. */
void gmm__waits_add(struct gmm__waits *waits, uint32_t pages, uint64_t ns);

struct gmm__worker;

struct gmm__merge {
	struct gmm *gmm;
	const struct gmm__backend *backend;
	struct gmm__catalog *catalog;
	const struct gmm__region *region;
	const struct gmm__verdict *verdict; /* of the region's pages */
	struct gmm__progress *progress;
	struct gmm__nominations *nominations;
	struct gmm__waits *waits;
	/* The runs were not found by their digests: they are promoted without a twin, and their digests are taken when they
	 * are published. region, verdict and nominations are not used. */
	bool hinted;
	struct gmm__worker *worker;         /* whose work this is; NULL: no engine runs, or it does not matter */
};

/* Merges n runs of the region, in the order of their pages, piece by piece, claiming the VM for each piece. Pages that are
 * not waiting any more are skipped. Stops early when the VM or the slot goes. Not while holding any lock. */
void gmm__merge_runs(const struct gmm__merge *merge, const struct gmm__run *run, uint32_t n);

/* The same for pages of a slot whose VM the caller has claimed, in one go: for short runs. What became of each page says
 * its state. Nothing is merged where the pool is a service's. */
void gmm__merge_claimed(const struct gmm__merge *merge, struct gmm__slot *slot, const struct gmm__run *run);

#endif

/* Account: brings page tables, counts and references up to date with what was found and done. */
#ifndef DEDUP_ACCOUNT_H
#define DEDUP_ACCOUNT_H

#include "dedup/backend.h"
#include "dedup/plan.h"
#include "dedup/region.h"

/* What a pass did so far; the engine adds up. */
struct gmm__progress {
	uint64_t found;      /* pages that changed since the pass before */
	uint64_t unripe;     /* pages that seem quiet and have not been so for long enough to be looked at */
	uint64_t digested;
	uint64_t broken;     /* shared pages found written */
	uint64_t nominated;  /* pages that newly wait for a merge */
	uint64_t merged;
	uint64_t repaired;   /* broken pages shared again or made plain private again */
	uint64_t huge_new;   /* pages newly found in huge pages */
	uint64_t huge_news;  /* pages of huge pages sampled for the first time or newly found to be saved */
	uint64_t huge_broken; /* huge pages */
	uint64_t fresh;      /* pages that were absent before */
	uint64_t skipped;    /* pages of regions that were not visited */
	uint64_t postponed;  /* pages in runs shorter than what this pass merges */
};

/* Applies findings to the region's page table: digested pages are unique until the index stage says otherwise. The
 * caller has the claim. */
void gmm__account_findings(const struct gmm__region *region, const struct gmm__finding *finding,
			   struct gmm__progress *progress);

/* Applies verdicts: pages wait for their merge or are unique. A verdict that asks to try again what just failed is
 * turned down. The caller has the claim. */
void gmm__account_verdicts(const struct gmm__region *region, struct gmm__verdict *verdict,
			   struct gmm__progress *progress);

/* A unique page of which a twin is known now waits for its merge. False when it is none, or must not be shared. The caller
 * has the claim. */
bool gmm__account_nominate(struct gmm__slot *slot, uint32_t page);

/* Changes page states in [first, first + count) and keeps the VM's counts of mappings and runs: begin, any number of
 * gmm__slot_set in the range, end. The caller has the claim. */
struct gmm__seams gmm__account_begin(const struct gmm__slot *slot, uint32_t first, uint32_t count);
void gmm__account_end(struct gmm__slot *slot, uint32_t first, uint32_t count, struct gmm__seams before);

/* After a range was replaced by private memory: its pages get the state, or that of their refusal, and their references
 * and covers go. */
void gmm__account_uncovered(struct gmm__slot *slot, uint32_t first, uint32_t count, enum gmm_page_state state);

#endif

/* Plan: verdicts become runs, and the mapping budget says which runs are worth a mapping. Pure functions. */
#ifndef DEDUP_PLAN_H
#define DEDUP_PLAN_H

#include "dedup/region.h"
#include "gmm/vm.h"

/* Consecutive pages of a region that are merged in one go: for JOIN they map consecutive shared pages from `page` on. */
struct gmm__run {
	enum gmm__verdict_kind kind; /* ZERO, JOIN, PROMOTE or FILL */
	uint32_t first;              /* page of the slot */
	uint32_t count;
	gmm__page_id page;           /* JOIN: shared page of the first; PROMOTE: its twin */
	uint64_t word;               /* FILL */
};

/* Run lengths by power of two: level k counts runs of 2^k to 2^(k+1) - 1 pages, the last one all longer ones. */
enum { GMM__RUN_LEVELS = 8 };
struct gmm__run_lengths {
	uint64_t runs[GMM__RUN_LEVELS];
};
/* The level of a run length: 0 to GMM__RUN_LEVELS - 1. */
int gmm__plan_level(uint32_t pages);
void gmm__plan_count(struct gmm__run_lengths *lengths, uint32_t count);

/* Writes the region's runs in order, at most region->count; returns how many. by_twin: a PROMOTE run also ends where
 * the twins are not consecutive, so that its length is what the twin's run will have. */
uint32_t gmm__plan_runs(const struct gmm__verdict *verdict, const struct gmm__region *region, bool by_twin,
			struct gmm__run *ret_run);

/* True if the mappings of all runs known to wait fit into what is left of a budget. */
bool gmm__plan_fits(uint64_t waiting_runs, uint64_t mappings_left);

/* The shortest run of a VM to merge in the next pass, by the pass that ended: 1 while all fit. Else the longest runs come
 * first, and half as long ones at each pass after that, until the budget is spent. */
uint32_t gmm__plan_threshold(const struct gmm__vm_plan *plan, bool fits);

#endif

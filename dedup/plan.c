/* Plan stage: runs and the mapping budget. */
#include "dedup/plan.h"

/* A run splits the mapping it lies in: between one VMA (next to another run) and two. */
enum { MAPPINGS_PER_2_RUNS = 3 };

static bool extends(const struct gmm__verdict *last, const struct gmm__verdict *next, bool by_twin)
{
	if (last->kind != next->kind)
		return false;
	switch (next->kind) {
	case GMM__VERDICT_ZERO:
		return true;
	case GMM__VERDICT_FILL:
		return last->word == next->word;
	case GMM__VERDICT_JOIN:
		return gmm__page_follows(last->page, next->page);
	case GMM__VERDICT_PROMOTE:
		return !by_twin || last->page + 1 == next->page;
	default:
		return false;
	}
}

static bool is_merge(enum gmm__verdict_kind kind)
{
	return kind == GMM__VERDICT_ZERO || kind == GMM__VERDICT_JOIN || kind == GMM__VERDICT_PROMOTE ||
	       kind == GMM__VERDICT_FILL;
}

uint32_t gmm__plan_runs(const struct gmm__verdict *verdict, const struct gmm__region *region, bool by_twin,
			struct gmm__run *ret_run)
{
	uint32_t runs = 0;

	for (uint32_t i = 0; i < region->count; i++) {
		if (!is_merge(verdict[i].kind))
			continue;
		if (i > 0 && extends(&verdict[i - 1], &verdict[i], by_twin))
			ret_run[runs - 1].count++;
		else
			ret_run[runs++] = (struct gmm__run){ verdict[i].kind, region->first + i, 1, verdict[i].page,
							     verdict[i].word };
	}
	return runs;
}

int gmm__plan_level(uint32_t pages)
{
	int level = 31 - __builtin_clz(pages | 1);

	return level < GMM__RUN_LEVELS ? level : GMM__RUN_LEVELS - 1;
}

void gmm__plan_count(struct gmm__run_lengths *lengths, uint32_t count)
{
	lengths->runs[gmm__plan_level(count)]++;
}

uint32_t gmm__plan_threshold(const struct gmm__vm_plan *plan, bool fits)
{
	uint32_t threshold = fits ? 1 : 1u << (GMM__RUN_LEVELS - 1);

	if (plan->postponed_pages && threshold > plan->min_run / 2)
		threshold = plan->min_run / 2;
	return threshold > 1 ? threshold : 1;
}

bool gmm__plan_fits(uint64_t waiting_runs, uint64_t mappings_left)
{
	return waiting_runs * MAPPINGS_PER_2_RUNS / 2 <= mappings_left;
}

/* The merge thread's part of a region: index → account → plan → merge. */
#include "dedup/process.h"

#include <string.h>
#include <urcu/urcu-bp.h>

#include "dedup/index.h"
#include "dedup/pace.h"
#include "dedup/repair.h"

/* Twins found in other VMs: each VM is claimed for its own page table. */
static void nominate(struct gmm__engine *engine)
{
	struct gmm__nominations *nominations = &engine->nominations;
	struct gmm_vm *claimed = NULL;
	gmm__page_id last = GMM__NIL;
	uint32_t kept = 0;

	urcu_bp_read_lock();
	for (uint32_t k = 0; k < nominations->n; k++) {
		gmm__page_id page = nominations->page[k];
		struct gmm__slot *slot = gmm__chunk_table_slot(&engine->gmm->chunks, gmm__page_chunk(page));
		uint32_t i = slot ? page - gmm__slot_page_id(slot, 0) : 0;
		if (!slot || i >= slot->pages)
			continue;
		if (claimed != slot->vm) {
			if (claimed)
				gmm__vm_release(claimed);
			claimed = gmm__vm_try_claim(slot->vm) ? slot->vm : NULL;
		}
		if (!claimed && kept < GMM__REGION_PAGES / 2) {
			nominations->page[kept++] = page; /* with the next region */
		} else if (claimed && !slot->dead && gmm__slot_state(slot, i) == GMM_PAGE_UNIQUE &&
			   !(slot->state[i] & GMM__FLAGS_REFUSED)) {
			gmm__slot_set(slot, i, GMM_PAGE_NOMINATED, slot->value[i]);
			gmm__slot_wake(slot, i, 1);
			slot->vm->plan.waiting_runs += page != last + 1; /* nobody else has counted this side */
			last = page;
			engine->progress.nominated++;
		}
	}
	if (claimed)
		gmm__vm_release(claimed);
	urcu_bp_read_unlock();
	nominations->n = kept;
}

static void collect_twins(struct gmm__engine *engine, const struct gmm__region *region)
{
	uint64_t *runs = &region->slot->vm->plan.waiting_runs;
	uint32_t run = 0;

	for (uint32_t i = 0; i < region->count; i++) {
		const struct gmm__verdict *v = &engine->verdict[i];
		bool twin = v->kind == GMM__VERDICT_TWIN;
		if (twin)
			engine->nominations.page[engine->nominations.n++] = v->page;
		if (run && (!twin || v->page != v[-1].page + 1)) {
			++*runs;
			run = 0;
		}
		run += twin;
	}
	*runs += run > 0;
}

void gmm__process_exclude_foreign(struct gmm__engine *engine, const struct gmm__region *region)
{
	bool foreign[GMM__REGION_PAGES] = { false };

	if (engine->backend->find_foreign(region->slot, region->first, region->count, foreign) <= 0)
		return;
	for (uint32_t i = 0; i < region->count; i++) {
		uint32_t page = region->first + i;
		if (!foreign[i] || engine->verdict[i].kind == GMM__VERDICT_NONE ||
		    gmm__state_is_covered(gmm__slot_state(region->slot, page)))
			continue;
		engine->verdict[i].kind = GMM__VERDICT_NONE;
		gmm__slot_set(region->slot, page, GMM_PAGE_FOREIGN, 0);
	}
}

void gmm__process_merge_runs(struct gmm__engine *engine, const struct gmm__merge *merge)
{
	const struct gmm__region *region = merge->region;
	struct gmm__vm_plan *plan = &region->slot->vm->plan;
	uint32_t kept = 0;

	if (plan->min_run < engine->min_run)
		plan->min_run = engine->min_run;
	uint32_t n = gmm__plan_runs(engine->verdict, region, plan->min_run > 1, engine->run);

	for (uint32_t i = 0; i < n; i++) {
		const struct gmm__run *run = &engine->run[i];
		if (run->kind != GMM__VERDICT_ZERO && run->count < plan->min_run) {
			plan->waiting_runs++;
			plan->postponed_pages += run->count;
			engine->progress.postponed += run->count;
		} else {
			engine->run[kept++] = *run;
		}
	}
	if (kept > 0)
		gmm__merge_runs(merge, engine->run, kept);
}

/* Index and account of a region. Returns false when the VM or the slot is gone. */
static bool judge_region(struct gmm__engine *engine, const struct gmm__region *region, bool with_budget,
			 uint32_t *ret_deferred)
{
	struct gmm_vm *vm = region->slot->vm;

	if (!gmm__vm_claim(vm, false))
		return false;
	bool here = !region->slot->dead;
	if (here) {
		gmm__scan_confirm(engine->backend, region, engine->job.finding);
		gmm__account_findings(region, engine->job.finding, &engine->progress);
		urcu_bp_read_lock();
		*ret_deferred = gmm__index_region(vm->domain->catalog, engine->backend, region, engine->job.finding,
						  with_budget, engine->verdict);
		urcu_bp_read_unlock();
		gmm__account_verdicts(region, engine->verdict, &engine->progress);
		gmm__process_exclude_foreign(engine, region);
	}
	gmm__vm_release(vm);
	return here;
}

void gmm__process_huge(struct gmm__engine *engine, const struct gmm__merge *merge)
{
	const struct gmm__slot *slot = merge->region->slot;

	if (!gmm__vm_claim(slot->vm, false))
		return;
	if (!slot->dead && slot->vm->stats.state_pages[GMM_PAGE_HUGE] > 0 &&
	    engine->gmm->options.huge_pages != GMM_HUGE_NEVER)
		gmm__huge_region(merge, engine->job.finding, &engine->huge);
	gmm__vm_release(slot->vm);
}

void gmm__process_region(struct gmm__engine *engine)
{
	const struct gmm__region *region = &engine->job.region;
	struct gmm__merge merge = { .gmm = engine->gmm, .backend = engine->backend, .region = region,
				    .catalog = region->slot->vm->domain->catalog, .verdict = engine->verdict,
				    .progress = &engine->progress, .nominations = &engine->nominations,
				    .waits = &engine->waits };
	uint32_t deferred = 0;

	if (!judge_region(engine, region, engine->job.options.with_budget, &deferred))
		return;
	gmm__process_huge(engine, &merge);
	collect_twins(engine, region);
	gmm__process_merge_runs(engine, &merge);
	if (deferred && region->slot->vm->plan.min_run <= 1) { /* what waited for a promotion just made; none was postponed */
		memset(engine->job.finding, 0, region->count * sizeof *engine->job.finding);
		if (judge_region(engine, region, false, &deferred))
			gmm__process_merge_runs(engine, &merge);
	}
	if (engine->job.options.repair)
		gmm__repair_region(&merge);
	engine->backend->flush(engine->gmm);
	nominate(engine);
}

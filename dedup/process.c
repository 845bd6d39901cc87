/* The merge thread's part of a region: index → account → plan → merge. */
#include "dedup/process.h"

#include <string.h>
#include <urcu/urcu-bp.h>

#include "dedup/index.h"
#include "dedup/pace.h"
#include "dedup/repair.h"
#include "dedup/stretch.h"
#include "dedup/visit.h"

/* Claims the VM, which another worker may have for a moment: this one has no claim and can wait. Pages that are forgotten
 * here stay unshared until a survey. In an RCU section, which is left meanwhile: slots are to be looked up again. */
static bool claim_patiently(struct gmm__worker *worker, struct gmm_vm *vm)
{
	if (gmm__vm_try_claim(vm))
		return true;
	if (worker->engine->workers == 1)
		return false;
	gmm__lock_take(&worker->gmm->lock);
	bool dead = vm->dead;
	vm->visits += !dead;
	gmm__lock_give(&worker->gmm->lock);
	if (dead)
		return false;
	urcu_bp_read_unlock();
	bool claimed = gmm__vm_claim(vm, false);
	gmm__visit_end(vm); /* the claim keeps it */
	urcu_bp_read_lock();
	return claimed;
}

/* Twins found in other VMs: each VM is claimed for its own page table. */
static void nominate(struct gmm__worker *worker)
{
	struct gmm__nominations *nominations = &worker->nominations;
	struct gmm_vm *claimed = NULL;
	gmm__page_id last = GMM__NIL;
	uint32_t kept = 0;

	urcu_bp_read_lock();
	for (uint32_t k = 0; k < nominations->n; k++) {
		gmm__page_id page = nominations->page[k];
		struct gmm__slot *slot = gmm__chunk_table_slot(&worker->gmm->chunks, gmm__page_chunk(page));
		if (slot && claimed != slot->vm) {
			if (claimed)
				gmm__vm_release(claimed);
			struct gmm_vm *vm = slot->vm;
			claimed = claim_patiently(worker, vm) ? vm : NULL;
			/* Another slot may have taken its place, and its very address. */
			slot = gmm__chunk_table_slot(&worker->gmm->chunks, gmm__page_chunk(page));
		}
		uint32_t i = slot ? page - gmm__slot_page_id(slot, 0) : 0;
		if (!slot || i >= slot->pages || (claimed && slot->vm != claimed))
			continue;
		if (!claimed && kept < GMM__REGION_PAGES / 2) {
			nominations->page[kept++] = page; /* with the next region */
		} else if (claimed && gmm__account_nominate(slot, i)) {
			slot->vm->plan.waiting_runs += page != last + 1; /* nobody else has counted this side */
			last = page;
			worker->progress.nominated++;
		}
	}
	if (claimed)
		gmm__vm_release(claimed);
	urcu_bp_read_unlock();
	nominations->n = kept;
}

static void collect_twins(struct gmm__worker *worker, const struct gmm__region *region)
{
	_Atomic uint64_t *runs = &region->slot->vm->plan.waiting_runs;
	uint32_t run = 0;

	for (uint32_t i = 0; i < region->count; i++) {
		const struct gmm__verdict *v = &worker->verdict[i];
		bool twin = v->kind == GMM__VERDICT_TWIN;
		if (twin)
			worker->nominations.page[worker->nominations.n++] = v->page;
		if (run && (!twin || v->page != v[-1].page + 1)) {
			++*runs;
			run = 0;
		}
		run += twin;
	}
	*runs += run > 0;
}

void gmm__process_exclude_foreign(struct gmm__worker *worker, const struct gmm__region *region)
{
	bool foreign[GMM__REGION_PAGES] = { false };
	uint8_t judged[GMM__REGION_PAGES];
	struct gmm__stretch at = { 0 };

	for (uint32_t i = 0; i < region->count; i++)
		judged[i] = worker->verdict[i].kind != GMM__VERDICT_NONE;
	while (gmm__stretch_next(judged, region->count, &at))
		worker->backend->find_foreign(region->slot, region->first + at.first, at.count, foreign + at.first);
	for (uint32_t i = 0; i < region->count; i++) {
		uint32_t page = region->first + i;
		if (!foreign[i] || worker->verdict[i].kind == GMM__VERDICT_NONE ||
		    gmm__state_is_covered(gmm__slot_state(region->slot, page)))
			continue;
		worker->verdict[i].kind = GMM__VERDICT_NONE;
		gmm__slot_set(region->slot, page, GMM_PAGE_FOREIGN, 0);
	}
}

void gmm__process_merge_runs(struct gmm__worker *worker, const struct gmm__merge *merge)
{
	const struct gmm__region *region = merge->region;
	struct gmm__vm_plan *plan = &region->slot->vm->plan;
	uint32_t kept = 0;

	if (plan->min_run < worker->engine->min_run)
		plan->min_run = worker->engine->min_run;
	uint32_t n = gmm__plan_runs(worker->verdict, region, plan->min_run > 1, worker->run);

	for (uint32_t i = 0; i < n; i++) {
		const struct gmm__run *run = &worker->run[i];
		if (run->kind != GMM__VERDICT_ZERO && run->count < plan->min_run) {
			plan->waiting_runs++;
			plan->postponed_pages += run->count;
			worker->progress.postponed += run->count;
		} else {
			worker->run[kept++] = *run;
		}
	}
	if (kept > 0)
		gmm__merge_runs(merge, worker->run, kept);
}

/* What was taken for equal to a shared page and was not has been digested whole since: those two go by that from now on. With
 * the claim. */
static void tell_shared_apart(const struct gmm__worker *worker, const struct gmm__region *region)
{
	const struct gmm__slot *slot = region->slot;

	for (uint32_t i = 0; i < region->count; i++) {
		const struct gmm__finding *finding = &worker->job.finding[i];
		uint32_t page = region->first + i, fingerprint = slot->value[page];
		if (finding->whole && gmm__slot_state(slot, page) == GMM_PAGE_RACED && fingerprint != 0)
			gmm__catalog_tell_shared_apart(slot->vm->domain->catalog, fingerprint,
						       !(slot->state[page] & GMM__FLAG_FILL));
	}
}

/* Index and account of a region. Returns false when the VM or the slot is gone. */
static bool judge_region(struct gmm__worker *worker, const struct gmm__region *region, bool with_budget,
			 uint32_t *ret_deferred)
{
	struct gmm_vm *vm = region->slot->vm;

	if (!gmm__vm_claim(vm, false))
		return false;
	bool here = !region->slot->dead;
	if (here) {
		gmm__scan_confirm(worker->backend, region, worker->job.finding);
		tell_shared_apart(worker, region);
		gmm__account_findings(region, worker->job.finding, &worker->progress);
		urcu_bp_read_lock();
		*ret_deferred = gmm__index_region(vm->domain->catalog, worker->backend, region, worker->job.finding,
						  with_budget,
						  worker->engine->workers > 1 ? &worker->promotions : NULL,
						  worker->verdict);
		urcu_bp_read_unlock();
		gmm__account_verdicts(region, worker->verdict, &worker->progress);
		gmm__process_exclude_foreign(worker, region);
	}
	gmm__vm_release(vm);
	return here;
}

void gmm__process_huge(struct gmm__worker *worker, const struct gmm__merge *merge)
{
	const struct gmm__slot *slot = merge->region->slot;

	if (!gmm__vm_claim(slot->vm, false))
		return;
	if (!slot->dead && gmm__count_read(&slot->vm->stats.state_pages[GMM_PAGE_HUGE]) > 0 &&
	    worker->gmm->options.huge_pages != GMM_HUGE_NEVER)
		gmm__huge_region(merge, worker->job.finding, &worker->job.options, worker->engine->huge.memory_short);
	gmm__vm_release(slot->vm);
}

struct gmm__merge gmm__process_merge(struct gmm__worker *worker, const struct gmm__region *region)
{
	return (struct gmm__merge){ .gmm = worker->gmm, .worker = worker, .backend = worker->backend, .region = region,
				    .catalog = region->slot->vm->domain->catalog, .verdict = worker->verdict,
				    .progress = &worker->progress, .nominations = &worker->nominations,
				    .waits = &worker->waits };
}

/* From now on others find in the index what was promoted, and may promote the rest themselves. */
static void end_promotions(struct gmm__worker *worker, struct gmm__catalog *catalog)
{
	if (worker->engine->workers == 1)
		return;
	gmm__lock_take(&catalog->lock);
	gmm__promotions_end(&catalog->promotions, &worker->promotions);
	gmm__lock_give(&catalog->lock);
}

void gmm__process_region(struct gmm__worker *worker)
{
	const struct gmm__region *region = &worker->job.region;
	const struct gmm__merge merge = gmm__process_merge(worker, region);
	uint32_t deferred = 0;

	if (!judge_region(worker, region, worker->job.options.with_budget, &deferred))
		return;
	gmm__process_huge(worker, &merge);
	collect_twins(worker, region);
	gmm__process_merge_runs(worker, &merge);
	if (deferred && region->slot->vm->plan.min_run <= 1) { /* what waited for a promotion just made; none was postponed */
		memset(worker->job.finding, 0, region->count * sizeof *worker->job.finding);
		if (judge_region(worker, region, false, &deferred))
			gmm__process_merge_runs(worker, &merge);
	}
	end_promotions(worker, merge.catalog);
	worker->progress.postponed += deferred;
	if (worker->job.options.repair)
		gmm__repair_region(&merge);
	gmm__worker_flush(worker);
	nominate(worker);
}

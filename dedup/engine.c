/* Engine: passes, the two threads, and the order of the stages. */
#include "dedup/engine.h"

#include <string.h>
#include <urcu/urcu-bp.h>

#include "dedup/fork.h"
#include "dedup/index.h"
#include "dedup/repair.h"

/* Written shared pages are looked for every 1 to 8 passes, the more seldom the fewer are found; every 16 passes all that
 * is not shared is looked at. */
enum { COVER_PASSES_MAX = 8, SURVEY_PASSES = 16, NANOSECONDS_PER_MS = 1000000 };

/* ---- one region ------------------------------------------------------------------------------------------------- */

/* Twins found in other VMs: each VM is claimed for its own page table. */
static void nominate(struct gmm__engine *engine)
{
	struct gmm__nominations *nominations = &engine->nominations;
	struct gmm_vm *claimed = NULL;
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
			engine->progress.nominated++;
		}
	}
	if (claimed)
		gmm__vm_release(claimed);
	urcu_bp_read_unlock();
	nominations->n = kept;
}

static void collect_twins(struct gmm__engine *engine, uint32_t count)
{
	uint32_t run = 0;

	for (uint32_t i = 0; i < count; i++) {
		const struct gmm__verdict *v = &engine->verdict[i];
		bool twin = v->kind == GMM__VERDICT_TWIN;
		if (twin)
			engine->nominations.page[engine->nominations.n++] = v->page;
		if (run && (!twin || v->page != v[-1].page + 1)) {
			gmm__plan_count(&engine->progress.waiting, run);
			run = 0;
		}
		run += twin;
	}
	if (run)
		gmm__plan_count(&engine->progress.waiting, run);
}

/* Guest RAM that somebody mapped over is not ours to replace. The caller has the claim. */
static void exclude_foreign(struct gmm__engine *engine, const struct gmm__region *region)
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

static void merge_runs(struct gmm__engine *engine, const struct gmm__merge *merge)
{
	const struct gmm__region *region = merge->region;
	uint32_t n = gmm__plan_runs(engine->verdict, region, engine->min_run > 1, engine->run);

	for (uint32_t i = 0; i < n; i++) {
		const struct gmm__run *run = &engine->run[i];
		if (run->kind != GMM__VERDICT_ZERO && run->count < engine->min_run) {
			gmm__plan_count(&engine->progress.waiting, run->count);
			engine->progress.postponed += run->count;
		} else {
			gmm__merge_run(merge, run);
		}
	}
}

static bool looks_at_covers(const struct gmm__engine *engine)
{
	return engine->passes >= engine->next_cover;
}

static bool repairs_now(const struct gmm__engine *engine)
{
	return engine->gmm->options.repair == GMM_REPAIR_PROMISED && looks_at_covers(engine);
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
		gmm__account_findings(region, engine->job.finding, &engine->progress);
		urcu_bp_read_lock();
		*ret_deferred = gmm__index_region(vm->domain->catalog, engine->backend, region, engine->job.finding,
						  with_budget, engine->verdict);
		urcu_bp_read_unlock();
		gmm__account_verdicts(region, engine->verdict, &engine->progress);
		exclude_foreign(engine, region);
	}
	gmm__vm_release(vm);
	return here;
}

/* The merge thread's part of a region. */
static void process(struct gmm__engine *engine)
{
	const struct gmm__region *region = &engine->job.region;
	struct gmm__merge merge = { .gmm = engine->gmm, .backend = engine->backend, .region = region,
				    .catalog = region->slot->vm->domain->catalog, .verdict = engine->verdict,
				    .progress = &engine->progress, .nominations = &engine->nominations,
				    .waits = &engine->waits };
	uint32_t deferred = 0;

	if (!judge_region(engine, region, engine->retry_budget, &deferred))
		return;
	collect_twins(engine, region->count);
	merge_runs(engine, &merge);
	if (deferred && engine->min_run == 1) { /* what waited for a promotion just made; none was postponed */
		memset(engine->job.finding, 0, region->count * sizeof *engine->job.finding);
		if (judge_region(engine, region, false, &deferred))
			merge_runs(engine, &merge);
	}
	if (repairs_now(engine))
		gmm__repair_region(&merge);
	engine->backend->flush(engine->gmm);
	nominate(engine);
}

enum { PREFETCH_PAGES = 8 };

static void digest_region(const struct gmm__engine *engine, const struct gmm__region *region, struct gmm__finding *finding)
{
	const struct gmm__secret *secret = &region->slot->vm->domain->catalog->secret;
	const struct gmm__backend *backend = engine->backend;

	for (uint32_t i = 0; i < region->count; i++) {
		uint32_t ahead = i + PREFETCH_PAGES, page = region->first + i;
		if (ahead < region->count && finding[ahead].found == GMM__FOUND_DUE)
			gmm__digest_prefetch(backend->bytes(region->slot, region->first + ahead), secret);
		if (finding[i].found != GMM__FOUND_DUE)
			continue;
		struct gmm__digest digest = gmm__digest_sample(backend->bytes(region->slot, page), secret);
		/* It was taken for equal to another page and was not: the sample does not tell them apart. */
		uint32_t before = __atomic_load_n(&region->slot->value[page], __ATOMIC_RELAXED);
		if (!finding[i].written && gmm__slot_state(region->slot, page) == GMM_PAGE_RACED &&
		    before == (digest.kind == GMM__DIGEST_ZERO ? 0 : digest.fingerprint)) {
			digest = gmm__digest_whole(backend->bytes(region->slot, page), secret);
			finding[i].whole = true;
		}
		finding[i].found = digest.kind == GMM__DIGEST_ZERO ? GMM__FOUND_ZERO :
				   digest.kind == GMM__DIGEST_FILL ? GMM__FOUND_FILL : GMM__FOUND_OTHER;
		finding[i].fingerprint = digest.fingerprint;
		finding[i].word = digest.word;
	}
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

static bool must_leave(struct gmm__engine *engine)
{
	return engine->stopping || engine->pausing;
}

/* Hands the job to the merge thread and waits for it. Without threads (tests) it is done here. */
static void run_job(struct gmm__engine *engine)
{
	if (!engine->merge_thread) {
		process(engine);
		return;
	}
	pthread_mutex_lock(&engine->job_lock);
	engine->job_ready = true;
	pthread_cond_broadcast(&engine->job_changed);
	while (engine->job_ready)
		pthread_cond_wait(&engine->job_changed, &engine->job_lock);
	pthread_mutex_unlock(&engine->job_lock);
}

static void *merge_main(void *arg)
{
	struct gmm__engine *engine = arg;

	pthread_mutex_lock(&engine->job_lock);
	for (;;) {
		while (!engine->job_ready && !engine->merge_stopping)
			pthread_cond_wait(&engine->job_changed, &engine->job_lock);
		if (!engine->job_ready)
			break;
		pthread_mutex_unlock(&engine->job_lock);
		process(engine);
		engine->cpu_ns[1] = gmm__sys_of(engine->gmm)->thread_cpu_ns();
		pthread_mutex_lock(&engine->job_lock);
		engine->job_ready = false;
		pthread_cond_broadcast(&engine->job_changed);
	}
	pthread_mutex_unlock(&engine->job_lock);
	return NULL;
}

/* ---- passes ------------------------------------------------------------------------------------------------------ */

/* The engine has to leave the region's VM, its slot, or everything. */
static bool must_leave_region(struct gmm__engine *engine, const struct gmm__region *region)
{
	return must_leave(engine) || region->slot->vm->dead || region->slot->dead;
}

/* Rests when the engine is ahead of its CPU budget, unless somebody waits for it to leave. */
static void keep_budget(struct gmm__engine *engine, const struct gmm__region *region)
{
	struct gmm *gmm = engine->gmm;
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	uint32_t percent = engine->cpu_percent;

	if (!engine->merge_thread)
		return;
	engine->cpu_ns[0] = sys->thread_cpu_ns();
	uint64_t now = sys->clock_ns();
	uint64_t rest = gmm__budget_rest(&engine->budget, percent, now, engine->cpu_ns[0] + engine->cpu_ns[1]);
	if (rest == 0)
		return;
	pthread_mutex_lock(&gmm->lock);
	while (!must_leave_region(engine, region) && engine->cpu_percent == percent && gmm__wait_until(gmm, now + rest))
		;
	pthread_mutex_unlock(&gmm->lock);
}

/* Returns false when the VM, the slot or the engine has to be left. Takes no lock that others wait for: at idle priority
 * this thread may be stopped for long. */
static bool scan_region(struct gmm__engine *engine, const struct gmm__region *region)
{
	struct gmm__scan_options options = {
		.no_window = engine->gmm->options.window_ms == 0,
		.covers = looks_at_covers(engine),
		.repair = repairs_now(engine),
		.survey = engine->passes % SURVEY_PASSES == SURVEY_PASSES - 1,
		.with_budget = engine->retry_budget,
	};
	struct gmm__finding *finding = engine->job.finding;

	if (gmm__scan_region(engine->backend, region, &options, finding) > 0) {
		digest_region(engine, region, finding);
		engine->job.region = *region;
		run_job(engine);
	}
	keep_budget(engine, region);
	return !must_leave_region(engine, region);
}

static bool scan_slot(struct gmm__engine *engine, struct gmm__slot *slot)
{
	for (uint32_t first = 0; first < slot->pages; first += GMM__REGION_PAGES) {
		uint32_t left = slot->pages - first;
		struct gmm__region region = { slot, first, left < GMM__REGION_PAGES ? left : GMM__REGION_PAGES };
		if (!scan_region(engine, &region))
			return false;
	}
	return true;
}

/* The slot after gfn `from`; looked up anew each time, since slots come and go. */
static struct gmm__slot *next_slot(struct gmm_vm *vm, uint64_t from)
{
	struct gmm__slot *found = NULL;

	urcu_bp_read_lock();
	const struct gmm__slots *slots = rcu_dereference(vm->slots);
	for (uint32_t i = 0; !found && i < slots->n; i++)
		if (slots->slot[i]->gfn >= from && !slots->slot[i]->dead)
			found = slots->slot[i];
	urcu_bp_read_unlock();
	return found;
}

/* The VM after `last` in scan order, now visited; NULL at the end. Ends the visit of `last`. */
static struct gmm_vm *next_vm(struct gmm__engine *engine, struct gmm_vm *last)
{
	struct gmm *gmm = engine->gmm;

	pthread_mutex_lock(&gmm->lock);
	struct gmm_vm *vm = must_leave(engine) ? NULL : last ? last->next : gmm->vms;
	while (vm && vm->dead)
		vm = vm->next;
	if (vm)
		vm->visited = true;
	if (last) {
		last->visited = false;
		pthread_cond_broadcast(&gmm->changed);
	}
	pthread_mutex_unlock(&gmm->lock);
	return vm;
}

static void scan_vm(struct gmm__engine *engine, struct gmm_vm *vm)
{
	uint64_t from = 0;
	struct gmm__slot *slot;

	if (gmm__catalog_prepare(vm->domain->catalog, vm->domain->pages, engine->passes + 1) != 0)
		gmm__log(engine->gmm, GMM_LOG_WARNING, "no memory for the indexes of domain %s", vm->domain->name);
	while (!vm->dead && !engine->stopping && (slot = next_slot(vm, from)) != NULL) {
		from = slot->gfn + slot->pages;
		if (!scan_slot(engine, slot))
			break;
	}
	gmm__catalog_reap(vm->domain->catalog);
	gmm__fork_reap(vm->domain, engine->gmm);
}

/* When to look for written shared pages next: a look that finds many halves the interval, one that finds few doubles it. */
static void schedule_cover(struct gmm__engine *engine)
{
	if (!looks_at_covers(engine))
		return;
	if ((engine->progress.broken + engine->progress.repaired) * 256 > engine->gmm->mappings)
		engine->cover_interval = engine->cover_interval > 1 ? engine->cover_interval / 2 : 1;
	else if (engine->cover_interval < COVER_PASSES_MAX)
		engine->cover_interval *= 2;
	engine->next_cover = (uint32_t)engine->passes + engine->cover_interval;
}

/* What the next pass merges, and whether this one found next to nothing to do. */
static void conclude(struct gmm__engine *engine)
{
	struct gmm *gmm = engine->gmm;
	const struct gmm__progress *done = &engine->progress;
	uint64_t mappings = gmm->mappings, left = mappings < gmm->max_mappings ? gmm->max_mappings - mappings : 0;
	uint32_t threshold = gmm__plan_threshold(&done->waiting, left);

	/* Runs that were too short are the next to be tried, longest first, until the budget is spent. */
	if (done->postponed && threshold > engine->min_run / 2)
		threshold = engine->min_run / 2;
	engine->min_run = threshold > 1 ? threshold : 1;

	schedule_cover(engine);
	uint64_t pages = 0, waiting = 0;
	gmm__snapshot_begin(gmm);
	pthread_mutex_lock(&gmm->lock);
	for (struct gmm_vm *vm = gmm->vms; vm; vm = vm->next) {
		pages += vm->stats.pages;
		waiting += vm->stats.state_pages[GMM_PAGE_NOMINATED];
	}
	/* Nothing was written, nothing waits: another pass would do nothing. */
	bool nothing_left = waiting + done->nominated + done->postponed + done->found == 0;
	bool little = (done->merged + done->nominated) * 1000 <= pages && done->postponed == 0 &&
		      done->found * 100 <= pages;
	engine->quiet_passes = nothing_left ? 3 : little ? engine->quiet_passes + 1 : 0;
	engine->retry_budget = left > gmm->max_mappings / 16;
	engine->digested_pages += done->digested;
	if (!must_leave(engine)) {
		engine->passes++;
		engine->settled = engine->quiet_passes >= 3 && !engine->disturbed;
		engine->disturbed = false;
	}
	engine->cpu_ns[0] = gmm__sys_of(gmm)->thread_cpu_ns();
	pthread_cond_broadcast(&gmm->changed);
	pthread_mutex_unlock(&gmm->lock);
	gmm__snapshot_end(gmm);
}

void gmm__engine_pass(struct gmm__engine *engine)
{
	memset(&engine->progress, 0, sizeof engine->progress);
	for (struct gmm_vm *vm = next_vm(engine, NULL); vm; vm = next_vm(engine, vm))
		scan_vm(engine, vm);
	conclude(engine);
}

/* Between two passes: a window, so that what was found written then can be judged, and the interval once settled. */
static void rest(struct gmm__engine *engine)
{
	const struct gmm_options *options = &engine->gmm->options;
	struct gmm *gmm = engine->gmm;
	uint64_t ms = options->window_ms;

	pthread_mutex_lock(&gmm->lock);
	if (engine->quiet_passes > 0 && options->pass_interval_ms > ms)
		ms = options->pass_interval_ms;
	uint64_t end = gmm__sys_of(gmm)->clock_ns() + ms * NANOSECONDS_PER_MS;
	engine->resting = true;
	pthread_cond_broadcast(&gmm->changed);
	while (!engine->stopping && (engine->pausing || gmm__sys_of(gmm)->clock_ns() < end)) {
		if (engine->pausing)
			pthread_cond_wait(&gmm->changed, &gmm->lock);
		else
			gmm__wait_until(gmm, end);
	}
	engine->resting = false;
	pthread_mutex_unlock(&gmm->lock);
}

/* Debug builds recount everything now and then. */
static void check_accounts(struct gmm__engine *engine)
{
#if GMM_DEBUG
	enum { CHECK_PASSES = 32 };
	if (engine->passes % CHECK_PASSES != 0)
		return;
	gmm__snapshot_begin(engine->gmm);
	pthread_mutex_lock(&engine->gmm->lock);
	const char *broken = gmm__accounts_validate(engine->gmm);
	pthread_mutex_unlock(&engine->gmm->lock);
	gmm__snapshot_end(engine->gmm);
	if (broken) {
		gmm__log(engine->gmm, GMM_LOG_ERROR, "the accounts do not add up: %s", broken);
		__builtin_trap();
	}
#else
	(void)engine;
#endif
}

static void *scan_main(void *arg)
{
	struct gmm__engine *engine = arg;

	while (!engine->stopping) {
		gmm__engine_pass(engine);
		check_accounts(engine);
		rest(engine);
	}
	return NULL;
}

/* ---- start and stop ------------------------------------------------------------------------------------------------ */

static int start_threads(struct gmm__engine *engine)
{
	const struct gmm__sys *sys = gmm__sys_of(engine->gmm);

	int rc = sys->thread_start(&engine->merge_thread, "gmm-merge", false, merge_main, engine);
	if (rc != 0) {
		engine->merge_thread = 0;
		return rc;
	}
	rc = sys->thread_start(&engine->scan_thread, "gmm-scan", true, scan_main, engine);
	if (rc != 0)
		engine->scan_thread = 0;
	return rc;
}

static void stop_threads(struct gmm__engine *engine)
{
	struct gmm *gmm = engine->gmm;
	const struct gmm__sys *sys = gmm__sys_of(gmm);

	pthread_mutex_lock(&gmm->lock);
	engine->stopping = true;
	pthread_cond_broadcast(&gmm->changed);
	pthread_mutex_unlock(&gmm->lock);
	if (engine->scan_thread)
		sys->thread_join(engine->scan_thread);
	pthread_mutex_lock(&engine->job_lock);
	engine->merge_stopping = true;
	pthread_cond_broadcast(&engine->job_changed);
	pthread_mutex_unlock(&engine->job_lock);
	if (engine->merge_thread)
		sys->thread_join(engine->merge_thread);
}

static void free_engine(struct gmm__engine *engine)
{
	pthread_cond_destroy(&engine->job_changed);
	pthread_mutex_destroy(&engine->job_lock);
	gmm__mem_free(&engine->gmm->mem, engine, sizeof *engine);
}

int gmm__engine_start(struct gmm *gmm, const struct gmm__backend *backend)
{
	struct gmm__engine *engine = gmm__mem_alloc(&gmm->mem, sizeof *engine);

	if (!engine)
		return GMM_ERR_NO_MEMORY;
	engine->gmm = gmm;
	engine->backend = backend;
	engine->min_run = 1;
	engine->cover_interval = 1;
	engine->cpu_percent = gmm->options.cpu_percent;
	engine->waits = (struct gmm__waits){ .bound_ns = gmm->options.wait_bound_us * 1000ull, .pages = GMM__FREEZE_PAGES / 2 };
	engine->retry_budget = true;
	pthread_cond_init(&engine->job_changed, NULL);
	pthread_mutex_init(&engine->job_lock, NULL);
	if (start_threads(engine) != 0) {
		stop_threads(engine);
		free_engine(engine);
		return GMM_ERR_NO_MEMORY;
	}
	pthread_mutex_lock(&gmm->lock);
	gmm->engine = engine;
	pthread_mutex_unlock(&gmm->lock);
	return GMM_OK;
}

void gmm__engine_stop(struct gmm *gmm)
{
	pthread_mutex_lock(&gmm->lock);
	struct gmm__engine *engine = gmm->engine;
	gmm->engine = NULL;
	pthread_mutex_unlock(&gmm->lock);
	if (!engine)
		return;
	stop_threads(engine);
	pthread_mutex_lock(&gmm->lock);
	gmm->ended.passes += engine->passes;
	gmm->ended.cpu_ns += engine->cpu_ns[0] + engine->cpu_ns[1];
	gmm->ended.digested_pages += engine->digested_pages;
	for (int i = 0; i < GMM_WAIT_BUCKETS; i++)
		gmm->ended.freezes[i] += engine->waits.freezes[i];
	if (engine->waits.longest_ns > gmm->ended.longest_freeze_ns)
		gmm->ended.longest_freeze_ns = engine->waits.longest_ns;
	pthread_cond_broadcast(&gmm->changed);
	pthread_mutex_unlock(&gmm->lock);
	free_engine(engine);
}

void gmm__engine_disturb(struct gmm *gmm)
{
	pthread_mutex_lock(&gmm->lock);
	if (gmm->engine) {
		gmm->engine->settled = false;
		gmm->engine->disturbed = true;
		gmm->engine->quiet_passes = 0;
	}
	pthread_cond_broadcast(&gmm->changed);
	pthread_mutex_unlock(&gmm->lock);
}

void gmm__engine_wait_left(struct gmm_vm *vm)
{
	struct gmm *gmm = vm->gmm;

	pthread_mutex_lock(&gmm->lock);
	while (vm->visited)
		pthread_cond_wait(&gmm->changed, &gmm->lock);
	pthread_mutex_unlock(&gmm->lock);
}

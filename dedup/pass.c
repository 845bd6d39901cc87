/* A pass: goes over all VMs, slot by slot and region by region, scans and digests each region and hands it over.
 *
 * This is the scan threads' work. They hold no lock that others wait for and no claim: at idle priority a thread may be
 * stopped for long. Worker 0's thread leads, the others join.
 */
#include "dedup/compact.h"
#include "dedup/engine.h"

#include <string.h>

#include "dedup/errand.h"
#include "dedup/fork.h"
#include "dedup/pace.h"
#include "dedup/profit.h"
#include "dedup/process.h"
#include "dedup/remote.h"
#include "dedup/visit.h"
#include "gmm/counts.h"

enum { PREFETCH_PAGES = 8 };

/* The service cannot look at a twin: equal digests of whole pages have to do. */
static struct gmm__digest digest_page(const struct gmm__worker *worker, const uint8_t *bytes, const struct gmm__secret *secret)
{
	struct gmm__digest digest = gmm__digest_sample(bytes, secret);

	return worker->gmm->remote && digest.kind == GMM__DIGEST_OTHER ? gmm__digest_whole(bytes, secret) : digest;
}

/* What only samples have. Zeros have no fingerprint. */
static void note_sample(struct gmm__digest digest, struct gmm__finding *finding)
{
	finding->fingerprint = digest.kind == GMM__DIGEST_ZERO ? 0 : digest.fingerprint;
	finding->word = digest.kind == GMM__DIGEST_FILL ? digest.word : 0;
}

static void digest_region(const struct gmm__worker *worker, const struct gmm__region *region, struct gmm__finding *finding)
{
	const struct gmm__secret *secret = &region->slot->vm->domain->catalog->secret;
	const struct gmm__backend *backend = worker->backend;

	for (uint32_t i = 0; i < region->count; i++) {
		uint32_t ahead = i + PREFETCH_PAGES, page = region->first + i;
		if (ahead < region->count &&
		    (finding[ahead].found == GMM__FOUND_DUE || finding[ahead].found == GMM__FOUND_SAMPLE))
			gmm__digest_prefetch(backend->bytes(region->slot, region->first + ahead), secret);
		if (finding[i].found == GMM__FOUND_SAMPLE)
			note_sample(digest_page(worker, backend->bytes(region->slot, page), secret), &finding[i]);
		if (finding[i].found == GMM__FOUND_AGAIN && gmm__slot_byte(region->slot, page) & GMM__FLAG_WHOLE)
			note_sample(gmm__digest_sample(backend->bytes(region->slot, page), secret), &finding[i]);
		if (finding[i].found != GMM__FOUND_DUE)
			continue;
		struct gmm__digest digest = digest_page(worker, backend->bytes(region->slot, page), secret);
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

/* The engine has to leave the VM, its slot (NULL: a paged VM), or everything. */
static bool must_leave(struct gmm__engine *engine, const struct gmm_vm *vm, const struct gmm__slot *slot)
{
	return gmm__engine_must_leave(engine) || vm->dead || (slot && slot->dead);
}

/* How long all workers together are to rest. */
static uint64_t budget_rest(struct gmm__engine *engine, uint32_t percent, uint64_t now)
{
	uint64_t digested = engine->digested_pages;

	for (uint32_t i = 0; i < engine->workers; i++)
		digested += engine->worker[i].digested;
	gmm__lock_take(&engine->budget_lock);
	uint64_t rest = gmm__budget_rest(&engine->budget, percent, now, gmm__engine_cpu_ns(engine));
	uint64_t more = gmm__budget_pages_rest(&engine->page_budget, engine->gmm->options.pages_per_second, now, digested);
	gmm__lock_give(&engine->budget_lock);
	return more > rest ? more : rest;
}

/* Rests when the engine is ahead of its CPU budget, unless somebody waits for it to leave. */
static void keep_budget(struct gmm__worker *worker, const struct gmm_vm *vm, const struct gmm__slot *slot)
{
	struct gmm__engine *engine = worker->engine;
	struct gmm *gmm = worker->gmm;
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	uint32_t percent = engine->cpu_percent;

	if (!worker->merge_thread)
		return;
	worker->cpu_ns[0] = sys->thread_cpu_ns();
	worker->digested = worker->progress.digested;
	uint64_t now = sys->clock_ns(), rest = budget_rest(engine, percent, now);
	if (rest == 0)
		return;
	gmm__lock_take(&gmm->lock);
	while (!must_leave(engine, vm, slot) && engine->cpu_percent == percent && gmm__wait_until(gmm, now + rest))
		;
	gmm__lock_give(&gmm->lock);
}

/* What a visit brought, by the progress before and after it. */
static struct gmm__yield yield_of(const struct gmm__progress *before, const struct gmm__progress *after)
{
	uint64_t shared = after->merged + after->nominated + after->repaired + after->postponed + after->broken +
			  after->huge_broken - before->merged - before->nominated - before->repaired -
			  before->postponed - before->broken - before->huge_broken;

	return (struct gmm__yield){ .shared = shared > 0, .fresh = after->fresh > before->fresh,
				    .written = (uint32_t)(after->found - after->digested - before->found + before->digested) };
}

/* Returns false when the VM, the slot or the engine has to be left. Takes no lock that others wait for: at idle priority
 * this thread may be stopped for long. */
static bool scan_region(struct gmm__worker *worker, const struct gmm__region *region)
{
	struct gmm__effort *effort = &region->slot->effort[region->first / GMM__REGION_PAGES];
	struct gmm__engine *engine = worker->engine;
	struct gmm__finding *finding = worker->job.finding;
	const struct gmm__progress before = worker->progress;
	uint32_t unripe = 0;

	if (!gmm__effort_due(effort, engine->full || region->slot->stale)) {
		worker->progress.skipped += region->count;
		return !must_leave(engine, region->slot->vm, region->slot);
	}
	worker->job.options = gmm__pace_options(engine, region->slot->vm, effort);
	int found = gmm__scan_region(worker->backend, region, &worker->job.options, finding, &unripe);
	worker->progress.unripe += unripe;
	if (found > 0) {
		gmm__scan_read_hot(worker->backend, region, &worker->job.options, finding);
		digest_region(worker, region, finding);
		worker->job.region = *region;
		gmm__worker_run(worker, worker->gmm->remote ? gmm__remote_region : gmm__process_region);
	}
	gmm__effort_learn(effort, yield_of(&before, &worker->progress), &engine->effort_limits);
	keep_budget(worker, region->slot->vm, region->slot);
	return !must_leave(engine, region->slot->vm, region->slot);
}

/* As scan_region, in a follow-up. */
static bool merge_region(struct gmm__worker *worker, const struct gmm__region *region)
{
	if (gmm__scan_waits(region)) {
		memset(worker->job.finding, 0, region->count * sizeof *worker->job.finding);
		worker->job.options = (struct gmm__scan_options){ 0 };
		worker->job.region = *region;
		gmm__worker_run(worker, gmm__process_region);
		keep_budget(worker, region->slot->vm, region->slot);
	}
	return !must_leave(worker->engine, region->slot->vm, region->slot);
}

static bool scan_slot(struct gmm__worker *worker, struct gmm__slot *slot)
{
	bool (*visit)(struct gmm__worker *, const struct gmm__region *) =
		worker->engine->follows_up ? merge_region : scan_region;

	for (uint32_t first = 0; first < slot->pages; first += GMM__REGION_PAGES) {
		uint32_t left = slot->pages - first;
		struct gmm__region region = { slot, first, left < GMM__REGION_PAGES ? left : GMM__REGION_PAGES };
		if (!visit(worker, &region))
			return false;
	}
	return true;
}

/* The next VM in scan order that no worker has taken in this pass, now visited; NULL at the end. Ends the visit of
 * `last`. */
static struct gmm_vm *next_vm(struct gmm__engine *engine, struct gmm_vm *last)
{
	struct gmm *gmm = engine->gmm;

	gmm__lock_take(&gmm->lock);
	struct gmm_vm *vm = gmm__engine_must_leave(engine) ? NULL : gmm->next_vm;
	while (vm && vm->dead)
		vm = vm->next;
	if (vm) {
		vm->visits++;
		gmm->next_vm = vm->next;
	}
	if (last) {
		last->visits--;
		pthread_cond_broadcast(&gmm->changed);
	}
	gmm__lock_give(&gmm->lock);
	return vm;
}

/* A service has no part in sharing pages of paged VMs. */
static void scan_paged(struct gmm__worker *worker, struct gmm_vm *vm)
{
	worker->paged = (struct gmm__paged_batch){ .vm = vm };
	while (!worker->gmm->remote && !must_leave(worker->engine, vm, NULL)) {
		gmm__worker_run(worker, gmm__paged_process);
		if (worker->paged.n == 0)
			break;
		gmm__paged_digest(worker);
		keep_budget(worker, vm, NULL);
	}
	gmm__fork_reap(vm->domain, worker->gmm);
}

static void scan_slots(struct gmm__worker *worker, struct gmm_vm *vm)
{
	struct gmm__slot *slot;
	uint64_t from = 0;

	while (gmm__remote_scans(vm) && !vm->dead && !worker->engine->stopping && (slot = gmm__visit_slot(vm, from)) != NULL) {
		from = slot->gfn + slot->pages;
		if (!scan_slot(worker, slot))
			break;
	}
}

static void scan_vm(struct gmm__worker *worker, struct gmm_vm *vm)
{
	struct gmm__engine *engine = worker->engine;

	if (engine->follows_up) {
		if (!vm->paged && gmm__count_read(&vm->stats.state_pages[GMM_PAGE_NOMINATED]) > 0)
			scan_slots(worker, vm);
		return;
	}
	if (vm->paged) {
		scan_paged(worker, vm);
		return;
	}
	if (worker->gmm->remote) { /* also one that is left alone: a service may have to be told what it uses, or to unshare it */
		worker->job.vm = vm;
		gmm__worker_run(worker, gmm__remote_visit);
	}
	if (!gmm__profit_visit(&vm->profit, engine->full, engine->gmm->ram_changes)) {
		worker->progress.skipped += vm->domain->pages;
		gmm__fork_reap(vm->domain, engine->gmm);
		return;
	}
	if (!engine->gmm->remote && gmm__catalog_prepare(vm->domain->catalog, vm->domain->pages) != 0)
		gmm__log(engine->gmm, GMM_LOG_WARNING, "no memory for the index of domain %s", vm->domain->name);
	scan_slots(worker, vm);
	gmm__fork_reap(vm->domain, engine->gmm);
}

/* The check of one VM's guest modules, a slice at a time. */
struct module_check {
	const struct gmm__module_hooks *hooks;
	struct gmm_vm *vm;
	bool more;
};

static void check_slice(void *arg, const struct gmm__merge *merge)
{
	struct module_check *check = arg;

	check->more = check->hooks->check_slice(check->vm, merge);
}

/* Pages that guests name as those of a module need no digest to find each other, so they come first. */
static void check_modules(struct gmm__engine *engine)
{
	struct module_check check = { .hooks = atomic_load(&engine->gmm->module_hooks) };
	uint32_t number = 0;

	if (!check.hooks || !check.hooks->begin_pass(engine->gmm))
		return;
	while ((check.vm = gmm__engine_must_leave(engine) ? NULL : gmm__visit_begin(engine->gmm, NULL, number)) != NULL) {
		for (check.more = true; check.more && !must_leave(engine, check.vm, NULL);) {
			gmm__errand_do(engine, check_slice, &check);
			keep_budget(&engine->worker[0], check.vm, NULL);
		}
		number = check.vm->number;
		gmm__visit_end(check.vm);
	}
}

/* ---- all workers ------------------------------------------------------------------------------------------------- */

static void scan_vms(struct gmm__worker *worker)
{
	struct gmm_vm *vm = NULL;

	while ((vm = next_vm(worker->engine, vm)) != NULL)
		scan_vm(worker, vm);
	if (worker->merge_thread)
		worker->cpu_ns[0] = gmm__sys_of(worker->gmm)->thread_cpu_ns();
}

/* One worker for each VM, if there are so many. Paged VMs are asked by one thread, whose calls the embedder need not expect
 * to overlap. With gmm.lock. */
static uint32_t count_workers(const struct gmm__engine *engine)
{
	const struct gmm *gmm = engine->gmm;
	bool any_paged = false;

	for (const struct gmm_vm *vm = gmm->vms; vm && engine->workers > 1 && !any_paged; vm = vm->next)
		any_paged = vm->paged != NULL;
	return any_paged ? 1 : gmm->n_vms < engine->workers ? gmm->n_vms : engine->workers;
}

/* Those that are invited come, also when the engine is about to stop. */
static void invite(struct gmm__engine *engine)
{
	struct gmm *gmm = engine->gmm;

	gmm__lock_take(&gmm->lock);
	gmm->next_vm = gmm->vms;
	uint32_t workers = count_workers(engine);
	engine->invited = engine->scanning = workers > 1 && !gmm__engine_must_leave(engine) ? workers - 1 : 0;
	engine->begun++;
	if (engine->invited)
		pthread_cond_broadcast(&engine->pass_changed);
	gmm__lock_give(&gmm->lock);
}

static void await_all(struct gmm__engine *engine)
{
	gmm__lock_take(&engine->gmm->lock);
	while (engine->scanning)
		gmm__lock_wait(&engine->gmm->lock, &engine->pass_changed);
	gmm__lock_give(&engine->gmm->lock);
}

void gmm__engine_join_passes(struct gmm__worker *worker)
{
	struct gmm__engine *engine = worker->engine;
	struct gmm__lock *lock = &worker->gmm->lock;

	gmm__lock_take(lock);
	for (;;) {
		if (worker->passes != engine->begun && worker->number <= engine->invited) {
			worker->passes = engine->begun;
			gmm__lock_give(lock);
			scan_vms(worker);
			gmm__lock_take(lock);
			engine->scanning--;
			pthread_cond_broadcast(&engine->pass_changed);
		} else if (engine->stopping) {
			break;
		} else {
			gmm__lock_wait(lock, &engine->pass_changed);
		}
	}
	gmm__lock_give(lock);
}

static void begin_progress(struct gmm__engine *engine)
{
	for (uint32_t i = 0; i < engine->workers; i++) {
		memset(&engine->worker[i].progress, 0, sizeof engine->worker[i].progress);
		engine->worker[i].digested = 0;
	}
}

static void sum_progress(struct gmm__engine *engine)
{
	memset(&engine->progress, 0, sizeof engine->progress);
	for (uint32_t i = 0; i < engine->workers; i++)
		gmm__counts_add(&engine->progress, &engine->worker[i].progress, sizeof engine->progress);
}

/* Tidies up for a part of the time that passes take which find next to nothing. */
static void tidy(struct gmm__engine *engine)
{
	enum { PASSES_PART = 4 };
	uint64_t cpu_ns = gmm__engine_cpu_ns(engine);

	engine->tidy_due_ns += (cpu_ns - engine->cpu_ns_before) / PASSES_PART;
	if (engine->tidy_due_ns < engine->tidy_cpu_ns)
		return;
	gmm__worker_run(&engine->worker[0], gmm__tidy_engine);
	engine->tidy_cpu_ns = gmm__engine_cpu_ns(engine) - cpu_ns;
	engine->tidy_due_ns = 0;
}

void gmm__engine_pass(struct gmm__engine *engine)
{
	struct gmm__worker *lead = &engine->worker[0];

	begin_progress(engine);
	if (engine->gmm->remote)
		gmm__worker_run(lead, gmm__remote_begin_pass);
	gmm__pace_begin(engine);
	check_modules(engine);
	invite(engine);
	scan_vms(lead);
	await_all(engine);
	sum_progress(engine);
	gmm__pace_conclude(engine);
	if (engine->settled && !engine->gmm->remote && !gmm__engine_must_leave(engine))
		tidy(engine);
}

void gmm__engine_follow_up(struct gmm__engine *engine)
{
	/* Without a window the next pass begins at once; a service is asked again in it. */
	if (engine->nominated == 0 || engine->gmm->options.window_ms == 0 || engine->gmm->remote)
		return;
	begin_progress(engine);
	engine->follows_up = true;
	invite(engine);
	scan_vms(&engine->worker[0]);
	await_all(engine);
	engine->follows_up = false;
	sum_progress(engine);
	gmm__pace_followed_up(engine);
}

/* A pass: goes over all VMs, slot by slot and region by region, scans and digests each region and hands it over.
 *
 * This is the scan thread's work. It holds no lock that others wait for and no claim: at idle priority the thread may be
 * stopped for long.
 */
#include "dedup/compact.h"
#include "dedup/engine.h"

#include <string.h>
#include <urcu/urcu-bp.h>

#include "dedup/errand.h"
#include "dedup/fork.h"
#include "dedup/pace.h"
#include "dedup/profit.h"
#include "dedup/process.h"
#include "dedup/remote.h"

enum { PREFETCH_PAGES = 8 };

/* The service cannot look at a twin: equal digests of whole pages have to do. */
static struct gmm__digest digest_page(const struct gmm__engine *engine, const uint8_t *bytes, const struct gmm__secret *secret)
{
	struct gmm__digest digest = gmm__digest_sample(bytes, secret);

	return engine->gmm->remote && digest.kind == GMM__DIGEST_OTHER ? gmm__digest_whole(bytes, secret) : digest;
}

static void digest_huge(struct gmm__digest digest, struct gmm__finding *finding)
{
	finding->fingerprint = digest.kind == GMM__DIGEST_ZERO ? 0 : digest.fingerprint;
	finding->word = digest.kind == GMM__DIGEST_FILL ? digest.word : 0;
}

static void digest_region(const struct gmm__engine *engine, const struct gmm__region *region, struct gmm__finding *finding)
{
	const struct gmm__secret *secret = &region->slot->vm->domain->catalog->secret;
	const struct gmm__backend *backend = engine->backend;

	for (uint32_t i = 0; i < region->count; i++) {
		uint32_t ahead = i + PREFETCH_PAGES, page = region->first + i;
		if (ahead < region->count &&
		    (finding[ahead].found == GMM__FOUND_DUE || finding[ahead].found == GMM__FOUND_SAMPLE))
			gmm__digest_prefetch(backend->bytes(region->slot, region->first + ahead), secret);
		if (finding[i].found == GMM__FOUND_SAMPLE)
			digest_huge(digest_page(engine, backend->bytes(region->slot, page), secret), &finding[i]);
		if (finding[i].found != GMM__FOUND_DUE)
			continue;
		struct gmm__digest digest = digest_page(engine, backend->bytes(region->slot, page), secret);
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

/* Rests when the engine is ahead of its CPU budget, unless somebody waits for it to leave. */
static void keep_budget(struct gmm__engine *engine, const struct gmm_vm *vm, const struct gmm__slot *slot)
{
	struct gmm *gmm = engine->gmm;
	const struct gmm__sys *sys = gmm__sys_of(gmm);
	uint32_t percent = engine->cpu_percent;

	if (!engine->merge_thread)
		return;
	engine->cpu_ns[0] = sys->thread_cpu_ns();
	uint64_t now = sys->clock_ns();
	uint64_t rest = gmm__budget_rest(&engine->budget, percent, now, engine->cpu_ns[0] + engine->cpu_ns[1]);
	uint64_t more = gmm__budget_pages_rest(&engine->page_budget, gmm->options.pages_per_second, now,
					       engine->digested_pages + engine->progress.digested);
	if (more > rest)
		rest = more;
	if (rest == 0)
		return;
	gmm__lock_take(&gmm->lock);
	while (!must_leave(engine, vm, slot) && engine->cpu_percent == percent && gmm__wait_until(gmm, now + rest))
		;
	gmm__lock_give(&gmm->lock);
}

static void run(struct gmm__engine *engine, void (*work)(struct gmm__engine *engine))
{
	engine->job.work = work;
	gmm__engine_run_job(engine);
}

/* What a visit brought, by the progress before and after it. */
static struct gmm__yield yield_of(const struct gmm__progress *before, const struct gmm__progress *after)
{
	uint64_t shared = after->merged + after->nominated + after->repaired + after->postponed + after->broken +
			  after->huge_broken - before->merged - before->nominated - before->repaired -
			  before->postponed - before->broken - before->huge_broken;

	return (struct gmm__yield){ .shared = shared > 0, .fresh = after->fresh > before->fresh };
}

/* Returns false when the VM, the slot or the engine has to be left. Takes no lock that others wait for: at idle priority
 * this thread may be stopped for long. */
static bool scan_region(struct gmm__engine *engine, const struct gmm__region *region)
{
	struct gmm__effort *effort = &region->slot->effort[region->first / GMM__REGION_PAGES];
	struct gmm__finding *finding = engine->job.finding;
	const struct gmm__progress before = engine->progress;

	if (!gmm__effort_due(effort, engine->full || region->slot->stale)) {
		engine->progress.skipped += region->count;
		return !must_leave(engine, region->slot->vm, region->slot);
	}
	engine->job.options = gmm__pace_options(engine, region->slot->vm, effort);
	if (gmm__scan_region(engine->backend, region, &engine->job.options, finding) > 0) {
		digest_region(engine, region, finding);
		engine->job.region = *region;
		run(engine, engine->gmm->remote ? gmm__remote_region : gmm__process_region);
	}
	gmm__effort_learn(effort, yield_of(&before, &engine->progress));
	keep_budget(engine, region->slot->vm, region->slot);
	return !must_leave(engine, region->slot->vm, region->slot);
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

struct gmm__slot *gmm__engine_next_slot(struct gmm_vm *vm, uint64_t from)
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

	gmm__lock_take(&gmm->lock);
	struct gmm_vm *vm = gmm__engine_must_leave(engine) ? NULL : last ? last->next : gmm->vms;
	while (vm && vm->dead)
		vm = vm->next;
	if (vm)
		vm->visits++;
	if (last) {
		last->visits--;
		pthread_cond_broadcast(&gmm->changed);
	}
	gmm__lock_give(&gmm->lock);
	return vm;
}

/* A service has no part in sharing pages of paged VMs. */
static void scan_paged(struct gmm__engine *engine, struct gmm_vm *vm)
{
	engine->paged = (struct gmm__paged_batch){ .vm = vm };
	while (!engine->gmm->remote && !must_leave(engine, vm, NULL)) {
		run(engine, gmm__paged_process);
		if (engine->paged.n == 0)
			break;
		gmm__paged_digest(engine);
		keep_budget(engine, vm, NULL);
	}
	gmm__catalog_reap(vm->domain->catalog);
	gmm__fork_reap(vm->domain, engine->gmm);
}

static void scan_vm(struct gmm__engine *engine, struct gmm_vm *vm)
{
	uint64_t from = 0;
	struct gmm__slot *slot;

	if (vm->paged) {
		scan_paged(engine, vm);
		return;
	}
	if (engine->gmm->remote) { /* also one that is left alone: a service may have to be told what it uses, or to unshare it */
		engine->job.vm = vm;
		run(engine, gmm__remote_visit);
	}
	if (!gmm__profit_visit(&vm->profit, engine->full, engine->gmm->ram_changes)) {
		engine->progress.skipped += vm->domain->pages;
		gmm__fork_reap(vm->domain, engine->gmm);
		return;
	}
	if (!engine->gmm->remote && gmm__catalog_prepare(vm->domain->catalog, vm->domain->pages, engine->passes + 1) != 0)
		gmm__log(engine->gmm, GMM_LOG_WARNING, "no memory for the indexes of domain %s", vm->domain->name);
	while (gmm__remote_scans(vm) && !vm->dead && !engine->stopping && (slot = gmm__engine_next_slot(vm, from)) != NULL) {
		from = slot->gfn + slot->pages;
		if (!scan_slot(engine, slot))
			break;
	}
	gmm__catalog_reap(vm->domain->catalog);
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

	if (!check.hooks || !check.hooks->begin_pass(engine->gmm))
		return;
	for (check.vm = next_vm(engine, NULL); check.vm; check.vm = next_vm(engine, check.vm))
		for (check.more = true; check.more && !must_leave(engine, check.vm, NULL);) {
			gmm__errand_do(engine, check_slice, &check);
			keep_budget(engine, check.vm, NULL);
		}
}

void gmm__engine_pass(struct gmm__engine *engine)
{
	memset(&engine->progress, 0, sizeof engine->progress);
	if (engine->gmm->remote)
		run(engine, gmm__remote_begin_pass);
	gmm__pace_begin(engine);
	check_modules(engine);
	for (struct gmm_vm *vm = next_vm(engine, NULL); vm; vm = next_vm(engine, vm))
		scan_vm(engine, vm);
	gmm__pace_conclude(engine);
	if (engine->settled && !engine->gmm->remote && !gmm__engine_must_leave(engine))
		run(engine, gmm__tidy_engine);
}

/* Engine: its threads, the handover between them, start and stop. */
#include "dedup/engine.h"

#include "dedup/errand.h"
#include "dedup/pace.h"

bool gmm__engine_must_leave(const struct gmm__engine *engine)
{
	return engine->stopping || engine->pausing;
}

/* Hands the job to the merge thread and waits for it. Without threads (tests) it is done here. */
void gmm__engine_run_job(struct gmm__engine *engine)
{
	if (!engine->merge_thread) {
		engine->job.work(engine);
		return;
	}
	gmm__lock_take(&engine->job_lock);
	engine->job_ready = true;
	pthread_cond_broadcast(&engine->job_changed);
	while (engine->job_ready)
		gmm__lock_wait(&engine->job_lock, &engine->job_changed);
	gmm__lock_give(&engine->job_lock);
}

static void *merge_main(void *arg)
{
	struct gmm__engine *engine = arg;

	gmm__lock_take(&engine->job_lock);
	for (;;) {
		while (!engine->job_ready && !engine->errands && !engine->merge_stopping)
			gmm__lock_wait(&engine->job_lock, &engine->job_changed);
		struct gmm__errand *errand = engine->errands;
		if (!engine->job_ready && !errand)
			break;
		if (errand)
			engine->errands = errand->next;
		engine->working = true;
		if (engine->watchdog_sleeps)
			pthread_cond_signal(&engine->watchdog_changed);
		gmm__lock_give(&engine->job_lock);
		if (errand)
			gmm__errand_run(engine, errand);
		else
			engine->job.work(engine);
		engine->cpu_ns[1] = gmm__sys_of(engine->gmm)->thread_cpu_ns();
		gmm__lock_take(&engine->job_lock);
		engine->working = false;
		if (errand)
			errand->done = true;
		else
			engine->job_ready = false;
		pthread_cond_broadcast(&engine->job_changed);
	}
	gmm__lock_give(&engine->job_lock);
	return NULL;
}

/* Waits until the merge thread has work, or, while it has, for a time. With job_lock. */
static void watchdog_wait(struct gmm__engine *engine, uint64_t ns)
{
	enum { NS_PER_S = 1000000000 };
	uint64_t end = gmm__sys_of(engine->gmm)->clock_ns() + ns;
	struct timespec t = { (time_t)(end / NS_PER_S), (long)(end % NS_PER_S) };

	engine->watchdog_sleeps = !engine->working;
	if (engine->working)
		pthread_cond_timedwait(&engine->watchdog_changed, &engine->job_lock.mutex, &t);
	else
		gmm__lock_wait(&engine->job_lock, &engine->watchdog_changed);
	engine->watchdog_sleeps = false;
}

static void *watchdog_main(void *arg)
{
	struct gmm__engine *engine = arg;
	uint64_t bound_ns = gmm__guard_bound_ns(engine->waits.bound_ns);

	gmm__lock_take(&engine->job_lock);
	while (!engine->merge_stopping) {
		watchdog_wait(engine, bound_ns);
		gmm__lock_give(&engine->job_lock);
		enum gmm__guard_found found =
			gmm__guard_check(&engine->guard, gmm__sys_of(engine->gmm)->clock_ns(), bound_ns);
		if (found != GMM__GUARD_IN_TIME)
			gmm__log(engine->gmm, GMM_LOG_WARNING, "guest pages were frozen for more than %llu ms%s",
				 (unsigned long long)(bound_ns / 1000000),
				 found == GMM__GUARD_ENDED ? "; they were given back" : "");
		gmm__lock_take(&engine->job_lock);
	}
	gmm__lock_give(&engine->job_lock);
	return NULL;
}

/* Debug builds recount everything now and then. */
static void check_accounts(struct gmm__engine *engine)
{
#if GMM_DEBUG
	enum { CHECK_PASSES = 32 };
	if (engine->passes % CHECK_PASSES != 0)
		return;
	gmm__snapshot_begin(engine->gmm);
	gmm__lock_take(&engine->gmm->lock);
	const char *broken = gmm__accounts_validate(engine->gmm);
	gmm__lock_give(&engine->gmm->lock);
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

	while (gmm__pace_await_pressure(engine)) {
		gmm__engine_pass(engine);
		check_accounts(engine);
		gmm__pace_rest(engine);
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
	rc = sys->thread_start(&engine->watchdog_thread, "gmm-watchdog", false, watchdog_main, engine);
	if (rc != 0) {
		engine->watchdog_thread = 0;
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

	gmm__lock_take(&gmm->lock);
	engine->stopping = true;
	pthread_cond_broadcast(&gmm->changed);
	gmm__lock_give(&gmm->lock);
	if (engine->scan_thread)
		sys->thread_join(engine->scan_thread);
	gmm__lock_take(&gmm->lock);
	while (engine->callers) /* the merge thread still serves them */
		gmm__lock_wait(&gmm->lock, &gmm->changed);
	gmm__lock_give(&gmm->lock);
	gmm__lock_take(&engine->job_lock);
	engine->merge_stopping = true;
	pthread_cond_broadcast(&engine->job_changed);
	pthread_cond_signal(&engine->watchdog_changed);
	gmm__lock_give(&engine->job_lock);
	if (engine->merge_thread)
		sys->thread_join(engine->merge_thread);
	if (engine->watchdog_thread)
		sys->thread_join(engine->watchdog_thread);
}

static void free_engine(struct gmm__engine *engine)
{
	pthread_cond_destroy(&engine->job_changed);
	pthread_cond_destroy(&engine->watchdog_changed);
	gmm__guard_destroy(&engine->guard);
	gmm__lock_destroy(&engine->job_lock);
	gmm__mem_free(&engine->gmm->mem, engine, sizeof *engine);
}

static void init_watchdog_changed(struct gmm__engine *engine)
{
	pthread_condattr_t monotonic;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&engine->watchdog_changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
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
	engine->waits.guard = &engine->guard;
	engine->retry_budget = true;
	gmm__guard_init(&engine->guard);
	pthread_cond_init(&engine->job_changed, NULL);
	init_watchdog_changed(engine);
	gmm__lock_init(&engine->job_lock, GMM__RANK_LEAF);
	if (start_threads(engine) != 0) {
		stop_threads(engine);
		free_engine(engine);
		return GMM_ERR_NO_MEMORY;
	}
	gmm__lock_take(&gmm->lock);
	gmm->engine = engine;
	gmm__lock_give(&gmm->lock);
	return GMM_OK;
}

void gmm__engine_stop(struct gmm *gmm)
{
	gmm__lock_take(&gmm->lock);
	struct gmm__engine *engine = gmm->engine;
	gmm->engine = NULL;
	gmm__lock_give(&gmm->lock);
	if (!engine)
		return;
	stop_threads(engine);
	gmm__lock_take(&gmm->lock);
	gmm->ended.passes += engine->passes;
	gmm->ended.cpu_ns += engine->cpu_ns[0] + engine->cpu_ns[1];
	gmm->ended.digested_pages += engine->digested_pages;
	for (int i = 0; i < GMM_WAIT_BUCKETS; i++)
		gmm->ended.freezes[i] += engine->waits.freezes[i];
	gmm->ended.late_freezes += engine->guard.late;
	gmm->ended.thawed_freezes += engine->guard.thawed;
	if (engine->waits.longest_ns > gmm->ended.longest_freeze_ns)
		gmm->ended.longest_freeze_ns = engine->waits.longest_ns;
	pthread_cond_broadcast(&gmm->changed);
	gmm__lock_give(&gmm->lock);
	free_engine(engine);
}

void gmm__engine_disturb(struct gmm *gmm)
{
	gmm->ram_changes++;
	gmm__lock_take(&gmm->lock);
	if (gmm->engine) {
		gmm->engine->settled = false;
		gmm->engine->disturbed = true;
		gmm->engine->hurry = true;
		gmm->engine->quiet_passes = 0;
	}
	pthread_cond_broadcast(&gmm->changed);
	gmm__lock_give(&gmm->lock);
}

void gmm__engine_wait_left(struct gmm_vm *vm)
{
	struct gmm *gmm = vm->gmm;

	gmm__lock_take(&gmm->lock);
	while (vm->visits > 0)
		gmm__lock_wait(&gmm->lock, &gmm->changed);
	gmm__lock_give(&gmm->lock);
}

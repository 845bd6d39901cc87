/* Engine: its threads, the handover between them, start and stop. */
#include "dedup/engine.h"

#include "dedup/errand.h"
#include "dedup/pace.h"

bool gmm__engine_must_leave(const struct gmm__engine *engine)
{
	return engine->stopping || engine->pausing;
}

uint64_t gmm__engine_cpu_ns(const struct gmm__engine *engine)
{
	uint64_t ns = 0;

	for (uint32_t i = 0; i < engine->workers; i++)
		ns += engine->worker[i].cpu_ns[0] + engine->worker[i].cpu_ns[1];
	return ns;
}

void gmm__engine_count(const struct gmm__engine *engine, struct gmm__engine_counts *counts)
{
	counts->passes += engine->passes;
	counts->digested_pages += engine->digested_pages;
	counts->cpu_ns += gmm__engine_cpu_ns(engine);
	for (const struct gmm__worker *worker = engine->worker; worker < engine->worker + engine->workers; worker++) {
		for (int i = 0; i < GMM_WAIT_BUCKETS; i++)
			counts->freezes[i] += worker->waits.freezes[i];
		if (worker->waits.longest_ns > counts->longest_freeze_ns)
			counts->longest_freeze_ns = worker->waits.longest_ns;
		counts->late_freezes += worker->guard.late;
		counts->thawed_freezes += worker->guard.thawed;
	}
}

/* ---- the watchdog -------------------------------------------------------------------------------------------------- */

void gmm__engine_watch(struct gmm__engine *engine)
{
	gmm__lock_take(&engine->watch_lock);
	engine->working++;
	if (engine->watchdog_sleeps)
		pthread_cond_signal(&engine->watch_changed);
	gmm__lock_give(&engine->watch_lock);
}

void gmm__engine_unwatch(struct gmm__engine *engine)
{
	gmm__lock_take(&engine->watch_lock);
	engine->working--;
	gmm__lock_give(&engine->watch_lock);
}

/* Waits until a merge thread has work, or, while one has, for a time. With watch_lock. */
static void watchdog_wait(struct gmm__engine *engine, uint64_t ns)
{
	engine->watchdog_sleeps = engine->working == 0;
	if (engine->working)
		gmm__lock_wait_until(&engine->watch_lock, &engine->watch_changed,
				     gmm__sys_of(engine->gmm)->clock_ns() + ns);
	else
		gmm__lock_wait(&engine->watch_lock, &engine->watch_changed);
	engine->watchdog_sleeps = false;
}

static void check_guard(struct gmm__worker *worker, uint64_t bound_ns)
{
	enum gmm__guard_found found =
		gmm__guard_check(&worker->guard, gmm__sys_of(worker->gmm)->clock_ns(), bound_ns);

	if (found != GMM__GUARD_IN_TIME)
		gmm__log(worker->gmm, GMM_LOG_WARNING, "guest pages were frozen for more than %llu ms%s",
			 (unsigned long long)(bound_ns / 1000000),
			 found == GMM__GUARD_ENDED ? "; they were given back" : "");
}

static void *watchdog_main(void *arg)
{
	struct gmm__engine *engine = arg;
	uint64_t bound_ns = gmm__guard_bound_ns(engine->gmm->options.wait_bound_us * 1000ull);

	gmm__lock_take(&engine->watch_lock);
	while (!engine->watchdog_stopping) {
		watchdog_wait(engine, bound_ns);
		gmm__lock_give(&engine->watch_lock);
		for (uint32_t i = 0; i < engine->workers; i++)
			check_guard(&engine->worker[i], bound_ns);
		gmm__lock_take(&engine->watch_lock);
	}
	gmm__lock_give(&engine->watch_lock);
	return NULL;
}

static void stop_watchdog(struct gmm__engine *engine)
{
	gmm__lock_take(&engine->watch_lock);
	engine->watchdog_stopping = true;
	pthread_cond_signal(&engine->watch_changed);
	gmm__lock_give(&engine->watch_lock);
	if (engine->watchdog_thread)
		gmm__sys_of(engine->gmm)->thread_join(engine->watchdog_thread);
}

/* ---- passes -------------------------------------------------------------------------------------------------------- */

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

static void *lead_main(void *arg)
{
	struct gmm__worker *worker = arg;
	struct gmm__engine *engine = worker->engine;

	while (gmm__pace_await_pressure(engine)) {
		gmm__engine_pass(engine);
		gmm__engine_follow_up(engine);
		check_accounts(engine);
		gmm__pace_rest(engine);
	}
	return NULL;
}

static void *join_main(void *arg)
{
	gmm__engine_join_passes(arg);
	return NULL;
}

/* ---- start and stop ------------------------------------------------------------------------------------------------ */

/* Worker 0 last: it begins passes, which wait for all that were invited. */
static int start_threads(struct gmm__engine *engine)
{
	int rc = gmm__sys_of(engine->gmm)->thread_start(&engine->watchdog_thread, "gmm-watchdog", false, watchdog_main,
							engine);

	if (rc != 0)
		engine->watchdog_thread = 0;
	for (uint32_t i = engine->workers; rc == 0 && i-- > 0;)
		rc = gmm__worker_start(&engine->worker[i], i == 0 ? lead_main : join_main);
	return rc;
}

static void stop_threads(struct gmm__engine *engine)
{
	struct gmm *gmm = engine->gmm;

	gmm->leave_waiters++;
	gmm__lock_take(&gmm->lock);
	engine->stopping = true;
	pthread_cond_broadcast(&gmm->changed);
	pthread_cond_broadcast(&engine->pass_changed);
	gmm__lock_give(&gmm->lock);
	for (uint32_t i = 0; i < engine->workers; i++)
		gmm__worker_join_scan(&engine->worker[i]);
	gmm__lock_take(&gmm->lock);
	while (engine->callers) /* the merge thread still serves them */
		gmm__lock_wait(&gmm->lock, &gmm->changed);
	gmm__lock_give(&gmm->lock);
	for (uint32_t i = 0; i < engine->workers; i++)
		gmm__worker_stop_merge(&engine->worker[i]);
	stop_watchdog(engine);
	gmm->leave_waiters--;
}

void gmm__engine_destroy(struct gmm__engine *engine)
{
	for (uint32_t i = 0; i < engine->workers; i++)
		gmm__worker_destroy(&engine->worker[i]);
	pthread_cond_destroy(&engine->pass_changed);
	pthread_cond_destroy(&engine->watch_changed);
	gmm__lock_destroy(&engine->watch_lock);
	gmm__lock_destroy(&engine->budget_lock);
}

void gmm__engine_init(struct gmm__engine *engine, struct gmm *gmm, const struct gmm__backend *backend, uint32_t workers)
{
	engine->gmm = gmm;
	engine->backend = backend;
	engine->min_run = 1;
	engine->hurry = true; /* all memory is new */
	engine->cover_interval = 1;
	engine->cpu_percent = gmm->options.cpu_percent;
	engine->retry_budget = true;
	engine->workers = workers;
	pthread_cond_init(&engine->pass_changed, NULL);
	gmm__cond_init(&engine->watch_changed);
	gmm__lock_init(&engine->watch_lock, GMM__RANK_LEAF);
	gmm__lock_init(&engine->budget_lock, GMM__RANK_LEAF);
	for (uint32_t i = 0; i < workers; i++)
		gmm__worker_init(&engine->worker[i], engine, i);
}

static void free_engine(struct gmm__engine *engine)
{
	size_t bytes = gmm__engine_bytes(engine->workers);

	gmm__engine_destroy(engine);
	gmm__mem_free(&engine->gmm->mem, engine, bytes);
}

int gmm__engine_start(struct gmm *gmm, const struct gmm__backend *backend)
{
	/* The session with a service is one thread's. */
	uint32_t workers = gmm->options.agent_threads && !gmm->remote ? gmm->options.agent_threads : 1;
	struct gmm__engine *engine = gmm__mem_alloc(&gmm->mem, gmm__engine_bytes(workers));

	if (!engine)
		return GMM_ERR_NO_MEMORY;
	gmm__engine_init(engine, gmm, backend, workers);
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
	gmm__engine_count(engine, &gmm->ended);
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

	gmm->leave_waiters++;
	gmm__lock_take(&gmm->lock);
	while (vm->visits > 0)
		gmm__lock_wait(&gmm->lock, &gmm->changed);
	gmm__lock_give(&gmm->lock);
	gmm->leave_waiters--;
}

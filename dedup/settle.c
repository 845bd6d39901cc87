/* Settle: waiting for the settled state, its event and its estimate. */
#include "dedup/settle.h"

#include "dedup/fork.h"
#include "dedup/pace.h"

/* CPU time that a page takes where nothing has been measured yet, and how many must have been for a measure. */
enum { PAGE_NS = 3000, MEASURED_PAGES = 1000, NS_PER_MS = 1000000 };

/* Passes that follow a first look: judging what was quiet, joining what was promoted, and finding nothing any more. */
enum { PASSES_NEW = 3, PASSES_WRITTEN = 2 };

uint64_t gmm__settle_time_ms(const struct gmm__settle_work *work)
{
	uint32_t percent = work->cpu_percent ? work->cpu_percent : 100;
	uint64_t cpu_ns = (work->pages + work->merges) * work->page_ns;

	return cpu_ns / percent * 100 / NS_PER_MS + work->passes * work->rest_ms + 1;
}

uint64_t gmm__settle_estimate_ms(const struct gmm__engine *engine, const struct gmm_stats *stats)
{
	const uint64_t *state = stats->total.state_pages;
	uint64_t done = engine->digested_pages + stats->total.merges;
	uint64_t cpu_ns = gmm__engine_cpu_ns(engine);
	bool first = engine->passes == 0;

	if (engine->settled)
		return 0;
	struct gmm__settle_work work = {
		/* Before the first pass has ended nobody knows what is absent. */
		.pages = state[GMM_PAGE_VOLATILE] + (first ? state[GMM_PAGE_ABSENT] : 0),
		.merges = state[GMM_PAGE_NOMINATED] + state[GMM_PAGE_VOLATILE] / 2,
		.page_ns = done >= MEASURED_PAGES ? cpu_ns / done : PAGE_NS,
		.cpu_percent = engine->cpu_percent,
		.rest_ms = gmm__pace_rest_ms(engine),
	};
	work.passes = first ? PASSES_NEW : work.pages + work.merges > 0 ? PASSES_WRITTEN : 1;
	return gmm__settle_time_ms(&work);
}

void gmm__settle_tell(struct gmm__engine *engine)
{
	const struct gmm_options *options = &engine->gmm->options;
	bool settled = engine->settled;

	if (settled == engine->told_settled)
		return;
	engine->told_settled = settled;
	if (options->event)
		options->event(options->event_arg, settled ? GMM_EVENT_SETTLED : GMM_EVENT_UNSETTLED);
}

/* The number of the first pass that can end a wait: one that began before the wait did, or that skips regions, does not
 * show that nothing is left. A wait goes on with one that timed out, or many short ones would never end. With gmm.lock. */
static uint64_t begin_wait(struct gmm__engine *engine)
{
	if (engine->awaited)
		return engine->awaited;
	engine->hurry = true;
	engine->quiet_passes = 0;
	pthread_cond_broadcast(&engine->gmm->changed);
	return engine->passes + (engine->resting ? 1 : 2);
}

int gmm_engine_wait_settled(struct gmm *gmm, int64_t timeout_ms)
{
	if (!gmm)
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(gmm))
		return GMM_ERR_WRONG_PROCESS;
	bool for_ever = timeout_ms < 0 || timeout_ms > INT64_MAX / 2 / NS_PER_MS;
	uint64_t deadline = for_ever ? INT64_MAX : gmm__sys_of(gmm)->clock_ns() + (uint64_t)timeout_ms * NS_PER_MS;
	int status = GMM_OK;
	bool time_left = true;

	gmm__lock_take(&gmm->lock);
	gmm->settle_waiters++;
	uint64_t awaited = gmm->engine ? begin_wait(gmm->engine) : 0;
	for (;;) {
		struct gmm__engine *engine = gmm->engine;
		if (!engine || engine->pausing) {
			status = GMM_ERR_WRONG_ORDER;
			break;
		}
		bool seen = engine->settled && engine->settled_whole >= awaited;
		engine->awaited = seen ? 0 : awaited;
		if (seen)
			break;
		if (!time_left) {
			status = GMM_ERR_TIMEOUT;
			break;
		}
		time_left = gmm__wait_until(gmm, deadline);
	}
	gmm->settle_waiters--;
	gmm__lock_give(&gmm->lock);
	return status;
}

static void set_cpu_percent(struct gmm *gmm, uint32_t percent)
{
	gmm__lock_take(&gmm->lock);
	if (gmm->engine)
		gmm->engine->cpu_percent = percent;
	pthread_cond_broadcast(&gmm->changed);
	gmm__lock_give(&gmm->lock);
}

int gmm_engine_settle(struct gmm *gmm, int64_t timeout_ms, uint32_t cpu_percent)
{
	if (!gmm)
		return GMM_ERR_INVALID_PARAMETER;
	if (!gmm__fork_is_home(gmm))
		return GMM_ERR_WRONG_PROCESS;
	set_cpu_percent(gmm, cpu_percent);
	int status = gmm_engine_wait_settled(gmm, timeout_ms);
	set_cpu_percent(gmm, gmm->options.cpu_percent);
	return status;
}

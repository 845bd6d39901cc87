/* Pace: what each pass looks at, what it found, and when the next one begins. */
#include "dedup/pace.h"

#include "dedup/remote.h"

/* Written shared pages are looked for every 1 to 8 passes, the more seldom the fewer are found; every 16 passes all that
 * is not shared is looked at. */
enum { COVER_PASSES_MAX = 8, SURVEY_PASSES = 16, NANOSECONDS_PER_MS = 1000000 };

bool gmm__pace_covers(const struct gmm__engine *engine)
{
	return engine->passes >= engine->next_cover;
}

bool gmm__pace_repairs(const struct gmm__engine *engine)
{
	return engine->gmm->options.repair == GMM_REPAIR_PROMISED && gmm__pace_covers(engine);
}

struct gmm__scan_options gmm__pace_options(const struct gmm__engine *engine)
{
	return (struct gmm__scan_options){
		.no_window = engine->gmm->options.window_ms == 0,
		.covers = gmm__pace_covers(engine),
		.repair = gmm__pace_repairs(engine),
		.survey = engine->passes % SURVEY_PASSES == SURVEY_PASSES - 1 ||
			  (engine->gmm->remote && engine->gmm->remote->offering_all),
		.with_budget = engine->retry_budget,
		.huge_phase = engine->gmm->options.huge_pages == GMM_HUGE_NEVER ? 0 : gmm__huge_phase(&engine->huge),
	};
}

/* When to look for written shared pages next: a look that finds many halves the interval, one that finds few doubles it. */
static void schedule_cover(struct gmm__engine *engine)
{
	if (!gmm__pace_covers(engine))
		return;
	if ((engine->progress.broken + engine->progress.repaired) * 256 > engine->gmm->mappings)
		engine->cover_interval = engine->cover_interval > 1 ? engine->cover_interval / 2 : 1;
	else if (engine->cover_interval < COVER_PASSES_MAX)
		engine->cover_interval *= 2;
	engine->next_cover = (uint32_t)engine->passes + engine->cover_interval;
}

/* Memory is short when the host has less left than a part of what the guests have. */
enum { SHORT_SHARE = 16 };

static void judge_huge(struct gmm__engine *engine, uint64_t pages, uint64_t whole)
{
	if (engine->gmm->options.huge_pages == GMM_HUGE_NEVER)
		whole = 0;
	gmm__huge_pace_conclude(&engine->huge, &engine->progress, whole);
	engine->huge.memory_short = whole > 0 && gmm__sys_available_bytes(gmm__sys_of(engine->gmm)) <
						 pages * GMM__PAGE_BYTES / SHORT_SHARE;
}

void gmm__pace_conclude(struct gmm__engine *engine)
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
	uint64_t pages = 0, waiting = 0, whole = 0;
	gmm__snapshot_begin(gmm);
	gmm__lock_take(&gmm->lock);
	for (struct gmm_vm *vm = gmm->vms; vm; vm = vm->next) {
		pages += vm->stats.pages;
		waiting += vm->stats.state_pages[GMM_PAGE_NOMINATED];
		whole += vm->stats.state_pages[GMM_PAGE_HUGE];
	}
	judge_huge(engine, pages, whole);
	/* Nothing was written, nothing waits: another pass would do nothing. */
	bool judged = gmm__huge_pace_judged(&engine->huge) && done->huge_broken == 0;
	bool nothing_left = judged && waiting + done->nominated + done->postponed + done->found == 0;
	bool little = judged && (done->merged + done->nominated) * 1000 <= pages && done->postponed == 0 &&
		      done->found * 100 <= pages;
	engine->quiet_passes = nothing_left ? 3 : little ? engine->quiet_passes + 1 : 0;
	engine->retry_budget = left > gmm->max_mappings / 16;
	engine->digested_pages += done->digested;
	if (!gmm__engine_must_leave(engine)) {
		engine->passes++;
		engine->settled = engine->quiet_passes >= 3 && !engine->disturbed && gmm__remote_answers(gmm);
		engine->disturbed = false;
	}
	engine->cpu_ns[0] = gmm__sys_of(gmm)->thread_cpu_ns();
	pthread_cond_broadcast(&gmm->changed);
	gmm__lock_give(&gmm->lock);
	gmm__snapshot_end(gmm);
}

void gmm__pace_rest(struct gmm__engine *engine)
{
	const struct gmm_options *options = &engine->gmm->options;
	struct gmm *gmm = engine->gmm;
	uint64_t ms = options->window_ms;

	gmm__lock_take(&gmm->lock);
	if (engine->quiet_passes > 0 && options->pass_interval_ms > ms)
		ms = options->pass_interval_ms;
	uint64_t end = gmm__sys_of(gmm)->clock_ns() + ms * NANOSECONDS_PER_MS;
	engine->resting = true;
	pthread_cond_broadcast(&gmm->changed);
	while (!engine->stopping && (engine->pausing || gmm__sys_of(gmm)->clock_ns() < end)) {
		if (engine->pausing)
			gmm__lock_wait(&gmm->lock, &gmm->changed);
		else
			gmm__wait_until(gmm, end);
	}
	engine->resting = false;
	gmm__lock_give(&gmm->lock);
}

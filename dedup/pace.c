/* Pace: what each pass looks at, what it found, and when the next one begins. */
#include "dedup/pace.h"

#include "dedup/profit.h"
#include "dedup/remote.h"
#include "dedup/settle.h"

/* Written shared pages are looked for every 1 to 8 passes, the more seldom the fewer are found. */
enum { COVER_PASSES_MAX = 8, NANOSECONDS_PER_MS = 1000000 };

/* The engine has settled after so many passes that found little; after more of them passes are made more seldom. */
enum { QUIET_PASSES = 3, CALM_PASSES = 8, CALM_INTERVALS = 4, FORGET_PASSES = 16 };

/* So many pages merged lately are worth passes after a window as short as an eighth, if they take no more than one part in
 * 24 of the time. Of memory that is new it is a quarter. */
enum { WORTH_PAGES = 256, SHORT_WINDOWS = 8, NEW_WINDOWS = 4, COST_PARTS = 24 };

/* A window that is as short already says nothing about whether a page is quiet when it gets shorter. */
enum { SHORTEST_MS = 250 };

/* Passes that share next to nothing take at the end one part in 16 of the time, and rest no longer than so. */
enum { BARREN_PASSES = 15, COST_REST_MAX_MS = 8000 };

/* Passes that are made seldom because written pages were found are to see when there are none any more. */
static bool looks_at_covers(const struct gmm__engine *engine)
{
	return engine->passes >= engine->next_cover || engine->window_shift > 0;
}

/* All regions are visited while somebody waits for the engine to settle, while huge pages are sampled, which takes several
 * looks at the same page, and when a service is told of all pages anew. */
void gmm__pace_begin(struct gmm__engine *engine)
{
	const struct gmm *gmm = engine->gmm;

	engine->full = gmm->settle_waiters > 0 || engine->awaited > engine->settled_whole ||
		       !gmm__huge_pace_judged(&engine->huge) || (gmm->remote && gmm->remote->offering_all);
	uint64_t now_ns = gmm__sys_of(gmm)->clock_ns();
	engine->effort_limits = gmm__effort_limits(gmm__pace_rest_ms(engine), (now_ns - engine->begun_ns) / NANOSECONDS_PER_MS);
	engine->begun_ns = now_ns;
	engine->heat_clock = gmm__heat_clock(now_ns, gmm->options.window_ms, engine->full);
}

static bool may_repair(const struct gmm *gmm)
{
	/* What the program maps itself must be told apart from ours. */
	return gmm->options.repair == GMM_REPAIR_PROMISED || (gmm->options.repair == GMM_REPAIR_ASK && gmm->maps >= 0);
}

static uint64_t room_left(uint64_t used, uint64_t limit)
{
	return used < limit ? limit - used : 0;
}

/* Pages that were refused for the budget are tried again while a sixteenth of it is free. */
static bool retries(const struct gmm__engine *engine, const struct gmm_vm *vm)
{
	return engine->retry_budget && room_left(gmm__count_read(&vm->stats.mappings), vm->max_mappings) > vm->max_mappings / 16;
}

struct gmm__scan_options gmm__pace_options(const struct gmm__engine *engine, const struct gmm_vm *vm,
					   struct gmm__effort *effort)
{
	bool covers = looks_at_covers(engine) || gmm__effort_is_low(effort);
	bool survey = gmm__effort_survey(effort) || (engine->gmm->remote && engine->gmm->remote->offering_all);

	return (struct gmm__scan_options){
		.no_window = engine->gmm->options.window_ms == 0,
		.covers = covers,
		.repair = covers && may_repair(engine->gmm),
		.survey = survey,
		.with_budget = retries(engine, vm),
		.huge_phase = engine->gmm->options.huge_pages == GMM_HUGE_NEVER ? 0 : gmm__huge_phase(&engine->huge, survey),
		.clock = engine->heat_clock,
	};
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

/* Pages that are shared and written soon after were not quiet for long enough: the window doubles, up to eight times. When a
 * pass finds hardly any, guests are quiet: the window comes back by twos, since what waits for it is to be shared soon. Both
 * counts fade by a half with each window. */
static void adapt_window(struct gmm__engine *engine)
{
	enum { SHIFT_MAX = 3, STEP_BACK = 2, FEW_PAGES = 256 };
	uint32_t shift = engine->window_shift, windows = 1u << shift;

	engine->lately_merged = (engine->lately_merged >> windows) + engine->progress.merged;
	engine->lately_broken = (engine->lately_broken >> windows) + engine->progress.broken;
	if (engine->progress.broken < FEW_PAGES / 2 || engine->lately_broken * 16 < engine->lately_merged)
		engine->window_shift = shift > STEP_BACK ? shift - STEP_BACK : 0;
	else if (engine->lately_broken > FEW_PAGES && engine->lately_broken * 4 > engine->lately_merged && shift < SHIFT_MAX)
		engine->window_shift = shift + 1;
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

/* Which VMs the next pass visits and which runs it merges. With gmm.lock. */
static void plan_next(struct gmm__engine *engine, uint64_t left)
{
	uint64_t waiting = 0;

	for (const struct gmm_vm *vm = engine->gmm->vms; vm; vm = vm->next)
		waiting += vm->plan.waiting_runs;
	bool all_fit = gmm__plan_fits(waiting, left);
	for (struct gmm_vm *vm = engine->gmm->vms; vm; vm = vm->next) {
		gmm__profit_learn(&vm->profit, gmm__profit_of(vm, &vm->stats));
		uint64_t own = room_left(vm->stats.mappings, vm->max_mappings);
		bool fits = all_fit && gmm__plan_fits(vm->plan.waiting_runs, own);
		vm->plan = (struct gmm__vm_plan){ .min_run = gmm__plan_threshold(&vm->plan, fits) };
	}
	engine->min_run = 1;
}

/* What would have been found, had the pass come after a whole window. */
static uint64_t of_window(const struct gmm__engine *engine, uint64_t found)
{
	uint64_t window_ms = engine->gmm->options.window_ms, rested_ms = engine->rested_ms;

	return rested_ms > 0 && rested_ms < window_ms ? found * window_ms / rested_ms : found;
}

void gmm__pace_conclude(struct gmm__engine *engine)
{
	struct gmm *gmm = engine->gmm;
	const struct gmm__progress *done = &engine->progress;
	uint64_t left = room_left(gmm->mappings, gmm->max_mappings);

	schedule_cover(engine);
	adapt_window(engine);
	uint64_t pages = 0, waiting = 0, nominated = 0, whole = 0;
	for (uint32_t i = 0; i < engine->workers; i++)
		waiting += engine->worker[i].nominations.n;
	gmm__snapshot_begin(gmm);
	gmm__lock_take(&gmm->lock);
	for (struct gmm_vm *vm = gmm->vms; vm; vm = vm->next) {
		pages += vm->paged ? gmm__paged_vm_stats(vm->paged).pages : vm->stats.pages;
		nominated += vm->stats.state_pages[GMM_PAGE_NOMINATED];
		waiting += vm->stats.state_pages[GMM_PAGE_NOMINATED] + vm->stats.state_pages[GMM_PAGE_VOLATILE] +
			   vm->stats.state_pages[GMM_PAGE_RACED];
		whole += vm->stats.state_pages[GMM_PAGE_HUGE];
	}
	engine->nominated = nominated;
	judge_huge(engine, pages, whole);
	plan_next(engine, left);
	/* Nothing was written, nothing waits for a merge or, refused in this pass, for another look: one more pass would do
	 * nothing. */
	bool judged = gmm__huge_pace_judged(&engine->huge) && done->huge_broken == 0;
	bool nothing_left = judged && waiting + done->nominated + done->postponed +
					      done->found == 0;
	bool little = judged && of_window(engine, done->merged + done->nominated) * 1000 <= pages &&
		      done->postponed == 0 && of_window(engine, done->found + done->unripe) * 100 <= pages;
	engine->quiet_passes = nothing_left && engine->quiet_passes < QUIET_PASSES ? QUIET_PASSES :
			       nothing_left || little ? engine->quiet_passes + 1 : 0;
	bool barren = (done->merged + done->nominated) * 1000 <= pages && done->postponed == 0;
	engine->barren_passes = !barren ? 0 : engine->barren_passes < BARREN_PASSES ? engine->barren_passes + 1 : BARREN_PASSES;
	engine->retry_budget = left > gmm->max_mappings / 16;
	engine->digested_pages += done->digested;
	for (uint32_t i = 0; i < engine->workers; i++)
		engine->worker[i].digested = 0;
	if (!gmm__engine_must_leave(engine)) {
		engine->passes++;
		engine->settled = engine->quiet_passes >= QUIET_PASSES && !engine->disturbed && gmm__remote_answers(gmm);
		if (engine->settled && done->skipped == 0)
			engine->settled_whole = engine->passes;
		if (gmm->settle_waiters == 0 && engine->passes > engine->awaited + FORGET_PASSES)
			engine->awaited = 0; /* whoever waited does not come back */
		engine->disturbed = false;
	}
	pthread_cond_broadcast(&gmm->changed);
	gmm__lock_give(&gmm->lock);
	gmm__snapshot_end(gmm);
	gmm__settle_tell(engine);
}

void gmm__pace_followed_up(struct gmm__engine *engine)
{
	engine->lately_merged += engine->progress.merged;
	engine->digested_pages += engine->progress.digested;
}

static bool is_worth_while(const struct gmm__engine *engine)
{
	return engine->window_shift == 0 && engine->lately_merged >= WORTH_PAGES;
}

/* The window now. While pages come to be shared, passes follow each other as fast as they are cheap. */
static uint64_t window_now_ms(const struct gmm__engine *engine)
{
	uint64_t window_ms = engine->gmm->options.window_ms;
	uint64_t cost_ms = engine->pass_cpu_ns * COST_PARTS / NANOSECONDS_PER_MS;
	uint64_t short_ms = window_ms / (engine->hurry ? NEW_WINDOWS : SHORT_WINDOWS);

	if (!engine->hurry && !is_worth_while(engine))
		return window_ms << engine->window_shift;
	if (short_ms < SHORTEST_MS)
		short_ms = SHORTEST_MS;
	if (!engine->hurry && cost_ms > short_ms)
		short_ms = cost_ms;
	return short_ms < window_ms ? short_ms : window_ms;
}

/* Passes that share next to nothing get a share of the time that becomes smaller with each of them: a half, a third, a
 * quarter ... of it is CPU time of theirs and of what is done between them. */
static uint64_t cost_rest_ms(const struct gmm__engine *engine)
{
	uint64_t ms = engine->pass_cpu_ns * engine->barren_passes / NANOSECONDS_PER_MS;

	return ms < COST_REST_MAX_MS ? ms : COST_REST_MAX_MS;
}

uint64_t gmm__pace_rest_ms(const struct gmm__engine *engine)
{
	uint64_t window_ms = window_now_ms(engine), ms = engine->gmm->options.pass_interval_ms;

	if (engine->quiet_passes >= CALM_PASSES)
		ms *= CALM_INTERVALS;
	/* Whoever waits for the engine to settle waits for memory to be quiet, and for nothing else. */
	bool hurry = engine->hurry || engine->awaited > engine->settled_whole;
	if (hurry || is_worth_while(engine) || engine->quiet_passes == 0)
		ms = 0;
	if (!hurry && cost_rest_ms(engine) > ms)
		ms = cost_rest_ms(engine);
	return ms > window_ms ? ms : window_ms;
}

/* What the process used of the processors, looked at once a window. */
struct use {
	uint64_t clock_ns, cpu_ns; /* at the last look */
	uint64_t next_ns;          /* of the clock */
};

static struct use look_at_use(const struct gmm__engine *engine)
{
	const struct gmm__sys *sys = gmm__sys_of(engine->gmm);
	uint64_t now_ns = sys->clock_ns();

	return (struct use){ now_ns, sys->process_cpu_ns(), now_ns + engine->gmm->options.window_ms * (uint64_t)NANOSECONDS_PER_MS };
}

/* The window is longer than it was asked to be because guests write a lot. True when they do not any more: hardly anything runs
 * in this process. Then what waits is to be shared soon. */
static bool has_gone_quiet(struct gmm__engine *engine, struct use *use)
{
	enum { QUIET_PART = 8 }; /* of a core */

	if (engine->window_shift == 0 || gmm__sys_of(engine->gmm)->clock_ns() < use->next_ns)
		return false;
	struct use now = look_at_use(engine);
	bool quiet = (now.cpu_ns - use->cpu_ns) * QUIET_PART < now.clock_ns - use->clock_ns;
	*use = now;
	if (quiet)
		engine->window_shift = 0;
	return quiet;
}

void gmm__pace_rest(struct gmm__engine *engine)
{
	struct gmm *gmm = engine->gmm;
	struct use use = look_at_use(engine);
	uint64_t cpu_ns = gmm__engine_cpu_ns(engine);

	gmm__lock_take(&gmm->lock);
	engine->pass_cpu_ns = cpu_ns - engine->cpu_ns_before;
	engine->cpu_ns_before = cpu_ns;
	uint64_t start = use.clock_ns;
	engine->resting = true;
	pthread_cond_broadcast(&gmm->changed);
	while (!engine->stopping) {
		uint64_t end = start + gmm__pace_rest_ms(engine) * NANOSECONDS_PER_MS;
		if (engine->pausing)
			gmm__lock_wait(&gmm->lock, &gmm->changed);
		else if (gmm__sys_of(gmm)->clock_ns() >= end || has_gone_quiet(engine, &use))
			break;
		else
			gmm__wait_until(gmm, engine->window_shift > 0 && use.next_ns < end ? use.next_ns : end);
	}
	engine->rested_ms = (gmm__sys_of(gmm)->clock_ns() - start) / NANOSECONDS_PER_MS;
	engine->hurry = false;
	engine->resting = false;
	gmm__lock_give(&gmm->lock);
}

bool gmm__pace_await_pressure(struct gmm__engine *engine)
{
	struct gmm *gmm = engine->gmm;

	gmm__lock_take(&gmm->lock);
	while (gmm->options.only_under_pressure && !gmm->under_pressure && !engine->stopping) {
		engine->resting = true;
		pthread_cond_broadcast(&gmm->changed);
		gmm__lock_wait(&gmm->lock, &gmm->changed);
	}
	engine->resting = false;
	gmm__lock_give(&gmm->lock);
	return !engine->stopping;
}

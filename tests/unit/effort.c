/* Effort: which regions are visited at which pass, what wakes them, and how long the engine expects to take. */
#include "dedup/effort.h"

#include "dedup/budget.h"
#include "dedup/settle.h"
#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

static const struct gmm__yield nothing, some = { .shared = true }, fresh = { .fresh = true };
static const struct gmm__effort_limits fast = { .unwritten = 4, .few = 4 };

/* Visits in so many passes that all yield the same. */
static unsigned visits_within(struct gmm__effort *effort, const struct gmm__effort_limits *limits, unsigned passes, bool full,
			      struct gmm__yield yield)
{
	unsigned n = 0;

	while (passes-- > 0) {
		if (!gmm__effort_due(effort, full))
			continue;
		gmm__effort_learn(effort, yield, limits);
		n++;
	}
	return n;
}

static unsigned visits(struct gmm__effort *effort, unsigned passes, bool full, struct gmm__yield yield)
{
	return visits_within(effort, &fast, passes, full, yield);
}

START_TEST(new_memory_is_visited_at_every_pass)
{
	struct gmm__effort effort = { 0 };

	ck_assert_uint_eq(visits(&effort, 8, false, nothing), 8);
}
END_TEST

START_TEST(what_never_shares_is_visited_ever_less_often)
{
	struct gmm__effort effort = { 0 };
	unsigned before = visits(&effort, 32, false, nothing), after = visits(&effort, 160, false, nothing);

	ck_assert_uint_lt(before, 20);
	ck_assert_uint_eq(after, 10);
	ck_assert(gmm__effort_is_low(&effort));
}
END_TEST

START_TEST(what_shares_is_visited_at_every_pass)
{
	struct gmm__effort effort = { 0 };

	visits(&effort, 100, false, nothing);
	visits(&effort, 16, false, some); /* at least one visit */
	ck_assert_uint_eq(visits(&effort, 16, false, some), 16);
	ck_assert(!gmm__effort_is_low(&effort));
}
END_TEST

/* Seldom passes visit what is not written often enough, and where a few pages are written sooner. */
START_TEST(cheap_visits_are_not_far_apart)
{
	struct gmm__effort_limits seldom = gmm__effort_limits(2000, 2000), never = gmm__effort_limits(60000, 60000);
	struct gmm__effort_limits often = gmm__effort_limits(10, 10);
	struct gmm__yield few = { .written = 200 }, many = { .written = GMM__REGION_PAGES };
	struct gmm__effort effort = { 0 };

	visits_within(&effort, &seldom, 100, false, nothing);
	ck_assert(gmm__effort_is_low(&effort)); /* or passes that look for written shared pages might never visit it */
	ck_assert_uint_eq(visits_within(&effort, &seldom, 160, false, nothing), 40);
	visits_within(&effort, &seldom, 16, false, few);
	ck_assert_uint_eq(effort.level, 0);
	ck_assert_uint_eq(visits_within(&effort, &seldom, 160, false, few), 160);
	visits_within(&effort, &seldom, 100, false, many);
	ck_assert_uint_eq(visits_within(&effort, &seldom, 160, false, many), 20);
	visits_within(&effort, &never, 16, false, nothing);
	ck_assert_uint_eq(visits_within(&effort, &never, 16, false, nothing), 16);
	visits_within(&effort, &often, 100, false, few);
	ck_assert_uint_eq(visits_within(&effort, &often, 160, false, few), 10);
}
END_TEST

/* Where visits are far apart more is found at each: that does not keep them apart. */
START_TEST(what_was_visited_seldom_is_not_taken_for_busy)
{
	struct gmm__effort_limits limits = gmm__effort_limits(2000, 2000);
	struct gmm__effort effort = { .visits = 8, .level = 4 };

	gmm__effort_learn(&effort, (struct gmm__yield){ .written = 1700 }, &limits);
	ck_assert_uint_eq(effort.level, 0);
}
END_TEST

START_TEST(memory_that_comes_starts_anew)
{
	struct gmm__effort effort = { 0 };

	visits(&effort, 100, false, nothing);
	visits(&effort, 1, true, fresh);
	ck_assert_uint_eq(visits(&effort, 6, false, nothing), 6);
}
END_TEST

START_TEST(a_full_pass_visits_all)
{
	struct gmm__effort effort = { 0 };

	visits(&effort, 100, false, nothing);
	ck_assert_uint_eq(visits(&effort, 20, true, nothing), 20);
}
END_TEST

START_TEST(all_of_a_region_is_looked_at_every_16_passes)
{
	struct gmm__effort effort = { 0 };
	unsigned surveys = 0;

	for (unsigned pass = 0; pass < 32; pass++) {
		ck_assert(gmm__effort_due(&effort, true));
		surveys += gmm__effort_survey(&effort);
		gmm__effort_learn(&effort, nothing, &fast);
	}
	ck_assert_uint_eq(surveys, 2);
	for (unsigned pass = 0; pass < 160; pass++) {
		if (!gmm__effort_due(&effort, false))
			continue;
		surveys += gmm__effort_survey(&effort);
		gmm__effort_learn(&effort, nothing, &fast);
	}
	ck_assert_uint_ge(surveys, 11);
}
END_TEST

/* ---- in passes ------------------------------------------------------------------------------------------------ */

START_TEST(unique_memory_costs_no_scans)
{
	open_twins(8);
	fake_fill_range(a, 0, 8, 100);
	fake_fill_range(b, 0, 8, 200);
	fake_passes(64);
	uint32_t scans = world->steps[FAKE_SCAN];
	fake_passes(16);
	ck_assert_uint_le(world->steps[FAKE_SCAN] - scans, 2 * 3); /* two regions, one visit, three questions */
	ck_assert_uint_gt(world->steps[FAKE_SCAN], scans);
	fake_close();
}
END_TEST

/* What a region holds back for at most 16 passes is there at once for whoever waits. */
START_TEST(waiting_visits_what_sleeps)
{
	open_twins(8);
	fake_fill_range(a, 0, 8, 100);
	fake_fill_range(b, 0, 8, 200);
	fake_passes(64);
	while (world->engine->progress.skipped == 0) /* just visited: it sleeps now */
		fake_passes(1);
	fake_fill_range(a, 0, 8, 300);
	fake_fill_range(b, 0, 8, 300);
	world->gmm->settle_waiters = 1;
	fake_passes(4);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 8);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 8);
	ck_assert(world->engine->settled);
	fake_close();
}
END_TEST

static void assert_not_settled_yet(enum fake_step step, fake_hook_fn *act, enum gmm_page_state state)
{
	open_joiner(8);
	once_at(step, c, act);
	fake_passes(1);
	ck_assert(once_done());
	assert_state(c, 0, state);
	ck_assert(!world->engine->settled);
	fake_passes(2);
	ck_assert(world->engine->settled);
	fake_close();
}

/* The pass that refuses a page leaves it for the next one, though nothing was written and nothing waits for a merge. */
START_TEST(what_was_refused_is_still_to_be_looked_at)
{
	assert_not_settled_yet(FAKE_BEFORE_FREEZE, fail_einval, GMM_PAGE_VOLATILE);
	assert_not_settled_yet(FAKE_BEFORE_FREEZE, write_first, GMM_PAGE_RACED);
}
END_TEST

/* What a pass has found equal is merged right after it, and nothing else is looked at; without a window the next pass does. */
START_TEST(a_follow_up_merges_what_a_pass_has_found)
{
	open_twins(8);
	world->gmm->options.window_ms = 2000;
	fake_passes(1); /* armed */
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_VOLATILE), 8);
	fake_passes(1);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_NOMINATED), 8);
	fake_write(b, 0, 0, 99);
	uint64_t passes = world->engine->passes;
	world->gmm->options.window_ms = 0;
	gmm__engine_follow_up(world->engine);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 0);
	world->gmm->options.window_ms = 2000;
	gmm__engine_follow_up(world->engine);
	ck_assert_uint_eq(world->engine->passes, passes);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 7);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 7);
	ck_assert_uint_gt(world->engine->lately_merged, 0);
	fake_passes(1); /* that looks at all again */
	ck_assert_uint_gt(world->engine->progress.found, 0);
	fake_close();
}
END_TEST

/* What a pass finds after a part of the window is the more, the shorter that was. */
START_TEST(short_windows_do_not_make_guests_look_quiet)
{
	open_twins(200);
	fake_fill_range(b, 0, 200, 1000);
	world->gmm->options.window_ms = 2000;
	fake_passes(8);
	ck_assert_uint_gt(world->engine->quiet_passes, 0);
	fake_write(a, 0, 0, 77); /* less than one of 100 */
	fake_passes(1);
	ck_assert_uint_gt(world->engine->quiet_passes, 0);
	world->engine->rested_ms = 250;
	fake_write(a, 0, 0, 78);
	fake_passes(1);
	ck_assert_uint_eq(world->engine->quiet_passes, 0);
	fake_close();
}
END_TEST

START_TEST(passes_that_share_are_not_barren)
{
	open_twins(8);
	fake_passes(2);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 8);
	ck_assert_uint_eq(world->engine->barren_passes, 0);
	fake_passes(4);
	ck_assert_uint_eq(world->engine->barren_passes, 4);
	fake_passes(60);
	ck_assert_uint_eq(world->engine->barren_passes, 15);
	fake_unshare(a, 0, 8);
	fake_passes(1);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 8);
	ck_assert_uint_eq(world->engine->barren_passes, 0);
	fake_close();
}
END_TEST

START_TEST(unsharing_wakes_a_region)
{
	open_twins(8);
	fake_passes(64);
	fake_unshare(a, 0, 4);
	fake_passes(3);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 8);
	fake_close();
}
END_TEST

/* ---- estimate and limits ---------------------------------------------------------------------------------------- */

START_TEST(estimate_follows_work_speed_and_limit)
{
	struct gmm__settle_work work = { .pages = 1000, .page_ns = 1000000, .cpu_percent = 100 };

	ck_assert_uint_eq(gmm__settle_time_ms(&work), 1001);
	work.cpu_percent = 50;
	ck_assert_uint_eq(gmm__settle_time_ms(&work), 2001);
	work.cpu_percent = 0;
	work.passes = 3;
	work.rest_ms = 2000;
	ck_assert_uint_eq(gmm__settle_time_ms(&work), 7001);
}
END_TEST

START_TEST(pages_per_second_are_kept)
{
	struct gmm__budget budget = { 0 };
	const uint64_t second = 1000000000;

	ck_assert_uint_eq(gmm__budget_pages_rest(&budget, 0, second, 1 << 20), 0);
	ck_assert_uint_eq(gmm__budget_pages_rest(&budget, 1000, second, 0), 0);
	ck_assert_uint_eq(gmm__budget_pages_rest(&budget, 1000, second, 500), second / 2);
	ck_assert_uint_eq(gmm__budget_pages_rest(&budget, 1000, second + second / 2, 500), 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { new_memory_is_visited_at_every_pass, what_never_shares_is_visited_ever_less_often,
				 what_shares_is_visited_at_every_pass, cheap_visits_are_not_far_apart,
				 what_was_visited_seldom_is_not_taken_for_busy,
				 a_follow_up_merges_what_a_pass_has_found,
				 short_windows_do_not_make_guests_look_quiet, memory_that_comes_starts_anew, a_full_pass_visits_all,
				 all_of_a_region_is_looked_at_every_16_passes, unique_memory_costs_no_scans,
				 waiting_visits_what_sleeps, what_was_refused_is_still_to_be_looked_at,
				 passes_that_share_are_not_barren, unsharing_wakes_a_region, estimate_follows_work_speed_and_limit,
				 pages_per_second_are_kept };

	return unit_main("effort", tests, sizeof tests / sizeof *tests);
}

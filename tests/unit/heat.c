/* Heat: pages that are written all the time are armed ever more seldom, and what became quiet is found all the same. */
#include "dedup/heat.h"

#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

#define SECOND_NS UINT64_C(1000000000)

enum { WINDOW_MS = 2000 };

static struct gmm__heat_clock at(double seconds, uint32_t window_ms)
{
	return gmm__heat_clock((uint64_t)((1000 + seconds) * SECOND_NS), window_ms, false);
}

/* How often a page is armed that is written before each of the looks, `every` seconds apart, in so many seconds. */
static unsigned arms(double every, double seconds, uint32_t window_ms, double *ret_longest)
{
	uint32_t heat = GMM__HEAT_NEW, bytes = 0;
	double armed = 0;
	unsigned n = 0;

	*ret_longest = 0;
	for (double now = 0; now < seconds; now += every) {
		struct gmm__heat_clock clock = at(now, window_ms);
		enum gmm__heat_step step = gmm__heat_written(&heat, &clock);
		if (step == GMM__HEAT_READ)
			ck_assert(!gmm__heat_read(&heat, ++bytes << 20, &clock));
		if (step != GMM__HEAT_ARM)
			continue;
		*ret_longest = now - armed > *ret_longest ? now - armed : *ret_longest;
		armed = now;
		n++;
	}
	return n;
}

START_TEST(full_speed_arms_once_and_reads_seldom)
{
	double longest;

	ck_assert_uint_eq(arms(0.01, 100, 0, &longest), 1); /* when it was new */
	ck_assert_uint_eq(arms(0.5, 100, 100, &longest), 1);
}
END_TEST

/* As long as passes are seldom by themselves, a page is armed at each. */
START_TEST(a_window_arms_at_first)
{
	double longest;

	ck_assert_uint_eq(arms(2, 6, WINDOW_MS, &longest), 3);
	ck_assert_uint_lt(arms(2, 1000, WINDOW_MS, &longest), 6);
	/* Looks that are nearer than a window do not make a page hotter sooner. */
	ck_assert_uint_ge(arms(0.25, 2.5, WINDOW_MS, &longest), 10);
}
END_TEST

/* A page rests for no longer than it has been written so far, but a second, and never for more than 16 seconds. */
START_TEST(rests_are_in_proportion)
{
	double begin = 0, longest = 0;
	uint32_t heat = GMM__HEAT_KNOWN, bytes = 0;
	unsigned reads = 0;

	for (double now = 0; now < 200; now += 0.01) {
		struct gmm__heat_clock clock = at(now, 0);
		enum gmm__heat_step step = gmm__heat_written(&heat, &clock);
		ck_assert_int_ne(step, GMM__HEAT_ARM);
		if (step != GMM__HEAT_READ)
			continue;
		ck_assert_double_lt(now - begin, begin + 1.2);
		longest = now - begin > longest ? now - begin : longest;
		begin = now;
		reads++;
		ck_assert(!gmm__heat_read(&heat, ++bytes << 20, &clock));
	}
	ck_assert_double_ge(longest, 13);
	ck_assert_double_lt(longest, 15);
	ck_assert_uint_lt(reads, 2 * (4 + 200 / 15));
}
END_TEST

START_TEST(what_did_not_change_is_armed_and_then_quiet)
{
	uint32_t heat = GMM__HEAT_KNOWN;
	struct gmm__heat_clock clock = at(0, 0);

	ck_assert_int_eq(gmm__heat_written(&heat, &clock), GMM__HEAT_READ);
	ck_assert(!gmm__heat_read(&heat, 0xabcd1234, &clock));
	clock = at(0.5, 0);
	ck_assert_int_eq(gmm__heat_written(&heat, &clock), GMM__HEAT_RESTING);
	clock = at(1.2, 0);
	ck_assert_int_eq(gmm__heat_written(&heat, &clock), GMM__HEAT_READ);
	ck_assert(gmm__heat_read(&heat, 0xabcd1234, &clock));
	ck_assert(!gmm__heat_is_quiet(heat, &clock));
	clock = at(1.8, 0);
	ck_assert(!gmm__heat_is_quiet(heat, &clock));
	clock = at(2.4, 0);
	ck_assert(gmm__heat_is_quiet(heat, &clock));
}
END_TEST

/* A rest that nobody looked at for long has not begun anew. */
START_TEST(old_rests_are_over)
{
	uint32_t heat = GMM__HEAT_KNOWN;
	struct gmm__heat_clock clock = at(0, 0);

	gmm__heat_written(&heat, &clock);
	gmm__heat_read(&heat, 1 << 20, &clock);
	for (double later = 2; later < 500; later += 10) {
		clock = at(later, 0);
		ck_assert_int_eq(gmm__heat_written(&heat, &clock), GMM__HEAT_READ);
	}
}
END_TEST

START_TEST(whoever_waits_ends_all_rests)
{
	uint32_t heat = GMM__HEAT_KNOWN;
	struct gmm__heat_clock clock = at(0, 0);

	gmm__heat_written(&heat, &clock);
	clock.all = true;
	ck_assert_int_eq(gmm__heat_written(&heat, &clock), GMM__HEAT_ARM);
	ck_assert(gmm__heat_is_quiet(heat, &clock));
}
END_TEST

/* ---- in passes ------------------------------------------------------------------------------------------------- */

static void pass_after(uint64_t ms)
{
	world->clock_ns += ms * 1000000;
	gmm__engine_pass(world->engine);
}

/* So many passes, each `ms` after the one before; page 0 of both is written before each one. */
static void hot_passes(unsigned passes, unsigned ms)
{
	static uint64_t value;

	for (unsigned i = 0; i < passes; i++) {
		fake_write(a, 0, 3, ++value);
		pass_after(ms);
	}
	fake_check();
}

static void open_hot(void)
{
	open_twins(8);
	fake_fill_range(a, 0, 8, 100);
	fake_fill_range(b, 0, 8, 200);
	fake_passes(4);
}

/* The guest pays for the first time only; the page is read ever more seldom. */
START_TEST(hot_pages_are_not_armed)
{
	open_hot();
	world->steps[FAKE_ARM] = 0;
	hot_passes(200, 20);
	ck_assert_uint_eq(world->steps[FAKE_ARM], 0);
	assert_state(a, 0, GMM_PAGE_VOLATILE);
	uint64_t digested = world->engine->digested_pages;
	hot_passes(200, 20);
	ck_assert_uint_eq(world->engine->digested_pages, digested);
	fake_close();
}
END_TEST

/* It comes to be shared, though nobody waits, in about as much time again as it was hot. */
START_TEST(what_becomes_quiet_is_shared)
{
	open_hot();
	hot_passes(200, 20);
	fake_fill(a, 0, 200);
	for (unsigned i = 0; i < 350 && fake_state(a, 0) != GMM_PAGE_SHARED; i++)
		pass_after(20);
	assert_state(a, 0, GMM_PAGE_SHARED);
	fake_close();
}
END_TEST

/* A page that rests is dropped by the VMM, swapped out, or not to be shared any more. */
START_TEST(what_rests_may_go)
{
	open_hot();
	for (uint32_t i = 1; i < 3; i++)
		fake_write(a, i, 3, 1);
	hot_passes(1, 20);
	fake_drop(a, 0);
	a->page[1].swapped = true;
	a->slot->state[2] |= GMM__FLAG_UNSHAREABLE;
	pass_after(20);
	assert_state(a, 0, GMM_PAGE_ABSENT);
	assert_state(a, 1, GMM_PAGE_SWAPPED);
	a->slot->state[2] &= (uint8_t)~GMM__FLAG_UNSHAREABLE;
	a->page[1].swapped = false;
	fake_passes(20);
	assert_state(a, 1, GMM_PAGE_UNIQUE);
	assert_state(a, 2, GMM_PAGE_UNIQUE);
	fake_close();
}
END_TEST

/* Settled means that nothing quiet is left, also of what was hot before the wait; and a page that has been quiet for less than
 * a second is work that is left. */
START_TEST(settled_leaves_nothing_quiet)
{
	open_hot();
	hot_passes(100, 20);
	fake_fill(a, 0, 200);
	fake_fill(b, 0, 200);
	world->gmm->settle_waiters = 1;
	world->engine->settled = false;
	for (unsigned i = 0; i < 5 && !world->engine->settled; i++)
		gmm__engine_pass(world->engine);
	ck_assert(world->engine->settled);
	assert_state(a, 0, GMM_PAGE_SHARED);
	fake_close();
}
END_TEST

START_TEST(unripe_pages_are_work_left)
{
	open_hot();
	for (uint32_t i = 0; i < 8; i++)
		fake_write(a, i, 3, 1);
	pass_after(20); /* they are read */
	pass_after(2020); /* and armed */
	pass_after(20);
	ck_assert_uint_eq(world->engine->progress.unripe, 8);
	ck_assert_uint_eq(world->engine->quiet_passes, 0);
	fake_passes(20);
	ck_assert(world->engine->settled);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_UNIQUE), 8);
	fake_close();
}
END_TEST

static struct gmm__finding finding[GMM__REGION_PAGES];

/* What a scan of a finds now. */
static int scan_a(bool survey, uint32_t *ret_unripe)
{
	struct gmm__region region = { a->slot, 0, a->pages };
	struct gmm__scan_options options = { .no_window = true, .survey = survey,
					     .clock = gmm__heat_clock(world->clock_ns, 0, false) };

	return gmm__scan_region(fake_backend(), &region, &options, finding, ret_unripe);
}

/* Nor when all others of the region are looked at. */
START_TEST(unripe_pages_are_not_digested)
{
	uint32_t unripe = 0;

	open_hot();
	for (uint32_t i = 0; i < 4; i++)
		fake_write(a, i, 3, 1);
	pass_after(20); /* they are read */
	pass_after(2020); /* and armed */
	ck_assert_int_gt(scan_a(true, &unripe), 0);
	ck_assert_uint_eq(unripe, 4);
	for (uint32_t i = 0; i < 8; i++)
		ck_assert_int_eq(finding[i].found, i < 4 ? GMM__FOUND_NOTHING : GMM__FOUND_AGAIN);
	fake_close();
}
END_TEST

START_TEST(what_rests_is_nothing_to_do)
{
	uint32_t unripe = 0;

	open_hot();
	hot_passes(1, 20);
	fake_write(a, 0, 3, 77);
	ck_assert_int_eq(scan_a(false, &unripe), 0);
	world->clock_ns += 2 * SECOND_NS;
	ck_assert_int_eq(scan_a(false, &unripe), 1);
	ck_assert_int_eq(finding[0].step, GMM__HEAT_READ);
	fake_close();
}
END_TEST

/* The value of a page that could not be frozen was its fingerprint. */
START_TEST(what_was_not_frozen_has_no_heat)
{
	open_joiner(8);
	once_at(FAKE_BEFORE_FREEZE, c, fail_einval);
	fake_passes(1);
	ck_assert(once_done());
	assert_state(c, 0, GMM_PAGE_VOLATILE);
	ck_assert_uint_eq(c->slot->value[0], GMM__HEAT_NEW);
	fake_close();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { full_speed_arms_once_and_reads_seldom, a_window_arms_at_first, rests_are_in_proportion,
				 what_did_not_change_is_armed_and_then_quiet, old_rests_are_over,
				 whoever_waits_ends_all_rests, hot_pages_are_not_armed, what_becomes_quiet_is_shared, what_rests_may_go,
				 settled_leaves_nothing_quiet, unripe_pages_are_work_left,
				 unripe_pages_are_not_digested, what_rests_is_nothing_to_do, what_was_not_frozen_has_no_heat };

	return unit_main("heat", tests, sizeof tests / sizeof *tests);
}

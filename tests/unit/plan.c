/* Planning: how verdicts become runs, and which lengths the mapping budget lets through. */
#include "dedup/plan.h"

#include <stdlib.h>
#include <string.h>

#include "tests/unit/support/unit.h"

enum { PAGES = 64 };

static struct gmm__verdict verdict[PAGES];
static struct gmm__run run[PAGES];
static struct gmm__region region;

static void clear(void)
{
	memset(verdict, 0, sizeof verdict);
	region = (struct gmm__region){ .first = 1000, .count = PAGES };
}

static void set(uint32_t first, uint32_t count, enum gmm__verdict_kind kind, gmm__page_id page)
{
	for (uint32_t i = 0; i < count; i++)
		verdict[first + i] = (struct gmm__verdict){ .kind = kind, .page = page + i };
}

static uint32_t runs(bool by_twin)
{
	return gmm__plan_runs(verdict, &region, by_twin, run);
}

static void assert_run(uint32_t i, enum gmm__verdict_kind kind, uint32_t first, uint32_t count, gmm__page_id page)
{
	ck_assert_int_eq(run[i].kind, kind);
	ck_assert_uint_eq(run[i].first, 1000 + first);
	ck_assert_uint_eq(run[i].count, count);
	ck_assert_uint_eq(run[i].page, page);
}

START_TEST(nothing_to_merge)
{
	clear();
	ck_assert_uint_eq(runs(false), 0);
	set(0, PAGES, GMM__VERDICT_UNIQUE, 0);
	set(5, 2, GMM__VERDICT_TWIN, 7);
	set(9, 2, GMM__VERDICT_ALONE, 7);
	ck_assert_uint_eq(runs(false), 0);
}
END_TEST

START_TEST(runs_of_each_kind)
{
	clear();
	set(0, 3, GMM__VERDICT_ZERO, 0);
	set(3, 4, GMM__VERDICT_JOIN, 600);
	set(7, 2, GMM__VERDICT_PROMOTE, 90);
	set(10, 1, GMM__VERDICT_JOIN, 610);
	set(PAGES - 1, 1, GMM__VERDICT_ZERO, 0);
	ck_assert_uint_eq(runs(false), 5);
	assert_run(0, GMM__VERDICT_ZERO, 0, 3, 0);
	assert_run(1, GMM__VERDICT_JOIN, 3, 4, 600);
	assert_run(2, GMM__VERDICT_PROMOTE, 7, 2, 90);
	assert_run(3, GMM__VERDICT_JOIN, 10, 1, 610);
	assert_run(4, GMM__VERDICT_ZERO, PAGES - 1, 1, 0);
}
END_TEST

START_TEST(join_runs_follow_the_pool)
{
	clear();
	set(0, 3, GMM__VERDICT_JOIN, 600);
	set(3, 3, GMM__VERDICT_JOIN, 700);
	set(6, 1, GMM__VERDICT_JOIN, 702);
	ck_assert_uint_eq(runs(false), 3);
	assert_run(1, GMM__VERDICT_JOIN, 3, 3, 700);
	assert_run(2, GMM__VERDICT_JOIN, 6, 1, 702);
}
END_TEST

START_TEST(join_runs_end_with_the_chunk)
{
	clear();
	set(0, 10, GMM__VERDICT_JOIN, 2 * GMM__CHUNK_PAGES - 4);
	ck_assert_uint_eq(runs(false), 2);
	assert_run(0, GMM__VERDICT_JOIN, 0, 4, 2 * GMM__CHUNK_PAGES - 4);
	assert_run(1, GMM__VERDICT_JOIN, 4, 6, 2 * GMM__CHUNK_PAGES);
}
END_TEST

START_TEST(promotions_by_twin)
{
	clear();
	set(0, 3, GMM__VERDICT_PROMOTE, 600);
	set(3, 3, GMM__VERDICT_PROMOTE, 800);
	ck_assert_uint_eq(runs(false), 1);
	assert_run(0, GMM__VERDICT_PROMOTE, 0, 6, 600);
	ck_assert_uint_eq(runs(true), 2);
	assert_run(1, GMM__VERDICT_PROMOTE, 3, 3, 800);
}
END_TEST

START_TEST(fill_runs_by_word)
{
	clear();
	set(0, 6, GMM__VERDICT_FILL, 0);
	for (uint32_t i = 0; i < 6; i++) {
		verdict[i].page = GMM__NIL;
		verdict[i].word = i < 4 ? 0xcc : 0xdd;
	}
	ck_assert_uint_eq(runs(true), 2);
	assert_run(0, GMM__VERDICT_FILL, 0, 4, GMM__NIL);
	ck_assert_uint_eq(run[0].word, 0xcc);
	ck_assert_uint_eq(run[1].word, 0xdd);
	ck_assert_uint_eq(run[1].count, 2);
}
END_TEST

/* Every page that is to be merged is in exactly one run. */
START_TEST(runs_cover_what_is_merged)
{
	static const enum gmm__verdict_kind kinds[] = { GMM__VERDICT_NONE, GMM__VERDICT_UNIQUE, GMM__VERDICT_ZERO,
							GMM__VERDICT_JOIN, GMM__VERDICT_PROMOTE };
	srand(7);
	for (int round = 0; round < 500; round++) {
		uint32_t wanted = 0, covered = 0, next = 1000;
		clear();
		for (uint32_t i = 0; i < PAGES; i++) {
			verdict[i].kind = kinds[rand() % 5];
			verdict[i].page = 512 + rand() % 3 + i;
			wanted += verdict[i].kind >= GMM__VERDICT_ZERO;
		}
		uint32_t n = runs(rand() % 2);
		for (uint32_t k = 0; k < n; k++) {
			ck_assert_uint_ge(run[k].first, next);
			for (uint32_t i = 0; i < run[k].count; i++)
				ck_assert_int_eq(verdict[run[k].first - 1000 + i].kind, run[k].kind);
			next = run[k].first + run[k].count;
			covered += run[k].count;
		}
		ck_assert_uint_eq(covered, wanted);
	}
}
END_TEST

/* ---- the mapping budget ------------------------------------------------------------------------------------------------- */

START_TEST(lengths_by_power_of_two)
{
	struct gmm__run_lengths lengths = { 0 };
	static const uint32_t counts[] = { 1, 2, 3, 4, 7, 8, 127, 128, 2048 };

	for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
		gmm__plan_count(&lengths, counts[i]);
	ck_assert_uint_eq(lengths.runs[0], 1);
	ck_assert_uint_eq(lengths.runs[1], 2);
	ck_assert_uint_eq(lengths.runs[2], 2);
	ck_assert_uint_eq(lengths.runs[3], 1);
	ck_assert_uint_eq(lengths.runs[6], 1);
	ck_assert_uint_eq(lengths.runs[7], 2);
}
END_TEST

START_TEST(threshold_is_1_while_all_fit)
{
	struct gmm__vm_plan plan = { 0 };

	ck_assert(gmm__plan_fits(0, 0));
	ck_assert(gmm__plan_fits(100, 150));
	ck_assert(!gmm__plan_fits(102, 150));
	ck_assert_uint_eq(gmm__plan_threshold(&plan, true), 1);
}
END_TEST

START_TEST(longest_runs_come_first_and_then_ever_shorter_ones)
{
	struct gmm__vm_plan plan = { .waiting_runs = 1000 };

	plan.min_run = gmm__plan_threshold(&plan, false);
	ck_assert_uint_eq(plan.min_run, 1u << (GMM__RUN_LEVELS - 1));
	for (uint32_t expected = plan.min_run / 2; expected >= 1; expected /= 2) {
		plan.postponed_pages = 10;
		plan.min_run = gmm__plan_threshold(&plan, false);
		ck_assert_uint_eq(plan.min_run, expected);
	}
	ck_assert_uint_eq(gmm__plan_threshold(&plan, false), 1); /* stays */
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		nothing_to_merge, runs_of_each_kind, join_runs_follow_the_pool, join_runs_end_with_the_chunk,
		promotions_by_twin, fill_runs_by_word, runs_cover_what_is_merged, lengths_by_power_of_two,
		threshold_is_1_while_all_fit, longest_runs_come_first_and_then_ever_shorter_ones,
	};

	return unit_main("plan", tests, sizeof tests / sizeof *tests);
}

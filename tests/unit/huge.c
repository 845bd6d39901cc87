/* The decision which huge pages to break, and the pace of samples: pure functions. */
#include "dedup/effort.h"
#include "dedup/huge.h"

#include "tests/unit/support/unit.h"

static bool breaks(uint32_t saved, uint32_t runs, uint32_t changed)
{
	struct gmm__huge_facts facts = { saved, runs, changed };
	struct gmm__huge_setting setting = { GMM_HUGE_PRESERVE, false, 1000 };

	return gmm__huge_is_worth_breaking(&facts, &setting);
}

START_TEST(half_of_it_must_be_saved)
{
	ck_assert(!breaks(0, 0, 0));
	ck_assert(!breaks(255, 1, 0));
	ck_assert(breaks(256, 1, 0));
	ck_assert(breaks(512, 0, 0));
}
END_TEST

START_TEST(mappings_and_changes_count_against_it)
{
	ck_assert(breaks(256, 10, 0)); /* less than a page of kernel memory */
	ck_assert(!breaks(256, 11, 0));
	ck_assert(!breaks(256 + 22, 256, 0)); /* every other page is a run of its own */
	ck_assert(breaks(256 + 23, 256, 0));
	ck_assert(!breaks(300, 1, 45));
	ck_assert(breaks(300, 1, 44));
	ck_assert(!breaks(512, 1, 257));
}
END_TEST

START_TEST(no_more_mappings_than_there_are)
{
	struct gmm__huge_facts facts = { .saved = 400, .runs = 8 };
	struct gmm__huge_setting setting = { GMM_HUGE_PRESERVE, false, 7 };

	ck_assert(!gmm__huge_is_worth_breaking(&facts, &setting));
	setting.mappings_left = 8;
	ck_assert(gmm__huge_is_worth_breaking(&facts, &setting));
	setting.mappings_left = 0;
	facts.runs = 0; /* zero pages need none */
	ck_assert(gmm__huge_is_worth_breaking(&facts, &setting));
}
END_TEST

START_TEST(less_is_enough_while_memory_is_short)
{
	struct gmm__huge_facts facts = { .saved = 31, .runs = 1 };
	struct gmm__huge_setting setting = { GMM_HUGE_PRESERVE, true, 1000 };

	ck_assert(!gmm__huge_is_worth_breaking(&facts, &setting));
	facts.saved = 32;
	ck_assert(gmm__huge_is_worth_breaking(&facts, &setting));
	facts.changed = 1;
	ck_assert(!gmm__huge_is_worth_breaking(&facts, &setting));
}
END_TEST

START_TEST(policies_without_a_choice)
{
	struct gmm__huge_facts nothing = { .changed = 255 }, all = { .saved = 512 };
	struct gmm__huge_setting setting = { GMM_HUGE_ALWAYS, false, 0 };

	ck_assert(gmm__huge_is_worth_breaking(&nothing, &setting));
	setting.policy = GMM_HUGE_NEVER;
	setting.memory_short = true;
	ck_assert(!gmm__huge_is_worth_breaking(&all, &setting));
}
END_TEST

static void conclude(struct gmm__huge_pace *pace, uint64_t news, uint64_t whole)
{
	struct gmm__progress progress = { .huge_news = news };

	gmm__huge_pace_conclude(pace, &progress, whole);
}

static void conclude_all(struct gmm__huge_pace *pace, uint32_t passes)
{
	while (passes-- > 0)
		conclude(pace, 0, 512);
}

START_TEST(each_phase_once_a_round)
{
	struct gmm__huge_pace pace = { 0 };

	for (uint32_t i = 0; i < 3 * GMM__HUGE_ROUND; i++) {
		ck_assert_uint_eq(gmm__huge_phase(&pace, i % 2 == 0), i % GMM__HUGE_ROUND + 1);
		conclude(&pace, 64, 512);
		ck_assert(!gmm__huge_pace_judged(&pace));
	}
}
END_TEST

START_TEST(slow_after_a_round_without_news)
{
	struct gmm__huge_pace pace = { 0 };

	conclude(&pace, 2, 512);
	for (uint32_t i = 0; i < GMM__HUGE_ROUND; i++) {
		ck_assert(!gmm__huge_pace_judged(&pace));
		conclude(&pace, 1, 512); /* next to nothing */
	}
	ck_assert(gmm__huge_pace_judged(&pace));
	for (uint32_t i = 0; i < 5 * GMM__SURVEY_PASSES; i++) {
		ck_assert_uint_eq(gmm__huge_phase(&pace, false), 0);
		ck_assert_uint_ne(gmm__huge_phase(&pace, true), 0);
		conclude(&pace, 0, 512);
		ck_assert(gmm__huge_pace_judged(&pace));
	}
}
END_TEST

/* Whichever passes they are made in. */
START_TEST(surveys_sample_each_phase)
{
	for (uint32_t first = 0; first < 2 * GMM__SURVEY_PASSES; first++) {
		struct gmm__huge_pace pace = { .quiet = GMM__HUGE_ROUND };
		uint32_t seen = 0;
		conclude_all(&pace, first);
		for (uint32_t i = 0; i < GMM__HUGE_ROUND; i++) {
			seen |= 1u << gmm__huge_phase(&pace, true);
			conclude_all(&pace, GMM__SURVEY_PASSES);
		}
		ck_assert_uint_eq(seen, ((1u << GMM__HUGE_ROUND) - 1) << 1);
	}
}
END_TEST

START_TEST(news_end_the_rest)
{
	struct gmm__progress arrives = { .huge_new = 1 };

	for (uint32_t first = 0; first < GMM__SURVEY_PASSES; first++) {
		struct gmm__huge_pace pace = { .quiet = GMM__HUGE_ROUND };
		conclude_all(&pace, first);
		gmm__huge_pace_conclude(&pace, &arrives, 1 << 20);
		ck_assert(!gmm__huge_pace_judged(&pace));
	}
	/* The samples of one pass are now those of many. */
	struct gmm__huge_pace pace = { .quiet = GMM__HUGE_ROUND };
	for (uint32_t round = 0; round < 4; round++)
		for (uint32_t i = 0; i < GMM__SURVEY_PASSES; i++) {
			conclude(&pace, 1, GMM__SURVEY_PASSES * 512);
			ck_assert(gmm__huge_pace_judged(&pace));
		}
	for (uint32_t i = 0; i < GMM__SURVEY_PASSES; i++) {
		ck_assert(gmm__huge_pace_judged(&pace));
		conclude(&pace, i == 0 ? 2 : 1, GMM__SURVEY_PASSES * 512);
	}
	ck_assert(!gmm__huge_pace_judged(&pace));
}
END_TEST

START_TEST(nothing_to_judge)
{
	struct gmm__huge_pace pace = { 0 };

	conclude(&pace, 0, 0);
	ck_assert(gmm__huge_pace_judged(&pace));
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		half_of_it_must_be_saved, mappings_and_changes_count_against_it, no_more_mappings_than_there_are,
		less_is_enough_while_memory_is_short, policies_without_a_choice, each_phase_once_a_round,
		slow_after_a_round_without_news, surveys_sample_each_phase, news_end_the_rest, nothing_to_judge,
	};

	return unit_main("huge", tests, sizeof tests / sizeof *tests);
}

/* How many pages are frozen at once follows how long it takes. */
#include "dedup/merge.h"

#include "tests/unit/support/unit.h"

enum { US = 1000, BOUND_US = 200 };

static struct gmm__waits waits_of(uint32_t pages)
{
	return (struct gmm__waits){ .bound_ns = BOUND_US * US, .pages = pages };
}

START_TEST(slow_freezes_get_smaller)
{
	struct gmm__waits waits = waits_of(128);

	for (int i = 0; i < 20; i++)
		gmm__waits_add(&waits, waits.pages, (uint64_t)waits.pages * 10 * US);
	ck_assert_uint_le(waits.pages, BOUND_US / 2 / 10);
	ck_assert_uint_ge(waits.pages, 4);
	ck_assert_uint_eq(waits.longest_ns, 1280 * US);
}
END_TEST

START_TEST(a_single_slow_freeze_changes_nothing)
{
	struct gmm__waits waits = waits_of(128);

	for (int i = 0; i < 20; i++)
		gmm__waits_add(&waits, 128, i % 2 ? 90 * US : 5000 * US);
	ck_assert_uint_eq(waits.pages, 128);
	ck_assert_uint_eq(waits.freezes[12], 10);
}
END_TEST

START_TEST(short_freezes_that_are_slow_say_nothing)
{
	struct gmm__waits waits = waits_of(128);

	for (int i = 0; i < 20; i++)
		gmm__waits_add(&waits, 8, 500 * US);
	ck_assert_uint_eq(waits.pages, 128);
}
END_TEST

START_TEST(fast_freezes_get_larger_up_to_a_limit)
{
	struct gmm__waits waits = waits_of(8);

	for (int i = 0; i < 40; i++)
		gmm__waits_add(&waits, waits.pages, (uint64_t)waits.pages * US / 4);
	ck_assert_uint_eq(waits.pages, GMM__FREEZE_PAGES);
}
END_TEST

START_TEST(it_comes_to_rest_below_half_of_the_bound)
{
	struct gmm__waits waits = waits_of(8);

	for (int i = 0; i < 100; i++)
		gmm__waits_add(&waits, waits.pages, (uint64_t)waits.pages * 2 * US);
	ck_assert_uint_le(waits.pages * 2, BOUND_US / 2);
	ck_assert_uint_ge(waits.pages * 2, BOUND_US / 4);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { slow_freezes_get_smaller, a_single_slow_freeze_changes_nothing,
				       short_freezes_that_are_slow_say_nothing, fast_freezes_get_larger_up_to_a_limit,
				       it_comes_to_rest_below_half_of_the_bound };

	return unit_main("waits", tests, sizeof tests / sizeof *tests);
}

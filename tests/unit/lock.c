/* Lock ranks: in debug builds a lock taken out of order is told, before anybody has to wait for it. */
#include "gmm/lock.h"

#include "tests/unit/support/unit.h"

#if GMM_DEBUG
static uint32_t violations, last_rank, last_held;

static void count(uint32_t rank, uint32_t held)
{
	violations++;
	last_rank = rank;
	last_held = held;
}

START_TEST(rising_order_only)
{
	struct gmm__lock low, high;

	gmm__lock_violated = count;
	gmm__lock_init(&low, GMM__RANK_VM);
	gmm__lock_init(&high, GMM__RANK_POOL);
	gmm__lock_take(&low);
	gmm__lock_take(&high);
	ck_assert(gmm__lock_holds(GMM__RANK_VM) && gmm__lock_holds(GMM__RANK_POOL));
	gmm__lock_give(&low); /* given in any order */
	ck_assert(!gmm__lock_holds(GMM__RANK_VM) && gmm__lock_holds(GMM__RANK_POOL));
	ck_assert_uint_eq(violations, 0);
	gmm__lock_take(&low);
	ck_assert_uint_eq(violations, 1);
	ck_assert_uint_eq(last_rank, GMM__RANK_VM);
	ck_assert_uint_eq(last_held, GMM__RANK_POOL);
}
END_TEST

START_TEST(one_lock_of_a_rank)
{
	struct gmm__lock a, b, freeze_a, freeze_b;

	gmm__lock_violated = count;
	gmm__lock_init(&a, GMM__RANK_SET);
	gmm__lock_init(&b, GMM__RANK_SET);
	gmm__lock_init(&freeze_a, GMM__RANK_FREEZE);
	gmm__lock_init(&freeze_b, GMM__RANK_FREEZE);
	gmm__lock_take(&freeze_a);
	gmm__lock_take(&freeze_b); /* a fork holds those of all instances */
	gmm__lock_take(&a);
	ck_assert_uint_eq(violations, 0);
	gmm__lock_take(&b);
	ck_assert_uint_eq(violations, 1);
}
END_TEST

START_TEST(given_without_being_held)
{
	struct gmm__lock lock;

	gmm__lock_violated = count;
	gmm__lock_init(&lock, GMM__RANK_SET);
	gmm__lock_take(&lock);
	gmm__lock_give(&lock);
	gmm__lock_note_give(GMM__RANK_SET);
	ck_assert_uint_eq(violations, 1);
}
END_TEST
#else
START_TEST(rising_order_only)
{
	/* Release builds pay for the mutex alone. */
	ck_assert_uint_eq(sizeof(struct gmm__lock), sizeof(pthread_mutex_t));
}
END_TEST
#endif

int main(void)
{
	const TTest *const tests[] = {
		rising_order_only,
#if GMM_DEBUG
		one_lock_of_a_rank, given_without_being_held,
#endif
	};

	return unit_main("lock", tests, sizeof tests / sizeof *tests);
}

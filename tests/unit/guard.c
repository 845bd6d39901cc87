/* The guard of a freeze: the watchdog puts back what is frozen for too long, and only while nobody else acts on it. */
#include "dedup/guard.h"

#include <pthread.h>
#include <time.h>

#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

#define MS UINT64_C(1000000)
#define BOUND (20 * MS)

static struct gmm__guard guard;
static struct gmm__freeze frozen;

static void freeze_four(void)
{
	open_twins(8);
	gmm__guard_init(&guard);
	ck_assert(gmm__vm_claim(a->vm, false));
	frozen = (struct gmm__freeze){ .slot = a->slot, .first = 0, .count = 4 };
	gmm__guard_begin(&guard, 1000 * MS);
	ck_assert_int_eq(fake_backend()->freeze(&frozen), 0);
	for (uint32_t i = 0; i < 4; i++)
		ck_assert_int_eq(frozen.page[i], GMM__FROZEN_YES);
}

static void let_go(void)
{
	gmm__guard_end(&guard);
	gmm__vm_release(a->vm);
	fake_check(); /* every byte, nothing frozen */
	gmm__guard_destroy(&guard);
	fake_close();
}

START_TEST(freeze_in_time_is_left_alone)
{
	freeze_four();
	gmm__guard_open(&guard, fake_backend(), &frozen);
	ck_assert_int_eq(gmm__guard_check(&guard, 1000 * MS + BOUND - 1, BOUND), GMM__GUARD_IN_TIME);
	ck_assert(gmm__guard_close(&guard));
	fake_backend()->restore(&frozen, 0, 4);
	fake_backend()->thaw(&frozen);
	ck_assert_uint_eq(guard.late, 0);
	let_go();
}
END_TEST

START_TEST(late_freeze_is_put_back)
{
	freeze_four();
	gmm__guard_open(&guard, fake_backend(), &frozen);
	ck_assert_int_eq(gmm__guard_check(&guard, 1000 * MS + BOUND, BOUND), GMM__GUARD_ENDED);
	for (uint32_t i = 0; i < 4; i++)
		ck_assert_int_eq(frozen.page[i], GMM__FROZEN_RESTORED);
	ck_assert(!gmm__guard_close(&guard)); /* the merge thread is told */
	ck_assert_uint_eq(guard.late, 1);
	ck_assert_uint_eq(guard.thawed, 1);
	let_go();
}
END_TEST

START_TEST(freeze_that_is_being_replaced_is_only_told)
{
	freeze_four();
	ck_assert_int_eq(gmm__guard_check(&guard, 2000 * MS, BOUND), GMM__GUARD_LATE); /* before it is open */
	gmm__guard_open(&guard, fake_backend(), &frozen);
	ck_assert(gmm__guard_close(&guard));
	ck_assert_int_eq(gmm__guard_check(&guard, 3000 * MS, BOUND), GMM__GUARD_IN_TIME); /* told once */
	ck_assert_int_eq(frozen.page[0], GMM__FROZEN_YES);
	fake_backend()->restore(&frozen, 0, 4);
	fake_backend()->thaw(&frozen);
	ck_assert_uint_eq(guard.late, 1);
	ck_assert_uint_eq(guard.thawed, 0);
	let_go();
}
END_TEST

START_TEST(bound_follows_the_wait_bound)
{
	ck_assert_uint_eq(gmm__guard_bound_ns(20000), BOUND);
	ck_assert_uint_eq(gmm__guard_bound_ns(1 * MS), 100 * MS);
}
END_TEST

/* ---- in merges ---------------------------------------------------------------------------------------------------- */

static _Atomic bool over;

/* A watchdog that finds every freeze too long. */
static void *watch(void *arg)
{
	(void)arg;
	while (!over)
		gmm__guard_check(&world->engine->worker[0].guard, UINT64_MAX, 0);
	return NULL;
}

static time_t end;

static bool has_time(void)
{
	return world->engine->worker[0].guard.late == 0 && time(NULL) < end;
}

START_TEST(watchdog_races_with_merges)
{
	pthread_t watchdog;

	end = time(NULL) + 60;
	open_twins(512);
	ck_assert_int_eq(pthread_create(&watchdog, NULL, watch, NULL), 0);
	/* On one processor it takes long until the watchdog comes to run in the middle of a freeze. */
	for (unsigned round = 0; world->engine->worker[0].guard.thawed < 4 && (round < 300 || has_time()); round++) {
		fake_unshare(a, 0, 512);
		fake_unshare(b, 0, 512);
		fake_passes(3); /* which compares every byte with what the guests wrote */
	}
	over = true;
	pthread_join(watchdog, NULL);
	ck_assert_uint_gt(world->engine->worker[0].guard.late, 0);
	fake_passes(8);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 512); /* what was put back is shared in the end */
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 512);
	fake_close();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { freeze_in_time_is_left_alone, late_freeze_is_put_back,
				       freeze_that_is_being_replaced_is_only_told, bound_follows_the_wait_bound,
				       watchdog_races_with_merges };

	return unit_main("guard", tests, sizeof tests / sizeof *tests);
}

/* Errands and hinted runs: merges that no digest has found. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>

#include "dedup/errand.h"
#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

/* Merges pages [first, first + count) of a guest. */
struct task {
	struct fake_guest *guest;
	struct gmm__run run;
};

static void carry_out(void *arg, const struct gmm__merge *merge)
{
	const struct task *task = arg;
	struct gmm__slot *slot = task->guest->slot;
	struct gmm__merge with = *merge;

	with.catalog = task->guest->vm->domain->catalog;
	ck_assert(gmm__vm_claim(task->guest->vm, false));
	for (uint32_t i = task->run.first; i < task->run.first + task->run.count; i++)
		gmm__slot_set(slot, i, GMM_PAGE_NOMINATED, 0);
	gmm__merge_claimed(&with, slot, &task->run);
	gmm__vm_release(task->guest->vm);
}

static void run_task(struct fake_guest *guest, enum gmm__verdict_kind kind, uint32_t count, gmm__page_id page)
{
	struct task task = { guest, { .kind = kind, .first = 0, .count = count, .page = page } };

	gmm__errand_do(world->engine, carry_out, &task);
	fake_check();
}

START_TEST(promoted_without_a_twin)
{
	open_twins(8);
	run_task(a, GMM__VERDICT_PROMOTE, 8, GMM__NIL);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 8);
	ck_assert_uint_eq(a->vm->stats.runs, 1);
	ck_assert_uint_eq(record_of(a->slot->value[7]).references, 1);
	ck_assert_uint_eq(world->engine->progress.digested, 0);
	fake_close();
}
END_TEST

/* The scanner's index has it, so that others join without a twin of theirs. */
START_TEST(found_by_the_scanner)
{
	open_twins(8);
	run_task(a, GMM__VERDICT_PROMOTE, 8, GMM__NIL);
	fake_passes(1);
	for (uint32_t i = 0; i < 8; i++)
		ck_assert_uint_eq(b->slot->value[i], a->slot->value[i]);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 8);
	fake_close();
}
END_TEST

START_TEST(joined_and_different)
{
	open_twins(8);
	fake_write(b, 3, 1, 77);
	run_task(a, GMM__VERDICT_PROMOTE, 8, GMM__NIL);
	run_task(b, GMM__VERDICT_JOIN, 8, a->slot->value[0]);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 7);
	assert_state(b, 3, GMM_PAGE_RACED);
	fake_passes(4);
	assert_state(b, 3, GMM_PAGE_UNIQUE);
	ck_assert_uint_eq(world->engine->progress.merged, 0);
	fake_close();
}
END_TEST

/* ---- the real merge thread --------------------------------------------------------------------------------- */

static _Atomic bool closing;

static void count_up(void *arg, const struct gmm__merge *merge)
{
	ck_assert(merge->hinted);
	ck_assert_ptr_nonnull(merge->waits);
	++*(uint32_t *)arg; /* one at a time while the engine runs: by the merge thread */
}

static void *call_often(void *arg)
{
	for (int i = 0; i < 2000; i++) {
		uint32_t mine = 0;
		gmm__errand_call(arg, count_up, &mine);
		if (mine != 1)
			return arg;
	}
	return NULL;
}

static void *start_and_stop(void *arg)
{
	while (!closing) {
		gmm_engine_start(arg);
		sched_yield();
		gmm_engine_stop(arg);
	}
	return NULL;
}

/* Each errand is done once, whatever becomes of the engine meanwhile. */
START_TEST(engine_stops_under_errands)
{
	pthread_t caller[3], stopper;
	struct gmm *gmm;
	void *failed;

	if (gmm_instance_open(NULL, &gmm) != GMM_OK) {
		printf("SKIP engine_stops_under_errands: no userfaultfd\n");
		return;
	}
	closing = false;
	ck_assert_int_eq(pthread_create(&stopper, NULL, start_and_stop, gmm), 0);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_create(&caller[i], NULL, call_often, gmm), 0);
	for (int i = 0; i < 3; i++) {
		pthread_join(caller[i], &failed);
		ck_assert_ptr_null(failed);
	}
	closing = true;
	pthread_join(stopper, NULL);
	ck_assert_int_eq(gmm_instance_close(gmm), GMM_OK);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { promoted_without_a_twin, found_by_the_scanner, joined_and_different,
				       engine_stops_under_errands };

	return unit_main("errand", tests, sizeof tests / sizeof *tests);
}

/* Two workers at once: what one does to a page that the other one has a copy of.
 *
 * The second worker works where a test says, in the middle of what the first one does.
 */
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <urcu/urcu-bp.h>

#include "dedup/index.h"
#include "dedup/process.h"
#include "dedup/promotions.h"
#include "tests/unit/support/hand_engine.h"
#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

enum { PAGES = 4 }; /* too few in a row to be joined together with the promotion */

/* a and b have equal pages, which are nominated. */
static void open_nominated(void)
{
	open_twins(PAGES);
	fake_passes(1);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_NOMINATED), PAGES);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_NOMINATED), PAGES);
	world->engine->workers = HAND_WORKERS;
}

static void close_all(void)
{
	ck_assert_ptr_null(a->vm->domain->catalog->promotions);
	world->engine->workers = 1;
	fake_close();
}

/* The worker works on all pages of the guest, of which the scan found nothing. */
static void process(uint32_t number, struct fake_guest *guest)
{
	struct gmm__worker *worker = &world->engine->worker[number];

	memset(&worker->job, 0, sizeof worker->job);
	memset(&worker->progress, 0, sizeof worker->progress);
	worker->job.region = (struct gmm__region){ guest->slot, 0, guest->pages };
	gmm__process_region(worker);
}

static int process_b(const struct fake_event *event)
{
	(void)event;
	process(1, b);
	return 0;
}

static void assert_shared_once(void)
{
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(fake_pool(a)->used_pages, PAGES);
	fake_check();
}

START_TEST(a_copy_waits_for_the_worker_that_promotes)
{
	open_nominated();
	once_at(FAKE_FIND_FOREIGN, a, process_b);
	process(0, a);
	ck_assert(once_done());
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_NOMINATED), PAGES);
	/* So the engine is not taken for settled, and the region is visited at the next pass. */
	ck_assert_uint_eq(world->engine->worker[1].progress.postponed, PAGES);
	process(1, b);
	ck_assert_uint_eq(world->engine->worker[1].progress.postponed, 0);
	assert_shared_once();
	close_all();
}
END_TEST

static int process_b_and_fail(const struct fake_event *event)
{
	process_b(event);
	once_at(FAKE_BEFORE_FREEZE, a, fail_enomem);
	return 0;
}

/* It is the hint still, and the copy promotes itself. */
START_TEST(a_copy_goes_on_when_the_promotion_fails)
{
	open_nominated();
	once_at(FAKE_FIND_FOREIGN, a, process_b_and_fail);
	process(0, a);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_BUDGET), PAGES);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_NOMINATED), PAGES);
	process(1, b);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), PAGES);
	world->engine->worker[0].job.options.with_budget = true;
	gmm__process_region(&world->engine->worker[0]);
	assert_shared_once();
	close_all();
}
END_TEST

/* What waits for its turn in the own region is for others as good as promoted. */
START_TEST(a_copy_waits_for_one_that_waits)
{
	world = fake_open();
	a = fake_guest_new(NULL, 2 * PAGES);
	b = fake_guest_new(NULL, PAGES);
	fake_fill_range(a, 0, PAGES, 1);
	fake_fill_range(a, PAGES, PAGES, 1);
	fake_fill_range(b, 0, PAGES, 1);
	fake_passes(1);
	world->engine->workers = HAND_WORKERS;
	once_at(FAKE_FIND_FOREIGN, a, process_b);
	process(0, a);
	process(1, b);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 2 * PAGES);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(fake_pool(a)->used_pages, PAGES);
	close_all();
}
END_TEST

/* The other worker has the claim of the twin's VM for as long as it works there. */
START_TEST(a_twin_in_a_claimed_vm_can_be_looked_at)
{
	open_nominated();
	ck_assert(gmm__vm_claim(b->vm, false));
	process(0, a);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(b->vm->visits, 0);
	gmm__vm_release(b->vm);
	process(1, b);
	assert_shared_once();
	close_all();
}
END_TEST

/* Somebody who knows of no promotions under way, as when pages are shared by name, was faster. */
static int process_b_regardless(const struct fake_event *event)
{
	(void)event;
	gmm__promotions_end(&a->vm->domain->catalog->promotions, &world->engine->worker[0].promotions);
	process(1, b);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), PAGES);
	return 0;
}

START_TEST(a_twin_that_was_shared_meanwhile_is_joined)
{
	open_nominated();
	once_at(FAKE_FIND_FOREIGN, a, process_b_regardless);
	process(0, a);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_NOMINATED), PAGES);
	process(0, a);
	assert_shared_once();
	close_all();
}
END_TEST

/* A page that comes first and is itself the hint has no twin that it could name: it is there for the others to find, who must
 * see at once that it has to be nominated again. */
START_TEST(the_hint_itself_waits_no_longer)
{
	static struct gmm__verdict verdict[GMM__REGION_PAGES];
	static struct gmm__finding finding[GMM__REGION_PAGES];

	open_nominated();
	struct gmm__worker *worker = &world->engine->worker[1];
	struct gmm__region region = { b->slot, 0, PAGES };
	struct gmm__catalog *catalog = b->vm->domain->catalog;
	ck_assert(gmm__vm_claim(b->vm, false));
	urcu_bp_read_lock();
	gmm__index_region(catalog, fake_backend(), &region, finding, false, &worker->promotions, verdict);
	urcu_bp_read_unlock();
	ck_assert_int_eq(verdict[0].kind, GMM__VERDICT_ALONE);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_UNIQUE), PAGES);
	gmm__vm_release(b->vm);
	process(0, a);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_NOMINATED), PAGES);
	process(1, b);
	assert_shared_once();
	close_all();
}
END_TEST

static void *process_a(void *arg)
{
	process(0, a);
	return arg;
}

static bool is_waited_for(struct gmm_vm *vm)
{
	gmm__lock_take(&vm->gmm->lock);
	bool waited_for = vm->waiting > 0;
	gmm__lock_give(&vm->gmm->lock);
	return waited_for;
}

/* Worker 0 has the first and the last page of b to nominate and waits for b's claim while `act` is done. */
static void nominate_meanwhile(void (*act)(void))
{
	struct gmm__nominations *nominations;
	pthread_t thread;

	open_twins(PAGES);
	fake_fill_range(b, 0, PAGES, 1000);
	fake_passes(2);
	world->engine->workers = HAND_WORKERS;
	nominations = &world->engine->worker[0].nominations;
	nominations->page[0] = gmm__slot_page_id(b->slot, PAGES - 1);
	nominations->page[1] = gmm__slot_page_id(b->slot, 0);
	nominations->n = 2;
	ck_assert(gmm__vm_claim(b->vm, false));
	ck_assert_int_eq(pthread_create(&thread, NULL, process_a, NULL), 0);
	while (!is_waited_for(b->vm))
		sched_yield();
	act();
	gmm__vm_release(b->vm);
	pthread_join(thread, NULL);
}

static void shorten(void)
{
	b->slot->pages = PAGES - 1;
}

/* The slot goes, and a smaller one is made where it was. */
START_TEST(a_slot_in_the_place_of_another_is_looked_at_anew)
{
	nominate_meanwhile(shorten);
	b->slot->pages = PAGES;
	assert_state(b, 0, GMM_PAGE_NOMINATED);
	assert_state(b, PAGES - 1, GMM_PAGE_UNIQUE);
	close_all();
}
END_TEST

static void take_out(void)
{
	gmm__chunk_table_give(&world->gmm->chunks, b->slot->first_chunk, 1);
}

START_TEST(a_slot_that_went_is_left_alone)
{
	gmm__chunk_id again;

	nominate_meanwhile(take_out);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_UNIQUE), PAGES);
	ck_assert(gmm__chunk_table_take_slot(&world->gmm->chunks, 1, b->slot, &again));
	ck_assert_uint_eq(again, b->slot->first_chunk);
	close_all();
}
END_TEST

START_TEST(promotions_are_listed_by_page)
{
	struct gmm__promotions *list = NULL, one = { .first = 5 << 9, .promoted = { [2] = 1ull << 3 } },
			       two = { .first = 9 << 9, .promoted = { [0] = 1 } };

	ck_assert(!gmm__promotions_has(list, 5 << 9));
	gmm__promotions_end(&list, &one); /* it is not listed */
	gmm__promotions_begin(&list, &one);
	gmm__promotions_begin(&list, &two);
	ck_assert(gmm__promotions_has(list, (5 << 9) + 131));
	ck_assert(!gmm__promotions_has(list, (5 << 9) + 130));
	ck_assert(gmm__promotions_has(list, 9 << 9));
	ck_assert(!gmm__promotions_has(list, (9 << 9) - 1));
	ck_assert(!gmm__promotions_has(list, (9 << 9) + GMM__REGION_PAGES));
	gmm__promotions_end(&list, &one);
	ck_assert(!gmm__promotions_has(list, (5 << 9) + 131));
	gmm__promotions_end(&list, &two);
	ck_assert_ptr_null(list);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = { a_copy_waits_for_the_worker_that_promotes, a_copy_goes_on_when_the_promotion_fails,
				       a_copy_waits_for_one_that_waits, a_twin_in_a_claimed_vm_can_be_looked_at,
				       a_twin_that_was_shared_meanwhile_is_joined,
				       the_hint_itself_waits_no_longer, promotions_are_listed_by_page,
				       a_slot_in_the_place_of_another_is_looked_at_anew, a_slot_that_went_is_left_alone };

	return unit_main("merge_workers", tests, sizeof tests / sizeof *tests);
}

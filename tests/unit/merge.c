/* What may happen between the moment a page is found and the moment it is shared: each race as a test of its own, on
 * guests whose memory is plain buffers (support/fake_backend.h). fake_check, which runs after every pass, sees lost bytes,
 * references that nobody holds, and page tables that differ from the mappings.
 */
#include <pthread.h>
#include <sched.h>
#include <urcu/urcu-bp.h>

#include "dedup/index.h"
#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

/* ---- the ordinary way ------------------------------------------------------------------------------------ */

START_TEST(equal_pages_are_shared)
{
	open_twins(8);
	fake_passes(2);
	for (uint32_t i = 0; i < 8; i++) {
		assert_state(a, i, GMM_PAGE_SHARED);
		assert_state(b, i, GMM_PAGE_SHARED);
		ck_assert_uint_eq(a->slot->value[i], b->slot->value[i]);
		ck_assert_uint_eq(record_of(a->slot->value[i]).references, 2);
	}
	ck_assert_uint_eq(fake_pool(a)->used_pages, 8);
	ck_assert_uint_eq(a->vm->stats.runs, 1);
	ck_assert_uint_eq(a->vm->stats.merges, 8);
	fake_close();
}
END_TEST

START_TEST(quiet_passes_do_nothing)
{
	open_twins(8);
	fake_passes(4);
	uint32_t freezes = world->steps[FAKE_BEFORE_FREEZE], reads = world->steps[FAKE_BYTES];
	fake_passes(8);
	ck_assert_uint_eq(world->steps[FAKE_BEFORE_FREEZE], freezes);
	ck_assert_uint_eq(world->steps[FAKE_BYTES], reads);
	ck_assert(world->engine->settled);
	fake_close();
}
END_TEST

START_TEST(domains_do_not_share)
{
	open_twins(8);
	struct fake_guest *other = fake_guest_new("other", 8);
	fake_fill_range(other, 0, 8, 1);
	fake_passes(4);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 8);
	ck_assert_uint_eq(fake_count(other, GMM_PAGE_UNIQUE), 8);
	fake_close();
}
END_TEST

START_TEST(twins_in_one_region)
{
	world = fake_open();
	a = fake_guest_new(NULL, 40);
	fake_fill_range(a, 0, 10, 1);
	fake_fill_range(a, 20, 10, 1);
	fake_passes(4);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 20);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_ABSENT), 20);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 10);
	ck_assert_uint_eq(record_of(a->slot->value[0]).references, 2);
	fake_close();
}
END_TEST

/* More pages than a chunk holds: no mapping may go from one chunk to the next (the fake share looks). */
START_TEST(runs_end_with_their_chunk)
{
	open_twins(GMM__CHUNK_PAGES + 200);
	fake_passes(3);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), GMM__CHUNK_PAGES + 200);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), GMM__CHUNK_PAGES + 200);
	ck_assert_uint_ge(a->vm->stats.runs, 2);
	fake_close();
}
END_TEST

/* ---- pages that change ----------------------------------------------------------------------------------- */

/* The reservation is given back and the page goes on as it was. */
START_TEST(join_of_a_page_that_changed)
{
	open_joiner(8);
	once_at(FAKE_BEFORE_FREEZE, c, write_first);
	fake_passes(1);
	ck_assert(once_done());
	assert_state(c, 0, GMM_PAGE_RACED);
	ck_assert_uint_eq(c->vm->stats.raced, 1);
	ck_assert_uint_eq(record_of(a->slot->value[0]).references, 2);
	ck_assert_uint_eq(record_of(a->slot->value[1]).references, 3);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 7);
	fake_passes(3);
	assert_state(c, 0, GMM_PAGE_UNIQUE);
	fake_close();
}
END_TEST

/* The same where the twin joins at once. */
START_TEST(twin_that_changed)
{
	open_twins(8);
	fake_passes(1);
	once_at(FAKE_BEFORE_FREEZE, b, write_first);
	fake_passes(1);
	ck_assert(once_done());
	ck_assert_uint_eq(b->vm->stats.raced, 1);
	ck_assert_uint_eq(record_of(a->slot->value[0]).references, 1);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 7);
	fake_passes(3);
	assert_state(b, 0, GMM_PAGE_UNIQUE);
	fake_close();
}
END_TEST

START_TEST(join_written_while_frozen)
{
	open_twins(8);
	fake_passes(1);
	once_at(FAKE_AFTER_FREEZE, b, write_first);
	fake_passes(1);
	ck_assert(once_done());
	assert_state(b, 0, GMM_PAGE_SHARED); /* broken already, but that is seen by a later pass */
	fake_passes(10);
	assert_state(b, 0, GMM_PAGE_BROKEN);
	ck_assert_uint_eq(b->vm->stats.cow_breaks, 1);
	ck_assert_uint_eq(record_of(b->slot->value[0]).references, 1);
	ck_assert_uint_eq(record_of(b->slot->value[0]).broken, 1);
	fake_close();
}
END_TEST

START_TEST(restored_page_written_while_frozen)
{
	open_twins(1);
	fake_passes(1);
	once_at(FAKE_AFTER_FREEZE, a, write_first);
	fake_passes(1);
	/* Its bytes went into the pool before the write came. */
	ck_assert_int_eq(a->page[0].kind, FAKE_BROKEN);
	fake_passes(10);
	assert_state(a, 0, GMM_PAGE_BROKEN);
	fake_close();
}
END_TEST

/* A promoter's own frozen bytes fill the pool, so that a change before the freeze makes no difference to it. */
START_TEST(promotion_of_a_page_that_changed)
{
	open_twins(4);
	fake_passes(1);
	once_at(FAKE_BEFORE_FREEZE, a, write_first);
	fake_passes(4);
	ck_assert(once_done());
	for (uint32_t i = 1; i < 4; i++)
		assert_state(b, i, GMM_PAGE_SHARED);
	ck_assert(!gmm__state_is_shared(fake_state(b, 0)));
	fake_close();
}
END_TEST

START_TEST(page_pinned_before_the_freeze)
{
	open_joiner(8);
	once_at(FAKE_BEFORE_FREEZE, c, pin_first);
	fake_passes(1);
	assert_state(c, 0, GMM_PAGE_PINNED);
	ck_assert_uint_eq(c->vm->stats.refused_pinned, 1);
	ck_assert_uint_eq(record_of(a->slot->value[0]).references, 2);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 7);
	c->page[0].pinned = false;
	fake_passes(20); /* it is looked at again now and then */
	assert_state(c, 0, GMM_PAGE_SHARED);
	fake_close();
}
END_TEST

START_TEST(promotion_of_a_pinned_page)
{
	open_twins(8);
	fake_passes(1);
	once_at(FAKE_BEFORE_FREEZE, a, pin_first);
	fake_passes(1);
	assert_state(a, 0, GMM_PAGE_PINNED);
	ck_assert_uint_eq(fake_pool(a)->references, 14);
	a->page[0].pinned = false;
	fake_passes(32);
	assert_state(a, 0, GMM_PAGE_SHARED);
	assert_state(b, 0, GMM_PAGE_SHARED);
	fake_close();
}
END_TEST

START_TEST(hole_where_a_page_was)
{
	open_joiner(8);
	once_at(FAKE_BEFORE_FREEZE, c, drop_first);
	fake_passes(1);
	assert_state(c, 0, GMM_PAGE_RACED);
	ck_assert_uint_eq(record_of(a->slot->value[0]).references, 2);
	fake_passes(4);
	assert_state(c, 0, GMM_PAGE_ZERO);
	fake_close();
}
END_TEST

START_TEST(promotion_of_a_hole)
{
	open_twins(8);
	fake_passes(1);
	once_at(FAKE_BEFORE_FREEZE, a, drop_first);
	fake_passes(4);
	ck_assert(!gmm__state_is_shared(fake_state(b, 0)));
	fake_close();
}
END_TEST

/* The stages by hand, so that something can happen between index and merge, when nobody has a claim or lock. */
static void merge_with(struct fake_guest *guest, void (*between)(void))
{
	static struct gmm__verdict verdict[GMM__REGION_PAGES];
	static struct gmm__finding finding[GMM__REGION_PAGES];
	static struct gmm__run run[GMM__REGION_PAGES];
	static struct gmm__nominations nominations;
	struct gmm__region region = { guest->slot, 0, guest->pages };
	struct gmm__catalog *catalog = guest->vm->domain->catalog;
	struct gmm__progress progress = { 0 };
	struct gmm__merge merge = { world->gmm, fake_backend(), catalog, &region, verdict, &progress, &nominations,
				  &world->engine->worker[0].waits, false, NULL };

	ck_assert(gmm__vm_claim(guest->vm, false));
	urcu_bp_read_lock();
	gmm__index_region(catalog, fake_backend(), &region, finding, true, NULL, verdict);
	urcu_bp_read_unlock();
	gmm__account_verdicts(&region, verdict, &progress);
	gmm__vm_release(guest->vm);
	between();
	nominations.n = 0;
	uint32_t n = gmm__plan_runs(verdict, &region, false, run);
	gmm__merge_runs(&merge, run, n);
	fake_check();
}

static void discard_some(void)
{
	fake_discard(c, 2, 3);
}

START_TEST(discard_between_index_and_merge)
{
	open_joiner(8);
	merge_with(c, discard_some);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 5);
	for (uint32_t i = 2; i < 5; i++) {
		assert_state(c, i, GMM_PAGE_ABSENT);
		ck_assert_int_eq(c->page[i].kind, FAKE_HOLE);
		ck_assert_uint_eq(record_of(a->slot->value[i]).references, 2);
	}
	fake_passes(3);
	fake_close();
}
END_TEST

static void pin_some(void)
{
	ck_assert_int_eq(gmm_vm_pin(c->vm, GMM__PAGE_BYTES, 2 * GMM__PAGE_BYTES), GMM_OK);
}

START_TEST(pin_call_between_index_and_merge)
{
	open_joiner(8);
	merge_with(c, pin_some);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 6);
	assert_state(c, 1, GMM_PAGE_PINNED);
	assert_state(c, 2, GMM_PAGE_PINNED);
	fake_passes(20);
	assert_state(c, 1, GMM_PAGE_PINNED);
	ck_assert_int_eq(gmm_vm_unpin(c->vm, GMM__PAGE_BYTES, 2 * GMM__PAGE_BYTES), GMM_OK);
	fake_passes(3);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 8);
	fake_close();
}
END_TEST

static void unshare_the_others(void)
{
	fake_unshare(a, 0, 8);
	fake_unshare(b, 0, 8);
}

/* The shared pages of the verdict are gone when the merge wants a reference to them. */
START_TEST(shared_page_gone_between_index_and_merge)
{
	open_joiner(8);
	merge_with(c, unshare_the_others);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 0);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 0);
	ck_assert_uint_eq(world->steps[FAKE_BEFORE_FREEZE], 0);
	fake_passes(4);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 8);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 8);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 8);
	fake_close();
}
END_TEST

/* The scan found pages broken; before that is accounted for they are made private. */
static int unshare_after_scan(const struct fake_event *event)
{
	/* The next thing after the scan of b is the scan of the clean pages or the account. */
	fake_unshare(event->guest, 0, event->guest->pages);
	return 0;
}

START_TEST(unshared_between_scan_and_account)
{
	open_twins(4);
	fake_passes(3);
	fake_write(b, 1, 0, 9);
	fake_fill(b, 3, 77);
	fake_unshare(b, 3, 1); /* a page to be digested: its read is the step to hook */
	once_at(FAKE_BYTES, b, unshare_after_scan);
	fake_passes(1);
	ck_assert(once_done());
	ck_assert_int_eq(b->page[1].kind, FAKE_PRIVATE);
	ck_assert_msg(fake_state(b, 1) != GMM_PAGE_ABSENT, "a page with memory counts as absent");
	fake_passes(4);
	fake_close();
}
END_TEST

/* ---- VMs that go ----------------------------------------------------------------------------------------- */

static int destroy_b(const struct fake_event *event)
{
	(void)event;
	fake_guest_destroy(b);
	b = NULL;
	return 0;
}

START_TEST(twin_destroyed_before_the_freeze)
{
	open_twins(8);
	fake_passes(1);
	once_at(FAKE_BEFORE_FREEZE, a, destroy_b);
	fake_passes(1);
	ck_assert(once_done());
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 8);
	ck_assert_uint_eq(fake_pool(a)->references, 8);
	fake_passes(3);
	fake_close();
}
END_TEST

static int destroy_a_and_b(const struct fake_event *event)
{
	(void)event;
	fake_guest_destroy(a);
	fake_guest_destroy(b);
	return 0;
}

/* The reservation keeps the pages when their last users go. */
START_TEST(last_users_destroyed_before_the_freeze_of_a_join)
{
	open_twins(8);
	fake_passes(3);
	c = fake_guest_new(NULL, 8);
	fake_fill_range(c, 0, 8, 1);
	once_at(FAKE_BEFORE_FREEZE, c, destroy_a_and_b);
	fake_passes(1);
	ck_assert(once_done());
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 8);
	ck_assert_uint_eq(fake_pool(c)->references, 8);
	fake_passes(3);
	fake_close();
}
END_TEST

static pthread_t destroyer;

static void *destroy_thread(void *arg)
{
	struct gmm_vm *vm = arg;

	return gmm_vm_destroy(vm, GMM_RAM_DISCARD) == GMM_OK ? NULL : arg;
}

static int destroy_visited(const struct fake_event *event)
{
	struct gmm_vm *vm = event->guest->vm;

	ck_assert_int_eq(pthread_create(&destroyer, NULL, destroy_thread, vm), 0);
	while (!vm->dead)
		sched_yield();
	return 0;
}

/* The engine leaves the VM at the end of the region; until then nothing of it is freed. */
START_TEST(visited_vm_is_destroyed)
{
	void *failed;

	open_twins(2 * GMM__REGION_PAGES);
	fake_passes(1);
	uint32_t freezes = world->steps[FAKE_BEFORE_FREEZE];
	once_at(FAKE_BEFORE_FREEZE, a, destroy_visited);
	gmm__engine_pass(world->engine);
	ck_assert(once_done());
	pthread_join(destroyer, &failed);
	ck_assert_ptr_null(failed);
	/* One piece of a and its twins, no more of a, and perhaps some of b's pages that b promotes. */
	ck_assert_uint_le(world->steps[FAKE_BEFORE_FREEZE] - freezes, 2);
	fake_guest_forget(a);
	fake_passes(3);
	fake_close();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		equal_pages_are_shared, quiet_passes_do_nothing, domains_do_not_share, twins_in_one_region,
		runs_end_with_their_chunk, join_of_a_page_that_changed, twin_that_changed,
		join_written_while_frozen, restored_page_written_while_frozen,
		promotion_of_a_page_that_changed, page_pinned_before_the_freeze,
		promotion_of_a_pinned_page, hole_where_a_page_was, promotion_of_a_hole,
		discard_between_index_and_merge, pin_call_between_index_and_merge,
		shared_page_gone_between_index_and_merge, unshared_between_scan_and_account,
		twin_destroyed_before_the_freeze, last_users_destroyed_before_the_freeze_of_a_join,
		visited_vm_is_destroyed,
	};

	return unit_main("merge", tests, sizeof tests / sizeof *tests);
}

/* Huge pages in the engine, on fake guests: judged by samples, never armed, broken where it pays. The fake backend fails
 * when a page of a huge page is armed. */
#include <errno.h>

#include "dedup/effort.h"
#include "dedup/huge.h"
#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

enum { UNIT = GMM__CHUNK_PAGES, ROUNDS = 3 * GMM__HUGE_ROUND + 2 };

/* So many passes; all is checked after the last one. */
static void passes(uint32_t n)
{
	while (n-- > 1)
		gmm__engine_pass(world->engine);
	fake_passes(1);
}

static uint32_t huge_pages(const struct fake_guest *guest)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < guest->pages; i++)
		n += guest->page[i].huge;
	return n;
}

/* Two guests of one huge page each, with `equal` pages in common from `at` on, and pages of their own. */
static void open_huge(enum gmm_huge_pages policy, uint32_t equal)
{
	world = fake_open();
	world->gmm->options.huge_pages = policy;
	a = fake_guest_new(NULL, UNIT);
	b = fake_guest_new(NULL, UNIT);
	fake_make_huge(a, 0);
	fake_make_huge(b, 0);
	fake_fill_range(a, 0, UNIT, 10000);
	fake_fill_range(b, 0, UNIT, 20000);
	fake_fill_range(a, 100, equal, 500);
	fake_fill_range(b, 60, equal, 500); /* not at the same place */
}

START_TEST(twins_in_huge_pages_find_each_other)
{
	open_huge(GMM_HUGE_PRESERVE, 300);
	passes(ROUNDS);
	ck_assert_uint_eq(huge_pages(a) + huge_pages(b), 0);
	passes(4);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 300);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 300);
	ck_assert_uint_eq(a->vm->stats.huge_seen, 1);
	ck_assert_uint_eq(a->vm->stats.huge_broken, 1);
	fake_close();
}
END_TEST

START_TEST(what_saves_too_little_stays_whole)
{
	open_huge(GMM_HUGE_PRESERVE, 255);
	passes(2 * ROUNDS);
	for (uint32_t i = 0; i < UNIT; i++)
		fake_write(a, i, 9, i + 1);
	passes(2 * ROUNDS);
	ck_assert_uint_eq(huge_pages(a) + huge_pages(b), 2 * UNIT);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_HUGE), UNIT);
	ck_assert_uint_eq(world->steps[FAKE_SPLIT], 0);
	ck_assert_uint_eq(world->steps[FAKE_ARM], 0);
	fake_close();
}
END_TEST

START_TEST(zero_pages_need_no_twin)
{
	open_huge(GMM_HUGE_PRESERVE, 0);
	for (uint32_t i = 0; i < 256; i++)
		fake_repeat(a, i, 0);
	passes(ROUNDS + 4);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_ZERO), 256);
	ck_assert_uint_eq(huge_pages(b), UNIT);
	fake_close();
}
END_TEST

START_TEST(never_and_always)
{
	open_huge(GMM_HUGE_NEVER, UNIT - 100);
	passes(2 * ROUNDS);
	ck_assert_uint_eq(huge_pages(a) + huge_pages(b), 2 * UNIT);
	ck_assert_uint_eq(world->steps[FAKE_BYTES], 0);
	fake_close();
	open_huge(GMM_HUGE_ALWAYS, 10);
	passes(5);
	ck_assert_uint_eq(huge_pages(a) + huge_pages(b), 0);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 10);
	fake_close();
}
END_TEST

/* Its pages change between any two samples. */
START_TEST(volatile_pages_are_not_saved)
{
	open_huge(GMM_HUGE_PRESERVE, 400);
	for (uint32_t pass = 0; pass < 4 * ROUNDS; pass++) {
		if (pass % (GMM__HUGE_ROUND / 2) == 0)
			for (uint32_t i = 0; i < UNIT; i++)
				for (struct fake_guest *g = a; g; g = g == a ? b : NULL)
					fake_fill(g, i, 777000 + pass * 1000 + i);
		passes(1);
	}
	ck_assert_uint_eq(huge_pages(a) + huge_pages(b), 2 * UNIT);
	fake_close();
}
END_TEST

/* Only the page of one huge page is equal to a small page, which is not nominated for it. */
START_TEST(small_pages_wait_for_the_break)
{
	open_huge(GMM_HUGE_PRESERVE, 10);
	c = fake_guest_new(NULL, 64);
	fake_fill_range(c, 0, 64, 10000); /* as a has them */
	passes(2 * ROUNDS);
	ck_assert_uint_eq(huge_pages(a), UNIT);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_UNIQUE), 64);
	ck_assert_uint_eq(world->steps[FAKE_BEFORE_FREEZE], 0);
	world->gmm->options.huge_pages = GMM_HUGE_ALWAYS;
	passes(3 * ROUNDS);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 64);
	fake_close();
}
END_TEST

START_TEST(less_is_enough_when_the_host_is_short)
{
	open_huge(GMM_HUGE_PRESERVE, 100);
	passes(ROUNDS);
	ck_assert_uint_eq(huge_pages(a), UNIT);
	world->available_kb = 2 * UNIT * 4 / 16 - 1;
	passes(2 * ROUNDS);
	ck_assert_uint_eq(huge_pages(a) + huge_pages(b), 0);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 100);
	fake_close();
}
END_TEST

static int refuse(const struct fake_event *event)
{
	return event->step == FAKE_SPLIT ? -EBUSY : 0;
}

/* Pinned, or common with a fork: tried again, but not in each pass. */
START_TEST(the_kernel_refuses)
{
	open_huge(GMM_HUGE_PRESERVE, 400);
	world->hook = refuse;
	passes(8 * ROUNDS);
	ck_assert_uint_eq(huge_pages(a) + huge_pages(b), 2 * UNIT);
	ck_assert_uint_ge(world->steps[FAKE_SPLIT], 2);
	ck_assert_uint_le(world->steps[FAKE_SPLIT], 12);
	ck_assert_uint_eq(a->vm->stats.huge_refused + b->vm->stats.huge_refused, world->steps[FAKE_SPLIT]);
	world->hook = NULL;
	passes(40 * GMM__HUGE_ROUND);
	ck_assert_uint_eq(huge_pages(a) + huge_pages(b), 0);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 400);
	fake_close();
}
END_TEST

/* A region where nothing comes to be shared is visited every 16 passes at last, and which these are is chance. All pages of its
 * huge pages are sampled then, in whatever passes it is visited.
 */
START_TEST(quiet_regions_are_sampled)
{
	for (uint32_t shift = 0; shift < GMM__SURVEY_PASSES; shift++) {
		open_huge(GMM_HUGE_PRESERVE, 200);
		passes(2 * ROUNDS + 10 * GMM__SURVEY_PASSES);
		ck_assert_uint_gt(a->slot->effort[0].level, 3);
		passes(1 + shift);
		gmm__slot_wake(a->slot, 0, UNIT);
		passes(3 * GMM__SURVEY_PASSES);
		gmm__slot_wake(b->slot, 0, UNIT);
		passes(3 * GMM__SURVEY_PASSES);
		ck_assert_uint_eq(huge_pages(a) + huge_pages(b), 2 * UNIT);
		fake_fill_range(a, 100, 300, 500); /* they are not armed: nobody knows of it */
		fake_fill_range(b, 60, 300, 500);
		passes(3 * GMM__HUGE_ROUND * GMM__SURVEY_PASSES);
		ck_assert_msg(huge_pages(a) + huge_pages(b) == 0, "visits %u passes later: whole still", shift);
		ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 300);
		fake_close();
	}
}
END_TEST

/* What the kernel refused to break is tried again there, too. */
START_TEST(quiet_regions_are_tried_again)
{
	for (uint32_t shift = 0; shift < GMM__SURVEY_PASSES; shift++) {
		open_huge(GMM_HUGE_ALWAYS, 400);
		world->hook = refuse;
		passes(2 * ROUNDS + 10 * GMM__SURVEY_PASSES + shift);
		gmm__slot_wake(a->slot, 0, UNIT);
		gmm__slot_wake(b->slot, 0, UNIT);
		passes(3 * GMM__SURVEY_PASSES);
		ck_assert_uint_eq(huge_pages(a) + huge_pages(b), 2 * UNIT);
		world->hook = NULL;
		passes(8 * GMM__SURVEY_PASSES);
		ck_assert_msg(huge_pages(a) + huge_pages(b) == 0, "visits %u passes later: whole still", shift);
		fake_close();
	}
}
END_TEST

/* A guest discards part of a huge page, or all, while it is judged: nothing absent is read. */
START_TEST(pages_go_while_judged)
{
	open_huge(GMM_HUGE_PRESERVE, 200);
	passes(GMM__HUGE_ROUND + 3);
	for (uint32_t i = 0; i < UNIT; i++)
		a->page[i].huge = false; /* as MADV_DONTNEED of a part would */
	for (uint32_t i = 0; i < UNIT / 2; i++)
		fake_drop(a, i);
	passes(2 * ROUNDS);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_HUGE), 0);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_ABSENT), UNIT / 2);
	ck_assert_uint_eq(huge_pages(b), UNIT);
	fake_close();
}
END_TEST

static void restore(struct fake_guest *guest)
{
	ck_assert(gmm__vm_claim(guest->vm, false));
	gmm__huge_restore(fake_backend(), guest->slot, 0, guest->pages);
	gmm__vm_release(guest->vm);
}

START_TEST(broken_pages_are_made_whole)
{
	open_huge(GMM_HUGE_PRESERVE, 300);
	passes(ROUNDS + 4);
	restore(a); /* still shared */
	ck_assert_uint_eq(world->steps[FAKE_COLLAPSE], 0);
	fake_unshare(a, 0, UNIT);
	world->pinned_kb = 4;
	restore(a);
	ck_assert_uint_eq(world->steps[FAKE_COLLAPSE], 0);
	world->pinned_kb = 0;
	world->available_kb = 1;
	restore(a);
	ck_assert_uint_eq(world->steps[FAKE_COLLAPSE], 0);
	world->available_kb = 0;
	restore(a);
	restore(a); /* nothing is left to do */
	ck_assert_uint_eq(world->steps[FAKE_COLLAPSE], 1);
	ck_assert_uint_eq(huge_pages(a), UNIT);
	ck_assert_uint_eq(a->vm->stats.huge_collapsed, 1);
	passes(2);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_HUGE), UNIT);
	ck_assert_uint_eq(a->vm->stats.huge_seen, 2);
	fake_close();
}
END_TEST

/* What the guest gave back is not filled with memory again. */
START_TEST(discarded_pages_stay_away)
{
	open_huge(GMM_HUGE_PRESERVE, 300);
	passes(ROUNDS + 4);
	fake_unshare(a, 0, UNIT);
	fake_discard(a, 5, 1);
	restore(a);
	ck_assert_uint_eq(world->steps[FAKE_COLLAPSE], 0);
	fake_close();
}
END_TEST

/* RAM that does not begin where a huge page does: what lies in one unit is judged as one. */
START_TEST(units_follow_host_addresses)
{
	struct gmm__slot slot = { .pages = 1500, .host = (uint8_t *)(uintptr_t)(0x40000000 + 100 * GMM__PAGE_BYTES) };

	ck_assert_uint_eq(gmm__slot_unit(&slot, 0), 0);
	ck_assert_uint_eq(gmm__slot_unit(&slot, 411), 0);
	ck_assert_uint_eq(gmm__slot_unit(&slot, 412), 1);
	ck_assert_uint_eq(gmm__slot_unit(&slot, 412 + 511), 1);
	ck_assert_uint_eq(gmm__slot_unit(&slot, 412 + 512), 2);
	ck_assert_uint_eq(gmm__slot_unit(&slot, 1499), 3);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		twins_in_huge_pages_find_each_other, what_saves_too_little_stays_whole, zero_pages_need_no_twin,
		never_and_always, volatile_pages_are_not_saved, small_pages_wait_for_the_break,
		less_is_enough_when_the_host_is_short, the_kernel_refuses, quiet_regions_are_sampled, quiet_regions_are_tried_again,
		pages_go_while_judged, broken_pages_are_made_whole, discarded_pages_stay_away, units_follow_host_addresses,
	};

	return unit_main("huge_engine", tests, sizeof tests / sizeof *tests);
}

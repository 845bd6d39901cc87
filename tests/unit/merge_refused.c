/* Merges that the host or the mapping budget refuses: nothing is lost, what was reserved goes back, each page says why
 * it is not shared, and it is shared once that is possible.
 */
#include <errno.h>

#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

/* ---- what the host refuses ------------------------------------------------------------------------------- */

/* The fresh pages of a promotion were filled; they are punched and free again. */
START_TEST(promotion_whose_share_fails)
{
	open_twins(8);
	fake_passes(1);
	once_at(FAKE_BEFORE_SHARE, a, fail_enomem);
	gmm__engine_pass(world->engine);
	fake_check();
	for (uint32_t i = 0; i < 8; i++)
		assert_state(a, i, GMM_PAGE_BUDGET);
	ck_assert_uint_ge(world->punched_pages, 8);
	ck_assert_uint_eq(world->steps[FAKE_BEFORE_RESTORE], 1);
	ck_assert_uint_eq(a->vm->stats.raced, 0);
	fake_passes(4);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 8);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 8);
	fake_close();
}
END_TEST

START_TEST(join_whose_share_fails)
{
	open_joiner(8);
	once_at(FAKE_BEFORE_SHARE, c, fail_enomem);
	fake_passes(1);
	for (uint32_t i = 0; i < 8; i++) {
		assert_state(c, i, GMM_PAGE_BUDGET);
		ck_assert_uint_eq(record_of(a->slot->value[i]).references, 2);
	}
	fake_passes(2);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 8);
	fake_close();
}
END_TEST

static void freeze_fails(int (*how)(const struct fake_event *event), enum gmm_page_state wanted)
{
	open_joiner(8);
	once_at(FAKE_BEFORE_FREEZE, c, how);
	fake_passes(1);
	for (uint32_t i = 0; i < 8; i++) {
		assert_state(c, i, wanted);
		ck_assert_uint_eq(record_of(a->slot->value[i]).references, 2);
	}
	ck_assert_uint_eq(world->steps[FAKE_AFTER_FREEZE], 0);
	fake_passes(2);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 8);
	fake_close();
}

START_TEST(freeze_without_memory)
{
	freeze_fails(fail_enomem, GMM_PAGE_BUDGET);
}
END_TEST

START_TEST(freeze_that_fails_otherwise)
{
	freeze_fails(fail_einval, GMM_PAGE_VOLATILE);
}
END_TEST

/* Something else was mapped over the guest's RAM. */
START_TEST(foreign_memory)
{
	open_joiner(8);
	c->page[2].foreign = c->page[3].foreign = true;
	fake_passes(1);
	assert_state(c, 2, GMM_PAGE_FOREIGN);
	assert_state(c, 3, GMM_PAGE_FOREIGN);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 6);
	fake_passes(20);
	assert_state(c, 2, GMM_PAGE_FOREIGN);
	fake_close();
}
END_TEST

START_TEST(promotion_whose_freeze_fails)
{
	open_twins(8);
	fake_passes(1);
	once_at(FAKE_BEFORE_FREEZE, a, fail_enomem);
	gmm__engine_pass(world->engine);
	fake_check();
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_BUDGET), 8);
	ck_assert_uint_eq(world->punched_pages, 0); /* nothing was written there */
	fake_passes(4);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 8);
	fake_close();
}
END_TEST

START_TEST(pool_cannot_grow)
{
	open_twins(8);
	fake_passes(1);
	world->out_of_memory = true;
	fake_passes(3);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED) + fake_count(b, GMM_PAGE_SHARED), 0);
	world->out_of_memory = false;
	fake_passes(4);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 8);
	fake_close();
}
END_TEST

/* Nothing but gaps of one page: a run is merged page by page, and its twins are asked for again and again. */
START_TEST(pool_in_pieces)
{
	enum { PAGES = GMM__REGION_PAGES, CHUNKS = 2 * PAGES / GMM__CHUNK_PAGES };
	gmm__page_id chunk[CHUNKS];

	open_twins(PAGES);
	fake_passes(1);
	for (int i = 0; i < CHUNKS; i++) {
		ck_assert_uint_eq(gmm__pool_reserve(fake_pool(a), GMM__CHUNK_PAGES, &chunk[i]), GMM__CHUNK_PAGES);
		for (uint32_t k = 0; k < GMM__CHUNK_PAGES; k += 2)
			gmm__pool_drop(fake_pool(a), chunk[i] + k, 1, GMM__DROP_UNFILLED);
	}
	for (uint32_t i = 0; i < PAGES; i++)
		gmm__slot_set(b->slot, i, GMM_PAGE_UNIQUE, b->slot->value[i]);
	world->out_of_memory = true;
	gmm__engine_pass(world->engine);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), PAGES);
	for (int i = 0; i < CHUNKS; i++)
		for (uint32_t k = 1; k < GMM__CHUNK_PAGES; k += 2)
			gmm__pool_drop(fake_pool(a), chunk[i] + k, 1, GMM__DROP_UNFILLED);
	fake_passes(4);
	fake_close();
}
END_TEST

START_TEST(pool_cannot_be_written)
{
	open_twins(8);
	fake_passes(1);
	world->disk_full = true;
	fake_passes(3);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED) + fake_count(b, GMM_PAGE_SHARED), 0);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 0);
	world->disk_full = false;
	fake_passes(4);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 8);
	fake_close();
}
END_TEST

/* ---- the mapping budget ---------------------------------------------------------------------------------- */

/* Runs of 1, 2, 4 ... 64 pages of seed-made content, one page of its own after each. */
static void fill_runs(struct fake_guest *guest, uint64_t own_seed)
{
	uint32_t page = 0;

	for (uint32_t length = 1; length <= 64; length *= 2) {
		fake_fill_range(guest, page, length, 1000 * length);
		fake_fill(guest, page + length, own_seed + length);
		page += length + 1;
	}
}

/* Whatever is refused, the budget holds, and what is left of it is too little for any of the refused runs. */
START_TEST(budget_is_kept)
{
	for (uint64_t budget = 0; budget < 30; budget += 3) {
		world = fake_open();
		a = fake_guest_new(NULL, 160);
		b = fake_guest_new(NULL, 160);
		fill_runs(a, 100001);
		fill_runs(b, 200001);
		world->gmm->max_mappings = budget;
		for (int i = 0; i < 12; i++) {
			fake_passes(1);
			ck_assert_uint_le(world->gmm->mappings, budget);
		}
		uint32_t refused = fake_count(a, GMM_PAGE_SHARED) < 127 || fake_count(b, GMM_PAGE_SHARED) < 127;
		ck_assert(!refused || world->gmm->mappings + 2 > budget);
		fake_close();
	}
}
END_TEST

/* A VM's own limit stops it, at its longest runs, and no other VM. */
START_TEST(own_budget_of_a_vm)
{
	world = fake_open();
	a = fake_guest_new(NULL, 160);
	b = fake_guest_new(NULL, 160);
	fill_runs(a, 100001);
	fill_runs(b, 200001);
	a->vm->max_mappings = 4;
	for (int i = 0; i < 16; i++) {
		fake_passes(1);
		ck_assert_uint_le(a->vm->stats.mappings, 4);
	}
	ck_assert_uint_ge(fake_count(a, GMM_PAGE_SHARED), 64 + 32); /* of 127 */
	ck_assert_uint_gt(fake_count(a, GMM_PAGE_BUDGET), 0);
	ck_assert_uint_gt(b->vm->stats.mappings, 4);
	fake_close();
}
END_TEST

START_TEST(refused_for_the_budget_until_there_is_room)
{
	open_twins(10);
	fake_fill(a, 9, 70);
	fake_fill(b, 9, 80);
	world->gmm->max_mappings = 0;
	fake_passes(3);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED) + fake_count(b, GMM_PAGE_SHARED), 0);
	world->gmm->max_mappings = 1000;
	fake_passes(6);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 9);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 9);
	fake_close();
}
END_TEST

START_TEST(zero_pages_need_no_budget)
{
	world = fake_open();
	a = fake_guest_new(NULL, 8);
	for (uint32_t i = 0; i < 8; i += 2)
		fake_repeat(a, i, 0);
	world->gmm->max_mappings = 0;
	fake_passes(2);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_ZERO), 4);
	fake_close();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		promotion_whose_share_fails, join_whose_share_fails, freeze_without_memory,
		freeze_that_fails_otherwise, foreign_memory, promotion_whose_freeze_fails,
		pool_cannot_grow, pool_in_pieces, pool_cannot_be_written, budget_is_kept, own_budget_of_a_vm,
		refused_for_the_budget_until_there_is_room, zero_pages_need_no_budget,
	};

	return unit_main("merge_refused", tests, sizeof tests / sizeof *tests);
}

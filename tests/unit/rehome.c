/* Re-home: shared pages that were promoted at different times become one run, sparse chunks are emptied and given back,
 * under every race and failure; guests never see other bytes (the fake world looks after each pass).
 */
#include <errno.h>
#include <string.h>

#include "dedup/compact.h"
#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

static void run_here(struct gmm *gmm, void (*work)(void *arg, const struct gmm__merge *merge), void *arg)
{
	struct gmm__waits waits = { .bound_ns = 1000000, .pages = GMM__FREEZE_PAGES };
	struct gmm__merge merge = { .gmm = gmm, .backend = fake_backend(), .waits = &waits };

	work(arg, &merge);
}

static void tidy(void)
{
	ck_assert_int_ge(gmm__tidy_all(world->gmm, run_here), 0);
	fake_check();
}

static struct gmm__rehome rehome_of(struct gmm__waits *waits)
{
	*waits = (struct gmm__waits){ .bound_ns = 1000000, .pages = GMM__FREEZE_PAGES };
	return (struct gmm__rehome){ .gmm = world->gmm, .backend = fake_backend(), .waits = waits, .domain = a->vm->domain,
				     .catalog = a->vm->domain->catalog };
}

/* Without tidying by the engine: it is not settled in a pass in which new RAM comes. */
static void passes_untidied(uint32_t passes)
{
	while (passes-- > 0) {
		world->engine->disturbed = true;
		fake_passes(1);
	}
}

/* a and b share pages 0 to 31, of which the odd ones were promoted after the even ones. */
static void open_interleaved(void)
{
	world = fake_open();
	a = fake_guest_new(NULL, 32);
	b = fake_guest_new(NULL, 32);
	for (int odd = 0; odd < 2; odd++) {
		for (uint32_t i = (uint32_t)odd; i < 32; i += 2) {
			fake_fill(a, i, 1 + i);
			fake_fill(b, i, 1 + i);
		}
		passes_untidied(3);
	}
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), 32);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 32);
}

static void assert_one_run(const struct fake_guest *guest, uint32_t pages)
{
	for (uint32_t i = 1; i < pages; i++)
		ck_assert(gmm__page_follows(guest->slot->value[i - 1], guest->slot->value[i]));
	ck_assert_uint_eq(guest->vm->stats.runs, 1);
}

START_TEST(neighbours_become_one_run)
{
	open_interleaved();
	ck_assert_uint_gt(a->vm->stats.runs, 20);
	tidy();
	assert_one_run(a, 32);
	assert_one_run(b, 32);
	ck_assert_uint_eq(a->vm->stats.rehomes, 32);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 32); /* no copy is left behind */
	ck_assert_uint_eq(fake_pool(a)->references, 64);
	fake_close();
}
END_TEST

START_TEST(an_idle_engine_joins_neighbours)
{
	open_interleaved();
	fake_passes(8);
	assert_one_run(a, 32);
	assert_one_run(b, 32);
	uint64_t moved = a->vm->stats.rehomes;
	fake_passes(8);
	ck_assert_uint_eq(a->vm->stats.rehomes, moved); /* and then leaves them alone */
	fake_close();
}
END_TEST

/* Who comes later finds the pages where they are now. */
START_TEST(new_guests_join_the_new_places)
{
	open_interleaved();
	tidy();
	struct fake_guest *d = fake_guest_new(NULL, 32);
	fake_fill_range(d, 0, 32, 1);
	fake_passes(3);
	assert_one_run(d, 32);
	ck_assert_uint_eq(d->slot->value[0], a->slot->value[0]);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 32);
	fake_close();
}
END_TEST

/* What saves one guest a mapping and costs others more is left alone. */
START_TEST(not_at_the_expense_of_others)
{
	world = fake_open();
	a = fake_guest_new(NULL, 64);
	b = fake_guest_new(NULL, 64);
	fake_fill_range(a, 0, 64, 1);
	fake_fill_range(b, 0, 64, 1);
	passes_untidied(4);
	struct fake_guest *d = fake_guest_new(NULL, 64);
	for (uint32_t i = 0; i < 8; i++) /* page 8 apart */
		fake_fill(d, i, 1 + 8 * i);
	passes_untidied(3);
	ck_assert_uint_eq(d->vm->stats.runs, 8);
	tidy();
	ck_assert_uint_eq(d->vm->stats.runs, 8);
	ck_assert_uint_eq(a->vm->stats.runs + b->vm->stats.runs, 2);
	fake_close();
}
END_TEST

/* ---- the primitive ---------------------------------------------------------------------------------------------------- */

/* Moves the first `count` pages of b to new pool pages with the same bytes. */
static uint32_t move_b(uint32_t count)
{
	struct gmm__waits waits;
	struct gmm__rehome rehome = rehome_of(&waits);
	struct gmm__pool *pool = fake_pool(b);
	gmm__page_id to;

	ck_assert(gmm__pool_reserve_row(pool, count, true, &to));
	for (uint32_t i = 0; i < count; i++) {
		struct iovec bytes = { (void *)(uintptr_t)gmm__pool_bytes(pool, b->slot->value[i]), GMM__PAGE_BYTES };
		ck_assert_int_eq(gmm__pool_fill(pool, to + i, &bytes, 1), 0);
	}
	ck_assert(gmm__vm_claim(b->vm, false));
	uint32_t moved = gmm__rehome_piece(&rehome, b->slot, 0, count, to);
	gmm__vm_release(b->vm);
	fake_check();
	return moved;
}

static void open_eight(void)
{
	open_twins(8);
	passes_untidied(4);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 8);
}

START_TEST(moves_all)
{
	open_eight();
	ck_assert_uint_eq(move_b(8), 8);
	ck_assert_uint_ne(a->slot->value[0], b->slot->value[0]);
	ck_assert_uint_eq(record_of(a->slot->value[0]).references, 1);
	fake_close();
}
END_TEST

static int write_third(const struct fake_event *event)
{
	fake_write(event->guest, event->first + 3, 9, 0xbad);
	return 0;
}

/* Broken before the hold: it may be pinned, and stays where it is. */
START_TEST(a_page_written_before_the_hold_stays)
{
	open_eight();
	gmm__page_id under = b->slot->value[3];
	once_at(FAKE_BEFORE_HOLD, b, write_third);
	ck_assert_uint_eq(move_b(8), 7);
	ck_assert(once_done());
	ck_assert_uint_eq(b->slot->value[3], under);
	ck_assert_int_eq(b->page[3].kind, FAKE_BROKEN);
	passes_untidied(9);
	assert_state(b, 3, GMM_PAGE_BROKEN);
	fake_close();
}
END_TEST

static int write_and_pin_third(const struct fake_event *event)
{
	write_third(event);
	event->guest->page[event->first + 3].pinned = true;
	return 0;
}

START_TEST(a_pinned_page_stays)
{
	open_eight();
	once_at(FAKE_BEFORE_HOLD, b, write_and_pin_third);
	ck_assert_uint_eq(move_b(8), 7);
	fake_close();
}
END_TEST

START_TEST(a_write_while_held_goes_to_the_new_page)
{
	open_eight();
	once_at(FAKE_AFTER_HOLD, b, write_third);
	ck_assert_uint_eq(move_b(8), 8);
	ck_assert_int_eq(b->page[3].kind, FAKE_BROKEN);
	passes_untidied(9);
	assert_state(b, 3, GMM_PAGE_BROKEN);
	fake_close();
}
END_TEST

static void nothing_moves_when(enum fake_step step)
{
	open_eight();
	gmm__page_id before = b->slot->value[0];
	once_at(step, b, fail_enomem);
	ck_assert_uint_eq(move_b(8), 0);
	ck_assert(once_done());
	ck_assert_uint_eq(b->slot->value[0], before);
	ck_assert_uint_eq(fake_pool(b)->used_pages, 8);
	fake_close();
}

START_TEST(hold_fails)
{
	nothing_moves_when(FAKE_BEFORE_HOLD);
}
END_TEST

START_TEST(scan_fails)
{
	nothing_moves_when(FAKE_SCAN);
}
END_TEST

START_TEST(remap_fails)
{
	nothing_moves_when(FAKE_REMAP);
}
END_TEST

/* The new page has other bytes, whoever says what (INV-1). */
START_TEST(different_bytes_are_refused)
{
	struct gmm__waits waits;
	gmm__page_id to;

	open_eight();
	struct gmm__rehome rehome = rehome_of(&waits);
	ck_assert(gmm__pool_reserve_row(fake_pool(b), 2, true, &to));
	uint8_t other[2 * GMM__PAGE_BYTES];
	memcpy(other, gmm__pool_bytes(fake_pool(b), b->slot->value[0]), sizeof other);
	other[GMM__PAGE_BYTES + 4095] ^= 1;
	struct iovec bytes = { other, sizeof other };
	ck_assert_int_eq(gmm__pool_fill(fake_pool(b), to, &bytes, 1), 0);
	ck_assert(gmm__vm_claim(b->vm, false));
	ck_assert_uint_eq(gmm__rehome_piece(&rehome, b->slot, 0, 2, to), 1);
	gmm__vm_release(b->vm);
	ck_assert_uint_eq(b->slot->value[0], to);
	ck_assert_uint_ne(b->slot->value[1], to + 1);
	fake_close();
}
END_TEST

/* ---- sets of moves under races --------------------------------------------------------------------------------------------- */

static int write_first_page(const struct fake_event *event)
{
	fake_write(event->guest, 0, 1, 0x77);
	return 0;
}

START_TEST(a_write_during_a_join)
{
	open_interleaved();
	once_at(FAKE_BEFORE_HOLD, a, write_first_page);
	tidy();
	ck_assert(once_done());
	fake_passes(4);
	assert_state(a, 0, GMM_PAGE_BROKEN);
	assert_one_run(b, 32);
	fake_close();
}
END_TEST

START_TEST(no_memory_for_copies)
{
	open_interleaved();
	uint64_t runs = a->vm->stats.runs;
	world->disk_full = true;
	tidy();
	ck_assert_uint_eq(a->vm->stats.runs, runs);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 32);
	world->disk_full = false;
	tidy();
	assert_one_run(a, 32);
	fake_close();
}
END_TEST

/* ---- compaction ------------------------------------------------------------------------------------------------------------ */

enum { MANY = 4 * GMM__CHUNK_PAGES };

/* Four chunks of shared pages, of which only every eighth of 16 pages stays in use. */
static void open_sparse(bool discard)
{
	open_twins(MANY);
	passes_untidied(4);
	ck_assert_uint_eq(fake_pool(a)->used_pages, MANY);
	for (uint32_t i = 0; i < MANY; i += 128) {
		for (int g = 0; g < 2; g++) {
			if (discard)
				fake_discard(g ? b : a, i + 16, 112);
			else
				fake_fill_range(g ? b : a, i + 16, 112, 100000u * (unsigned)(g + 1) + i);
		}
	}
	passes_untidied(9);
	ck_assert_uint_eq(fake_pool(a)->used_pages, MANY / 8);
}

START_TEST(sparse_chunks_come_back)
{
	open_sparse(true);
	ck_assert_uint_eq(fake_pool(a)->live_chunks, 4);
	tidy();
	ck_assert_uint_eq(fake_pool(a)->live_chunks, 1);
	ck_assert_uint_eq(fake_pool(a)->used_pages, MANY / 8);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), MANY / 8);
	fake_fill_range(a, 0, MANY, 700000); /* the places are used again */
	fake_fill_range(b, 0, MANY, 700000);
	fake_passes(12);
	ck_assert_uint_gt(fake_pool(a)->live_chunks, 3);
	fake_close();
}
END_TEST

START_TEST(an_idle_engine_compacts)
{
	open_sparse(true);
	fake_passes(8);
	ck_assert_uint_eq(fake_pool(a)->live_chunks, 1);
	fake_close();
}
END_TEST

/* Chunks over which broken pages lie are not given back: their slots would show other bytes (INV-2). */
START_TEST(covered_chunks_stay)
{
	open_sparse(false);
	tidy();
	ck_assert_uint_eq(fake_pool(a)->live_chunks, 4);
	fake_discard(a, 0, MANY);
	fake_discard(b, 0, MANY);
	tidy();
	ck_assert_uint_le(fake_pool(a)->live_chunks, 1);
	fake_close();
}
END_TEST

/* A child may map the old pages: they would not go, and the new ones come on top. */
START_TEST(nothing_moves_while_a_fork_lives)
{
	open_sparse(true);
	gmm__pool_defer(fake_pool(a));
	tidy();
	ck_assert_uint_eq(fake_pool(a)->deferred_pages, 0);
	ck_assert_uint_eq(a->vm->stats.rehomes + b->vm->stats.rehomes, 0);
	gmm__pool_release(fake_pool(a));
	tidy();
	ck_assert_uint_eq(fake_pool(a)->live_chunks, 1);
	fake_close();
}
END_TEST

/* A guest that cannot be moved now keeps its pages; nothing is lost and the next attempt succeeds. */
START_TEST(a_guest_that_cannot_move)
{
	open_sparse(true);
	once_at(FAKE_BEFORE_HOLD, b, fail_enomem);
	tidy();
	ck_assert(once_done());
	tidy();
	ck_assert_uint_eq(fake_pool(a)->live_chunks, 1);
	ck_assert_uint_eq(fake_pool(a)->used_pages, MANY / 8);
	fake_close();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		neighbours_become_one_run, an_idle_engine_joins_neighbours, new_guests_join_the_new_places,
		not_at_the_expense_of_others, moves_all, a_page_written_before_the_hold_stays, a_pinned_page_stays,
		a_write_while_held_goes_to_the_new_page, hold_fails, scan_fails, remap_fails, different_bytes_are_refused,
		a_write_during_a_join, no_memory_for_copies, sparse_chunks_come_back, an_idle_engine_compacts,
		covered_chunks_stay, nothing_moves_while_a_fork_lives, a_guest_that_cannot_move,
	};

	return unit_main("rehome", tests, sizeof tests / sizeof *tests);
}

/* Repair of broken pages: what is equal to a shared page again is shared again, under every race, and only where the
 * embedder has promised that nothing is pinned.
 */
#include <errno.h>
#include <unistd.h>

#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

/* a and b share eight pages; their last ones differ. */
static void open_shared(enum gmm_repair repair)
{
	open_twins(9);
	fake_fill(a, 8, 1000);
	fake_fill(b, 8, 2000);
	world->gmm->options.repair = repair;
	fake_passes(4);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 8);
}

START_TEST(equal_to_the_page_below_again)
{
	open_shared(GMM_REPAIR_PROMISED);
	gmm__page_id below = b->slot->value[3];
	fake_fill(b, 3, 77);
	fake_passes(9);
	assert_state(b, 3, GMM_PAGE_BROKEN);
	fake_fill(b, 3, 4);
	fake_passes(9);
	assert_state(b, 3, GMM_PAGE_SHARED);
	ck_assert_int_eq(b->page[3].kind, FAKE_COVERED);
	ck_assert_uint_eq(b->slot->value[3], below);
	ck_assert_uint_eq(record_of(below).references, 2);
	ck_assert_uint_eq(record_of(below).broken, 0);
	ck_assert_uint_eq(b->vm->stats.repairs, 1);
	ck_assert_uint_eq(b->vm->stats.runs, 1);
	fake_close();
}
END_TEST

START_TEST(equal_to_another_shared_page)
{
	open_shared(GMM_REPAIR_PROMISED);
	gmm__page_id below = b->slot->value[3];
	fake_fill(b, 3, 7); /* as page 6 */
	fake_passes(18);
	assert_state(b, 3, GMM_PAGE_SHARED);
	ck_assert_uint_eq(b->slot->value[3], b->slot->value[6]);
	ck_assert_uint_eq(record_of(b->slot->value[6]).references, 3);
	ck_assert_uint_eq(record_of(below).references, 1);
	ck_assert_uint_eq(record_of(below).broken, 0);
	ck_assert_uint_eq(b->vm->stats.mappings, 3);
	fake_close();
}
END_TEST

/* The other page is listed under its whole digest, since the samples of several are the same. */
START_TEST(equal_to_a_page_told_apart)
{
	gmm__page_id hint;

	open_shared(GMM_REPAIR_PROMISED);
	c = fake_guest_new(NULL, 1);
	fake_fill(c, 0, 3000);
	struct gmm__catalog *catalog = c->vm->domain->catalog;
	fake_passes(1);
	ck_assert(gmm__catalog_tell_apart(catalog, c->slot->value[0], &hint));
	gmm__slot_set(c->slot, 0, GMM_PAGE_NOMINATED, c->slot->value[0]);
	fake_fill(a, 8, 3000);
	fake_passes(8);
	assert_state(a, 8, GMM_PAGE_SHARED);
	fake_fill(b, 3, 3000);
	fake_passes(18);
	assert_state(b, 3, GMM_PAGE_SHARED);
	ck_assert_uint_eq(b->slot->value[3], a->slot->value[8]);
	fake_close();
}
END_TEST

/* Nothing of the mapping is shared any more. */
START_TEST(decayed_run)
{
	open_shared(GMM_REPAIR_PROMISED);
	for (uint32_t i = 0; i < 8; i++)
		fake_fill(b, i, 100 + i);
	fake_passes(18);
	for (uint32_t i = 0; i < 8; i++)
		ck_assert_int_eq(b->page[i].kind, FAKE_PRIVATE);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_UNIQUE), 9);
	ck_assert_uint_eq(b->vm->stats.mappings, 0);
	fake_close();
}
END_TEST

/* Two of 32 pages, and then one, are shared still. */
START_TEST(nearly_decayed_run)
{
	open_twins(33);
	fake_fill(a, 32, 1000);
	fake_fill(b, 32, 2000);
	world->gmm->options.repair = GMM_REPAIR_PROMISED;
	fake_passes(4);
	for (uint32_t i = 0; i < 29; i++)
		fake_fill(b, i, 100 + i);
	fake_passes(18);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_BROKEN), 29);
	fake_fill(b, 30, 130);
	fake_passes(18);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_BROKEN), 0);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), 2); /* again */
	ck_assert_uint_eq(b->vm->stats.mappings, 4);
	fake_close();
}
END_TEST

/* c has a run of 16 pages that waits for a mapping, b many of one page each. */
static void open_crowded(enum gmm_repair repair)
{
	open_twins(64);
	fake_passes(4);
	c = fake_guest_new(NULL, 64);
	for (uint32_t i = 0; i < 32; i += 2)
		fake_fill(c, i, 1 + i);
	fake_passes(4);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 16);
	world->gmm->max_mappings = world->gmm->mappings;
	fake_fill_range(c, 40, 16, 41);
	fake_passes(3);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_BUDGET), 16);
	world->gmm->options.repair = repair;
}

START_TEST(short_runs_make_room_for_long_ones)
{
	open_crowded(GMM_REPAIR_PROMISED);
	fake_passes(12);
	for (uint32_t i = 40; i < 56; i++)
		assert_state(c, i, GMM_PAGE_SHARED);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), 31);
	ck_assert_uint_le(world->gmm->mappings, world->gmm->max_mappings);
	uint64_t merges = c->vm->stats.merges;
	fake_passes(40);
	ck_assert_uint_le(c->vm->stats.merges, merges + 1); /* and it stays so */
	fake_close();
}
END_TEST

START_TEST(nothing_makes_room_without_the_promise)
{
	open_crowded(GMM_REPAIR_NEVER);
	fake_passes(12);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_BUDGET), 16);
	fake_close();
}
END_TEST

START_TEST(over_the_budget)
{
	open_crowded(GMM_REPAIR_PROMISED);
	world->gmm->max_mappings -= 10;
	fake_passes(20);
	ck_assert_uint_le(world->gmm->mappings, world->gmm->max_mappings);
	fake_close();
}
END_TEST

static void assert_no_repair(void)
{
	fake_fill(b, 3, 77);
	fake_passes(9);
	fake_fill(b, 3, 4);
	fake_passes(18);
	assert_state(b, 3, GMM_PAGE_BROKEN);
	ck_assert_uint_eq(world->steps[FAKE_BEFORE_HOLD], 0);
	fake_close();
}

START_TEST(not_without_the_promise)
{
	open_shared(GMM_REPAIR_NEVER);
	assert_no_repair();
}
END_TEST

START_TEST(not_while_memory_is_pinned)
{
	open_shared(GMM_REPAIR_PROMISED);
	world->pinned_kb = 4;
	assert_no_repair();
}
END_TEST

/* Consents as often as the test says, and counts how often it was asked. */
struct consent {
	int left;
	int asked;
};

static bool consents(void *arg)
{
	struct consent *consent = arg;

	consent->asked++;
	return consent->left-- > 0;
}

static void open_asking(struct consent *consent)
{
	open_shared(GMM_REPAIR_NEVER);
	world->gmm->options.repair = GMM_REPAIR_ASK;
	world->gmm->maps = dup(STDERR_FILENO); /* the fake backend has no mappings to ask for */
	world->gmm->options.may_repair = consents;
	world->gmm->options.may_repair_arg = consent;
	fake_fill(b, 3, 77);
}

START_TEST(with_consent)
{
	struct consent consent = { .left = 1000 };

	open_asking(&consent);
	fake_passes(9);
	fake_fill(b, 3, 4);
	fake_passes(18);
	assert_state(b, 3, GMM_PAGE_SHARED);
	ck_assert_int_ge(consent.asked, 2);
	fake_close();
}
END_TEST

START_TEST(not_without_consent)
{
	struct consent consent = { 0 };

	open_asking(&consent);
	assert_no_repair();
	ck_assert_int_ge(consent.asked, 1);
}
END_TEST

/* Consents until a page is held. */
static bool consents_before(void *arg)
{
	(void)arg;
	return world->steps[FAKE_BEFORE_HOLD] == 0;
}

/* A transfer that began between the first question and the write-protection. */
START_TEST(not_when_consent_is_withdrawn_while_it_is_held)
{
	struct consent consent = { .left = 1000 };

	open_asking(&consent);
	world->gmm->options.may_repair = consents_before;
	fake_passes(9);
	fake_fill(b, 3, 4);
	fake_passes(18);
	ck_assert_uint_eq(world->steps[FAKE_BEFORE_HOLD], 1);
	assert_state(b, 3, GMM_PAGE_BROKEN);
	ck_assert_uint_eq(b->vm->stats.repairs, 0);
	world->gmm->options.may_repair = consents;
	fake_passes(18);
	assert_state(b, 3, GMM_PAGE_SHARED);
	fake_close();
}
END_TEST

/* A swapped copy is not read: that would bring it back. */
START_TEST(not_what_is_swapped)
{
	open_shared(GMM_REPAIR_PROMISED);
	fake_fill(b, 3, 77);
	b->page[3].swapped = true;
	fake_passes(18);
	assert_state(b, 3, GMM_PAGE_BROKEN);
	ck_assert(b->page[3].swapped);
	fake_close();
}
END_TEST

/* ---- races ------------------------------------------------------------------------------------------------------------- */

/* b's page 3 is broken but equal: the next look repairs it. */
static void open_repairable(void)
{
	open_shared(GMM_REPAIR_PROMISED);
	fake_write(b, 3, 9, 1);
	fake_fill(b, 3, 4);
}

static int write_page(const struct fake_event *event)
{
	fake_write(event->guest, event->first, 300, 0xbad);
	return 0;
}

START_TEST(written_before_the_hold)
{
	open_repairable();
	gmm__page_id below = b->slot->value[3];
	once_at(FAKE_BEFORE_HOLD, b, write_page);
	fake_passes(18);
	ck_assert(once_done());
	assert_state(b, 3, GMM_PAGE_BROKEN);
	ck_assert_uint_eq(record_of(below).references, 1);
	ck_assert_uint_eq(record_of(below).broken, 1);
	fake_close();
}
END_TEST

START_TEST(written_while_held)
{
	open_repairable();
	once_at(FAKE_AFTER_HOLD, b, write_page);
	fake_passes(1);
	while (!once_done())
		fake_passes(1);
	ck_assert_int_eq(b->page[3].kind, FAKE_BROKEN); /* shared, and broken at once */
	fake_passes(18);
	assert_state(b, 3, GMM_PAGE_BROKEN);
	fake_close();
}
END_TEST

static void step_fails(enum fake_step step, uint32_t page_like)
{
	open_shared(GMM_REPAIR_PROMISED);
	gmm__page_id below = b->slot->value[3];
	fake_write(b, 3, 9, 1);
	fake_fill(b, 3, page_like + 1);
	once_at(step, b, fail_enomem);
	while (!once_done())
		fake_passes(1);
	assert_state(b, 3, GMM_PAGE_BROKEN);
	ck_assert_uint_eq(record_of(below).references, 1);
	fake_passes(18);
	assert_state(b, 3, GMM_PAGE_SHARED);
	fake_close();
}

START_TEST(hold_fails)
{
	step_fails(FAKE_BEFORE_HOLD, 3);
}
END_TEST

START_TEST(show_pool_fails)
{
	step_fails(FAKE_SHOW_POOL, 3);
}
END_TEST

START_TEST(remap_fails)
{
	step_fails(FAKE_REMAP, 6);
}
END_TEST

START_TEST(remap_within_the_budget)
{
	open_shared(GMM_REPAIR_PROMISED);
	world->gmm->max_mappings = world->gmm->mappings;
	fake_fill(b, 3, 7);
	fake_passes(18);
	assert_state(b, 3, GMM_PAGE_BROKEN);
	ck_assert_uint_eq(world->steps[FAKE_REMAP], 0);
	world->gmm->max_mappings += 2;
	fake_passes(18);
	assert_state(b, 3, GMM_PAGE_SHARED);
	fake_close();
}
END_TEST

START_TEST(pinned_pages_stay)
{
	open_shared(GMM_REPAIR_PROMISED);
	fake_fill(b, 3, 77);
	fake_passes(9);
	assert_state(b, 3, GMM_PAGE_BROKEN);
	b->slot->state[3] |= GMM__FLAG_PINNED;
	fake_fill(b, 3, 4);
	fake_passes(18);
	assert_state(b, 3, GMM_PAGE_BROKEN);
	b->slot->state[3] &= ~GMM__FLAG_PINNED;
	fake_passes(18);
	assert_state(b, 3, GMM_PAGE_SHARED);
	fake_close();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		equal_to_the_page_below_again, equal_to_another_shared_page, equal_to_a_page_told_apart, decayed_run, nearly_decayed_run,
		short_runs_make_room_for_long_ones, nothing_makes_room_without_the_promise, over_the_budget,
		not_without_the_promise,
		not_while_memory_is_pinned, not_what_is_swapped, written_before_the_hold, written_while_held, hold_fails,
		with_consent, not_what_is_swapped, written_before_the_hold, written_while_held, hold_fails,
		not_without_consent, not_what_is_swapped, written_before_the_hold, written_while_held, hold_fails,
		not_when_consent_is_withdrawn_while_it_is_held, not_what_is_swapped, written_before_the_hold, written_while_held, hold_fails,
		show_pool_fails, remap_fails, remap_within_the_budget, pinned_pages_stay,
	};

	return unit_main("merge_repair", tests, sizeof tests / sizeof *tests);
}

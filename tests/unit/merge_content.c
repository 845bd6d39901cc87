/* What pages hold: digests that lie, pages that repeat one word, pages written after they were shared. */
#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

#define WORD 0xccccccccccccccccu

/* ---- digests that lie ------------------------------------------------------------------------------------ */

/* Pages that differ in one byte, anywhere: whatever a digest says of them, they must not be merged, and the engine must
 * come to rest. */
START_TEST(pages_that_differ_in_one_byte)
{
	world = fake_open();
	a = fake_guest_new(NULL, 64);
	b = fake_guest_new(NULL, 64);
	for (uint32_t i = 0; i < 64; i++) {
		fake_fill(a, i, i + 1);
		fake_fill(b, i, i + 1);
		fake_write(b, i, i * 8 + i % 8, 1);
	}
	fake_passes(10);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_UNIQUE), 64);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_UNIQUE), 64);
	ck_assert(world->engine->settled);
	fake_close();
}
END_TEST

/* Two of three guests have the same page, and the third one that differs from it in a word: whichever comes first, the two
 * share in the end. */
START_TEST(nearly_equal_page_does_not_keep_others_apart)
{
	struct fake_guest *guest[3];

	world = fake_open();
	for (int g = 0; g < 3; g++) {
		guest[g] = fake_guest_new(NULL, 96);
		fake_fill_range(guest[g], 0, 96, 1);
	}
	for (uint32_t i = 0; i < 96; i++)
		fake_write(guest[i % 3], i, i * 5, 1);
	fake_passes(40);
	ck_assert_uint_eq(fake_count(guest[0], GMM_PAGE_SHARED) + fake_count(guest[1], GMM_PAGE_SHARED) +
			  fake_count(guest[2], GMM_PAGE_SHARED), 192);
	fake_close();
}
END_TEST

/* Zero but for one word, and fill pages but for one word. */
START_TEST(pages_that_are_almost_zero_or_fill)
{
	world = fake_open();
	a = fake_guest_new(NULL, 160);
	for (uint32_t i = 0; i < 160; i++) {
		fake_repeat(a, i, i < 80 ? 0 : 0xcccccccccccccccc);
		fake_write(a, i, i * 3, i + 1);
	}
	fake_passes(10);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_UNIQUE), 160);
	fake_close();
}
END_TEST

/* A page whose recorded fingerprint is that of a shared page. */
START_TEST(false_fingerprint_of_a_shared_page)
{
	open_twins(4);
	fake_fill(b, 0, 99);
	fake_passes(1);
	uint32_t fingerprint = a->slot->value[1];
	fake_passes(2);
	assert_state(b, 0, GMM_PAGE_UNIQUE);
	gmm__slot_set(b->slot, 0, GMM_PAGE_NOMINATED, fingerprint);
	fake_passes(1);
	assert_state(b, 0, GMM_PAGE_RACED);
	ck_assert_uint_eq(record_of(a->slot->value[1]).references, 2);
	/* The shared page is what the fingerprint says, so that others go on finding it. */
	ck_assert_uint_eq(gmm__catalog_find_shared(a->vm->domain->catalog, fingerprint), a->slot->value[1]);
	fake_passes(4);
	assert_state(b, 0, GMM_PAGE_UNIQUE);
	fake_close();
}
END_TEST

/* Two private pages with the same recorded fingerprint. */
START_TEST(false_twins)
{
	world = fake_open();
	a = fake_guest_new(NULL, 4);
	b = fake_guest_new(NULL, 4);
	fake_fill_range(a, 0, 4, 1);
	fake_fill_range(b, 0, 4, 50);
	fake_passes(2);
	for (uint32_t i = 0; i < 4; i++) {
		gmm__slot_set(b->slot, i, GMM_PAGE_NOMINATED, a->slot->value[i]);
		gmm__slot_set(a->slot, i, GMM_PAGE_NOMINATED, a->slot->value[i]);
	}
	fake_passes(6);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 0);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_UNIQUE), 4);
	fake_close();
}
END_TEST

/* The index lists a shared page under a fingerprint that its bytes do not have. */
START_TEST(entry_of_a_page_with_other_bytes)
{
	open_twins(4);
	fake_fill(b, 0, 99);
	fake_passes(3);
	uint32_t fingerprint = b->slot->value[0];
	gmm__catalog_publish(a->vm->domain->catalog, fingerprint, a->slot->value[2]);
	gmm__slot_set(b->slot, 0, GMM_PAGE_NOMINATED, fingerprint);
	fake_passes(1);
	assert_state(b, 0, GMM_PAGE_RACED);
	ck_assert_uint_eq(gmm__catalog_find_shared(a->vm->domain->catalog, fingerprint), GMM__NIL);
	ck_assert_uint_eq(record_of(a->slot->value[2]).references, 2);
	fake_passes(4);
	assert_state(b, 0, GMM_PAGE_UNIQUE);
	fake_close();
}
END_TEST

/* The page changed between its digest and its promotion, was promoted under the old fingerprint, and is gone by now. Its
 * entry must not keep others with that fingerprint from sharing.
 */
static int write_promoted(const struct fake_event *event)
{
	fake_fill(event->guest, 0, 500);
	fake_discard(b, 0, 1); /* the twin will not try to join */
	return 0;
}

START_TEST(entry_of_a_page_that_is_gone)
{
	open_twins(1);
	fake_passes(1);
	once_at(FAKE_BEFORE_FREEZE, a, write_promoted);
	fake_passes(2);
	ck_assert(once_done());
	fake_discard(a, 0, 1);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 0);
	fake_fill(a, 0, 1);
	fake_fill(b, 0, 1);
	fake_passes(6);
	assert_state(a, 0, GMM_PAGE_SHARED);
	assert_state(b, 0, GMM_PAGE_SHARED);
	fake_passes(6);
	ck_assert(world->engine->settled);
	fake_close();
}
END_TEST

/* ---- fill pages ------------------------------------------------------------------------------------------ */


static void open_fill(uint32_t pages)
{
	world = fake_open();
	a = fake_guest_new(NULL, pages);
	b = fake_guest_new(NULL, pages);
	for (uint32_t i = 0; i < pages; i++) {
		fake_repeat(a, i, WORD);
		fake_repeat(b, i, WORD);
	}
}

static const struct gmm__fill_extent *extent(void)
{
	return gmm__fill_find(&a->vm->domain->catalog->fills, WORD);
}

START_TEST(fill_pages_share_an_extent)
{
	open_fill(200);
	fake_passes(3);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_FILL), 200);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_FILL), 200);
	ck_assert_uint_eq(fake_pool(a)->used_pages, GMM__FILL_EXTENT);
	ck_assert_ptr_nonnull(extent());
	ck_assert_uint_eq(extent()->pages, GMM__FILL_EXTENT);
	ck_assert_uint_le(a->vm->stats.runs, 200 / GMM__FILL_EXTENT + 1);
	fake_close();
}
END_TEST

static int write_tenth(const struct fake_event *event)
{
	fake_write(event->guest, 10, 100, 5);
	return 0;
}

START_TEST(fill_page_that_changed)
{
	open_fill(64);
	once_at(FAKE_BEFORE_FREEZE, a, write_tenth);
	fake_passes(6);
	ck_assert(once_done());
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_FILL), 63);
	assert_state(a, 10, GMM_PAGE_UNIQUE);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_FILL), 64);
	fake_close();
}
END_TEST

/* A page of the extent that nobody uses any more ends it there; later runs take what is left, or a new one. */
START_TEST(extent_that_lost_pages)
{
	open_fill(64);
	fake_passes(3);
	ck_assert_ptr_nonnull(extent());
	gmm__page_id first = extent()->first;
	fake_write(a, 20, 0, 1);
	fake_write(b, 20, 0, 1);
	fake_passes(10);
	ck_assert_ptr_nonnull(extent());
	ck_assert_uint_eq(extent()->first, first);
	ck_assert_uint_eq(extent()->pages, 20);
	c = fake_guest_new(NULL, 64);
	for (uint32_t i = 0; i < 64; i++)
		fake_repeat(c, i, WORD);
	fake_passes(4);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_FILL), 64);
	fake_close();
}
END_TEST

START_TEST(extent_that_lost_its_first_page)
{
	open_fill(64);
	fake_passes(3);
	fake_write(a, 0, 0, 1);
	fake_write(b, 0, 0, 1);
	fake_passes(10);
	ck_assert_ptr_null(extent());
	c = fake_guest_new(NULL, 64);
	for (uint32_t i = 0; i < 64; i++)
		fake_repeat(c, i, WORD);
	fake_passes(4);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_FILL), 64);
	fake_close();
}
END_TEST

START_TEST(lone_fill_pages_are_twins)
{
	world = fake_open();
	a = fake_guest_new(NULL, 8);
	b = fake_guest_new(NULL, 8);
	fake_repeat(a, 3, WORD);
	fake_repeat(b, 5, WORD);
	fake_passes(4);
	assert_state(a, 3, GMM_PAGE_FILL);
	assert_state(b, 5, GMM_PAGE_FILL);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 1);
	fake_close();
}
END_TEST

/* ---- broken and zero pages ------------------------------------------------------------------------------- */

START_TEST(broken_pages_are_found)
{
	open_twins(8);
	fake_passes(3);
	fake_write(b, 2, 0, 5);
	fake_write(b, 3, 0, 5);
	b->page[3].swapped = true;
	gmm__page_id cover = b->slot->value[2];
	fake_passes(10);
	assert_state(b, 2, GMM_PAGE_BROKEN);
	assert_state(b, 3, GMM_PAGE_BROKEN);
	ck_assert_uint_eq(b->vm->stats.cow_breaks, 2);
	ck_assert_uint_eq(record_of(cover).references, 1);
	ck_assert_uint_eq(record_of(cover).broken, 1);
	ck_assert_uint_eq(b->vm->stats.runs, 2);
	ck_assert_uint_eq(b->vm->stats.mappings, 0); /* the whole slot is one mapping still */
	fake_passes(2);
	ck_assert_uint_eq(b->vm->stats.cow_breaks, 2);
	fake_unshare(b, 0, 8);
	ck_assert_uint_eq(record_of(cover).broken, 0);
	fake_check();
	fake_close();
}
END_TEST

/* The last user's write frees the pool page; its slot waits for the covers. */
START_TEST(last_user_breaks)
{
	open_twins(4);
	fake_passes(3);
	gmm__page_id cover = b->slot->value[1];
	fake_write(a, 1, 0, 5);
	fake_write(b, 1, 0, 6);
	world->punched_pages = 0;
	fake_passes(10);
	ck_assert_uint_eq(world->punched_pages, 1);
	ck_assert_uint_eq(record_of(cover).state, GMM__SLOT_HELD);
	ck_assert_uint_eq(record_of(cover).broken, 2);
	fake_unshare(a, 0, 4);
	ck_assert_uint_eq(record_of(cover).state, GMM__SLOT_HELD);
	fake_unshare(b, 0, 4);
	ck_assert_uint_eq(record_of(cover).state, GMM__SLOT_FREE);
	fake_close();
}
END_TEST

START_TEST(zero_pages_break)
{
	world = fake_open();
	a = fake_guest_new(NULL, 4);
	fake_repeat(a, 1, 0);
	fake_passes(1);
	assert_state(a, 1, GMM_PAGE_ZERO);
	ck_assert_int_eq(a->page[1].kind, FAKE_HOLE);
	fake_fill(a, 1, 3);
	fake_passes(1);
	ck_assert_uint_eq(a->vm->stats.zero_breaks, 1);
	assert_state(a, 1, GMM_PAGE_UNIQUE);
	fake_repeat(a, 1, 0);
	fake_passes(3); /* it was looked at before, and is left alone for a while */
	assert_state(a, 1, GMM_PAGE_ZERO);
	ck_assert_uint_eq(a->vm->stats.zero_breaks, 1);
	fake_close();
}
END_TEST

START_TEST(zero_page_written_before_the_freeze)
{
	world = fake_open();
	a = fake_guest_new(NULL, 4);
	fake_repeat(a, 0, 0);
	fake_repeat(a, 1, 0);
	once_at(FAKE_BEFORE_FREEZE, a, write_first);
	fake_passes(1);
	assert_state(a, 0, GMM_PAGE_RACED);
	assert_state(a, 1, GMM_PAGE_ZERO);
	fake_passes(2);
	assert_state(a, 0, GMM_PAGE_UNIQUE);
	fake_close();
}
END_TEST

START_TEST(zero_page_written_while_frozen)
{
	world = fake_open();
	a = fake_guest_new(NULL, 4);
	fake_repeat(a, 0, 0);
	once_at(FAKE_AFTER_FREEZE, a, write_first);
	fake_passes(1);
	ck_assert_int_eq(a->page[0].kind, FAKE_PRIVATE);
	fake_passes(3);
	assert_state(a, 0, GMM_PAGE_UNIQUE);
	ck_assert_uint_eq(a->vm->stats.zero_breaks, 1);
	fake_close();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		pages_that_differ_in_one_byte,
		nearly_equal_page_does_not_keep_others_apart, pages_that_are_almost_zero_or_fill,
		false_fingerprint_of_a_shared_page, false_twins, entry_of_a_page_with_other_bytes, entry_of_a_page_that_is_gone,
		fill_pages_share_an_extent, fill_page_that_changed, extent_that_lost_pages,
		extent_that_lost_its_first_page, lone_fill_pages_are_twins, broken_pages_are_found,
		last_user_breaks, zero_pages_break, zero_page_written_before_the_freeze,
		zero_page_written_while_frozen,
	};

	return unit_main("merge_content", tests, sizeof tests / sizeof *tests);
}

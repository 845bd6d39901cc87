/* What pages hold: digests that lie, pages that repeat one word, pages written after they were shared. */
#include <urcu/urcu-bp.h>

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

/* A word of a page that no sample of the domain has. */
static uint32_t unsampled_word(const struct fake_guest *guest)
{
	enum { LINE_BYTES = 64, WORDS = LINE_BYTES / 8 };
	const struct gmm__secret *secret = &guest->vm->domain->catalog->secret;
	uint32_t line = 0;

	for (int i = 0; i < GMM__SAMPLE_LINES; i++)
		if (secret->line[i] == line * LINE_BYTES) { /* in ascending order */
			line++;
			i = -1;
		}
	return line * WORDS;
}

/* Page i of the guest from the seed i + 1, in one of several variants whose samples are the same. */
static struct fake_guest *variants_new(uint32_t pages, uint32_t first, uint32_t variants)
{
	struct fake_guest *guest = fake_guest_new(NULL, pages);

	fake_fill_range(guest, 0, pages, 1);
	for (uint32_t i = 0; i < pages; i++)
		fake_write(guest, i, unsampled_word(guest), 1 + (first + i) % variants);
	return guest;
}

static void pass_until_settled(void)
{
	enum { SURVEY_PASSES = 16 };

	do
		fake_passes(1);
	while (!world->engine->settled && world->engine->passes < SURVEY_PASSES);
	ck_assert(world->engine->settled);
}

/* Guests whose pages come in two or three variants each: every page finds its equals before the engine says that it has
 * settled, so long before a survey would look at all of them again. */
static void share_variants(uint32_t guests, uint32_t variants)
{
	enum { PAGES = 96, GUESTS_MAX = 8 };
	struct fake_guest *guest[GUESTS_MAX];

	world = fake_open();
	for (uint32_t g = 0; g < guests; g++)
		guest[g] = variants_new(PAGES, g, variants);
	pass_until_settled();
	for (uint32_t g = 0; g < guests; g++)
		ck_assert_uint_eq(fake_count(guest[g], GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(fake_pool(guest[0])->used_pages, (uint64_t)PAGES * variants);
	/* Nobody took one for the other and froze it in vain. */
	for (uint32_t g = 0; g < guests; g++)
		ck_assert_uint_eq(guest[g]->vm->stats.raced, 0);
	fake_close();
}

START_TEST(variants_are_told_apart)
{
	share_variants(4, 2);
	share_variants(6, 3);
	share_variants(8, 4);
}
END_TEST

/* Both variants in one guest, side by side, so that they meet in one region. */
START_TEST(variants_in_one_region)
{
	enum { PAGES = 96 };

	world = fake_open();
	a = fake_guest_new(NULL, PAGES);
	b = fake_guest_new(NULL, PAGES);
	for (uint32_t i = 0; i < PAGES; i++) {
		fake_fill(a, i, 1 + i / 2);
		fake_fill(b, i, 1 + i / 2);
		fake_write(a, i, unsampled_word(a), 1 + i % 2);
		fake_write(b, i, unsampled_word(b), 2 - i % 2);
	}
	pass_until_settled();
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(fake_pool(a)->used_pages, PAGES);
	fake_close();
}
END_TEST

/* Who comes later, and who is alone with its variant until then. */
START_TEST(a_variant_that_comes_later)
{
	enum { PAGES = 96 };

	world = fake_open();
	a = variants_new(PAGES, 0, 3);
	b = variants_new(PAGES, 1, 3);
	fake_passes(6);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_UNIQUE), PAGES);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_UNIQUE), PAGES);
	c = variants_new(PAGES, 1, 3);
	fake_passes(6);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_UNIQUE), PAGES);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_SHARED), PAGES);
	/* And goes: what is listed under a whole digest is forgotten, too. */
	fake_discard(b, 0, PAGES);
	fake_discard(c, 0, PAGES);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 0);
	for (uint32_t i = 0; i < PAGES; i++) {
		fake_fill(b, i, i + 1);
		fake_write(b, i, unsampled_word(b), 1 + i % 3);
	}
	fake_passes(6);
	ck_assert_uint_eq(fake_count(a, GMM_PAGE_SHARED), PAGES);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_SHARED), PAGES);
	fake_close();
}
END_TEST

static gmm__page_id other_hint;

static int change_hint(const struct fake_event *event)
{
	struct gmm__page_index *index = &event->guest->vm->domain->catalog->index;

	gmm__page_index_find(index, event->guest->slot->value[0])->page = other_hint;
	return 0;
}

/* c is to be promoted, and its twin a, of another variant, waits for nothing any more; nor does b, which has just become the
 * hint in another worker's hands. All three are told apart from now on, so that what comes later finds its equal. */
START_TEST(nobody_is_forgotten)
{
	world = fake_open();
	a = variants_new(1, 0, 3);
	fake_passes(1);
	b = variants_new(1, 1, 3);
	c = variants_new(1, 2, 3);
	fake_passes(1);
	uint32_t fingerprint = a->slot->value[0];
	gmm__slot_set(a->slot, 0, GMM_PAGE_UNIQUE, fingerprint);
	gmm__slot_set(b->slot, 0, GMM_PAGE_UNIQUE, fingerprint);
	gmm__slot_set(c->slot, 0, GMM_PAGE_NOMINATED, fingerprint);
	gmm__page_index_find(&a->vm->domain->catalog->index, fingerprint)->page = gmm__slot_page_id(a->slot, 0);
	other_hint = gmm__slot_page_id(b->slot, 0);
	once_at(FAKE_FIND_FOREIGN, c, change_hint);
	fake_passes(1);
	ck_assert(once_done());
	assert_state(c, 0, GMM_PAGE_RACED);
	fake_passes(3);
	for (uint32_t g = 0; g < 3; g++) {
		struct fake_guest *later = variants_new(1, g, 3);
		fake_passes(3);
		assert_state(later, 0, GMM_PAGE_SHARED);
	}
	fake_close();
}
END_TEST

/* A page that repeats one word, and one digested whole, whose fingerprints happen to be such as well, have no better one: they
 * stay as they are, and the engine comes to rest. */
START_TEST(no_better_digest)
{
	gmm__page_id hint;

	world = fake_open();
	a = variants_new(2, 0, 2);
	b = variants_new(2, 1, 2);
	fake_repeat(a, 1, WORD);
	struct gmm__catalog *catalog = a->vm->domain->catalog;
	fake_passes(6);
	assert_state(a, 0, GMM_PAGE_UNIQUE);
	for (uint32_t i = 0; i < 2; i++)
		ck_assert(gmm__catalog_tell_apart(catalog, a->slot->value[i], &hint));
	ck_assert_uint_eq(hint, gmm__slot_page_id(a->slot, 1));
	ck_assert_uint_eq(gmm__catalog_find_shared(catalog, a->slot->value[1]), GMM__ALIKE);
	for (uint32_t i = 0; i < 2; i++)
		gmm__slot_set(a->slot, i, GMM_PAGE_NOMINATED, a->slot->value[i]);
	fake_passes(6);
	assert_state(a, 0, GMM_PAGE_UNIQUE);
	assert_state(a, 1, GMM_PAGE_UNIQUE);
	ck_assert(world->engine->settled);
	/* The index remembers what it cannot tell apart when it grows, and when a page of a huge page is likely to have an equal. */
	ck_assert_int_eq(gmm__catalog_prepare(catalog, 100000), 0);
	urcu_bp_read_lock();
	ck_assert(gmm__catalog_sample(catalog, a->slot->value[1], gmm__slot_page_id(b->slot, 1)));
	urcu_bp_read_unlock();
	ck_assert_uint_eq(gmm__catalog_find_shared(catalog, a->slot->value[1]), GMM__ALIKE);
	fake_close();
}
END_TEST

/* Nobody knows when a mark is not needed any more, so that there must not be too many. */
START_TEST(marks_are_few)
{
	enum { MANY = 100000 };
	uint32_t marked = 0;
	gmm__page_id hint;

	world = fake_open();
	a = fake_guest_new(NULL, 1000);
	fake_passes(1);
	struct gmm__catalog *catalog = a->vm->domain->catalog;
	for (uint32_t i = 1; i <= MANY; i++)
		ck_assert(gmm__catalog_tell_apart(catalog, i * 0x9e3779b0u, &hint));
	for (uint32_t i = 1; i <= MANY; i++)
		marked += gmm__catalog_find_shared(catalog, i * 0x9e3779b0u) == GMM__ALIKE;
	ck_assert_uint_ge(marked, 1000 / 16);
	ck_assert_uint_le(marked, catalog->index.buckets * GMM__BUCKET / 2);
	fake_close();
}
END_TEST

/* A page was being promoted when others with its fingerprint were found to differ: it is listed under its whole digest, where
 * its equals look for it; and a page that has a shared one to join does not have to be told apart. */
START_TEST(promoted_while_others_are_told_apart)
{
	gmm__page_id hint;

	open_twins(1);
	fake_passes(1);
	struct gmm__catalog *catalog = a->vm->domain->catalog;
	uint32_t fingerprint = a->slot->value[0];
	ck_assert(gmm__catalog_tell_apart(catalog, fingerprint, &hint));
	fake_passes(4);
	assert_state(a, 0, GMM_PAGE_SHARED);
	assert_state(b, 0, GMM_PAGE_SHARED);
	gmm__page_id page = a->slot->value[0];
	uint32_t whole = gmm__digest_whole(gmm__pool_bytes(fake_pool(a), page), &catalog->secret).fingerprint;
	ck_assert_uint_eq(gmm__catalog_find_shared(catalog, whole), page);
	ck_assert(!gmm__catalog_tell_apart(catalog, whole, &hint));
	gmm__catalog_publish(catalog, fingerprint, page);
	ck_assert_uint_eq(gmm__catalog_find_shared(catalog, fingerprint), GMM__ALIKE);
	c = fake_guest_new(NULL, 1);
	fake_fill(c, 0, 1);
	fake_passes(4);
	ck_assert_uint_eq(c->slot->value[0], page);
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
		nearly_equal_page_does_not_keep_others_apart, variants_are_told_apart, variants_in_one_region,
		a_variant_that_comes_later, nobody_is_forgotten, no_better_digest, marks_are_few, promoted_while_others_are_told_apart, pages_that_are_almost_zero_or_fill,
		false_fingerprint_of_a_shared_page, false_twins, entry_of_a_page_with_other_bytes, entry_of_a_page_that_is_gone,
		fill_pages_share_an_extent, fill_page_that_changed, extent_that_lost_pages,
		extent_that_lost_its_first_page, lone_fill_pages_are_twins, broken_pages_are_found,
		last_user_breaks, zero_pages_break, zero_page_written_before_the_freeze,
		zero_page_written_while_frozen,
	};

	return unit_main("merge_content", tests, sizeof tests / sizeof *tests);
}

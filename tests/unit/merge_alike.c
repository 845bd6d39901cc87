/* Pages whose samples are the same and whose bytes are not: each finds its equals all the same, by its whole digest, and what is
 * alone comes to rest.
 */
#include <stdlib.h>
#include <string.h>
#include <urcu/urcu-bp.h>

#include "tests/support/guest.h"
#include "tests/unit/support/twins.h"
#include "tests/unit/support/unit.h"

#define WORD 0xccccccccccccccccu

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

/* Pages of one seed have the same sample, whichever variants they are. */
static void fill_variant(struct fake_guest *guest, uint32_t page, uint64_t seed, uint32_t variant)
{
	fake_fill(guest, page, seed);
	fake_write(guest, page, unsampled_word(guest), variant);
}

/* Page i of the guest from the seed i + 1, in one of several variants whose samples are the same. */
static struct fake_guest *variants_new(uint32_t pages, uint32_t first, uint32_t variants)
{
	struct fake_guest *guest = fake_guest_new(NULL, pages);

	for (uint32_t i = 0; i < pages; i++)
		fill_variant(guest, i, i + 1, 1 + (first + i) % variants);
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
		fill_variant(a, i, 1 + i / 2, 1 + i % 2);
		fill_variant(b, i, 1 + i / 2, 2 - i % 2);
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
	for (uint32_t i = 0; i < PAGES; i++)
		fill_variant(b, i, i + 1, 1 + i % 3);
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

static gmm__page_id shared_meanwhile;

static int share_meanwhile(const struct fake_event *event)
{
	const struct fake_guest *guest = event->guest;

	gmm__catalog_publish(guest->vm->domain->catalog, guest->slot->value[0], shared_meanwhile);
	return 0;
}

/* Its twin is of another variant, but a page of this fingerprint was shared since the verdict: it waits, to join that one. */
START_TEST(a_shared_page_comes_between)
{
	world = fake_open();
	a = fake_guest_new(NULL, 1);
	b = fake_guest_new(NULL, 1);
	fake_fill(a, 0, 50);
	fake_fill(b, 0, 50);
	fake_passes(4);
	assert_state(a, 0, GMM_PAGE_SHARED);
	shared_meanwhile = a->slot->value[0];
	b = variants_new(1, 0, 2);
	fake_passes(1);
	c = variants_new(1, 1, 2);
	fake_passes(1);
	uint32_t fingerprint = b->slot->value[0];
	gmm__slot_set(b->slot, 0, GMM_PAGE_UNIQUE, fingerprint);
	gmm__slot_set(c->slot, 0, GMM_PAGE_NOMINATED, fingerprint);
	gmm__page_index_find(&b->vm->domain->catalog->index, fingerprint)->page = gmm__slot_page_id(b->slot, 0);
	once_at(FAKE_FIND_FOREIGN, c, share_meanwhile);
	fake_passes(1);
	ck_assert(once_done());
	assert_state(c, 0, GMM_PAGE_NOMINATED);
	fake_passes(8);
	assert_state(c, 0, GMM_PAGE_UNIQUE);
	ck_assert_uint_eq(record_of(shared_meanwhile).references, 2);
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
	/* The index remembers what it cannot tell apart when it grows, and a sample of a huge page says nothing then. */
	ck_assert_int_eq(gmm__catalog_prepare(catalog, 100000), 0);
	urcu_bp_read_lock();
	ck_assert(!gmm__catalog_sample(catalog, a->slot->value[1], gmm__slot_page_id(b->slot, 1)));
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

/* ---- pages that repeat one word, but for a place outside of the sample ----------------------------------------------- */

static struct fake_guest *word_new(uint32_t pages, bool almost)
{
	struct fake_guest *guest = fake_guest_new(NULL, pages);

	for (uint32_t i = 0; i < pages; i++) {
		fake_repeat(guest, i, WORD);
		if (almost)
			fake_write(guest, i, unsampled_word(guest), 1);
	}
	return guest;
}

/* Those that are of the word all over share, and those that almost are, too. */
START_TEST(lone_fill_pages_beside_almost_fill_ones)
{
	enum { GUESTS = 6 };
	struct fake_guest *guest[GUESTS];

	for (unsigned order = 0; order < 1u << GUESTS; order++) {
		unsigned almost = (unsigned)__builtin_popcount(order);
		if (almost < 2 || almost > GUESTS - 2)
			continue;
		world = fake_open();
		for (unsigned g = 0; g < GUESTS; g++) {
			guest[g] = word_new(1, order >> g & 1);
			fake_passes(order % 3);
		}
		fake_passes(80);
		for (unsigned g = 0; g < GUESTS; g++)
			ck_assert_msg(gmm__state_is_shared(fake_state(guest[g], 0)), "order %x, guest %u: %s", order, g,
				      gmm_page_state_name(fake_state(guest[g], 0)));
		ck_assert_uint_eq(fake_pool(guest[0])->used_pages, 2);
		fake_close();
	}
}
END_TEST

START_TEST(lone_fill_pages_after_an_almost_fill_one)
{
	enum { PAGES = 4 };

	world = fake_open();
	a = word_new(1, false);
	b = word_new(1, true);
	fake_passes(8);
	fake_guest_destroy(b);
	fake_discard(a, 0, 1);
	fake_passes(8);
	b = word_new(PAGES, false);
	c = word_new(PAGES, false);
	fake_passes(6);
	ck_assert_uint_eq(fake_count(b, GMM_PAGE_FILL), PAGES);
	ck_assert_uint_eq(fake_count(c, GMM_PAGE_FILL), PAGES);
	fake_close();
}
END_TEST

/* ---- what has no equal ------------------------------------------------------------------------------------------------ */

/* So many passes digest nothing, and the engine says all the time that it has settled. */
static void assert_rest(int passes)
{
	for (int i = 0; i < passes; i++) {
		fake_passes(1);
		ck_assert_uint_eq(world->engine->progress.digested, 0);
		ck_assert(world->engine->settled);
	}
}

/* Beside its variants, and when they have gone. */
START_TEST(lone_pages_come_to_rest)
{
	enum { PAGES = 300, SURVEYS = 40, WATCHED = 64 };

	world = fake_open();
	fake_guest_new(NULL, 2 * PAGES); /* so that the index has room */
	a = variants_new(PAGES, 0, 2);
	b = variants_new(PAGES, 1, 2);
	fake_passes(SURVEYS);
	assert_rest(WATCHED);
	fake_guest_destroy(b);
	fake_passes(SURVEYS);
	assert_rest(WATCHED);
	fake_close();
}
END_TEST

/* In regions that were filled at different times, so that they are surveyed at different times. */
START_TEST(lone_pages_let_the_engine_settle)
{
	enum { REGIONS = 4, PAGES = REGIONS * GMM__REGION_PAGES, SOME = GMM__REGION_PAGES / 4 };

	world = fake_open();
	a = fake_guest_new(NULL, PAGES);
	b = fake_guest_new(NULL, PAGES);
	for (uint32_t r = 0; r < REGIONS; r++) {
		for (uint32_t page = r * GMM__REGION_PAGES; page < r * GMM__REGION_PAGES + SOME; page++) {
			fill_variant(a, page, page + 1, 1);
			fill_variant(b, page, page + 1, 2);
		}
		fake_passes(2);
	}
	fake_passes(20);
	fake_guest_destroy(b);
	fake_passes(40);
	assert_rest(40);
	fake_close();
}
END_TEST

/* Nobody has a page like those of the huge page: it stays whole, whatever there was in guests that have ended. */
START_TEST(a_lone_huge_page_stays_whole)
{
	enum { UNIT = GMM__CHUNK_PAGES, ROUNDS = 3 * GMM__HUGE_ROUND + 2 };

	world = fake_open();
	world->gmm->options.huge_pages = GMM_HUGE_PRESERVE;
	fake_guest_new(NULL, 1); /* the domain stays */
	a = fake_guest_new(NULL, 4 * UNIT); /* so that the index has room */
	for (uint32_t i = 0; i < UNIT; i++)
		fill_variant(a, i, i + 1, 1);
	b = variants_new(UNIT, 1, UNIT + 1);
	fake_passes(8);
	fake_guest_destroy(a);
	fake_guest_destroy(b);
	c = variants_new(UNIT, 2 * UNIT, 4 * UNIT);
	fake_make_huge(c, 0);
	fake_passes(2 * ROUNDS);
	ck_assert_uint_eq(c->vm->stats.huge_broken, 0);
	fake_close();
}
END_TEST

/* ---- variants that come and go ---------------------------------------------------------------------------------------- */

/* Marks of contents that are long gone do not keep others from being told apart. */
START_TEST(marks_of_the_past)
{
	enum { PAGES = 1000, ROUNDS = 6, LATER = 96 };
	struct fake_guest *guest[4];

	world = fake_open();
	fake_guest_new(NULL, 1); /* the domain stays */
	a = fake_guest_new(NULL, PAGES);
	b = fake_guest_new(NULL, PAGES);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		for (uint32_t i = 0; i < PAGES; i++) {
			fill_variant(a, i, round * PAGES + i + LATER + 1, 1);
			fill_variant(b, i, round * PAGES + i + LATER + 1, 2);
		}
		fake_passes(8);
	}
	fake_guest_destroy(a);
	fake_guest_destroy(b);
	for (uint32_t g = 0; g < 4; g++)
		guest[g] = variants_new(LATER, g, 2);
	fake_passes(12);
	for (uint32_t g = 0; g < 4; g++)
		ck_assert_uint_eq(fake_count(guest[g], GMM_PAGE_SHARED), LATER);
	fake_close();
}
END_TEST

/* One variant is shared when the others come, and goes: who comes then finds what is shared of the others. */
START_TEST(the_shared_variant_goes)
{
	world = fake_open();
	a = variants_new(1, 0, 2);
	b = variants_new(1, 0, 2);
	fake_passes(4);
	assert_state(a, 0, GMM_PAGE_SHARED);
	c = variants_new(1, 1, 2);
	variants_new(1, 1, 2);
	fake_passes(10);
	assert_state(c, 0, GMM_PAGE_SHARED);
	fake_discard(a, 0, 1);
	fake_discard(b, 0, 1);
	a = variants_new(1, 1, 2);
	fake_passes(4);
	assert_state(a, 0, GMM_PAGE_SHARED);
	ck_assert_uint_eq(fake_pool(a)->used_pages, 1);
	/* And the first variant again. */
	fill_variant(b, 0, 1, 1);
	a = variants_new(1, 0, 2);
	fake_passes(4);
	assert_state(a, 0, GMM_PAGE_SHARED);
	assert_state(b, 0, GMM_PAGE_SHARED);
	fake_close();
}
END_TEST

/* ---- at random -------------------------------------------------------------------------------------------------------- */

enum { GUESTS = 5, PAGES_EACH = 64, CONTENTS = 24, VARIANTS = 3 };

static uint64_t dice;
static bool with_words;

static uint32_t roll(uint32_t n)
{
	return (uint32_t)(random_next(&dice) >> 20) % n;
}

static void write_any(struct fake_guest *guest, uint32_t page)
{
	if (with_words && roll(4) == 0) {
		fake_repeat(guest, page, roll(3) ? WORD : 0);
		if (roll(3) == 0)
			fake_write(guest, page, unsampled_word(guest), roll(2));
	} else if (roll(4) == 0) {
		fake_write(guest, page, unsampled_word(guest), 1 + roll(VARIANTS));
	} else {
		fill_variant(guest, page, 1 + roll(CONTENTS), 1 + roll(VARIANTS));
	}
}

/* Guests write when a page is scanned, and after it was merged. */
static int write_while_scanned(const struct fake_event *event)
{
	bool now = event->step == FAKE_SCAN || event->step == FAKE_ARM || event->step == FAKE_AFTER_THAW;

	if (now && roll(24) == 0)
		write_any(event->guest, event->first + roll(event->count));
	return 0;
}

static void change_memory(void)
{
	for (uint32_t n = roll(20); n > 0; n--)
		write_any(world->guest[roll(world->guests)], roll(PAGES_EACH));
	if (roll(4) == 0)
		fake_discard(world->guest[roll(world->guests)], roll(PAGES_EACH - 20), 1 + roll(20));
	if (roll(4) == 0)
		fake_unshare(world->guest[roll(world->guests)], roll(PAGES_EACH - 20), 1 + roll(20));
	if (roll(16) == 0) {
		uint32_t gone = roll(world->guests);
		fake_guest_destroy(world->guest[gone]);
		world->guest[gone] = world->guest[--world->guests];
		fake_guest_new(NULL, PAGES_EACH);
	}
}

/* A page that has memory, and its bytes. */
struct seen {
	const struct fake_guest *guest;
	uint32_t page;
	const uint8_t *bytes;
};

static int by_bytes(const void *one, const void *two)
{
	return memcmp(((const struct seen *)one)->bytes, ((const struct seen *)two)->bytes, GMM__PAGE_BYTES);
}

/* Pages [from, to) have the same bytes. Of a word there may be several shared pages: those of its extent. */
static bool are_shared_once(const struct seen *seen, uint32_t from, uint32_t to)
{
	const struct seen *first = &seen[from];

	for (uint32_t i = from; i < to && to - from > 1; i++) {
		if (seen[i].guest->page[seen[i].page].kind != FAKE_COVERED)
			return false;
		if (seen[i].guest->slot->value[seen[i].page] != first->guest->slot->value[first->page] &&
		    !gmm__digest_is_fill(seen[i].bytes))
			return false;
	}
	return true;
}

/* Contents that several pages have, and that are not one shared page. */
static uint32_t count_unshared(void)
{
	static struct seen seen[FAKE_GUESTS * PAGES_EACH];
	uint32_t n = 0, unshared = 0;

	for (uint32_t g = 0; g < world->guests; g++) {
		const struct fake_guest *guest = world->guest[g];
		for (uint32_t i = 0; i < guest->pages; i++)
			if (guest->page[i].kind == FAKE_PRIVATE || guest->page[i].kind == FAKE_COVERED)
				seen[n++] = (struct seen){ guest, i, guest->expected + (size_t)i * GMM__PAGE_BYTES };
	}
	qsort(seen, n, sizeof *seen, by_bytes);
	for (uint32_t from = 0, to; from < n; from = to) {
		for (to = from + 1; to < n && by_bytes(&seen[from], &seen[to]) == 0; to++)
			;
		unshared += !are_shared_once(seen, from, to);
	}
	return unshared;
}

/* Broken pages come to be shared again by repair only: they are let go of. */
static void end_broken(void)
{
	for (uint32_t g = 0; g < world->guests; g++)
		for (uint32_t i = 0; i < PAGES_EACH; i++)
			if (world->guest[g]->page[i].kind == FAKE_BROKEN)
				fake_unshare(world->guest[g], i, 1);
}

static void share_at_random(uint64_t seed)
{
	enum { ROUNDS = 60, SETTLED_WITHIN = 100, SURVEYS = 40 };

	world = fake_open();
	dice = seed * 0x9e3779b97f4a7c15u | 1;
	for (int i = 0; i < 8; i++)
		roll(2);
	for (int i = 0; i < GUESTS; i++)
		fake_guest_new(NULL, PAGES_EACH);
	world->hook = write_while_scanned;
	for (int i = 0; i < ROUNDS; i++) {
		change_memory();
		if (roll(3))
			fake_passes(1);
	}
	world->hook = NULL;
	end_broken();
	world->gmm->settle_waiters = 1;
	fake_passes(1);
	for (int i = 0; i < SETTLED_WITHIN && !world->engine->settled; i++)
		fake_passes(1);
	ck_assert_msg(world->engine->settled, "seed %llu", (unsigned long long)seed);
	world->gmm->settle_waiters = 0;
	fake_passes(SURVEYS);
	ck_assert_msg(count_unshared() == 0, "seed %llu: %u contents", (unsigned long long)seed, count_unshared());
	fake_close();
}

START_TEST(every_content_is_shared_once)
{
	enum { RUNS = 12 };

	with_words = false;
	for (uint64_t seed = 1; seed <= RUNS; seed++)
		share_at_random(seed);
	with_words = true;
	for (uint64_t seed = 1; seed <= RUNS; seed++)
		share_at_random(seed);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		variants_are_told_apart, variants_in_one_region, a_variant_that_comes_later, nobody_is_forgotten, a_shared_page_comes_between, no_better_digest,
		marks_are_few, promoted_while_others_are_told_apart, lone_fill_pages_beside_almost_fill_ones,
		lone_fill_pages_after_an_almost_fill_one, lone_pages_come_to_rest, lone_pages_let_the_engine_settle,
		a_lone_huge_page_stays_whole, marks_of_the_past, the_shared_variant_goes, every_content_is_shared_once,
	};

	return unit_main("merge_alike", tests, sizeof tests / sizeof *tests);
}

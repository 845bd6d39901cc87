/* A slot's arithmetic of mapping seams against a model that draws every mapping by itself. */
#include "gmm/slot.h"

#include <stdlib.h>
#include <string.h>

#include "gmm/vm.h"
#include "tests/unit/support/unit.h"

enum { PAGES = 12 };

static struct gmm__mem mem;
static struct gmm_vm vm;

static struct gmm__slot *open_slot(void)
{
	mem = (struct gmm__mem){ .sys = gmm__sys_linux() };
	memset(&vm, 0, sizeof vm);
	vm.stats.state_pages[GMM_PAGE_ABSENT] = PAGES;
	return gmm__slot_new(&mem, &vm, 100, PAGES, (uint8_t *)(uintptr_t)0x10000000);
}

static void close_slot(struct gmm__slot *slot)
{
	gmm__slot_free(&mem, slot);
	ck_assert_uint_eq(mem.bytes, 0);
}

static uint32_t roll(uint32_t n)
{
	return (uint32_t)rand() / 7 % n;
}

/* Pages under the pool come from two places around a chunk's end, so that neighbours often fit together. */
static void set_at_random(struct gmm__slot *slot, uint32_t page)
{
	gmm__page_id id = (roll(2) ? 3 : 4) * GMM__CHUNK_PAGES - 6 + page;

	switch (roll(4)) {
	case 0:
		gmm__slot_set(slot, page, GMM_PAGE_UNIQUE, id); /* a fingerprint that looks like an id */
		break;
	case 1:
		gmm__slot_set(slot, page, GMM_PAGE_BROKEN, id);
		break;
	case 2:
		gmm__slot_set(slot, page, GMM_PAGE_FILL, id);
		break;
	default:
		gmm__slot_set(slot, page, GMM_PAGE_SHARED, id);
		break;
	}
}

/* The mapping a page lies in: 0 for RAM, else the pool's place of the mapping's page 0 in slot terms, per chunk. */
static uint64_t mapping_of(const struct gmm__slot *slot, uint32_t page)
{
	if (!gmm__state_is_covered(gmm__slot_state(slot, page)))
		return 0;
	gmm__page_id id = slot->value[page];
	return (uint64_t)gmm__page_chunk(id) << 32 | (uint32_t)(gmm__page_index(id) + PAGES - page);
}

static uint32_t mappings(const struct gmm__slot *slot)
{
	uint32_t n = 1;

	for (uint32_t page = 1; page < PAGES; page++)
		n += mapping_of(slot, page) != mapping_of(slot, page - 1);
	return n;
}

static uint32_t runs(const struct gmm__slot *slot)
{
	uint32_t n = 0;

	for (uint32_t page = 0; page < PAGES; page++) {
		if (!gmm__state_is_shared(gmm__slot_state(slot, page)))
			continue;
		n += page == 0 || !gmm__state_is_shared(gmm__slot_state(slot, page - 1)) ||
		     mapping_of(slot, page) != mapping_of(slot, page - 1);
	}
	return n;
}

START_TEST(seams_of_the_whole)
{
	struct gmm__slot *slot = open_slot();

	srand(1);
	for (int round = 0; round < 20000; round++) {
		set_at_random(slot, roll(PAGES));
		struct gmm__seams seams = gmm__slot_seams(slot, 0, PAGES);
		ck_assert_uint_eq(seams.mappings + 1, mappings(slot));
		ck_assert_uint_eq(seams.runs, runs(slot));
	}
	close_slot(slot);
}
END_TEST

/* What changes in a range shows in the seams of that range. */
START_TEST(seams_of_a_change)
{
	struct gmm__slot *slot = open_slot();

	srand(2);
	for (int round = 0; round < 20000; round++) {
		uint32_t first = roll(PAGES), count = 1 + roll(PAGES - first);
		uint32_t mappings_before = mappings(slot), runs_before = runs(slot);
		struct gmm__seams before = gmm__slot_seams(slot, first, first + count);
		for (uint32_t page = first; page < first + count; page++)
			set_at_random(slot, page);
		struct gmm__seams after = gmm__slot_seams(slot, first, first + count);
		ck_assert_int_eq((int)after.mappings - (int)before.mappings, (int)mappings(slot) - (int)mappings_before);
		ck_assert_int_eq((int)after.runs - (int)before.runs, (int)runs(slot) - (int)runs_before);
	}
	close_slot(slot);
}
END_TEST

/* The forecast is what comes, and never less. */
START_TEST(seams_added)
{
	struct gmm__slot *slot = open_slot();

	srand(3);
	for (int round = 0; round < 20000; round++) {
		for (int i = 0; i < 4; i++)
			set_at_random(slot, roll(PAGES));
		uint32_t first = roll(PAGES), count = 1 + roll(PAGES - first), before = mappings(slot);
		gmm__page_id page = 3 * GMM__CHUNK_PAGES - 6 + first;
		if (gmm__page_index(page) + count > GMM__CHUNK_PAGES)
			continue; /* a run lies in one chunk */
		uint32_t forecast = gmm__slot_seams_added(slot, first, count, page);
		for (uint32_t i = 0; i < count; i++)
			gmm__slot_set(slot, first + i, GMM_PAGE_SHARED, page + i);
		uint32_t after = mappings(slot);
		ck_assert_uint_eq(forecast, after > before ? after - before : 0);
	}
	close_slot(slot);
}
END_TEST

START_TEST(counts_follow_states)
{
	struct gmm__slot *slot = open_slot();

	srand(4);
	slot->state[3] |= GMM__FLAG_PINNED | GMM__FLAG_FILL;
	for (int round = 0; round < 2000; round++) {
		set_at_random(slot, roll(PAGES));
		uint64_t found[GMM_PAGE_STATES] = { 0 };
		for (uint32_t page = 0; page < PAGES; page++)
			found[gmm__slot_state(slot, page)]++;
		ck_assert_mem_eq(found, vm.stats.state_pages, sizeof found);
	}
	ck_assert_uint_eq(slot->state[3] & ~GMM__STATE_MASK, GMM__FLAG_PINNED | GMM__FLAG_FILL);
	close_slot(slot);
}
END_TEST

START_TEST(places)
{
	struct gmm__slot *slot = open_slot();

	slot->first_chunk = 5;
	ck_assert_uint_eq(gmm__slot_page_id(slot, 7), 5 * GMM__CHUNK_PAGES + 7);
	ck_assert_ptr_eq(gmm__slot_host(slot, 2), (uint8_t *)(uintptr_t)0x10002000);
	close_slot(slot);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		seams_of_the_whole, seams_of_a_change, seams_added, counts_follow_states, places,
	};

	return unit_main("slot", tests, sizeof tests / sizeof *tests);
}

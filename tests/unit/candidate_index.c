/* The candidate index against a list of what was put in: under load, as it grows, and when it cannot grow. */
#include "dedup/candidate_index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <urcu/urcu-bp.h>

#include "tests/unit/support/fake_backend.h"
#include "tests/unit/support/unit.h"

static struct gmm__sys sys;
static struct gmm__mem mem;
static bool no_map;
static uint8_t *gone; /* by page: the entry is stale */

static intptr_t maybe_map(void *addr, size_t size, int prot, int flags, int fd, uint64_t offset)
{
	return no_map ? -ENOMEM : gmm__sys_linux()->map(addr, size, prot, flags, fd, offset);
}

static bool is_stale(const void *arg, const struct gmm__candidate *entry)
{
	(void)arg;
	return gone && gone[entry->page];
}

static struct gmm__candidates open_index(void)
{
	sys = *gmm__sys_linux();
	sys.map = maybe_map;
	no_map = false;
	gone = NULL;
	mem = (struct gmm__mem){ .sys = &sys };
	return (struct gmm__candidates){ .mem = &mem, .stale = is_stale };
}

static void close_index(struct gmm__candidates *index)
{
	gmm__candidates_destroy(index);
	ck_assert_uint_eq(mem.bytes, 0);
}

static uint32_t fingerprint_of(uint32_t page)
{
	uint32_t x = page * 2654435761u;

	x ^= x >> 15;
	x *= 2246822519u; /* odd multipliers and shifts: no two pages alike */
	x ^= x >> 13;
	return x ? x : 1;
}

static uint32_t put_new(struct gmm__candidates *index, uint32_t first, uint32_t count)
{
	uint32_t put = 0;

	for (uint32_t page = first; page < first + count; page++) {
		if (gmm__candidates_find(index, fingerprint_of(page)))
			continue;
		gmm__candidates_put(index, fingerprint_of(page), page);
		put++;
	}
	return put;
}

static uint32_t missing(struct gmm__candidates *index, uint32_t first, uint32_t count)
{
	uint32_t n = 0;

	for (uint32_t page = first; page < first + count; page++) {
		const struct gmm__candidate *entry = gmm__candidates_find(index, fingerprint_of(page));
		n += !entry || entry->page != page;
	}
	return n;
}

START_TEST(empty)
{
	struct gmm__candidates index = open_index();

	ck_assert_ptr_null(gmm__candidates_find(&index, 5));
	gmm__candidates_put(&index, 5, 1); /* no table yet: the hint is lost */
	ck_assert_ptr_null(gmm__candidates_find(&index, 5));
	gmm__candidates_prefetch(&index, 5);
	ck_assert_int_eq(gmm__candidates_reserve(&index, 1), 0);
	gmm__candidates_put(&index, 5, 1);
	ck_assert_uint_eq(gmm__candidates_find(&index, 5)->page, 1);
	close_index(&index);
}
END_TEST

/* A domain whose pages are all different: every one has its entry, but for very few that find no place while the index
 * grows. */
static uint32_t loss(uint32_t pages)
{
	return pages / 50 + 1;
}

START_TEST(next_to_nothing_is_lost)
{
	for (uint32_t pages = 1; pages <= 1 << 17; pages = pages * 3 + 1) {
		struct gmm__candidates index = open_index();
		ck_assert_int_eq(gmm__candidates_reserve(&index, pages), 0);
		ck_assert_uint_eq(put_new(&index, 1, pages), pages);
		ck_assert_uint_le(missing(&index, 1, pages), loss(pages));
		ck_assert_uint_le(mem.bytes, (size_t)pages * 16 + 2048); /* the budget of all tables together */
		close_index(&index);
	}
}
END_TEST

START_TEST(entries_stay_when_the_domain_grows)
{
	struct gmm__candidates index = open_index();
	uint32_t pages = 0;

	for (uint32_t more = 100; more < 40000; more *= 2) {
		ck_assert_int_eq(gmm__candidates_reserve(&index, pages + more), 0);
		ck_assert_uint_le(missing(&index, 1, pages), loss(pages));
		put_new(&index, 1 + pages, more);
		pages += more;
		ck_assert_uint_le(missing(&index, 1, pages), loss(pages));
	}
	ck_assert_int_eq(gmm__candidates_reserve(&index, 10), 0); /* a smaller domain changes nothing */
	ck_assert_uint_le(missing(&index, 1, pages), loss(pages));
	close_index(&index);
}
END_TEST

/* Entries whose page has changed make room; the others stay. */
START_TEST(stale_entries_make_room)
{
	enum { PAGES = 4000 };
	struct gmm__candidates index = open_index();

	gone = calloc(1, 20 * PAGES + 1);
	ck_assert_int_eq(gmm__candidates_reserve(&index, PAGES), 0);
	for (uint32_t round = 0; round < 20; round++) {
		memset(gone, 1, round * PAGES + 1);
		ck_assert_uint_eq(put_new(&index, round * PAGES + 1, PAGES), PAGES);
		ck_assert_uint_le(missing(&index, round * PAGES + 1, PAGES), loss(PAGES));
	}
	ck_assert_uint_le(index.buckets, PAGES * 3 / 2 / GMM__BUCKET + 1);
	free(gone);
	close_index(&index);
}
END_TEST

START_TEST(no_memory_to_grow)
{
	struct gmm__candidates index = open_index();

	ck_assert_int_eq(gmm__candidates_reserve(&index, 1000), 0);
	put_new(&index, 1, 1000);
	uint32_t before = missing(&index, 1, 1000);
	no_map = true;
	ck_assert_int_eq(gmm__candidates_reserve(&index, 10000), -ENOMEM);
	ck_assert_uint_eq(missing(&index, 1, 1000), before);
	put_new(&index, 1001, 9000); /* more than it can hold: hints are lost, newer ones are found */
	ck_assert_uint_lt(missing(&index, 1, 10000), 10000);
	ck_assert_uint_eq(missing(&index, 10000, 1), 0);
	no_map = false;
	ck_assert_int_eq(gmm__candidates_reserve(&index, 20000), 0);
	close_index(&index);
}
END_TEST

/* Fingerprints at both ends of the range. */
START_TEST(ends_of_the_range)
{
	struct gmm__candidates index = open_index();

	ck_assert_int_eq(gmm__candidates_reserve(&index, 200), 0);
	for (uint32_t i = 0; i < 16; i++) {
		gmm__candidates_put(&index, UINT32_MAX - i, 1 + i);
		gmm__candidates_put(&index, 1 + i, 100 + i);
	}
	for (uint32_t i = 0; i < 16; i++) {
		ck_assert_uint_eq(gmm__candidates_find(&index, UINT32_MAX - i)->page, 1 + i);
		ck_assert_uint_eq(gmm__candidates_find(&index, 1 + i)->page, 100 + i);
	}
	ck_assert_int_eq(gmm__candidates_reserve(&index, 20000), 0);
	for (uint32_t i = 0; i < 16; i++)
		ck_assert_uint_eq(gmm__candidates_find(&index, UINT32_MAX - i)->page, 1 + i);
	close_index(&index);
}
END_TEST

/* ---- in a catalog ------------------------------------------------------------------------------------------------------ */

static gmm__candidate_stale_fn *real_stale;
static uint32_t asked, outside;

/* Whoever looks at an entry's page follows pointers to a slot that RAM removal may free (INV-5). */
static bool watched_stale(const void *arg, const struct gmm__candidate *entry)
{
	asked++;
	outside += !urcu_bp_read_ongoing();
	return real_stale(arg, entry);
}

START_TEST(entries_are_looked_at_under_rcu)
{
	struct fake_world *world = fake_open();
	struct fake_guest *guest = fake_guest_new(NULL, 300);
	struct gmm__candidates *index = &guest->vm->domain->catalog->candidates;

	fake_fill_range(guest, 0, 300, 1);
	fake_passes(2);
	real_stale = index->stale;
	index->stale = watched_stale;
	fake_guest_new(NULL, 3000); /* the index grows at the next pass */
	fake_passes(1);
	ck_assert_ptr_nonnull(world);
	ck_assert_uint_gt(asked, 0);
	ck_assert_uint_eq(outside, 0);
	fake_close();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		empty, next_to_nothing_is_lost, entries_stay_when_the_domain_grows, stale_entries_make_room,
		no_memory_to_grow, ends_of_the_range, entries_are_looked_at_under_rcu,
	};

	return unit_main("candidate_index", tests, sizeof tests / sizeof *tests);
}

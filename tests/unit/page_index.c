/* The page index against a list of what was put in: under load, as it grows, when it cannot grow, and as shared pages come
 * and go. */
#include "dedup/page_index.h"

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

static size_t mapped_bytes;

static intptr_t maybe_map(void *addr, size_t size, int prot, int flags, int fd, uint64_t offset)
{
	intptr_t rc = no_map ? -ENOMEM : gmm__sys_linux()->map(addr, size, prot, flags, fd, offset);

	mapped_bytes += gmm__is_errno(rc) ? 0 : size;
	return rc;
}

static int count_unmap(void *addr, size_t size)
{
	mapped_bytes -= size;
	return gmm__sys_linux()->unmap(addr, size);
}

static bool is_stale(const void *arg, const struct gmm__index_entry *entry)
{
	(void)arg;
	return gone && gone[entry->page];
}

enum { PROBES = 64 }; /* buckets that a search looks into; so many are at least in a table, and behind its last one */

static size_t places(const struct gmm__page_index *index)
{
	return ((size_t)index->buckets + PROBES) * GMM__BUCKET;
}

static struct gmm__page_index open_index(void)
{
	sys = *gmm__sys_linux();
	sys.map = maybe_map;
	sys.unmap = count_unmap;
	no_map = false;
	gone = NULL;
	mem = (struct gmm__mem){ .sys = &sys };
	return (struct gmm__page_index){ .mem = &mem, .stale = is_stale };
}

static void close_index(struct gmm__page_index *index)
{
	size_t used = 0;

	for (const struct gmm__index_entry *entry = index->entry; index->buckets && entry < index->entry + places(index); entry++)
		used += entry->key != 0;
	ck_assert_uint_eq(index->used, used);
	gmm__page_index_destroy(index);
	ck_assert_uint_eq(mem.bytes, 0);
	ck_assert_uint_eq(mapped_bytes, 0);
}

static uint32_t fingerprint_of(uint32_t page)
{
	uint32_t x = page * 2654435761u & INT32_MAX;

	x ^= x >> 15;
	x = x * 2246822519u & INT32_MAX; /* odd multipliers and shifts: no two pages alike */
	x ^= x >> 13;
	return x << 1;
}

static uint32_t put_new(struct gmm__page_index *index, uint32_t first, uint32_t count)
{
	uint32_t put = 0;

	for (uint32_t page = first; page < first + count; page++) {
		if (gmm__page_index_find(index, fingerprint_of(page)))
			continue;
		gmm__page_index_put(index, fingerprint_of(page), page);
		put++;
	}
	return put;
}

static uint32_t missing(struct gmm__page_index *index, uint32_t first, uint32_t count)
{
	uint32_t n = 0;

	for (uint32_t page = first; page < first + count; page++) {
		const struct gmm__index_entry *entry = gmm__page_index_find(index, fingerprint_of(page));
		n += !entry || entry->page != page;
	}
	return n;
}

START_TEST(empty)
{
	struct gmm__page_index index = open_index();

	ck_assert_ptr_null(gmm__page_index_find(&index, 5));
	gmm__page_index_put(&index, 5, 1); /* no table yet: the hint is lost */
	ck_assert_ptr_null(gmm__page_index_find(&index, 5));
	gmm__page_index_prefetch(&index, 5);
	ck_assert_int_eq(gmm__page_index_reserve(&index, 1), 0);
	gmm__page_index_put(&index, 5, 1);
	ck_assert_uint_eq(gmm__page_index_find(&index, 5)->page, 1);
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
		struct gmm__page_index index = open_index();
		ck_assert_int_eq(gmm__page_index_reserve(&index, pages), 0);
		ck_assert_uint_eq(put_new(&index, 1, pages), pages);
		ck_assert_uint_le(missing(&index, 1, pages), loss(pages));
		ck_assert_uint_le(mem.bytes, (size_t)pages * 13 + 8192);
		close_index(&index);
	}
}
END_TEST

START_TEST(entries_stay_when_the_domain_grows)
{
	struct gmm__page_index index = open_index();
	uint32_t pages = 0;

	for (uint32_t more = 100; more < 40000; more *= 2) {
		ck_assert_int_eq(gmm__page_index_reserve(&index, pages + more), 0);
		ck_assert_uint_le(missing(&index, 1, pages), loss(pages));
		put_new(&index, 1 + pages, more);
		pages += more;
		ck_assert_uint_le(missing(&index, 1, pages), loss(pages));
	}
	ck_assert_int_eq(gmm__page_index_reserve(&index, 10), 0); /* a smaller domain changes nothing */
	ck_assert_uint_le(missing(&index, 1, pages), loss(pages));
	close_index(&index);
}
END_TEST

/* Entries whose page has changed make room; the others stay. */
START_TEST(stale_entries_make_room)
{
	enum { PAGES = 4000 };
	struct gmm__page_index index = open_index();

	gone = calloc(1, 20 * PAGES + 1);
	ck_assert_int_eq(gmm__page_index_reserve(&index, PAGES), 0);
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

static uint32_t longest_search(const struct gmm__page_index *index)
{
	const struct gmm__index_entry *end = index->entry + index->buckets * GMM__BUCKET;
	uint32_t longest = 0, row = 0;

	for (const struct gmm__index_entry *entry = index->entry; entry < end; entry++) {
		row = entry->key ? row + 1 : 0;
		longest = row > longest ? row : longest;
	}
	return longest;
}

/* However often pages have changed, a search for what is not there ends soon, and nothing is missing that is not stale. */
START_TEST(searches_stay_short)
{
	enum { PAGES = 20000, LIVE = PAGES / 4, CHANGES = 40 * LIVE, SHARED = 1000 };
	struct gmm__page_index index = open_index();

	gone = calloc(1, CHANGES + SHARED + 1);
	ck_assert_int_eq(gmm__page_index_reserve(&index, PAGES), 0);
	for (uint32_t page = CHANGES + 1; page <= CHANGES + SHARED; page++)
		ck_assert_int_eq(gmm__page_index_share(&index, fingerprint_of(page), page), 0);
	for (uint32_t page = 1; page <= CHANGES; page++) {
		if (page > LIVE)
			gone[page - LIVE] = 1;
		put_new(&index, page, 1);
		if (page % LIVE == 0)
			ck_assert_uint_eq(missing(&index, page - LIVE + 1, LIVE) + missing(&index, CHANGES + 1, SHARED), 0);
	}
	ck_assert_uint_le(longest_search(&index), 300);
	ck_assert_uint_le(index.buckets, PAGES * 5 / 8 / GMM__BUCKET + 64);
	free(gone);
	close_index(&index);
}
END_TEST

START_TEST(no_memory_to_grow)
{
	struct gmm__page_index index = open_index();

	ck_assert_int_eq(gmm__page_index_reserve(&index, 1000), 0);
	put_new(&index, 1, 1000);
	uint32_t before = missing(&index, 1, 1000);
	no_map = true;
	ck_assert_int_eq(gmm__page_index_reserve(&index, 10000), -ENOMEM);
	ck_assert_uint_eq(missing(&index, 1, 1000), before);
	put_new(&index, 1001, 9000); /* more than it can hold: hints are lost, newer ones are found */
	ck_assert_uint_lt(missing(&index, 1, 10000), 10000);
	ck_assert_uint_eq(missing(&index, 10000, 1), 0);
	no_map = false;
	ck_assert_int_eq(gmm__page_index_reserve(&index, 20000), 0);
	close_index(&index);
}
END_TEST

/* Fingerprints at both ends of the range. */
START_TEST(ends_of_the_range)
{
	struct gmm__page_index index = open_index();

	ck_assert_int_eq(gmm__page_index_reserve(&index, 200), 0);
	for (uint32_t i = 0; i < 16; i++) {
		gmm__page_index_put(&index, UINT32_MAX - 2 * i, 1 + i);
		gmm__page_index_put(&index, 2 + 2 * i, 100 + i);
	}
	for (uint32_t i = 0; i < 16; i++) {
		ck_assert_uint_eq(gmm__page_index_find(&index, UINT32_MAX - 2 * i)->page, 1 + i);
		ck_assert_uint_eq(gmm__page_index_find(&index, 2 + 2 * i)->page, 100 + i);
	}
	ck_assert_uint_eq(gmm__page_index_find(&index, 0)->page, 100); /* no fingerprint, but a peer may say so */
	ck_assert_int_eq(gmm__page_index_reserve(&index, 20000), 0);
	for (uint32_t i = 0; i < 16; i++)
		ck_assert_uint_eq(gmm__page_index_find(&index, UINT32_MAX - 2 * i)->page, 1 + i);
	close_index(&index);
}
END_TEST

/* ---- shared pages ------------------------------------------------------------------------------------------------------ */

static gmm__page_id shared_of(struct gmm__page_index *index, uint32_t fingerprint)
{
	const struct gmm__index_entry *entry = gmm__page_index_find(index, fingerprint);

	return entry && gmm__index_is_shared(entry) ? entry->page : GMM__NIL;
}

static bool take_out(struct gmm__page_index *index, uint32_t fingerprint, gmm__page_id page)
{
	return gmm__page_index_replace(index, fingerprint, page, GMM__NIL);
}

START_TEST(a_shared_page_takes_the_place_of_its_candidate)
{
	struct gmm__page_index index = open_index();

	ck_assert(!take_out(&index, 6, 1));
	ck_assert_int_eq(gmm__page_index_reserve(&index, 100), 0);
	gmm__page_index_put(&index, 6, 1);
	struct gmm__index_entry *entry = gmm__page_index_find(&index, 6);
	ck_assert_uint_eq(shared_of(&index, 6), GMM__NIL);
	ck_assert(!take_out(&index, 6, 1)); /* that is no shared page */
	ck_assert_int_eq(gmm__page_index_share(&index, 6, 70), 0);
	ck_assert_ptr_eq(gmm__page_index_find(&index, 6), entry);
	ck_assert_uint_eq(shared_of(&index, 6), 70);
	ck_assert(gmm__page_index_replace(&index, 6, 70, 71));
	ck_assert(!gmm__page_index_replace(&index, 6, 70, 72));
	ck_assert_uint_eq(shared_of(&index, 6), 71);
	ck_assert(take_out(&index, 6, 71));
	ck_assert_ptr_null(gmm__page_index_find(&index, 6));
	gmm__page_index_put(&index, 6, 2);
	ck_assert_ptr_eq(gmm__page_index_find(&index, 6), entry);
	close_index(&index);
}
END_TEST

/* Either is an answer, and each can be removed. */
START_TEST(equal_fingerprints)
{
	struct gmm__page_index index = open_index();

	ck_assert_int_eq(gmm__page_index_reserve(&index, 100), 0);
	for (uint32_t order = 0; order < 2; order++) {
		gmm__page_index_share(&index, 8, 1);
		gmm__page_index_share(&index, 8, 2);
		ck_assert(take_out(&index, 8, 1 + order));
		ck_assert_uint_eq(shared_of(&index, 8), 2 - order);
		ck_assert(take_out(&index, 8, 2 - order));
		ck_assert_ptr_null(gmm__page_index_find(&index, 8));
	}
	close_index(&index);
}
END_TEST

/* A VMM may share any number of equal pages one by one: some are found, and the table does not grow for them. */
START_TEST(one_fingerprint_does_not_fill_the_memory)
{
	enum { PAGES = 20000 };
	struct gmm__page_index index = open_index();
	uint32_t found = 0;

	ck_assert_int_eq(gmm__page_index_reserve(&index, PAGES), 0);
	size_t bytes = mem.bytes;
	for (uint32_t page = 1; page <= PAGES; page++)
		found += gmm__page_index_share(&index, 8, page) == 0;
	ck_assert_uint_ge(found, 100);
	ck_assert_uint_le(mem.bytes, bytes * 2);
	for (uint32_t page = 1; page <= found; page++)
		ck_assert(take_out(&index, 8, page));
	ck_assert_ptr_null(gmm__page_index_find(&index, 8));
	close_index(&index);
}
END_TEST

/* Shared pages come and go among candidates; with room for all of them none is ever missing, and the table does not grow
 * for ever. */
START_TEST(against_a_list)
{
	enum { PAGES = 20000 };
	struct gmm__page_index index = open_index();
	uint8_t *in = calloc(1, PAGES + 1);
	uint64_t dice = 88172645463325252u;

	ck_assert_int_eq(gmm__page_index_reserve(&index, PAGES), 0);
	for (uint32_t step = 0; step < 20 * PAGES; step++) {
		dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
		uint32_t page = 1 + (uint32_t)(dice >> 20) % PAGES;
		if (in[page])
			ck_assert(take_out(&index, fingerprint_of(page), page));
		else if (dice & 1)
			ck_assert_int_eq(gmm__page_index_share(&index, fingerprint_of(page), page), 0);
		else if (!gmm__page_index_find(&index, fingerprint_of(page)))
			gmm__page_index_put(&index, fingerprint_of(page), page);
		in[page] = in[page] || !(dice & 1) ? 0 : 1;
		ck_assert_uint_eq(shared_of(&index, fingerprint_of(page)), in[page] ? page : GMM__NIL);
	}
	for (uint32_t page = 1; page <= PAGES; page++)
		ck_assert_uint_eq(shared_of(&index, fingerprint_of(page)), in[page] ? page : GMM__NIL);
	ck_assert_uint_le(index.buckets, PAGES * 3 / 2 / GMM__BUCKET + 1);
	free(in);
	close_index(&index);
}
END_TEST

/* Where the table cannot grow candidates are forgotten, and shared pages are not. */
START_TEST(shared_pages_are_not_evicted)
{
	enum { SHARED = 400, CANDIDATES = 20000 };
	struct gmm__page_index index = open_index();

	ck_assert_int_eq(gmm__page_index_reserve(&index, 1000), 0);
	for (uint32_t page = 1; page <= SHARED; page++)
		ck_assert_int_eq(gmm__page_index_share(&index, fingerprint_of(page), page), 0);
	no_map = true;
	put_new(&index, SHARED + 1, CANDIDATES);
	for (uint32_t page = 1; page <= SHARED; page++)
		ck_assert_uint_eq(shared_of(&index, fingerprint_of(page)), page);
	ck_assert_uint_gt(missing(&index, SHARED + 1, CANDIDATES), 0);
	no_map = false;
	ck_assert_int_eq(gmm__page_index_reserve(&index, 100000), 0);
	for (uint32_t page = 1; page <= SHARED; page++)
		ck_assert_uint_eq(shared_of(&index, fingerprint_of(page)), page);
	close_index(&index);
}
END_TEST

/* Where there is no place an older candidate of the bucket goes, each time another one; or the next one behind the bucket, when
 * it is full of shared pages. */
START_TEST(candidates_give_way)
{
	enum { PLACES = PROBES * GMM__BUCKET, SHARED = 2 * GMM__BUCKET };

	for (uint32_t shared = 0; shared <= SHARED; shared += SHARED) {
		struct gmm__page_index index = open_index();
		uint32_t found = 0, more = shared ? 1 : GMM__BUCKET;
		ck_assert_int_eq(gmm__page_index_reserve(&index, 1), 0);
		no_map = true;
		for (uint32_t page = 1; page <= shared; page++)
			ck_assert_int_eq(gmm__page_index_share(&index, 2 * page, page), 0);
		for (uint32_t page = shared + 1; page <= PLACES + more; page++)
			gmm__page_index_put(&index, 2 * page, page);
		for (uint32_t page = 1; page <= PLACES + more; page++)
			found += gmm__page_index_find(&index, 2 * page) != NULL;
		ck_assert_uint_eq(found, PLACES);
		for (uint32_t page = 1; page <= more; page++)
			ck_assert_ptr_nonnull(gmm__page_index_find(&index, 2 * (PLACES + page)));
		for (uint32_t page = 1; page <= shared; page++)
			ck_assert_uint_eq(shared_of(&index, 2 * page), page);
		no_map = false;
		close_index(&index);
	}
}
END_TEST

/* A pool may be taken over before anybody has said how large the domain is. */
START_TEST(shared_pages_make_their_own_room)
{
	enum { PAGES = 50000 };
	struct gmm__page_index index = open_index();

	no_map = true;
	ck_assert_int_eq(gmm__page_index_share(&index, 6, 1), -ENOMEM);
	ck_assert_ptr_null(gmm__page_index_find(&index, 6));
	no_map = false;
	for (uint32_t page = 1; page <= PAGES; page++)
		ck_assert_int_eq(gmm__page_index_share(&index, fingerprint_of(page), page), 0);
	ck_assert_uint_le(mem.bytes, PAGES * 16 + 65536);
	no_map = true;
	uint32_t more = 0;
	while (gmm__page_index_share(&index, fingerprint_of(PAGES + more + 1), PAGES + more + 1) == 0)
		more++;
	for (uint32_t page = 1; page <= PAGES + more; page++)
		ck_assert_uint_eq(shared_of(&index, fingerprint_of(page)), page);
	no_map = false;
	close_index(&index);
}
END_TEST

/* ---- in a catalog ------------------------------------------------------------------------------------------------------ */

static gmm__index_stale_fn *real_stale;
static uint32_t asked, outside;

/* Whoever looks at an entry's page follows pointers to a slot that RAM removal may free (INV-5). */
static bool watched_stale(const void *arg, const struct gmm__index_entry *entry)
{
	asked++;
	outside += !urcu_bp_read_ongoing();
	return real_stale(arg, entry);
}

START_TEST(entries_are_looked_at_under_rcu)
{
	struct fake_world *world = fake_open();
	struct fake_guest *guest = fake_guest_new(NULL, 300);
	struct gmm__page_index *index = &guest->vm->domain->catalog->index;

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

/* The second page takes the entry of the first, which knows nothing of it: each finds the other one when its turn comes. */
START_TEST(twins_name_each_other)
{
	ck_assert_ptr_nonnull(fake_open());
	struct fake_guest *guests[2] = { fake_guest_new(NULL, 1), fake_guest_new(NULL, 1) };

	for (int i = 0; i < 2; i++)
		fake_fill(guests[i], 0, 1);
	fake_passes(1);
	struct gmm__catalog *catalog = guests[0]->vm->domain->catalog;
	for (int i = 0; i < 2; i++)
		assert_state(guests[i], 0, GMM_PAGE_NOMINATED);
	struct gmm__index_entry *entry = gmm__page_index_find(&catalog->index, guests[0]->slot->value[0]);
	ck_assert_uint_eq(entry->page, gmm__slot_page_id(guests[1]->slot, 0));
	fake_close();
}
END_TEST

/* A slot may come to lie where a larger one was, whose pages are in the index still. */
START_TEST(a_hint_behind_the_end_of_a_slot_is_stale)
{
	ck_assert_ptr_nonnull(fake_open());
	struct fake_guest *guest = fake_guest_new(NULL, 3);
	struct gmm__catalog *catalog = guest->vm->domain->catalog;

	fake_passes(1);
	urcu_bp_read_lock();
	gmm__lock_take(&catalog->lock);
	gmm__page_index_put(&catalog->index, 6, gmm__slot_page_id(guest->slot, GMM__CHUNK_PAGES - 1));
	ck_assert_int_eq(gmm__catalog_offer(catalog, 6, gmm__slot_page_id(guest->slot, 0)).kind, GMM__VERDICT_UNIQUE);
	ck_assert_uint_eq(gmm__page_index_find(&catalog->index, 6)->page, gmm__slot_page_id(guest->slot, 0));
	gmm__lock_give(&catalog->lock);
	urcu_bp_read_unlock();
	fake_close();
}
END_TEST

/* A page that is moved may be known already where it goes to: then that page has one entry, which goes with it. */
START_TEST(a_page_is_listed_once)
{
	for (int whole = 0; whole <= 1; whole++) {
		ck_assert_ptr_nonnull(fake_open());
		struct fake_guest *guests[2] = { fake_guest_new(NULL, 1), fake_guest_new(NULL, 1) };
		for (int i = 0; i < 2; i++)
			fake_fill(guests[i], 0, 1);
		fake_passes(4);
		assert_state(guests[0], 0, GMM_PAGE_SHARED);
		struct gmm__catalog *catalog = guests[0]->vm->domain->catalog;
		gmm__page_id from = guests[0]->slot->value[0], to;
		const uint8_t *bytes = gmm__pool_bytes(catalog->pool, from);
		struct iovec copy = { (void *)(uintptr_t)bytes, GMM__PAGE_BYTES };
		uint32_t sample = gmm__digest_sample(bytes, &catalog->secret).fingerprint;
		uint32_t known = whole ? gmm__digest_whole(bytes, &catalog->secret).fingerprint : sample;
		ck_assert_uint_eq(gmm__pool_reserve(catalog->pool, 1, &to), 1);
		ck_assert_int_eq(gmm__pool_fill(catalog->pool, to, &copy, 1), 0);
		gmm__catalog_publish(catalog, known, to);
		gmm__catalog_relist(catalog, from, to);
		ck_assert_uint_eq(gmm__catalog_find_shared(catalog, known), to);
		gmm__pool_drop(catalog->pool, to, 1, GMM__DROP_REFERENCE);
		ck_assert_uint_eq(gmm__catalog_find_shared(catalog, sample), GMM__NIL);
		ck_assert_uint_eq(gmm__catalog_find_shared(catalog, known), GMM__NIL);
		fake_close();
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		empty, next_to_nothing_is_lost, entries_stay_when_the_domain_grows, stale_entries_make_room, searches_stay_short,
		no_memory_to_grow, ends_of_the_range, a_shared_page_takes_the_place_of_its_candidate, equal_fingerprints,
		one_fingerprint_does_not_fill_the_memory, against_a_list, shared_pages_are_not_evicted, candidates_give_way,
		shared_pages_make_their_own_room,
		entries_are_looked_at_under_rcu, twins_name_each_other,
		a_hint_behind_the_end_of_a_slot_is_stale, a_page_is_listed_once,
	};

	return unit_main("page_index", tests, sizeof tests / sizeof *tests);
}

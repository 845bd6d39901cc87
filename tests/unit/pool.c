/* The life of a pool's slots: references, covers, punching, generations, deferred pages, and where the next ones come from. */
#include "gmm/pool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/support/unit.h"

/* The first id, or NIL. */
static gmm__chunk_id take_slot(struct gmm__chunk_table *table, uint32_t count, struct gmm__slot *owner)
{
	gmm__chunk_id first;

	return gmm__chunk_table_take_slot(table, count, owner, &first) ? first : GMM__NIL;
}

static struct gmm__sys sys;
static struct gmm__mem mem;
static struct gmm__chunk_table table;
static struct gmm__pool pool;
static uint64_t punched_pages, gone_pages;
static gmm__page_id last_gone;
static uint8_t gone_byte;

/* What is refused. */
static struct {
	bool alloc, map, create, resize, punch;
	int short_write;
} refuse;

static void *maybe_alloc(size_t size)
{
	return refuse.alloc ? NULL : gmm__sys_linux()->alloc(size);
}

static intptr_t maybe_map(void *addr, size_t size, int prot, int flags, int fd, uint64_t offset)
{
	return refuse.map ? -ENOMEM : gmm__sys_linux()->map(addr, size, prot, flags, fd, offset);
}

static int maybe_create(const char *name)
{
	return refuse.create ? -EMFILE : gmm__sys_linux()->file_create(name);
}

static int maybe_resize(int fd, uint64_t size)
{
	return refuse.resize ? -ENOMEM : gmm__sys_linux()->file_resize(fd, size);
}

static ssize_t maybe_write(int fd, const struct iovec *parts, int n, uint64_t offset)
{
	struct iovec part = parts[0];

	if (!refuse.short_write)
		return gmm__sys_linux()->file_write(fd, parts, n, offset);
	part.iov_len /= 2;
	return gmm__sys_linux()->file_write(fd, &part, 1, offset);
}

static int count_punch(int fd, uint64_t offset, uint64_t size)
{
	punched_pages += size / GMM__PAGE_BYTES;
	return refuse.punch ? -EINTR : gmm__sys_linux()->file_punch(fd, offset, size);
}

static void page_gone(void *arg, gmm__page_id page, const uint8_t *bytes)
{
	ck_assert_ptr_eq(arg, &gone_pages);
	gone_pages++;
	last_gone = page;
	gone_byte = bytes[0];
}

static void setup(void)
{
	sys = *gmm__sys_linux();
	sys.alloc = maybe_alloc;
	sys.map = maybe_map;
	sys.file_create = maybe_create;
	sys.file_resize = maybe_resize;
	sys.file_write = maybe_write;
	sys.file_punch = count_punch;
	memset(&refuse, 0, sizeof refuse);
	punched_pages = gone_pages = 0;
	mem = (struct gmm__mem){ .sys = &sys };
	gmm__chunk_table_init(&table, &mem);
	gmm__pool_init(&pool, &mem, &table, page_gone, &gone_pages);
}

static void teardown(void)
{
	const char *broken = gmm__pool_validate(&pool);

	ck_assert_msg(!broken, "%s", broken);
	gmm__pool_destroy(&pool);
	gmm__chunk_table_destroy(&table);
	ck_assert_uint_eq(mem.bytes, 0);
}

static gmm__page_id take(uint32_t want, uint32_t expected)
{
	gmm__page_id first = GMM__NIL;

	ck_assert_uint_eq(gmm__pool_reserve(&pool, want, &first), expected);
	return first;
}

/* Takes pages that hold `byte`. */
static gmm__page_id take_filled(uint32_t count, uint8_t byte)
{
	gmm__page_id first = take(count, count);
	uint8_t *bytes = malloc((size_t)count * GMM__PAGE_BYTES);
	struct iovec part = { bytes, (size_t)count * GMM__PAGE_BYTES };

	memset(bytes, byte, part.iov_len);
	ck_assert_int_eq(gmm__pool_fill(&pool, first, &part, 1), 0);
	free(bytes);
	return first;
}

static void ref_times(gmm__page_id page, int times)
{
	while (times-- > 0)
		ck_assert_uint_eq(gmm__pool_ref(&pool, page, 1), 1);
}

static enum gmm__page_state_shared state_of(gmm__page_id page)
{
	return gmm__pool_record(&pool, page).state;
}

static uint64_t file_bytes(uint32_t file)
{
	struct stat st;

	ck_assert_int_eq(fstat(pool.files[file].fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* ---- slots ------------------------------------------------------------------------------------------------------- */

START_TEST(punched_at_the_last_reference)
{
	setup();
	gmm__page_id page = take_filled(2, 7);
	ck_assert_uint_eq(gmm__pool_ref(&pool, page, 2), 2);
	ck_assert_uint_eq(pool.references, 4);
	ck_assert_uint_eq(gmm__pool_bytes(&pool, page + 1)[4095], 7);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(punched_pages, 0);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(punched_pages, 1);
	ck_assert_uint_eq(gone_pages, 1);
	ck_assert_uint_eq(last_gone, page);
	ck_assert_uint_eq(gone_byte, 7); /* told of while the bytes were there */
	ck_assert_uint_eq(state_of(page), GMM__SLOT_FREE);
	ck_assert_uint_eq(state_of(page + 1), GMM__SLOT_SHARED);
	ck_assert_uint_eq(file_bytes(0), GMM__PAGE_BYTES);
	gmm__pool_drop(&pool, page + 1, 1, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(gmm__pool_ref(&pool, page, 1), 0);
	gmm__pool_drop(&pool, page + 1, 1, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(file_bytes(0), 0);
	teardown();
}
END_TEST

START_TEST(unfilled_reservation_is_not_punched)
{
	setup();
	gmm__page_id page = take(3, 3);
	gmm__pool_drop(&pool, page, 3, GMM__DROP_UNFILLED);
	ck_assert_uint_eq(punched_pages, 0);
	ck_assert_uint_eq(gone_pages, 0);
	ck_assert_uint_eq(state_of(page), GMM__SLOT_FREE);
	teardown();
}
END_TEST

/* Punched at once, but the slot waits for the mappings that still lie over it. */
START_TEST(held_by_broken_covers)
{
	setup();
	gmm__page_id page = take_filled(1, 7);
	ref_times(page, 2);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_BROKEN);
	ck_assert_uint_eq(gmm__pool_record(&pool, page).references, 2);
	ck_assert_uint_eq(gmm__pool_record(&pool, page).broken, 1);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_BROKEN);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(punched_pages, 1);
	ck_assert_uint_eq(state_of(page), GMM__SLOT_HELD);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_COVER);
	ck_assert_uint_eq(state_of(page), GMM__SLOT_HELD);
	ck_assert_uint_eq(pool.free_pages, GMM__CHUNK_PAGES - 1);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_COVER);
	ck_assert_uint_eq(state_of(page), GMM__SLOT_FREE);
	ck_assert_uint_eq(pool.free_pages, GMM__CHUNK_PAGES);
	teardown();
}
END_TEST

/* Covers that go while the page still has users do not free it. */
START_TEST(covers_may_go_first)
{
	setup();
	gmm__page_id page = take_filled(1, 7);
	ref_times(page, 1);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_BROKEN);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_COVER);
	ck_assert_uint_eq(state_of(page), GMM__SLOT_SHARED);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(state_of(page), GMM__SLOT_FREE);
	teardown();
}
END_TEST

START_TEST(new_generation_each_time)
{
	setup();
	uint32_t last = 0;
	for (int i = 0; i < 3; i++) {
		gmm__page_id page = take(GMM__CHUNK_PAGES, GMM__CHUNK_PAGES);
		uint32_t generation = gmm__pool_record(&pool, page + 9).generation;
		ck_assert_uint_eq(generation, last + 1);
		last = generation;
		gmm__pool_drop(&pool, page, GMM__CHUNK_PAGES, GMM__DROP_UNFILLED);
	}
	ck_assert_uint_eq(pool.n_chunks, 1);
	teardown();
}
END_TEST

START_TEST(generation_wraps)
{
	setup();
	gmm__page_id page = take(1, 1);
	pool.chunks[0]->record[gmm__page_index(page)].generation = 0x3fff;
	gmm__pool_drop(&pool, page, 1, GMM__DROP_UNFILLED);
	pool.cursor[0].page = 0;
	ck_assert_uint_eq(take(1, 1), page);
	ck_assert_uint_eq(gmm__pool_record(&pool, page).generation, 0);
	ck_assert_uint_eq(gmm__pool_record(&pool, page).state, GMM__SLOT_SHARED);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_UNFILLED);
	teardown();
}
END_TEST

static gmm__page_id take_at(uint32_t cursor, uint32_t want)
{
	gmm__page_id first = GMM__NIL;

	ck_assert_uint_eq(gmm__pool_reserve_at(&pool, cursor, want, &first), want);
	return first;
}

static void drop_unfilled(gmm__page_id first, uint32_t count)
{
	gmm__pool_drop(&pool, first, count, GMM__DROP_UNFILLED);
}

/* What two threads reserve in turn is two rows, each in order, until both chunks are full. */
START_TEST(cursors_do_not_interleave)
{
	enum { STEPS = 16, PAGES = GMM__CHUNK_PAGES / STEPS };
	gmm__page_id row[2] = { GMM__NIL, GMM__NIL };

	setup();
	for (uint32_t i = 0; i < STEPS; i++)
		for (uint32_t k = 0; k < 2; k++) {
			gmm__page_id first = take_at(k, PAGES);
			if (i == 0)
				row[k] = first;
			ck_assert_uint_eq(first, row[k] + i * PAGES);
		}
	ck_assert_uint_ne(gmm__page_chunk(row[0]), gmm__page_chunk(row[1]));
	ck_assert_uint_eq(pool.live_chunks, 2);
	/* A full chunk is nobody's any more: gaps in it are filled by whoever looks for one. */
	drop_unfilled(row[1] + 7, 5);
	ck_assert_uint_eq(take_at(0, 5), row[1] + 7);
	for (uint32_t k = 0; k < 2; k++)
		drop_unfilled(row[k], GMM__CHUNK_PAGES);
	teardown();
}
END_TEST

static struct gmm__record *raw(gmm__page_id page)
{
	return &pool.chunks[0]->record[gmm__page_index(page)];
}

/* At the limit no more references are given; those that were can be dropped. */
/* A page remembered by id and generation is found again, and no other page under its id. */
START_TEST(the_same_page_or_none)
{
	setup();
	gmm__page_id page = take_filled(2, 9);
	uint32_t generation = gmm__pool_record(&pool, page).generation;
	ck_assert(gmm__pool_ref_same(&pool, page, generation));
	ck_assert_uint_eq(gmm__pool_record(&pool, page).references, 2);
	ck_assert(!gmm__pool_ref_same(&pool, page, generation + 1));
	gmm__pool_drop(&pool, page, 1, GMM__DROP_REFERENCE);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_REFERENCE);
	ck_assert(!gmm__pool_ref_same(&pool, page, generation));
	pool.cursor[0] = (struct gmm__pool_cursor){ 0, 0 }; /* it is given out again */
	ck_assert_uint_eq(take_filled(1, 9), page);
	ck_assert(!gmm__pool_ref_same(&pool, page, generation));
	ck_assert(gmm__pool_ref_same(&pool, page, generation + 1));
	ck_assert_uint_eq(pool.references, 3);
	teardown();
}
END_TEST

/* Ids of RAM slots, of other pools and of nothing. */
START_TEST(the_same_page_of_this_pool)
{
	struct gmm__pool other;
	struct gmm__slot *owner = (struct gmm__slot *)&other; /* an address, no more */
	gmm__page_id theirs;

	setup();
	gmm__page_id page = take_filled(1, 9);
	gmm__pool_init(&other, &mem, &table, NULL, NULL);
	ck_assert_uint_eq(gmm__pool_reserve(&other, 1, &theirs), 1);
	gmm__chunk_id seeded = take_slot(&table, 1, owner);
	uint32_t generation = gmm__pool_record(&pool, page).generation;
	ck_assert(!gmm__pool_ref_same(&pool, theirs, generation));
	ck_assert(!gmm__pool_ref_same(&pool, gmm__page_make(seeded, 0), generation));
	ck_assert(!gmm__pool_ref_same(&pool, GMM__NIL, generation));
	ck_assert(!gmm__pool_ref_same(&pool, UINT32_MAX, generation));
	gmm__pool_destroy(&other);
	teardown();
}
END_TEST

START_TEST(references_saturate)
{
	setup();
	gmm__page_id page = take_filled(3, 1);
	raw(page + 1)->references = GMM__REFERENCES_MAX - 1;
	pool.references += GMM__REFERENCES_MAX - 2;
	ck_assert_uint_eq(gmm__pool_ref(&pool, page, 3), 1); /* stops at it */
	ck_assert_uint_eq(gmm__pool_ref(&pool, page + 1, 1), 0);
	ck_assert_uint_eq(raw(page + 1)->references, GMM__REFERENCES_MAX - 1);
	gmm__pool_drop(&pool, page + 1, 1, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(gmm__pool_ref(&pool, page + 1, 1), 1);
	teardown();
}
END_TEST

/* A count that reached its end says "many" and stays: the slot is never given out again. */
START_TEST(broken_covers_saturate)
{
	setup();
	gmm__page_id page = take_filled(1, 1);
	ref_times(page, 3);
	raw(page)->broken = GMM__BROKEN_MAX - 1;
	gmm__pool_drop(&pool, page, 1, GMM__DROP_BROKEN);
	ck_assert_uint_eq(raw(page)->broken, GMM__BROKEN_MAX);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_BROKEN);
	ck_assert_uint_eq(raw(page)->broken, GMM__BROKEN_MAX);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_COVER);
	ck_assert_uint_eq(raw(page)->broken, GMM__BROKEN_MAX);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_REFERENCE);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(state_of(page), GMM__SLOT_HELD);
	for (int i = 0; i < 3; i++)
		gmm__pool_drop(&pool, page, 1, GMM__DROP_COVER);
	ck_assert_uint_eq(state_of(page), GMM__SLOT_HELD);
	teardown();
}
END_TEST

START_TEST(punch_refused)
{
	setup();
	gmm__page_id page = take_filled(1, 1);
	refuse.punch = true;
	gmm__pool_drop(&pool, page, 1, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(pool.punch_failures, 1);
	ck_assert_uint_eq(state_of(page), GMM__SLOT_FREE);
	teardown();
}
END_TEST

/* Only whole rows are punched, with one call each. */
START_TEST(drop_of_some_in_a_row)
{
	setup();
	gmm__page_id page = take_filled(10, 1);
	gmm__pool_ref(&pool, page + 4, 2);
	gmm__pool_drop(&pool, page, 10, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(punched_pages, 8);
	ck_assert_uint_eq(file_bytes(0), 2 * GMM__PAGE_BYTES);
	ck_assert_uint_eq(gmm__pool_bytes(&pool, page + 5)[0], 1);
	gmm__pool_drop(&pool, page + 4, 2, GMM__DROP_REFERENCE);
	teardown();
}
END_TEST

START_TEST(drop_across_chunks)
{
	setup();
	gmm__page_id page = take_filled(GMM__CHUNK_PAGES, 1);
	gmm__page_id next = take_filled(GMM__CHUNK_PAGES, 2);
	ck_assert_uint_eq(next, page + GMM__CHUNK_PAGES);
	ck_assert_uint_eq(gmm__pool_ref(&pool, page + 500, 24), 24);
	gmm__pool_drop(&pool, page + 500, 24, GMM__DROP_REFERENCE);
	gmm__pool_drop(&pool, page, 2 * GMM__CHUNK_PAGES, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(file_bytes(0), 0);
	ck_assert_uint_eq(pool.free_pages, 2 * GMM__CHUNK_PAGES);
	teardown();
}
END_TEST

/* ---- what is given out -------------------------------------------------------------------------------------------- */

START_TEST(in_order_of_the_calls)
{
	setup();
	gmm__page_id page = take(3, 3);
	ck_assert_uint_eq(take(5, 5), page + 3);
	ck_assert_uint_eq(take(1, 1), page + 8);
	/* A gap behind the cursor is not taken before the cursor comes to its end. */
	gmm__pool_drop(&pool, page, 3, GMM__DROP_UNFILLED);
	ck_assert_uint_eq(take(3, 3), page + 9);
	/* What the chunk still has is given, though it is less. */
	ck_assert_uint_eq(take(GMM__CHUNK_PAGES, GMM__CHUNK_PAGES - 12), page + 12);
	/* Then the lowest gap that fits. */
	ck_assert_uint_eq(take(3, 3), page);
	teardown();
}
END_TEST

START_TEST(lowest_chunk_with_a_gap_that_fits)
{
	setup();
	gmm__page_id chunk[3];
	for (int i = 0; i < 3; i++)
		chunk[i] = take(GMM__CHUNK_PAGES, GMM__CHUNK_PAGES);
	gmm__pool_drop(&pool, chunk[2] + 10, 30, GMM__DROP_UNFILLED);
	gmm__pool_drop(&pool, chunk[1] + 50, 20, GMM__DROP_UNFILLED);
	gmm__pool_drop(&pool, chunk[0] + 7, 4, GMM__DROP_UNFILLED);
	ck_assert_uint_eq(take(20, 20), chunk[1] + 50);
	ck_assert_uint_eq(take(4, 4), chunk[0] + 7);
	/* No gap of 40: a new chunk, rather than a run in pieces. */
	take(40, 40);
	ck_assert_uint_eq(pool.n_chunks, 4);
	teardown();
}
END_TEST

START_TEST(more_than_a_chunk_is_cut)
{
	setup();
	take(3 * GMM__CHUNK_PAGES, GMM__CHUNK_PAGES);
	teardown();
}
END_TEST

/* Without memory for a new chunk the largest gap must do. */
START_TEST(gaps_when_nothing_can_grow)
{
	setup();
	gmm__page_id page = take(GMM__CHUNK_PAGES, GMM__CHUNK_PAGES);
	gmm__pool_drop(&pool, page + 10, 2, GMM__DROP_UNFILLED);
	gmm__pool_drop(&pool, page + 20, 5, GMM__DROP_UNFILLED);
	refuse.resize = true;
	ck_assert_uint_eq(take(8, 5), page + 20);
	ck_assert_uint_eq(take(8, 2), page + 10);
	take(8, 0);
	refuse.resize = false;
	take(8, 8);
	teardown();
}
END_TEST

START_TEST(reserve_that_the_host_refuses)
{
	setup();
	refuse.alloc = true;
	take(1, 0);
	refuse.alloc = false;
	refuse.create = true;
	take(1, 0);
	refuse.create = false;
	refuse.map = true;
	take(1, 0);
	refuse.map = false;
	refuse.resize = true;
	take(1, 0);
	refuse.resize = false;
	ck_assert_uint_eq(pool.n_chunks, 0);
	ck_assert_uint_eq(pool.free_pages, 0);
	take(1, 1);
	ck_assert_uint_eq(pool.n_files, 1);
	teardown();
}
END_TEST

START_TEST(short_write)
{
	setup();
	uint8_t bytes[2 * GMM__PAGE_BYTES] = { 0 };
	struct iovec part = { bytes, sizeof bytes };
	gmm__page_id page = take(2, 2);
	refuse.short_write = true;
	ck_assert_int_lt(gmm__pool_fill(&pool, page, &part, 1), 0);
	refuse.short_write = false;
	ck_assert_int_eq(gmm__pool_fill(&pool, page, &part, 1), 0);
	teardown();
}
END_TEST

/* ---- chunks and files ----------------------------------------------------------------------------------------------- */

/* Ids of the pool's chunks follow each other, but a RAM slot's chunks may come between, and files end. A page and the next
 * one in the id's order can be mapped together only within a chunk. */
START_TEST(where_pages_lie)
{
	setup();
	struct gmm__slot *ram = (struct gmm__slot *)(uintptr_t)8;
	gmm__page_id first = take(GMM__CHUNK_PAGES, GMM__CHUNK_PAGES);
	ck_assert_uint_ne(take_slot(&table, 3, ram), GMM__NIL);
	gmm__page_id second = take(GMM__CHUNK_PAGES, GMM__CHUNK_PAGES);
	gmm__chunk_table_give(&table, gmm__page_chunk(first) + 1, 3);
	gmm__page_id third = take(GMM__CHUNK_PAGES, GMM__CHUNK_PAGES);
	ck_assert_uint_eq(gmm__page_chunk(third), gmm__page_chunk(first) + 1);

	int fd;
	uint64_t a, b;
	gmm__pool_where(&pool, first + GMM__CHUNK_PAGES - 1, &fd, &a);
	gmm__pool_where(&pool, third, &fd, &b);
	ck_assert_uint_ne(b, a + GMM__PAGE_BYTES); /* though third is the id after it */
	ck_assert(!gmm__page_follows(first + GMM__CHUNK_PAGES - 1, third));
	ck_assert(gmm__page_follows(first + 7, first + 8));
	ck_assert(!gmm__page_follows(first + 8, first + 7));
	gmm__pool_where(&pool, second, &fd, &b);
	ck_assert_uint_eq(b, GMM__CHUNK_BYTES);
	teardown();
}
END_TEST

START_TEST(each_page_has_its_bytes)
{
	setup();
	gmm__page_id page[3];
	for (int i = 0; i < 3; i++)
		page[i] = take_filled(GMM__CHUNK_PAGES, (uint8_t)(i + 1));
	for (int i = 0; i < 3; i++) {
		uint64_t offset;
		int fd;
		uint8_t byte;
		gmm__pool_where(&pool, page[i] + 77, &fd, &offset);
		ck_assert_int_eq(pread(fd, &byte, 1, (off_t)offset), 1);
		ck_assert_uint_eq(byte, i + 1);
		ck_assert_uint_eq(gmm__pool_bytes(&pool, page[i] + 77)[5], i + 1);
	}
	teardown();
}
END_TEST

/* ---- forks ----------------------------------------------------------------------------------------------------------- */

START_TEST(deferred_until_release)
{
	setup();
	gmm__page_id page = take_filled(4, 9);
	gmm__pool_defer(&pool);
	gmm__pool_drop(&pool, page + 1, 2, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(punched_pages, 0);
	ck_assert_uint_eq(gone_pages, 2);
	ck_assert_uint_eq(pool.deferred_pages, 2);
	ck_assert_uint_eq(state_of(page + 1), GMM__SLOT_HELD);
	ck_assert_uint_eq(gmm__pool_bytes(&pool, page + 1)[0], 9); /* a child may read it */
	ck_assert_uint_eq(gmm__pool_ref(&pool, page + 1, 1), 0);
	take(GMM__CHUNK_PAGES, GMM__CHUNK_PAGES - 4);
	pool.cursor[0] = (struct gmm__pool_cursor){ 0, 0 };
	refuse.resize = true;
	take(1, 0);
	refuse.resize = false;
	gmm__pool_release(&pool);
	ck_assert_uint_eq(punched_pages, 2);
	ck_assert_uint_eq(pool.deferred_pages, 0);
	ck_assert_uint_eq(state_of(page + 1), GMM__SLOT_FREE);
	ck_assert_uint_eq(take(2, 2), page + 1);
	/* And from now on pages are punched at once again. */
	gmm__pool_drop(&pool, page, 1, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(punched_pages, 3);
	teardown();
}
END_TEST

START_TEST(deferred_and_covered)
{
	setup();
	gmm__page_id page = take_filled(2, 9);
	gmm__pool_defer(&pool);
	gmm__pool_drop(&pool, page, 2, GMM__DROP_BROKEN);
	gmm__pool_drop(&pool, page, 1, GMM__DROP_COVER);
	ck_assert_uint_eq(state_of(page), GMM__SLOT_HELD);
	gmm__pool_release(&pool);
	ck_assert_uint_eq(state_of(page), GMM__SLOT_FREE);
	ck_assert_uint_eq(state_of(page + 1), GMM__SLOT_HELD);
	gmm__pool_drop(&pool, page + 1, 1, GMM__DROP_COVER);
	ck_assert_uint_eq(state_of(page + 1), GMM__SLOT_FREE);
	teardown();
}
END_TEST

/* ---- chunks that come and go ----------------------------------------------------------------------------- */

START_TEST(empty_chunks_go_but_one)
{
	setup();
	gmm__page_id first = take_filled(GMM__CHUNK_PAGES, 1), second = take_filled(GMM__CHUNK_PAGES, 2);
	ck_assert_uint_eq(gmm__pool_trim(&pool), 0);
	gmm__pool_drop(&pool, first, GMM__CHUNK_PAGES, GMM__DROP_REFERENCE);
	gmm__pool_drop(&pool, second, GMM__CHUNK_PAGES - 1, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(gmm__pool_trim(&pool), 0); /* one empty chunk is kept, the other has a page */
	gmm__pool_drop(&pool, second + GMM__CHUNK_PAGES - 1, 1, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(gmm__pool_trim(&pool), 1);
	ck_assert_uint_eq(pool.live_chunks, 1);
	ck_assert_uint_eq(gmm__pool_ref(&pool, second, 1), 0);
	take_filled(GMM__CHUNK_PAGES, 3);
	take_filled(GMM__CHUNK_PAGES, 4); /* in the place that was given back */
	ck_assert_uint_eq(pool.n_chunks, 2);
	teardown();
}
END_TEST

/* INV-2. */
START_TEST(a_covered_or_deferred_chunk_stays)
{
	setup();
	gmm__page_id first = take_filled(GMM__CHUNK_PAGES, 1), second = take_filled(GMM__CHUNK_PAGES, 2);
	gmm__pool_drop(&pool, first, GMM__CHUNK_PAGES, GMM__DROP_REFERENCE);
	gmm__pool_drop(&pool, second, 1, GMM__DROP_BROKEN);
	gmm__pool_drop(&pool, second + 1, GMM__CHUNK_PAGES - 1, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(gmm__pool_trim(&pool), 0);
	gmm__pool_drop(&pool, second, 1, GMM__DROP_COVER);
	ck_assert_uint_eq(gmm__pool_trim(&pool), 1);
	second = take_filled(GMM__CHUNK_PAGES, 5);
	gmm__pool_defer(&pool);
	gmm__pool_drop(&pool, second, GMM__CHUNK_PAGES, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(gmm__pool_trim(&pool), 0);
	gmm__pool_release(&pool);
	teardown();
}
END_TEST

/* An id that outlived its chunk belongs to another pool now (INV-6). */
START_TEST(an_old_id_gives_no_reference_elsewhere)
{
	struct gmm__pool other;
	gmm__page_id theirs;

	setup();
	gmm__pool_init(&other, &mem, &table, NULL, NULL);
	gmm__page_id first = take_filled(GMM__CHUNK_PAGES, 1), old = take_filled(GMM__CHUNK_PAGES, 2);
	gmm__pool_drop(&pool, first, GMM__CHUNK_PAGES, GMM__DROP_REFERENCE);
	gmm__pool_drop(&pool, old, GMM__CHUNK_PAGES, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(gmm__pool_trim(&pool), 1);
	ck_assert_uint_eq(gmm__pool_reserve(&other, 4, &theirs), 4);
	ck_assert_uint_eq(theirs, old);
	ck_assert_uint_eq(gmm__pool_ref(&pool, old, 4), 0);
	ck_assert_uint_eq(gmm__pool_record(&pool, old).references, 0);
	gmm__pool_drop(&other, theirs, 4, GMM__DROP_UNFILLED);
	gmm__pool_destroy(&other);
	teardown();
}
END_TEST

START_TEST(nothing_is_given_out_of_a_draining_chunk)
{
	gmm__chunk_id chunk[4];
	gmm__page_id row;

	setup();
	gmm__page_id first = take_filled(GMM__CHUNK_PAGES, 1), second = take_filled(GMM__CHUNK_PAGES, 2);
	gmm__pool_drop(&pool, first + 8, 100, GMM__DROP_REFERENCE);
	gmm__pool_drop(&pool, second + 8, GMM__CHUNK_PAGES - 8, GMM__DROP_REFERENCE);
	ck_assert_uint_eq(gmm__pool_drain(&pool, 1024, 4, chunk), 1);
	ck_assert_uint_eq(chunk[0], gmm__page_chunk(second));
	ck_assert(!gmm__pool_reserve_row(&pool, 200, false, &row));
	ck_assert(gmm__pool_reserve_row(&pool, 90, false, &row));
	ck_assert_uint_eq(row, first + 8);
	gmm__pool_drain_end(&pool); /* it was not emptied */
	ck_assert(gmm__pool_reserve_row(&pool, 200, false, &row));
	ck_assert_uint_eq(row, second + 8);
	teardown();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		punched_at_the_last_reference, unfilled_reservation_is_not_punched, held_by_broken_covers,
		covers_may_go_first, new_generation_each_time, generation_wraps, cursors_do_not_interleave, the_same_page_or_none,
		the_same_page_of_this_pool, references_saturate,
		broken_covers_saturate, punch_refused, drop_of_some_in_a_row, drop_across_chunks,
		in_order_of_the_calls, lowest_chunk_with_a_gap_that_fits, more_than_a_chunk_is_cut,
		gaps_when_nothing_can_grow, reserve_that_the_host_refuses, short_write, where_pages_lie,
		each_page_has_its_bytes, deferred_until_release, deferred_and_covered, empty_chunks_go_but_one,
		a_covered_or_deferred_chunk_stays, an_old_id_gives_no_reference_elsewhere,
		nothing_is_given_out_of_a_draining_chunk,
	};

	return unit_main("pool", tests, sizeof tests / sizeof *tests);
}

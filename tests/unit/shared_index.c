/* The shared index against a list of what was put in, with deletions and growth, and with readers in other threads that
 * look up under RCU all the while.
 */
#include "dedup/shared_index.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <urcu/urcu-bp.h>

#include "tests/unit/support/unit.h"

static struct gmm__sys sys;
static struct gmm__mem mem;
static bool no_memory;

static void *maybe_alloc(size_t size)
{
	return no_memory ? NULL : gmm__sys_linux()->alloc(size);
}

static struct gmm__shared_index open_index(void)
{
	sys = *gmm__sys_linux();
	sys.alloc = maybe_alloc;
	no_memory = false;
	mem = (struct gmm__mem){ .sys = &sys };
	return (struct gmm__shared_index){ .mem = &mem };
}

static void close_index(struct gmm__shared_index *index)
{
	gmm__shared_destroy(index);
	ck_assert_uint_eq(mem.bytes, 0);
}

/* Many fingerprints close together, so that probes run into each other. */
static uint32_t fingerprint_of(uint32_t page)
{
	return (page % 64) * 0x4000000u + page / 64 + 1;
}

START_TEST(put_find_remove)
{
	struct gmm__shared_index index = open_index();

	ck_assert_uint_eq(gmm__shared_find(&index, 7), GMM__NIL);
	ck_assert(!gmm__shared_remove(&index, 7, 1));
	gmm__shared_prefetch(&index, 7);
	ck_assert_int_eq(gmm__shared_put(&index, 7, 1), 0);
	ck_assert_uint_eq(gmm__shared_find(&index, 7), 1);
	ck_assert(!gmm__shared_remove(&index, 7, 2));
	ck_assert(!gmm__shared_remove(&index, 8, 1));
	ck_assert(gmm__shared_remove(&index, 7, 1));
	ck_assert(!gmm__shared_remove(&index, 7, 1));
	ck_assert_uint_eq(gmm__shared_find(&index, 7), GMM__NIL);
	ck_assert_uint_eq(index.live, 0);
	close_index(&index);
}
END_TEST

/* Two pages under one fingerprint: either is an answer, and each can be removed. */
START_TEST(equal_fingerprints)
{
	struct gmm__shared_index index = open_index();

	gmm__shared_put(&index, 7, 1);
	gmm__shared_put(&index, 7, 2);
	ck_assert(gmm__shared_remove(&index, 7, 1));
	ck_assert_uint_eq(gmm__shared_find(&index, 7), 2);
	ck_assert(gmm__shared_remove(&index, 7, 2));
	ck_assert_uint_eq(gmm__shared_find(&index, 7), GMM__NIL);
	close_index(&index);
}
END_TEST

START_TEST(against_a_list)
{
	enum { PAGES = 20000 };
	struct gmm__shared_index index = open_index();
	uint8_t *in = calloc(1, PAGES + 1);
	uint64_t dice = 88172645463325252u;
	uint32_t live = 0;

	for (uint32_t step = 0; step < 6 * PAGES; step++) {
		dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
		uint32_t page = 1 + (uint32_t)(dice >> 20) % PAGES;
		if (in[page])
			ck_assert(gmm__shared_remove(&index, fingerprint_of(page), page));
		else
			ck_assert_int_eq(gmm__shared_put(&index, fingerprint_of(page), page), 0);
		in[page] ^= 1;
		live += in[page] ? 1 : -1;
		ck_assert_uint_eq(gmm__shared_find(&index, fingerprint_of(page)), in[page] ? page : GMM__NIL);
	}
	ck_assert_uint_eq(index.live, live);
	for (uint32_t page = 1; page <= PAGES; page++)
		ck_assert_uint_eq(gmm__shared_find(&index, fingerprint_of(page)), in[page] ? page : GMM__NIL);
	free(in);
	close_index(&index);
}
END_TEST

/* Pages that come and go leave deleted slots behind; these must not make the table grow for ever. */
START_TEST(deleted_slots_do_not_pile_up)
{
	struct gmm__shared_index index = open_index();

	for (uint32_t page = 1; page < 200000; page++) {
		ck_assert_int_eq(gmm__shared_put(&index, fingerprint_of(page), page), 0);
		if (page > 100)
			ck_assert(gmm__shared_remove(&index, fingerprint_of(page - 100), page - 100));
		gmm__shared_free(&mem, gmm__shared_take_retired(&index));
	}
	ck_assert_uint_le(index.table->size, 8192);
	close_index(&index);
}
END_TEST

START_TEST(reserve_makes_room)
{
	struct gmm__shared_index index = open_index();

	ck_assert_int_eq(gmm__shared_put(&index, 5, 9), 0);
	ck_assert_int_eq(gmm__shared_reserve(&index, 50000), 0);
	ck_assert_uint_eq(gmm__shared_find(&index, 5), 9);
	struct gmm__shared_table *table = index.table;
	for (uint32_t page = 1; page <= 50000; page++)
		ck_assert_int_eq(gmm__shared_put(&index, fingerprint_of(page), page), 0);
	ck_assert_ptr_eq(table, index.table);
	close_index(&index);
}
END_TEST

/* Refused, but every lookup still ends and finds what is in. */
START_TEST(no_memory_to_grow)
{
	struct gmm__shared_index index = open_index();
	uint32_t put = 0;

	no_memory = true;
	ck_assert_int_eq(gmm__shared_put(&index, 7, 1), -ENOMEM);
	ck_assert_uint_eq(gmm__shared_find(&index, 7), GMM__NIL);
	no_memory = false;
	ck_assert_int_eq(gmm__shared_put(&index, fingerprint_of(1), 1), 0);
	no_memory = true;
	while (gmm__shared_put(&index, fingerprint_of(put + 2), put + 2) == 0)
		put++;
	ck_assert_int_eq(gmm__shared_reserve(&index, 5000), -ENOMEM);
	for (uint32_t page = 1; page < put + 2; page++)
		ck_assert_uint_eq(gmm__shared_find(&index, fingerprint_of(page)), page);
	ck_assert_uint_eq(gmm__shared_find(&index, 0xfffffff0), GMM__NIL);
	no_memory = false;
	close_index(&index);
}
END_TEST

/* ---- readers --------------------------------------------------------------------------------------------------------- */

enum { STAY = 500, READERS = 2 };

static struct gmm__shared_index shared;
static _Atomic bool stop;
static _Atomic uint32_t reading;

/* Pages 1 ... STAY are always in; whatever else is found has the fingerprint that was asked for. */
static void *read_all(void *arg)
{
	uint32_t *wrong = arg, page = 1;

	reading++;
	do {
		urcu_bp_read_lock();
		*wrong += gmm__shared_find(&shared, fingerprint_of(page)) != page;
		gmm__page_id found = gmm__shared_find(&shared, fingerprint_of(STAY + page));
		*wrong += found != GMM__NIL && found != STAY + page;
		urcu_bp_read_unlock();
		page = page % STAY + 1;
	} while (!stop);
	return NULL;
}

static void reap(void)
{
	struct gmm__shared_table *tables = gmm__shared_take_retired(&shared);

	if (!tables)
		return;
	urcu_bp_synchronize_rcu();
	gmm__shared_free(&mem, tables);
}

START_TEST(readers_see_what_stays)
{
	pthread_t reader[READERS];
	uint32_t wrong[READERS] = { 0 };

	shared = open_index();
	stop = false;
	for (uint32_t page = 1; page <= STAY; page++)
		gmm__shared_put(&shared, fingerprint_of(page), page);
	for (int i = 0; i < READERS; i++)
		ck_assert_int_eq(pthread_create(&reader[i], NULL, read_all, &wrong[i]), 0);
	while (reading < READERS)
		;
	for (uint32_t round = 0; round < 30; round++) {
		for (uint32_t page = STAY + 1; page < 4000 + round * 100; page++)
			gmm__shared_put(&shared, fingerprint_of(page), page);
		reap();
		for (uint32_t page = STAY + 1; page < 4000 + round * 100; page++)
			gmm__shared_remove(&shared, fingerprint_of(page), page);
		reap();
	}
	stop = true;
	for (int i = 0; i < READERS; i++) {
		pthread_join(reader[i], NULL);
		ck_assert_uint_eq(wrong[i], 0);
	}
	close_index(&shared);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		put_find_remove, equal_fingerprints, against_a_list, deleted_slots_do_not_pile_up,
		reserve_makes_room, no_memory_to_grow, readers_see_what_stays,
	};

	return unit_main("shared_index", tests, sizeof tests / sizeof *tests);
}

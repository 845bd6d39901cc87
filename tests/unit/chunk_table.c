/* Chunk ids: who owns them, in which order they are given out, and lookups while they change hands. */
#include "gmm/chunk_table.h"

#include <pthread.h>
#include <stdlib.h>

#include "tests/unit/support/unit.h"

/* The first id, or NIL. */
static gmm__chunk_id take_slot(struct gmm__chunk_table *table, uint32_t count, struct gmm__slot *owner)
{
	gmm__chunk_id first;

	return gmm__chunk_table_take_slot(table, count, owner, &first) ? first : GMM__NIL;
}

static gmm__chunk_id take_chunk(struct gmm__chunk_table *table, struct gmm__chunk *owner)
{
	gmm__chunk_id id;

	return gmm__chunk_table_take_chunk(table, owner, &id) ? id : GMM__NIL;
}

static struct gmm__sys sys;
static struct gmm__mem mem;
static struct gmm__chunk_table table;
static bool no_memory;

static void *maybe_alloc(size_t size)
{
	return no_memory ? NULL : gmm__sys_linux()->alloc(size);
}

static void setup(void)
{
	sys = *gmm__sys_linux();
	sys.alloc = maybe_alloc;
	no_memory = false;
	mem = (struct gmm__mem){ .sys = &sys };
	gmm__chunk_table_init(&table, &mem);
}

static void teardown(void)
{
	gmm__chunk_table_destroy(&table);
	ck_assert_uint_eq(mem.bytes, 0);
}

/* Owners are never followed: any aligned address will do. */
static struct gmm__slot *slot(uintptr_t n)
{
	return (struct gmm__slot *)(n << 4);
}

static struct gmm__chunk *chunk(uintptr_t n)
{
	return (struct gmm__chunk *)(n << 4);
}

START_TEST(owners)
{
	setup();
	gmm__chunk_id a = take_slot(&table, 3, slot(1));
	gmm__chunk_id b = take_chunk(&table, chunk(2));
	ck_assert_uint_eq(a, 1); /* 0 is NIL */
	ck_assert_uint_eq(b, 4);
	for (gmm__chunk_id id = a; id < a + 3; id++) {
		ck_assert_ptr_eq(gmm__chunk_table_slot(&table, id), slot(1));
		ck_assert_ptr_null(gmm__chunk_table_chunk(&table, id));
	}
	ck_assert_ptr_eq(gmm__chunk_table_chunk(&table, b), chunk(2));
	ck_assert_ptr_null(gmm__chunk_table_slot(&table, b));
	teardown();
}
END_TEST

START_TEST(unused_ids)
{
	setup();
	static const gmm__chunk_id ids[] = { 0, 1, 4095, 4096, GMM__CHUNK_ID_MAX, GMM__CHUNK_ID_MAX + 1, UINT32_MAX };
	for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
		ck_assert_ptr_null(gmm__chunk_table_slot(&table, ids[i]));
		ck_assert_ptr_null(gmm__chunk_table_chunk(&table, ids[i]));
	}
	teardown();
}
END_TEST

START_TEST(lowest_ids_that_fit)
{
	setup();
	gmm__chunk_id a = take_slot(&table, 4, slot(1));
	gmm__chunk_id b = take_slot(&table, 4, slot(2));
	gmm__chunk_id c = take_slot(&table, 4, slot(3));
	gmm__chunk_table_give(&table, a, 2);
	gmm__chunk_table_give(&table, b, 4);
	ck_assert_ptr_null(gmm__chunk_table_slot(&table, b));
	ck_assert_ptr_eq(gmm__chunk_table_slot(&table, a + 2), slot(1));
	ck_assert_uint_eq(take_slot(&table, 3, slot(4)), b);
	ck_assert_uint_eq(take_chunk(&table, chunk(5)), a);
	ck_assert_uint_eq(take_slot(&table, 2, slot(6)), c + 4);
	ck_assert_uint_eq(take_chunk(&table, chunk(7)), a + 1);
	ck_assert_uint_eq(take_chunk(&table, chunk(8)), b + 3);
	teardown();
}
END_TEST

START_TEST(across_leaves)
{
	setup();
	gmm__chunk_id a = take_slot(&table, 3 * GMM__LEAF_CHUNKS, slot(1));
	ck_assert_uint_eq(a, 1);
	ck_assert_ptr_eq(gmm__chunk_table_slot(&table, 3 * GMM__LEAF_CHUNKS), slot(1));
	ck_assert_ptr_null(gmm__chunk_table_slot(&table, 3 * GMM__LEAF_CHUNKS + 1));
	gmm__chunk_table_give(&table, a, 3 * GMM__LEAF_CHUNKS);
	for (gmm__chunk_id id = 0; id <= 3 * GMM__LEAF_CHUNKS; id++)
		ck_assert_ptr_null(gmm__chunk_table_slot(&table, id));
	teardown();
}
END_TEST

START_TEST(ids_run_out)
{
	setup();
	ck_assert_uint_eq(take_slot(&table, GMM__CHUNK_ID_MAX + 1u, slot(1)), GMM__NIL);
	ck_assert_uint_eq(take_slot(&table, GMM__CHUNK_ID_MAX, slot(1)), 1);
	ck_assert_ptr_eq(gmm__chunk_table_slot(&table, GMM__CHUNK_ID_MAX), slot(1));
	ck_assert_uint_eq(take_chunk(&table, chunk(2)), GMM__NIL);
	gmm__chunk_table_give(&table, GMM__CHUNK_ID_MAX, 1);
	ck_assert_uint_eq(take_chunk(&table, chunk(2)), GMM__CHUNK_ID_MAX);
	teardown();
}
END_TEST

START_TEST(no_memory_for_a_leaf)
{
	setup();
	no_memory = true;
	ck_assert_uint_eq(take_chunk(&table, chunk(1)), GMM__NIL);
	no_memory = false;
	ck_assert_uint_eq(take_chunk(&table, chunk(1)), 1);
	no_memory = true;
	ck_assert_uint_eq(take_slot(&table, GMM__LEAF_CHUNKS, slot(2)), GMM__NIL);
	ck_assert_uint_eq(take_slot(&table, 2, slot(3)), 2);
	no_memory = false;
	teardown();
}
END_TEST

/* ---- readers --------------------------------------------------------------------------------------------------------- */

static _Atomic bool stop;

static void *read_all(void *arg)
{
	uintptr_t *wrong = arg;

	while (!stop) {
		for (gmm__chunk_id id = 1; id < 40; id++) {
			const struct gmm__slot *owner = gmm__chunk_table_slot(&table, id);
			*wrong += owner && owner != slot(id);
		}
	}
	return NULL;
}

START_TEST(readers_see_owners_or_nothing)
{
	uintptr_t wrong = 0;
	pthread_t reader;

	setup();
	stop = false;
	ck_assert_int_eq(pthread_create(&reader, NULL, read_all, &wrong), 0);
	for (int round = 0; round < 2000; round++) {
		for (gmm__chunk_id id = 1; id < 40; id++)
			ck_assert_uint_eq(take_slot(&table, 1, slot(id)), id);
		gmm__chunk_table_give(&table, 1, 39);
	}
	stop = true;
	pthread_join(reader, NULL);
	ck_assert_uint_eq(wrong, 0);
	teardown();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		owners, unused_ids, lowest_ids_that_fit, across_leaves, ids_run_out, no_memory_for_a_leaf,
		readers_see_owners_or_nothing,
	};

	return unit_main("chunk_table", tests, sizeof tests / sizeof *tests);
}

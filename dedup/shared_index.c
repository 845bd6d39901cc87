/* Shared index: linear probing in an array of 8-byte slots, read under RCU. */
#include "dedup/shared_index.h"

#include <errno.h>
#include <stdatomic.h>

enum { SIZE_MIN = 1024 };

static size_t table_bytes(uint32_t size)
{
	return sizeof(struct gmm__shared_table) + size * sizeof(uint64_t);
}

static uint32_t home(const struct gmm__shared_table *table, uint32_t fingerprint)
{
	return (uint32_t)((uint64_t)fingerprint * table->size >> 32);
}

static uint32_t next(const struct gmm__shared_table *table, uint32_t i)
{
	return i + 1 == table->size ? 0 : i + 1;
}

void gmm__shared_free(struct gmm__mem *mem, struct gmm__shared_table *tables)
{
	while (tables) {
		struct gmm__shared_table *table = tables;
		tables = table->retired;
		gmm__mem_free(mem, table, table_bytes(table->size));
	}
}

struct gmm__shared_table *gmm__shared_take_retired(struct gmm__shared_index *index)
{
	struct gmm__shared_table *tables = index->retired;

	index->retired = NULL;
	return tables;
}

void gmm__shared_destroy(struct gmm__shared_index *index)
{
	struct gmm__shared_table *table = atomic_load(&index->table);

	gmm__shared_free(index->mem, gmm__shared_take_retired(index));
	gmm__shared_free(index->mem, table);
	atomic_store(&index->table, NULL);
}

void gmm__shared_prefetch(const struct gmm__shared_index *index, uint32_t fingerprint)
{
	struct gmm__shared_table *table = atomic_load_explicit(&index->table, memory_order_acquire);

	if (table)
		__builtin_prefetch((const void *)&table->slot[home(table, fingerprint)]);
}

gmm__page_id gmm__shared_find(const struct gmm__shared_index *index, uint32_t fingerprint)
{
	struct gmm__shared_table *table = atomic_load_explicit(&index->table, memory_order_acquire);

	if (!table)
		return GMM__NIL;
	for (uint32_t i = home(table, fingerprint);; i = next(table, i)) {
		uint64_t slot = atomic_load_explicit(&table->slot[i], memory_order_acquire);
		if (!slot)
			return GMM__NIL;
		if (slot >> 32 == fingerprint && (gmm__page_id)slot != GMM__NIL)
			return (gmm__page_id)slot;
	}
}

static void insert(struct gmm__shared_table *table, uint64_t slot)
{
	uint32_t i = home(table, (uint32_t)(slot >> 32));

	while (atomic_load_explicit(&table->slot[i], memory_order_relaxed))
		i = next(table, i);
	atomic_store_explicit(&table->slot[i], slot, memory_order_release);
}

/* A table that is two thirds full; deleted slots are left behind. */
static int grow(struct gmm__shared_index *index, uint32_t entries)
{
	struct gmm__shared_table *old = atomic_load(&index->table);
	uint32_t size = entries + entries / 2 + SIZE_MIN;
	struct gmm__shared_table *table = gmm__mem_alloc(index->mem, table_bytes(size));

	if (!table)
		return -ENOMEM;
	table->size = size;
	for (uint32_t i = 0; old && i < old->size; i++) {
		uint64_t slot = atomic_load_explicit(&old->slot[i], memory_order_relaxed);
		if ((gmm__page_id)slot != GMM__NIL)
			insert(table, slot);
	}
	index->used = index->live;
	atomic_store_explicit(&index->table, table, memory_order_release);
	if (old) {
		old->retired = index->retired;
		index->retired = old;
	}
	return 0;
}

/* One slot in eight stays empty, so that searches end soon. */
static bool is_full(const struct gmm__shared_table *table, uint32_t used)
{
	return !table || used >= table->size - table->size / 8;
}

int gmm__shared_reserve(struct gmm__shared_index *index, uint32_t more)
{
	return is_full(atomic_load(&index->table), index->used + more) ? grow(index, index->live + more) : 0;
}

int gmm__shared_put(struct gmm__shared_index *index, uint32_t fingerprint, gmm__page_id page)
{
	struct gmm__shared_table *table = atomic_load(&index->table);

	if (is_full(table, index->used)) {
		int rc = grow(index, index->live);
		if (rc != 0)
			return rc;
		table = atomic_load(&index->table);
	}
	insert(table, (uint64_t)fingerprint << 32 | page);
	index->used++;
	index->live++;
	return 0;
}

bool gmm__shared_remove(struct gmm__shared_index *index, uint32_t fingerprint, gmm__page_id page)
{
	struct gmm__shared_table *table = atomic_load(&index->table);
	uint64_t wanted = (uint64_t)fingerprint << 32 | page;

	if (!table)
		return false;
	for (uint32_t i = home(table, fingerprint);; i = next(table, i)) {
		uint64_t slot = atomic_load_explicit(&table->slot[i], memory_order_relaxed);
		if (!slot)
			return false;
		if (slot == wanted) {
			atomic_store_explicit(&table->slot[i], (uint64_t)fingerprint << 32, memory_order_release);
			index->live--;
			return true;
		}
	}
}

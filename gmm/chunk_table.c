/* Chunk id → owner: a two-level table read without locks. */
#include "gmm/chunk_table.h"

#include <stdatomic.h>

/* Kinds of owners. */
enum { TAG_CHUNK, TAG_SLOT, TAG_PRIVATE, TAG_MASK = 3 };

enum { LEAF_BYTES = GMM__LEAF_CHUNKS * sizeof(uintptr_t) };

void gmm__chunk_table_init(struct gmm__chunk_table *table, struct gmm__mem *mem)
{
	*table = (struct gmm__chunk_table){ .mem = mem, .lowest = 1 };
	gmm__lock_init(&table->lock, GMM__RANK_CHUNK_TABLE);
}

void gmm__chunk_table_destroy(struct gmm__chunk_table *table)
{
	for (uint32_t i = 0; i < GMM__LEAVES; i++)
		gmm__mem_free(table->mem, table->leaf[i], LEAF_BYTES);
	gmm__lock_destroy(&table->lock);
}

static uintptr_t owner_of(const struct gmm__chunk_table *table, gmm__chunk_id id)
{
	_Atomic(uintptr_t) *leaf = id <= GMM__CHUNK_ID_MAX ?
		__atomic_load_n(&table->leaf[id / GMM__LEAF_CHUNKS], __ATOMIC_ACQUIRE) : NULL;

	return leaf ? atomic_load_explicit(&leaf[id % GMM__LEAF_CHUNKS], memory_order_acquire) : 0;
}

/* First of `count` unused ids at or after the lowest, or NIL. */
static gmm__chunk_id find_unused(const struct gmm__chunk_table *table, uint32_t count)
{
	uint32_t found = 0;

	for (gmm__chunk_id id = table->lowest; id <= GMM__CHUNK_ID_MAX; id++) {
		found = owner_of(table, id) ? 0 : found + 1;
		if (found == count)
			return id - count + 1;
	}
	return GMM__NIL;
}

static int add_leaves(struct gmm__chunk_table *table, gmm__chunk_id first, uint32_t count)
{
	for (uint32_t i = first / GMM__LEAF_CHUNKS; i <= (first + count - 1) / GMM__LEAF_CHUNKS; i++) {
		if (table->leaf[i])
			continue;
		void *leaf = gmm__mem_alloc(table->mem, LEAF_BYTES);
		if (!leaf)
			return -1;
		__atomic_store_n(&table->leaf[i], leaf, __ATOMIC_RELEASE);
	}
	return 0;
}

static bool take(struct gmm__chunk_table *table, uint32_t count, uintptr_t owner, gmm__chunk_id *ret_first)
{
	gmm__lock_take(&table->lock);
	gmm__chunk_id first = find_unused(table, count);
	bool ok = first != GMM__NIL && add_leaves(table, first, count) == 0;
	if (ok) {
		*ret_first = first;
		for (gmm__chunk_id id = first; id < first + count; id++)
			atomic_store_explicit(&table->leaf[id / GMM__LEAF_CHUNKS][id % GMM__LEAF_CHUNKS], owner,
					      memory_order_release);
		if (first == table->lowest)
			table->lowest = first + count;
	}
	gmm__lock_give(&table->lock);
	return ok;
}

bool gmm__chunk_table_take_slot(struct gmm__chunk_table *table, uint32_t count, struct gmm__slot *owner,
				gmm__chunk_id *ret_first)
{
	return take(table, count, (uintptr_t)owner | TAG_SLOT, ret_first);
}

bool gmm__chunk_table_take_chunk(struct gmm__chunk_table *table, struct gmm__chunk *owner, gmm__chunk_id *ret_id)
{
	return take(table, 1, (uintptr_t)owner, ret_id);
}

bool gmm__chunk_table_put_chunk(struct gmm__chunk_table *table, gmm__chunk_id id, struct gmm__chunk *owner)
{
	gmm__lock_take(&table->lock);
	bool ok = id != GMM__NIL && id <= GMM__CHUNK_ID_MAX && !owner_of(table, id) && add_leaves(table, id, 1) == 0;
	if (ok)
		atomic_store_explicit(&table->leaf[id / GMM__LEAF_CHUNKS][id % GMM__LEAF_CHUNKS], (uintptr_t)owner,
				      memory_order_release);
	gmm__lock_give(&table->lock);
	return ok;
}

bool gmm__chunk_table_take_private(struct gmm__chunk_table *table, struct gmm__private_chunk *owner,
				   gmm__chunk_id *ret_id)
{
	return take(table, 1, (uintptr_t)owner | TAG_PRIVATE, ret_id);
}

void gmm__chunk_table_give(struct gmm__chunk_table *table, gmm__chunk_id first, uint32_t count)
{
	gmm__lock_take(&table->lock);
	for (gmm__chunk_id id = first; id < first + count; id++)
		atomic_store_explicit(&table->leaf[id / GMM__LEAF_CHUNKS][id % GMM__LEAF_CHUNKS], 0,
				      memory_order_release);
	if (first < table->lowest)
		table->lowest = first;
	gmm__lock_give(&table->lock);
}

/* The owner when it is of this kind. */
static void *owner_of_kind(const struct gmm__chunk_table *table, gmm__chunk_id id, uintptr_t tag)
{
	uintptr_t owner = owner_of(table, id);

	return (owner & TAG_MASK) == tag ? (void *)(owner & ~(uintptr_t)TAG_MASK) : NULL;
}

struct gmm__slot *gmm__chunk_table_slot(const struct gmm__chunk_table *table, gmm__chunk_id id)
{
	return owner_of_kind(table, id, TAG_SLOT);
}

struct gmm__chunk *gmm__chunk_table_chunk(const struct gmm__chunk_table *table, gmm__chunk_id id)
{
	return owner_of_kind(table, id, TAG_CHUNK);
}

struct gmm__private_chunk *gmm__chunk_table_private(const struct gmm__chunk_table *table, gmm__chunk_id id)
{
	return owner_of_kind(table, id, TAG_PRIVATE);
}

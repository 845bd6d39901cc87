/* Lists of chunks by free count; see pool_lists.h. */
#include "gmm/pool_lists.h"

/* 1 to 16 free pages are list 0; 512 the last. */
static uint32_t list_of(uint32_t free)
{
	return free == GMM__CHUNK_PAGES ? GMM__POOL_LISTS - 1 : (free - 1) / 16;
}

static void link_chunk(struct gmm__pool *pool, struct gmm__chunk *chunk)
{
	uint32_t list = list_of(chunk->free);

	chunk->previous_free = NULL;
	chunk->next_free = pool->list[list];
	if (chunk->next_free)
		chunk->next_free->previous_free = chunk;
	pool->list[list] = chunk;
	pool->not_empty |= 1ull << list;
}

static void unlink_chunk(struct gmm__pool *pool, struct gmm__chunk *chunk)
{
	uint32_t list = list_of(chunk->free);

	*(chunk->previous_free ? &chunk->previous_free->next_free : &pool->list[list]) = chunk->next_free;
	if (chunk->next_free)
		chunk->next_free->previous_free = chunk->previous_free;
	if (!pool->list[list])
		pool->not_empty &= ~(1ull << list);
}

void gmm__pool_set_free(struct gmm__pool *pool, struct gmm__chunk *chunk, uint32_t free)
{
	uint32_t before = chunk->free;
	bool moves = !before || !free || list_of(before) != list_of(free);

	if (before && moves)
		unlink_chunk(pool, chunk);
	chunk->free = free;
	if (free && moves)
		link_chunk(pool, chunk);
	pool->free_pages += free;
	pool->free_pages -= before;
}

static struct gmm__chunk *first_from(const struct gmm__pool *pool, uint32_t list)
{
	uint64_t lists = list < GMM__POOL_LISTS ? pool->not_empty >> list << list : 0;

	return lists ? pool->list[__builtin_ctzll(lists)] : NULL;
}

struct gmm__chunk *gmm__pool_first_with(const struct gmm__pool *pool, uint32_t want)
{
	return first_from(pool, list_of(want));
}

struct gmm__chunk *gmm__pool_next_with(const struct gmm__pool *pool, const struct gmm__chunk *chunk)
{
	return chunk->next_free ? chunk->next_free : first_from(pool, list_of(chunk->free) + 1);
}

const char *gmm__pool_lists_validate(const struct gmm__pool *pool)
{
	uint32_t listed = 0, with_free = 0;

	for (uint32_t c = 0; c < pool->n_chunks; c++)
		with_free += pool->chunks[c] && pool->chunks[c]->free > 0;
	for (uint32_t list = 0; list < GMM__POOL_LISTS; list++) {
		if (!pool->list[list] != !(pool->not_empty >> list & 1))
			return "INV-4: a pool forgot which lists are empty";
		for (const struct gmm__chunk *c = pool->list[list]; c; c = c->next_free, listed++)
			if (!c->free || list_of(c->free) != list || listed > with_free)
				return "INV-4: a shared chunk is in a list of another free count";
	}
	return listed == with_free ? NULL : "INV-4: a shared chunk with free pages is in no list";
}

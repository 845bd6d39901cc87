/* Blocks of memory and the places in them. */
#include "gmm/arena.h"

#include <string.h>
#include <sys/mman.h>

#define BLOCK_BYTES (GMM__BLOCK_CHUNKS * GMM__CHUNK_BYTES)
#define MAP_BYTES (BLOCK_BYTES + GMM__CHUNK_BYTES) /* so that 2 MiB alignment fits */

void gmm__arena_init(struct gmm__arena *arena, struct gmm__mem *mem)
{
	int nodes = mem->sys->numa_nodes();

	*arena = (struct gmm__arena){ .mem = mem };
	arena->nodes = nodes < 1 ? 1 : nodes > GMM__NODES_MAX ? GMM__NODES_MAX : (uint32_t)nodes;
	gmm__lock_init(&arena->lock, GMM__RANK_ARENA);
}

void gmm__arena_destroy(struct gmm__arena *arena)
{
	while (arena->blocks) {
		struct gmm__block *block = arena->blocks;
		arena->blocks = block->next;
		arena->mem->sys->unmap(block->mapping, MAP_BYTES);
		gmm__mem_free(arena->mem, block, sizeof *block);
	}
	gmm__lock_destroy(&arena->lock);
}

/* Advice only makes memory better; a refusal costs nothing but that. */
static void advise(struct gmm__arena *arena, uint8_t *start, uint32_t node, enum gmm__place_kind kind)
{
	const struct gmm__sys *sys = arena->mem->sys;

	sys->advise(start, BLOCK_BYTES, kind == GMM__PLACE_LARGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	sys->advise(start, BLOCK_BYTES, MADV_DONTFORK);
	if (arena->nodes > 1)
		gmm__mem_prefer_node(arena->mem, start, BLOCK_BYTES, node);
}

static struct gmm__block *new_block(struct gmm__arena *arena, uint32_t node, enum gmm__place_kind kind)
{
	struct gmm__block *block = gmm__mem_alloc(arena->mem, sizeof *block);

	if (!block)
		return NULL;
	intptr_t mapping = arena->mem->sys->map(NULL, MAP_BYTES, PROT_READ | PROT_WRITE,
						MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (gmm__is_errno(mapping)) {
		gmm__mem_free(arena->mem, block, sizeof *block);
		return NULL;
	}
	block->mapping = (void *)mapping;
	block->start = (uint8_t *)(((uintptr_t)mapping + GMM__CHUNK_BYTES - 1) & ~(uintptr_t)(GMM__CHUNK_BYTES - 1));
	block->node = node;
	block->kind = kind;
	for (uint32_t i = GMM__BLOCK_CHUNKS; i > 0; i--)
		block->free[block->n_free++] = (uint16_t)(i - 1);
	advise(arena, block->start, node, kind);
	return block;
}

/* With the lock. */
static bool pop_place(struct gmm__arena *arena, uint32_t node, enum gmm__place_kind kind, struct gmm__place *ret_place)
{
	struct gmm__block **first = &arena->with_places[node][kind], *block = *first;

	if (!block)
		return false;
	ret_place->block = block;
	ret_place->bytes = block->start + block->free[--block->n_free] * GMM__CHUNK_BYTES;
	if (block->n_free == 0)
		*first = block->next_free;
	return true;
}

/* Two threads that find no place may both map a block; the other one's serves later. */
bool gmm__arena_take(struct gmm__arena *arena, uint32_t node, enum gmm__place_kind kind, struct gmm__place *ret_place)
{
	gmm__lock_take(&arena->lock);
	bool found = pop_place(arena, node, kind, ret_place);
	gmm__lock_give(&arena->lock);
	if (found)
		return true;
	struct gmm__block *block = new_block(arena, node, kind);
	if (!block)
		return false;
	gmm__lock_take(&arena->lock);
	block->next = arena->blocks;
	arena->blocks = block;
	block->next_free = arena->with_places[node][kind];
	arena->with_places[node][kind] = block;
	pop_place(arena, node, kind, ret_place);
	gmm__lock_give(&arena->lock);
	return true;
}

void gmm__arena_give(struct gmm__arena *arena, struct gmm__place place)
{
	struct gmm__block *block = place.block;

	if (arena->mem->sys->advise(place.bytes, GMM__CHUNK_BYTES, MADV_DONTNEED) != 0)
		memset(place.bytes, 0, GMM__CHUNK_BYTES);
	gmm__lock_take(&arena->lock);
	if (block->n_free == 0) {
		block->next_free = arena->with_places[block->node][block->kind];
		arena->with_places[block->node][block->kind] = block;
	}
	block->free[block->n_free++] = (uint16_t)((size_t)(place.bytes - block->start) / GMM__CHUNK_BYTES);
	gmm__lock_give(&arena->lock);
}

/* Memory for chunks of private pages.
 *
 * Chunks lie side by side in large anonymous mappings (blocks), so that any number of them needs few mappings. What a
 * chunk's pages used goes back to the host when the chunk does; its place is kept and given out again first. A block
 * serves one NUMA node and one kind of page: large ones ask for transparent huge pages, the others refuse them, since
 * a guest that touched one page would pay for 512. Blocks are unmapped only when the instance ends: whoever looks at a
 * page by its id under RCU may read stale bytes, but never faults.
 *
 * Children of fork do not get this memory.
 *
 * Threads: any; the lock is not held over calls of the host.
 */
#ifndef GMM_ARENA_H
#define GMM_ARENA_H

#include "gmm/ids.h"
#include "gmm/lock.h"
#include "gmm/mem.h"

enum { GMM__BLOCK_CHUNKS = 512 };

enum gmm__place_kind { GMM__PLACE_SMALL, GMM__PLACE_LARGE, GMM__PLACE_KINDS };

struct gmm__block {
	struct gmm__block *next;         /* of all */
	struct gmm__block *next_free;    /* of those of its class with free places */
	void *mapping;
	uint8_t *start;
	uint32_t node;
	enum gmm__place_kind kind;
	uint32_t n_free;
	uint16_t free[GMM__BLOCK_CHUNKS]; /* a stack of places */
};

struct gmm__arena {
	struct gmm__mem *mem;
	uint32_t nodes;          /* NUMA nodes, at most GMM__NODES_MAX; fixed */
	struct gmm__lock lock;   /* guards what follows and the blocks */
	struct gmm__block *blocks;
	struct gmm__block *with_places[GMM__NODES_MAX][GMM__PLACE_KINDS];
};

struct gmm__place {
	uint8_t *bytes;
	struct gmm__block *block; /* NULL: the memory is the embedder's */
};

void gmm__arena_init(struct gmm__arena *arena, struct gmm__mem *mem);
/* All places must have been given back. */
void gmm__arena_destroy(struct gmm__arena *arena);

/* 2 MiB of zero memory, aligned, preferably on `node` (< nodes). False when the host refuses. */
bool gmm__arena_take(struct gmm__arena *arena, uint32_t node, enum gmm__place_kind kind, struct gmm__place *ret_place);

/* Gives the memory to the host and keeps the place. When the host cannot take it, its bytes are zeroed here. */
void gmm__arena_give(struct gmm__arena *arena, struct gmm__place place);

#endif

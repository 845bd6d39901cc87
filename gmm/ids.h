/* Chunk ids and page ids.
 *
 * A chunk is 2 MiB of backing memory, 512 pages. page id = chunk id << 9 | index in the chunk; id 0 is NIL for
 * both. Ids are unique in an instance, across trust domains. A chunk is either shared (a part of a pool's file)
 * or seeded (a part of a mapped VM's RAM slot, whose pages serve only that VM).
 */
#ifndef GMM_IDS_H
#define GMM_IDS_H

#include <stdint.h>

enum {
	GMM__PAGE_BYTES = 4096,
	GMM__CHUNK_SHIFT = 9,
	GMM__CHUNK_PAGES = 1 << GMM__CHUNK_SHIFT,
	GMM__CHUNK_ID_MAX = 0x7fffff,
	GMM__NIL = 0,
};

#define GMM__CHUNK_BYTES ((uint64_t)GMM__CHUNK_PAGES * GMM__PAGE_BYTES)

typedef uint32_t gmm__page_id;
typedef uint32_t gmm__chunk_id;

static inline gmm__chunk_id gmm__page_chunk(gmm__page_id page)
{
	return page >> GMM__CHUNK_SHIFT;
}

static inline uint32_t gmm__page_index(gmm__page_id page)
{
	return page & (GMM__CHUNK_PAGES - 1);
}

/* True if b lies right behind a, so that one mapping can hold both. Consecutive chunk ids say nothing about where the
 * chunks lie in their files, hence only within a chunk. */
static inline int gmm__page_follows(gmm__page_id a, gmm__page_id b)
{
	return b == a + 1 && gmm__page_index(b) != 0;
}

static inline gmm__page_id gmm__page_make(gmm__chunk_id chunk, uint32_t index)
{
	return chunk << GMM__CHUNK_SHIFT | index;
}

#endif

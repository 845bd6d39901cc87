/* The chunks of a pool that have free pages, in lists by how many: 16 counts a list, and one for wholly free chunks. Whoever looks
 * for a free page begins with the fullest, so that others become empty, and looks at a bounded number of chunks however
 * large the pool is. With the pool's lock.
 *
 *   a chunk with free pages is in the list of its free count, any other in none
 */
#ifndef GMM_POOL_LISTS_H
#define GMM_POOL_LISTS_H

#include "gmm/pool.h"

/* The chunk's free pages become `free`. */
void gmm__pool_set_free(struct gmm__pool *pool, struct gmm__chunk *chunk, uint32_t free);

/* Chunks that may have `want` free pages or more, fullest first: the first, and what follows. NULL at the end. */
struct gmm__chunk *gmm__pool_first_with(const struct gmm__pool *pool, uint32_t want);
struct gmm__chunk *gmm__pool_next_with(const struct gmm__pool *pool, const struct gmm__chunk *chunk);

/* NULL or the broken rule. */
const char *gmm__pool_lists_validate(const struct gmm__pool *pool);

#endif

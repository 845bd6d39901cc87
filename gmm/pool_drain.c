/* The pool gives chunks back: chooses which to empty, and lets go of empty ones. */
#include <urcu/urcu-bp.h>

#include "gmm/pool_lists.h"

enum { PASS_OVER = 16 };

/* The chunk with the fewest pages in use that is not chosen yet; one without any is not worth it. With the lock. */
static struct gmm__chunk *sparsest(const struct gmm__pool *pool)
{
	struct gmm__chunk *best = NULL;

	for (uint32_t c = 0; c < pool->n_chunks; c++) {
		struct gmm__chunk *chunk = pool->chunks[c];
		if (chunk && chunk->used && !chunk->draining && !chunk->passed_over && (!best || chunk->used < best->used))
			best = chunk;
	}
	return best;
}

/* Free slots outside of chunks that are being drained. With the lock. */
static uint64_t open_pages(const struct gmm__pool *pool)
{
	uint64_t pages = 0;

	for (uint32_t c = 0; c < pool->n_chunks; c++)
		if (pool->chunks[c] && !pool->chunks[c]->draining)
			pages += pool->chunks[c]->free;
	return pages;
}

uint32_t gmm__pool_drain(struct gmm__pool *pool, uint32_t max_pages, uint32_t max_chunks, gmm__chunk_id *ret_chunk)
{
	struct gmm__chunk *chunk;
	uint32_t n = 0;

	gmm__lock_take(&pool->lock);
	for (uint32_t c = 0; c < pool->n_chunks; c++)
		if (pool->chunks[c] && pool->chunks[c]->passed_over)
			pool->chunks[c]->passed_over--;
	uint64_t room = open_pages(pool), pages = 0;
	while (n < max_chunks && (chunk = sparsest(pool)) != NULL) {
		room -= chunk->free;
		pages += chunk->used;
		if (pages > room || pages > max_pages)
			break;
		chunk->draining = true;
		chunk->drained = chunk->used;
		ret_chunk[n++] = chunk->id;
	}
	gmm__lock_give(&pool->lock);
	return n;
}

void gmm__pool_drain_end(struct gmm__pool *pool)
{
	gmm__lock_take(&pool->lock);
	for (uint32_t c = 0; c < pool->n_chunks; c++) {
		struct gmm__chunk *chunk = pool->chunks[c];
		if (!chunk || !chunk->used)
			continue;
		if (chunk->draining && chunk->used >= chunk->drained)
			chunk->passed_over = PASS_OVER;
		chunk->draining = false;
	}
	gmm__lock_give(&pool->lock);
}

void gmm__pool_drain_anew(struct gmm__pool *pool)
{
	gmm__lock_take(&pool->lock);
	for (uint32_t c = 0; c < pool->n_chunks; c++)
		if (pool->chunks[c])
			pool->chunks[c]->passed_over = 0;
	gmm__lock_give(&pool->lock);
}

/* Closes a chunk of which all is free, so that nobody finds a slot in it: -1 when there is none. With the lock. */
static int64_t close_empty(struct gmm__pool *pool)
{
	uint32_t empty = 0;

	for (uint32_t c = 0; c < pool->n_chunks; c++) {
		struct gmm__chunk *chunk = pool->chunks[c];
		if (!chunk || chunk->free < GMM__CHUNK_PAGES || (!chunk->draining && empty++ == 0))
			continue;
		for (uint32_t i = 0; i < GMM__CHUNK_PAGES; i++) {
			chunk->record[i].state = GMM__SLOT_HELD;
			if (pool->generation < chunk->record[i].generation)
				pool->generation = chunk->record[i].generation;
		}
		gmm__pool_set_free(pool, chunk, 0);
		return c;
	}
	return -1;
}

uint32_t gmm__pool_trim(struct gmm__pool *pool)
{
	const struct gmm__sys *sys = pool->mem->sys;
	uint32_t n = 0;
	int64_t place;

	if (pool->store || pool->mirror)
		return 0;
	gmm__lock_take(&pool->lock);
	while ((place = close_empty(pool)) >= 0) {
		struct gmm__chunk *chunk = pool->chunks[place];
		int fd = pool->files[chunk->file].fd;
		gmm__lock_give(&pool->lock);
		/* Pages are punched as they go; this gets those of which a part was written, or whose punch failed. */
		int rc = sys->file_punch(fd, chunk->file_chunk * GMM__CHUNK_BYTES, GMM__CHUNK_BYTES);
		gmm__lock_take(&pool->lock);
		pool->punch_failures += rc != 0;
		pool->chunks[place] = NULL;
		pool->live_chunks--;
		gmm__chunk_table_give(pool->table, chunk->id, 1);
		gmm__lock_give(&pool->lock);
		urcu_bp_synchronize_rcu(); /* INV-5: who holds on to the id may still look */
		gmm__mem_free(pool->mem, chunk, sizeof *chunk);
		n++;
		gmm__lock_take(&pool->lock);
	}
	gmm__lock_give(&pool->lock);
	return n;
}

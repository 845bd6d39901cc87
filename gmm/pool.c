/* The pool: shared chunks, references and covers. gmm/pool.h says how a slot lives. */
#include "gmm/pool.h"
#include "gmm/pool_lists.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <urcu/urcu-bp.h>

#define FILE_BYTES (GMM__FILE_CHUNKS * GMM__CHUNK_BYTES)

enum { FILES_MAX = 256, CHUNKS_STEP = 256, SEARCH_CHUNKS = 64 };

void gmm__pool_init(struct gmm__pool *pool, struct gmm__mem *mem, struct gmm__chunk_table *table,
		    gmm__pool_gone_fn *gone, void *gone_arg)
{
	*pool = (struct gmm__pool){ .mem = mem, .table = table, .gone = gone, .gone_arg = gone_arg,
				    .node = -1 };
	gmm__lock_init(&pool->lock, GMM__RANK_POOL);
}

void gmm__pool_destroy(struct gmm__pool *pool)
{
	const struct gmm__sys *sys = pool->mem->sys;

	for (uint32_t i = 0; i < pool->n_chunks; i++)
		if (pool->chunks[i])
			gmm__chunk_table_give(pool->table, pool->chunks[i]->id, 1);
	if (pool->n_chunks || pool->spare)
		urcu_bp_synchronize_rcu(); /* whoever asks another pool for an old id may look at ours (INV-5) */
	for (uint32_t i = 0; i < pool->n_chunks; i++)
		if (pool->chunks[i])
			gmm__mem_free(pool->mem, pool->chunks[i], sizeof *pool->chunks[i]);
	if (pool->spare)
		gmm__mem_free(pool->mem, pool->spare, sizeof *pool->spare);
	gmm__mem_free(pool->mem, pool->chunks, pool->chunks_size * sizeof *pool->chunks);
	for (uint32_t i = 0; i < pool->n_files; i++) {
		if (!pool->files[i].bytes)
			continue;
		sys->unmap((void *)pool->files[i].bytes, FILE_BYTES);
		sys->file_close(pool->files[i].fd);
	}
	gmm__mem_free(pool->mem, pool->files, FILES_MAX * sizeof *pool->files);
	if (pool->committed)
		*pool->committed -= pool->used_pages;
	gmm__lock_destroy(&pool->lock);
}

/* ---- growth ---------------------------------------------------------------------------------------------- */

/* Takes over the descriptor of file `number`, to be read here; closes it on failure. */
static int map_file(struct gmm__pool *pool, uint32_t number, int fd)
{
	const struct gmm__sys *sys = pool->mem->sys;

	if (!pool->files)
		pool->files = gmm__mem_alloc(pool->mem, FILES_MAX * sizeof *pool->files);
	intptr_t bytes = pool->files ? sys->map(NULL, FILE_BYTES, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0) : -ENOMEM;
	if (gmm__is_errno(bytes)) {
		sys->file_close(fd);
		return -ENOMEM;
	}
	sys->advise((void *)bytes, FILE_BYTES, MADV_DONTFORK);
	sys->advise((void *)bytes, FILE_BYTES, MADV_DONTDUMP);
	if (pool->node >= 0)
		gmm__mem_prefer_node(pool->mem, (void *)bytes, FILE_BYTES, (uint32_t)pool->node);
	pool->files[number] = (struct gmm__pool_file){ .fd = fd, .bytes = (const uint8_t *)bytes };
	if (number >= pool->n_files)
		pool->n_files = number + 1;
	return 0;
}

static struct gmm__pool_file *add_file(struct gmm__pool *pool)
{
	uint32_t number = pool->n_files;
	int fd = -ENFILE;

	if (number < FILES_MAX)
		fd = pool->store ? pool->store->file_open(pool->store_arg, number) : pool->mem->sys->file_create("gmm-pool");
	return fd >= 0 && map_file(pool, number, fd) == 0 ? &pool->files[number] : NULL;
}

static bool chunks_have_room(struct gmm__pool *pool)
{
	if (pool->n_chunks < pool->chunks_size)
		return true;
	uint32_t size = pool->chunks_size ? pool->chunks_size * 2 : CHUNKS_STEP;
	struct gmm__chunk **chunks = gmm__mem_alloc(pool->mem, size * sizeof *chunks);
	if (!chunks)
		return false;
	if (pool->n_chunks)
		memcpy(chunks, pool->chunks, pool->n_chunks * sizeof *chunks);
	gmm__mem_free(pool->mem, pool->chunks, pool->chunks_size * sizeof *chunks);
	pool->chunks = chunks;
	pool->chunks_size = size;
	return true;
}

/* The lowest place without a chunk; n_chunks when there is none. */
static uint32_t vacant_place(const struct gmm__pool *pool)
{
	uint32_t place = pool->live_chunks < pool->n_chunks ? 0 : pool->n_chunks;

	while (place < pool->n_chunks && pool->chunks[place])
		place++;
	return place;
}

/* The file has room for the place's chunk. One that is restored has its bytes there: setting the size would cut off those
 * of the chunks behind it. */
static bool place_is_ready(struct gmm__pool *pool, uint32_t place, bool restored)
{
	if (place < pool->n_chunks)
		return true;
	if (!chunks_have_room(pool) || (place / GMM__FILE_CHUNKS == pool->n_files && !add_file(pool)))
		return false;
	struct gmm__pool_file *file = &pool->files[pool->n_files - 1];
	return restored || pool->mem->sys->file_resize(file->fd, (file->chunks + 1) * GMM__CHUNK_BYTES) == 0;
}

/* Gives the chunk its id: `wanted`, or with NIL any. False when ids or memory ran out or the store refuses. */
static bool name_chunk(struct gmm__pool *pool, struct gmm__chunk *chunk, uint32_t place, gmm__chunk_id wanted)
{
	if (wanted != GMM__NIL) {
		chunk->id = wanted;
		return gmm__chunk_table_put_chunk(pool->table, wanted, chunk);
	}
	if (!gmm__chunk_table_take_chunk(pool->table, chunk, &chunk->id))
		return false;
	if (!pool->store || pool->store->chunk_added(pool->store_arg, place, chunk->id) == 0)
		return true;
	gmm__chunk_table_give(pool->table, chunk->id, 1);
	return false;
}

/* Adds a chunk of free pages. Returns false, with nothing changed but a spare file, when the host cannot. */
static bool add_chunk(struct gmm__pool *pool, gmm__chunk_id wanted, uint32_t *ret_place)
{
	uint32_t place = vacant_place(pool);

	if (!place_is_ready(pool, place, wanted != GMM__NIL))
		return false;
	struct gmm__chunk *chunk = pool->spare ? pool->spare : gmm__mem_alloc(pool->mem, sizeof *chunk);
	if (!chunk)
		return false;
	pool->spare = NULL;
	chunk->pool = pool;
	chunk->file = place / GMM__FILE_CHUNKS;
	chunk->file_chunk = place % GMM__FILE_CHUNKS;
	for (uint32_t i = 0; i < GMM__CHUNK_PAGES; i++)
		chunk->record[i].generation = pool->generation & 0x3fff;
	if (!name_chunk(pool, chunk, place, wanted)) {
		pool->spare = chunk; /* its id may have been seen, and nobody may wait for readers with the lock */
		return false;
	}
	if (place == pool->n_chunks) {
		pool->files[chunk->file].chunks++;
		pool->n_chunks++;
	}
	pool->chunks[place] = chunk;
	pool->live_chunks++;
	gmm__pool_set_free(pool, chunk, GMM__CHUNK_PAGES);
	*ret_place = place;
	return true;
}

/* With the lock. */
static void count_used(struct gmm__pool *pool, int64_t pages)
{
	pool->used_pages += (uint64_t)pages;
	if (pool->committed)
		*pool->committed += (uint64_t)pages;
}

bool gmm__pool_restore_chunk(struct gmm__pool *pool, gmm__chunk_id id)
{
	uint32_t place;

	gmm__lock_take(&pool->lock);
	bool ok = add_chunk(pool, id, &place);
	if (ok) {
		struct gmm__chunk *chunk = pool->chunks[place];
		for (uint32_t i = 0; i < GMM__CHUNK_PAGES; i++)
			chunk->record[i] = (struct gmm__record){ .references = 1, .state = GMM__SLOT_SHARED };
		gmm__pool_set_free(pool, chunk, 0);
		chunk->used = GMM__CHUNK_PAGES;
		count_used(pool, GMM__CHUNK_PAGES);
		pool->references += GMM__CHUNK_PAGES;
	}
	gmm__lock_give(&pool->lock);
	return ok;
}

/* ---- a pool of another process ------------------------------------------------------------------------------ */

void gmm__pool_mirror_init(struct gmm__pool *pool, struct gmm__mem *mem, struct gmm__chunk_table *table)
{
	gmm__pool_init(pool, mem, table, NULL, NULL);
	pool->mirror = true;
}

bool gmm__pool_mirror_has_file(const struct gmm__pool *pool, uint32_t number)
{
	return number < pool->n_files && pool->files[number].bytes;
}

int gmm__pool_mirror_file(struct gmm__pool *pool, uint32_t number, int fd)
{
	int rc = number >= FILES_MAX ? -EINVAL : gmm__pool_mirror_has_file(pool, number) ? -EEXIST : 0;

	if (rc == 0)
		return map_file(pool, number, fd);
	pool->mem->sys->file_close(fd);
	return rc;
}

int gmm__pool_mirror_chunk(struct gmm__pool *pool, gmm__chunk_id id, uint32_t file, uint32_t file_chunk)
{
	if (!gmm__pool_mirror_has_file(pool, file) || file_chunk >= GMM__FILE_CHUNKS)
		return -EINVAL;
	struct gmm__chunk *chunk = chunks_have_room(pool) ? gmm__mem_alloc(pool->mem, sizeof *chunk) : NULL;
	if (!chunk)
		return -ENOMEM;
	chunk->id = id;
	chunk->pool = pool;
	chunk->file = file;
	chunk->file_chunk = file_chunk;
	if (!gmm__chunk_table_put_chunk(pool->table, id, chunk)) {
		gmm__mem_free(pool->mem, chunk, sizeof *chunk);
		return -EINVAL;
	}
	pool->chunks[pool->n_chunks++] = chunk;
	return 0;
}

/* ---- giving out slots ------------------------------------------------------------------------------------ */

/* Free slots in a row from `page` on, at most `want`. */
static uint32_t free_span(const struct gmm__chunk *chunk, uint32_t page, uint32_t want)
{
	uint32_t n = 0;

	while (n < want && page + n < GMM__CHUNK_PAGES && chunk->record[page + n].state == GMM__SLOT_FREE)
		n++;
	return n;
}

/* Another cursor goes on in this chunk. */
static bool is_others(const struct gmm__pool *pool, const struct gmm__pool_cursor *own, uint32_t chunk)
{
	for (const struct gmm__pool_cursor *c = pool->cursor; own && c < pool->cursor + GMM__POOL_CURSORS; c++)
		if (c != own && c->chunk == chunk && c->page > 0 && c->page < GMM__CHUNK_PAGES)
			return true;
	return false;
}

static uint32_t place_of(const struct gmm__chunk *chunk)
{
	return chunk->file * GMM__FILE_CHUNKS + chunk->file_chunk;
}

/* The longest gap of up to `want` slots. */
static uint32_t gap_in(const struct gmm__chunk *chunk, uint32_t want, uint32_t *ret_page)
{
	uint32_t best = 0;

	for (uint32_t page = 0; page < GMM__CHUNK_PAGES && best < want; page++) {
		uint32_t n = free_span(chunk, page, want);
		if (n > best)
			best = n, *ret_page = page;
		page += n;
	}
	return best;
}

/* Looks through the first SEARCH_CHUNKS chunks that may have room, fullest first, so that a large and fragmented pool does not
 * make every search long. */
static uint32_t search_chunks(const struct gmm__pool *pool, const struct gmm__pool_cursor *own, uint32_t want,
			      uint32_t room, uint32_t *ret_chunk, uint32_t *ret_page)
{
	uint32_t best = 0, searched = 0, page = 0;

	for (const struct gmm__chunk *chunk = gmm__pool_first_with(pool, room);
	     chunk && best < want && searched < SEARCH_CHUNKS; chunk = gmm__pool_next_with(pool, chunk)) {
		if (chunk->draining || chunk->free <= best || is_others(pool, own, place_of(chunk)))
			continue;
		searched++;
		uint32_t n = gap_in(chunk, want, &page);
		if (n > best)
			best = n, *ret_chunk = place_of(chunk), *ret_page = page;
	}
	return best;
}

/* Where the next reservation starts, as an index into chunks and a page; returns how many slots are free there. Without a gap
 * of `want` slots a chunk is added; without memory, any free slot will do. */
static uint32_t search_span(struct gmm__pool *pool, const struct gmm__pool_cursor *own, uint32_t want,
			    uint32_t *ret_chunk, uint32_t *ret_page)
{
	uint32_t n = search_chunks(pool, own, want, want, ret_chunk, ret_page);

	if (n == want)
		return n;
	if (!add_chunk(pool, GMM__NIL, ret_chunk))
		return search_chunks(pool, own, want, 1, ret_chunk, ret_page);
	*ret_page = 0;
	return want;
}

static uint32_t find_span(struct gmm__pool *pool, const struct gmm__pool_cursor *own, uint32_t want,
			  uint32_t *ret_chunk, uint32_t *ret_page)
{
	uint32_t n = search_span(pool, own, want, ret_chunk, ret_page);

	return n > 0 ? n : search_span(pool, NULL, want, ret_chunk, ret_page);
}

static uint32_t cursor_span(const struct gmm__pool *pool, const struct gmm__pool_cursor *own, uint32_t want,
			    uint32_t *ret_chunk, uint32_t *ret_page)
{
	uint32_t c = own->chunk, page = own->page;

	if (page == GMM__CHUNK_PAGES)
		c++, page = 0;
	if (c >= pool->n_chunks || !pool->chunks[c] || pool->chunks[c]->draining || (page == 0 && is_others(pool, own, c)))
		return 0;
	*ret_chunk = c;
	*ret_page = page;
	return free_span(pool->chunks[c], page, want);
}

/* Gives out free slots with one reference each. */
static gmm__page_id take_slots(struct gmm__pool *pool, struct gmm__chunk *chunk, uint32_t page, uint32_t n)
{
	for (uint32_t i = page; i < page + n; i++) {
		struct gmm__record *r = &chunk->record[i];
		*r = (struct gmm__record){ .references = 1, .state = GMM__SLOT_SHARED,
					   .generation = (r->generation + 1) & 0x3fff };
	}
	gmm__pool_set_free(pool, chunk, chunk->free - n);
	chunk->used += n;
	count_used(pool, (int64_t)n);
	pool->references += n;
	return gmm__page_make(chunk->id, page);
}

uint32_t gmm__pool_reserve(struct gmm__pool *pool, uint32_t want, gmm__page_id *ret_first)
{
	return gmm__pool_reserve_at(pool, 0, want, ret_first);
}

uint32_t gmm__pool_reserve_at(struct gmm__pool *pool, uint32_t cursor, uint32_t want, gmm__page_id *ret_first)
{
	struct gmm__pool_cursor *own = &pool->cursor[cursor % GMM__POOL_CURSORS];
	uint32_t c = 0, page = 0;

	if (pool->mirror)
		return 0;
	if (want > GMM__CHUNK_PAGES)
		want = GMM__CHUNK_PAGES;
	gmm__lock_take(&pool->lock);
	uint32_t n = cursor_span(pool, own, want, &c, &page);
	if (n == 0)
		n = find_span(pool, own, want, &c, &page);
	if (n > 0) {
		*ret_first = take_slots(pool, pool->chunks[c], page, n);
		*own = (struct gmm__pool_cursor){ c, page + n };
	}
	gmm__lock_give(&pool->lock);
	return n;
}

bool gmm__pool_reserve_row(struct gmm__pool *pool, uint32_t count, bool grow, gmm__page_id *ret_first)
{
	uint32_t c = 0, page = 0;

	if (pool->mirror)
		return false;
	gmm__lock_take(&pool->lock);
	bool found = search_chunks(pool, NULL, count, count, &c, &page) == count;
	if (!found && grow && add_chunk(pool, GMM__NIL, &c)) {
		found = true;
		page = 0;
	}
	if (found)
		*ret_first = take_slots(pool, pool->chunks[c], page, count);
	gmm__lock_give(&pool->lock);
	return found;
}

/* ---- pages ------------------------------------------------------------------------------------------------ */

static struct gmm__chunk *chunk_of(const struct gmm__pool *pool, gmm__page_id page)
{
	return gmm__chunk_table_chunk(pool->table, gmm__page_chunk(page));
}

const uint8_t *gmm__pool_bytes(const struct gmm__pool *pool, gmm__page_id page)
{
	const struct gmm__chunk *chunk = chunk_of(pool, page);

	return pool->files[chunk->file].bytes + chunk->file_chunk * GMM__CHUNK_BYTES +
	       (uint64_t)gmm__page_index(page) * GMM__PAGE_BYTES;
}

void gmm__pool_where(const struct gmm__pool *pool, gmm__page_id page, int *ret_fd, uint64_t *ret_offset)
{
	const struct gmm__chunk *chunk = chunk_of(pool, page);

	*ret_fd = pool->files[chunk->file].fd;
	*ret_offset = chunk->file_chunk * GMM__CHUNK_BYTES + (uint64_t)gmm__page_index(page) * GMM__PAGE_BYTES;
}

int gmm__pool_fill(struct gmm__pool *pool, gmm__page_id first, const struct iovec *parts, int n_parts)
{
	int fd;
	uint64_t offset;
	size_t size = 0;

	for (int i = 0; i < n_parts; i++)
		size += parts[i].iov_len;
	gmm__pool_where(pool, first, &fd, &offset);
	ssize_t n = pool->mem->sys->file_write(fd, parts, n_parts, offset);
	return n < 0 ? (int)n : (size_t)n == size ? 0 : -12; /* short: the file system is full, ENOMEM for tmpfs */
}

/* The record of a page that may be gone with its chunk; NULL unless it is one of this pool. With the lock, so that the
 * pool's own chunks stay; others are only looked at, inside an RCU section. */
static struct gmm__record *own_record(const struct gmm__pool *pool, gmm__page_id page)
{
	const struct gmm__chunk *chunk = chunk_of(pool, page);
	if (!chunk)
		return NULL;
	uint64_t place = (uint64_t)chunk->file * GMM__FILE_CHUNKS + chunk->file_chunk;
	return place < pool->n_chunks && pool->chunks[place] == chunk ?
	       &pool->chunks[place]->record[gmm__page_index(page)] : NULL;
}

uint32_t gmm__pool_ref(struct gmm__pool *pool, gmm__page_id first, uint32_t count)
{
	uint32_t n = 0;

	if (pool->mirror)
		return count;
	gmm__lock_take(&pool->lock);
	urcu_bp_read_lock(); /* whoever the id belongs to now */
	for (; n < count; n++) {
		struct gmm__record *r = own_record(pool, first + n);
		if (!r || r->state != GMM__SLOT_SHARED || r->references >= GMM__REFERENCES_MAX - 1)
			break;
		r->references++;
	}
	urcu_bp_read_unlock();
	pool->references += n;
	gmm__lock_give(&pool->lock);
	return n;
}

bool gmm__pool_transfer(struct gmm__pool *pool, gmm__page_id from, gmm__page_id to, uint32_t count)
{
	gmm__lock_take(&pool->lock);
	urcu_bp_read_lock();
	struct gmm__record *old = own_record(pool, from), *new = own_record(pool, to);
	bool fits = new->references < GMM__REFERENCES_MAX - 1 - count;
	if (fits) {
		old->references -= count;
		new->references += count;
	}
	urcu_bp_read_unlock();
	gmm__lock_give(&pool->lock);
	return fits;
}

bool gmm__pool_has(struct gmm__pool *pool, gmm__page_id page)
{
	gmm__lock_take(&pool->lock);
	urcu_bp_read_lock();
	bool has = own_record(pool, page) != NULL;
	urcu_bp_read_unlock();
	gmm__lock_give(&pool->lock);
	return has;
}

bool gmm__pool_ref_same(struct gmm__pool *pool, gmm__page_id page, uint32_t generation)
{
	urcu_bp_read_lock();
	gmm__lock_take(&pool->lock);
	struct gmm__record *r = own_record(pool, page);
	bool same = r && r->state == GMM__SLOT_SHARED && r->generation == generation &&
		    r->references < GMM__REFERENCES_MAX - 1;
	if (same) {
		r->references++;
		pool->references++;
	}
	gmm__lock_give(&pool->lock);
	urcu_bp_read_unlock();
	return same;
}

/* ---- dropping ---------------------------------------------------------------------------------------------- */

static bool is_deferred(const struct gmm__chunk *chunk, uint32_t page)
{
	return chunk->deferred[page / 64] >> page % 64 & 1;
}

static void set_free_if_uncovered(struct gmm__pool *pool, struct gmm__chunk *chunk, uint32_t page)
{
	struct gmm__record *r = &chunk->record[page];

	r->state = GMM__SLOT_HELD;
	if (r->broken > 0 || is_deferred(chunk, page))
		return;
	r->state = GMM__SLOT_FREE;
	gmm__pool_set_free(pool, chunk, chunk->free + 1);
}

/* Returns true when the page has to be punched now. */
static bool drop_one(struct gmm__pool *pool, struct gmm__chunk *chunk, uint32_t page, enum gmm__pool_drop how)
{
	struct gmm__record *r = &chunk->record[page];

	if (how == GMM__DROP_COVER) {
		if (r->broken < GMM__BROKEN_MAX)
			r->broken--;
		if (r->state == GMM__SLOT_HELD)
			set_free_if_uncovered(pool, chunk, page);
		return false;
	}
	if (how == GMM__DROP_BROKEN && r->broken < GMM__BROKEN_MAX)
		r->broken++;
	pool->references--;
	if (--r->references > 0)
		return false;
	r->state = GMM__SLOT_PUNCHING;
	chunk->used--;
	count_used(pool, -1);
	return true;
}

static void set_deferred(struct gmm__pool *pool, struct gmm__chunk *chunk, uint32_t page, uint32_t count)
{
	for (uint32_t i = page; i < page + count; i++) {
		chunk->deferred[i / 64] |= 1ull << i % 64;
		chunk->record[i].state = GMM__SLOT_HELD;
	}
	pool->deferred_pages += count;
}

/* Punches `count` consecutive pages of one chunk and lets go of the slots. */
static void punch(struct gmm__pool *pool, struct gmm__chunk *chunk, uint32_t page, uint32_t count)
{
	int fd;
	uint64_t offset;

	gmm__pool_where(pool, gmm__page_make(chunk->id, page), &fd, &offset);
	int rc = pool->mem->sys->file_punch(fd, offset, (uint64_t)count * GMM__PAGE_BYTES);

	/* If the host refuses, the memory comes back when the slot is used again or the pool ends. */
	gmm__lock_take(&pool->lock);
	pool->punch_failures += rc != 0;
	for (uint32_t i = page; i < page + count; i++)
		set_free_if_uncovered(pool, chunk, i);
	gmm__lock_give(&pool->lock);
}

/* The last references to `count` consecutive pages are gone. */
static void retire(struct gmm__pool *pool, struct gmm__chunk *chunk, uint32_t page, uint32_t count, bool filled)
{
	gmm__page_id first = gmm__page_make(chunk->id, page);

	for (uint32_t i = 0; filled && pool->gone && i < count; i++)
		pool->gone(pool->gone_arg, first + i, gmm__pool_bytes(pool, first + i));
	gmm__lock_take(&pool->lock);
	bool defer = pool->defer && filled;
	if (defer)
		set_deferred(pool, chunk, page, count);
	for (uint32_t i = page; !filled && i < page + count; i++)
		set_free_if_uncovered(pool, chunk, i);
	gmm__lock_give(&pool->lock);
	if (filled && !defer)
		punch(pool, chunk, page, count);
}

/* Calls `done` for each row of set bits. */
static void for_each_row(struct gmm__pool *pool, struct gmm__chunk *chunk, const uint64_t *bits, bool filled,
			 void (*done)(struct gmm__pool *, struct gmm__chunk *, uint32_t, uint32_t, bool))
{
	for (uint32_t i = 0; i < GMM__CHUNK_PAGES; i++) {
		uint32_t n = 0;
		while (i + n < GMM__CHUNK_PAGES && bits[(i + n) / 64] >> (i + n) % 64 & 1)
			n++;
		if (n > 0)
			done(pool, chunk, i, n, filled);
		i += n;
	}
}

/* All pages in one chunk. Between the two locked sections of a page only this thread knows it: it has no
 * reference, so nobody can take one, and it is not free. */
static void drop_in_chunk(struct gmm__pool *pool, struct gmm__chunk *chunk, uint32_t page, uint32_t count,
			  enum gmm__pool_drop how)
{
	uint64_t gone[GMM__CHUNK_PAGES / 64] = { 0 };
	bool any = false;

	gmm__lock_take(&pool->lock);
	for (uint32_t i = page; i < page + count; i++) {
		if (drop_one(pool, chunk, i, how)) {
			gone[i / 64] |= 1ull << i % 64;
			any = true;
		}
	}
	gmm__lock_give(&pool->lock);
	if (any)
		for_each_row(pool, chunk, gone, how != GMM__DROP_UNFILLED, retire);
}

void gmm__pool_defer(struct gmm__pool *pool)
{
	gmm__lock_take(&pool->lock);
	pool->defer = true;
	gmm__lock_give(&pool->lock);
}

static void release_row(struct gmm__pool *pool, struct gmm__chunk *chunk, uint32_t page, uint32_t count, bool filled)
{
	(void)filled;
	punch(pool, chunk, page, count);
}

void gmm__pool_release(struct gmm__pool *pool)
{
	gmm__lock_take(&pool->lock);
	pool->defer = false;
	for (uint32_t c = 0; pool->deferred_pages && c < pool->n_chunks; c++) {
		struct gmm__chunk *chunk = pool->chunks[c];
		uint64_t bits[GMM__CHUNK_PAGES / 64];
		if (!chunk)
			continue;
		memcpy(bits, chunk->deferred, sizeof bits);
		memset(chunk->deferred, 0, sizeof chunk->deferred);
		for (uint32_t i = 0; i < GMM__CHUNK_PAGES; i++) {
			if (bits[i / 64] >> i % 64 & 1) {
				chunk->record[i].state = GMM__SLOT_PUNCHING;
				pool->deferred_pages--;
			}
		}
		gmm__lock_give(&pool->lock);
		for_each_row(pool, chunk, bits, true, release_row);
		gmm__lock_take(&pool->lock);
	}
	gmm__lock_give(&pool->lock);
}

void gmm__pool_drop(struct gmm__pool *pool, gmm__page_id first, uint32_t count, enum gmm__pool_drop how)
{
	while (count > 0 && !pool->mirror) {
		uint32_t page = gmm__page_index(first);
		uint32_t n = GMM__CHUNK_PAGES - page < count ? GMM__CHUNK_PAGES - page : count;
		drop_in_chunk(pool, chunk_of(pool, first), page, n, how);
		first += n;
		count -= n;
	}
}

/* Takes the free pages of a chunk out of circulation while their file is punched. */
static void take_free(struct gmm__pool *pool, struct gmm__chunk *chunk, uint64_t *ret_bits)
{
	gmm__lock_take(&pool->lock);
	for (uint32_t i = 0; i < GMM__CHUNK_PAGES; i++) {
		if (chunk->record[i].state != GMM__SLOT_FREE)
			continue;
		chunk->record[i].state = GMM__SLOT_PUNCHING;
		gmm__pool_set_free(pool, chunk, chunk->free - 1);
		ret_bits[i / 64] |= 1ull << i % 64;
	}
	gmm__lock_give(&pool->lock);
}

void gmm__pool_sweep(struct gmm__pool *pool)
{
	for (uint32_t c = 0; c < pool->n_chunks; c++) {
		uint64_t bits[GMM__CHUNK_PAGES / 64] = { 0 };
		if (!pool->chunks[c])
			continue;
		take_free(pool, pool->chunks[c], bits);
		for_each_row(pool, pool->chunks[c], bits, true, release_row);
	}
}

/* ---- validation ---------------------------------------------------------------------------------------------- */

struct gmm__record gmm__pool_record(struct gmm__pool *pool, gmm__page_id page)
{
	struct gmm__record r = { 0 };

	gmm__lock_take(&pool->lock);
	urcu_bp_read_lock();
	const struct gmm__record *own = own_record(pool, page);
	if (own)
		r = *own;
	urcu_bp_read_unlock();
	gmm__lock_give(&pool->lock);
	return r;
}

const char *gmm__pool_validate(struct gmm__pool *pool)
{
	uint64_t free_pages = 0, used = 0, references = 0;
	const char *broken = NULL;

	if (pool->mirror)
		return NULL;
	gmm__lock_take(&pool->lock);
	for (uint32_t c = 0; c < pool->n_chunks; c++) {
		const struct gmm__chunk *chunk = pool->chunks[c];
		uint32_t chunk_free = 0, chunk_used = 0;
		if (!chunk)
			continue;
		for (uint32_t i = 0; i < GMM__CHUNK_PAGES; i++) {
			const struct gmm__record *r = &chunk->record[i];
			chunk_free += r->state == GMM__SLOT_FREE;
			chunk_used += r->state == GMM__SLOT_SHARED;
			references += r->references;
			if ((r->state == GMM__SLOT_SHARED) != (r->references > 0))
				broken = "INV-2: a slot has references but is not shared, or the other way round";
			if (r->state == GMM__SLOT_FREE && r->broken)
				broken = "INV-2: a free slot has covers";
		}
		free_pages += chunk_free;
		used += chunk_used;
		if (chunk_free != chunk->free || chunk_used != chunk->used)
			broken = "INV-4: a chunk's free count is wrong";
	}
	if (free_pages != pool->free_pages || used != pool->used_pages || references != pool->references)
		broken = "INV-4: the pool's sums are wrong";
	if (!broken)
		broken = gmm__pool_lists_validate(pool);
	gmm__lock_give(&pool->lock);
	return broken;
}

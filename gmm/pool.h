/* The pool: the shared chunks of one trust domain and the files behind them.
 *
 * A pool page (slot) has references, the gfns that use its bytes plus reservations held for a merge under way,
 * and broken covers, mappings that still lie over it although the gfn has a copy of its own. All mappings over
 * a page are its covers; covers = references + broken covers (a reservation counts as a cover although it has none
 * yet, which errs on the safe side).
 *
 *   references > 0                       the bytes are there and never change (INV-2)
 *   references = 0                       the page is punched out of the file: the memory is given back
 *   references = 0 and broken covers = 0 the slot may be given out again, under a new generation
 *
 * A forked child inherits mappings that nobody counts. While one may live, pages that lose their last reference are
 * deferred: they keep their bytes and their slot until gmm__pool_release.
 *
 * Life of a slot: FREE → reserve → SHARED → last reference dropped → PUNCHING → HELD (covers left) or FREE.
 *
 * Threads: all functions may be called from any thread. The pool's lock is never held over a system
 * call on a page's bytes. Reading a page needs a reference.
 */
#ifndef GMM_POOL_H
#define GMM_POOL_H

#include "gmm/chunk_table.h"

enum gmm__page_state_shared { GMM__SLOT_FREE, GMM__SLOT_SHARED, GMM__SLOT_PUNCHING, GMM__SLOT_HELD };

/* The 8-byte page record. Counts saturate: a saturated page is never freed before its pool ends. */
struct gmm__record {
	uint32_t references;
	uint32_t broken : 16;     /* broken covers */
	uint32_t generation : 14; /* counts how often the slot was given out, modulo 2^14 */
	uint32_t state : 2;       /* enum gmm__page_state_shared */
};
_Static_assert(sizeof(struct gmm__record) == 8, "8 bytes a page");

enum { GMM__BROKEN_MAX = 0xffff };
#define GMM__REFERENCES_MAX UINT32_MAX

/* Invariant: free, used = number of records in state FREE, SHARED. */
struct gmm__chunk {
	gmm__chunk_id id;
	struct gmm__pool *pool;
	uint32_t file;        /* index of its file in the pool */
	uint32_t file_chunk;  /* its place in that file */
	uint32_t free;
	uint32_t used;
	bool draining;        /* its pages are to leave: nothing is given out of it */
	uint8_t passed_over;  /* so many times it is not chosen to be drained, since nothing left it the last time */
	uint32_t drained;     /* pages in use when it was chosen */
	struct gmm__chunk *next_free, *previous_free; /* in its list: gmm/pool_lists.h */
	uint64_t deferred[GMM__CHUNK_PAGES / 64]; /* pages to be punched when no fork can map them any more */
	struct gmm__record record[GMM__CHUNK_PAGES];
};

/* A file holds 1 GiB: mappings of one file share a kernel lock, so a pool is several files. */
enum { GMM__FILE_CHUNKS = 512 };

struct gmm__pool_file {
	int fd;
	uint32_t chunks;      /* in use at its start; its size is chunks * 2 MiB */
	const uint8_t *bytes; /* read-only mapping of GMM__FILE_CHUNKS chunks */
};

/* Told of every page whose last reference went, before its bytes go. Called without the pool's mutex. */
typedef void gmm__pool_gone_fn(void *arg, gmm__page_id page, const uint8_t *bytes);

/* Where the files of a pool come from and who remembers its chunks, where that is not anonymous memory of this process.
 * Called with the pool's lock. Such a pool is not trimmed. */
struct gmm__pool_store {
	/* The file of that number, open for reading and writing: a descriptor, or a negative errno. */
	int (*file_open)(void *arg, uint32_t file);
	/* A chunk was added at that place and is about to be used; 0, or a negative errno: then it is not. */
	int (*chunk_added)(void *arg, uint32_t place, gmm__chunk_id id);
};

/* Where a reservation ended: an index into chunks, and a page; 0, 0 at first. Threads that reserve at once have one each,
 * so that what each promotes stays in order. */
enum { GMM__POOL_CURSORS = 8, GMM__POOL_LISTS = GMM__CHUNK_PAGES / 16 + 1 };

struct gmm__pool_cursor {
	uint32_t chunk;
	uint32_t page;
};

struct gmm__pool {
	struct gmm__mem *mem;
	struct gmm__chunk_table *table;
	const struct gmm__pool_store *store; /* NULL: anonymous files */
	void *store_arg;
	gmm__pool_gone_fn *gone;
	void *gone_arg;
	struct gmm__lock lock;      /* guards everything below and the records */
	struct gmm__chunk **chunks; /* by place, file * GMM__FILE_CHUNKS + file_chunk; NULL: given back */
	uint32_t n_chunks;          /* places */
	uint32_t live_chunks;       /* of them, not given back */
	struct gmm__chunk *spare;   /* one that got no id; NULL: none */
	uint32_t chunks_size;       /* allocated length of chunks */
	struct gmm__pool_file *files;
	uint32_t n_files;
	struct gmm__pool_cursor cursor[GMM__POOL_CURSORS];
	struct gmm__chunk *list[GMM__POOL_LISTS]; /* chunks with free pages, by their number */
	uint64_t not_empty;         /* a bit for each list */
	uint64_t free_pages;        /* sum of chunk free */
	uint64_t used_pages;        /* records in state SHARED */
	_Atomic uint64_t *committed; /* a sum over all pools that goes with used_pages; NULL: none. Fixed */
	uint64_t references;        /* sum of references */
	uint64_t punch_failures;
	uint64_t deferred_pages;
	_Atomic bool defer;         /* a fork of this process may map pages */
	uint16_t generation;        /* of slots in new chunks: no id and generation comes twice */
	int node;                   /* NUMA node that its memory is to be on; -1: that of whoever fills it. Set before its first page */
	bool mirror;                /* another process owns records and files: the functions named mirror */
};

void gmm__pool_init(struct gmm__pool *pool, struct gmm__mem *mem, struct gmm__chunk_table *table,
		    gmm__pool_gone_fn *gone, void *gone_arg);

/* A pool that another process owns: we map and read its pages, and it counts references. gmm__pool_ref grants what was
 * reserved there, gmm__pool_drop is told there, gmm__pool_reserve and gmm__pool_reserve_row give nothing. Called by one
 * thread at a time: */
void gmm__pool_mirror_init(struct gmm__pool *pool, struct gmm__mem *mem, struct gmm__chunk_table *table);
/* Takes over the descriptor of a file of the pool, and closes it on failure. 0, -EEXIST, -EINVAL or -ENOMEM. */
int gmm__pool_mirror_file(struct gmm__pool *pool, uint32_t number, int fd);
bool gmm__pool_mirror_has_file(const struct gmm__pool *pool, uint32_t number);
/* Where a chunk lies in a file it has. 0, -EINVAL or -ENOMEM. */
int gmm__pool_mirror_chunk(struct gmm__pool *pool, gmm__chunk_id id, uint32_t file, uint32_t file_chunk);

/* Adds a chunk that an earlier process had at the next place, under its id: all its pages have one reference, which the
 * caller drops when it knows who uses them. With a store that finds the earlier files. False when the host cannot. */
bool gmm__pool_restore_chunk(struct gmm__pool *pool, gmm__chunk_id id);

/* True if the page lies in a chunk of this pool. */
bool gmm__pool_has(struct gmm__pool *pool, gmm__page_id page);

/* Punches what readers of holes have brought into the files where no page is. */
void gmm__pool_sweep(struct gmm__pool *pool);

/* All references must be gone or their mappings about to go: the files are closed. */
void gmm__pool_destroy(struct gmm__pool *pool);

/* Gives out up to `want` consecutive free slots with one reference each; the bytes are to be written with
 * gmm__pool_fill before anybody maps them. Where the last call ended comes first, so that what is promoted in
 * order stays in order; then the fullest chunk with a gap that fits. Returns how many, from *ret_first on; 0
 * when the host is out of memory, ids or disk. */
uint32_t gmm__pool_reserve(struct gmm__pool *pool, uint32_t want, gmm__page_id *ret_first);

/* The same at one of several cursors, any number modulo GMM__POOL_CURSORS; gmm__pool_reserve has number 0. One that has to
 * begin elsewhere keeps out of the chunks that the others are in, as long as memory allows. */
uint32_t gmm__pool_reserve_at(struct gmm__pool *pool, uint32_t cursor, uint32_t want, gmm__page_id *ret_first);

/* Gives out exactly `count` consecutive slots, at most a chunk of them, in the fullest chunk with a gap that holds them, or none; the
 * place where gmm__pool_reserve goes on does not change. grow: a new chunk may be made for them. */
bool gmm__pool_reserve_row(struct gmm__pool *pool, uint32_t count, bool grow, gmm__page_id *ret_first);

/* Writes whole pages into slots from `first` on that the caller reserved and nobody else has seen. */
int gmm__pool_fill(struct gmm__pool *pool, gmm__page_id first, const struct iovec *parts, int n_parts);

/* Takes a reference to each of `count` consecutive pages that have one. Stops at the first that is gone (or
 * saturated) and returns how many it took. */
uint32_t gmm__pool_ref(struct gmm__pool *pool, gmm__page_id first, uint32_t count);

/* Takes a reference to a page of this pool that was remembered by id and generation. False: that page is gone, whatever
 * the id names now. Any id may be asked for. */
bool gmm__pool_ref_same(struct gmm__pool *pool, gmm__page_id page, uint32_t generation);

/* So many references to `from` become such to `to`; the caller has one more to `from`, and one to `to`. False: too many. */
bool gmm__pool_transfer(struct gmm__pool *pool, gmm__page_id from, gmm__page_id to, uint32_t count);

/* How a reference or a cover ends, for `count` consecutive pages each. */
enum gmm__pool_drop {
	GMM__DROP_REFERENCE, /* reference and its cover (or a reservation): the mapping is gone */
	GMM__DROP_UNFILLED,  /* a reservation whose bytes were never written */
	GMM__DROP_BROKEN,    /* the reference; the mapping stays as a broken cover */
	GMM__DROP_COVER,     /* a broken cover: the mapping is gone */
};
void gmm__pool_drop(struct gmm__pool *pool, gmm__page_id first, uint32_t count, enum gmm__pool_drop how);

/* From now on pages are deferred. Safe before a fork: takes only the pool's mutex. */
void gmm__pool_defer(struct gmm__pool *pool);
/* No fork maps pages any more: deferred pages are punched. */
void gmm__pool_release(struct gmm__pool *pool);

/* Chooses the chunks with the fewest pages in use, as long as those fit into the gaps of the others and are at most
 * max_pages: nothing is given out of them until gmm__pool_drain_end. Returns how many there are in ret_chunk. */
uint32_t gmm__pool_drain(struct gmm__pool *pool, uint32_t max_pages, uint32_t max_chunks, gmm__chunk_id *ret_chunk);
/* Chunks being drained of which nothing is in use stay closed: covers are all that keeps them. One that no page has left is
 * passed over for a while, so that others have their turn. */
void gmm__pool_drain_end(struct gmm__pool *pool);
/* None is passed over any more. */
void gmm__pool_drain_anew(struct gmm__pool *pool);

/* Gives back chunks of which every page is free: to the file system, the chunk table and our own memory. One other than
 * drained ones is kept, so that a pool at a boundary does not come and go. Returns how many; none of a pool that is kept in
 * a store, or another process's. Not inside an RCU section. */
uint32_t gmm__pool_trim(struct gmm__pool *pool);

/* The bytes of a page the caller has a reference to. */
const uint8_t *gmm__pool_bytes(const struct gmm__pool *pool, gmm__page_id page);

/* Where to map a page, and those that follow it in its chunk, from. */
void gmm__pool_where(const struct gmm__pool *pool, gmm__page_id page, int *ret_fd, uint64_t *ret_offset);

/* The record as it is now, for validators and tests. */
struct gmm__record gmm__pool_record(struct gmm__pool *pool, gmm__page_id page);

/* Recounts and compares (INV-2, INV-4). Returns NULL or the broken rule. */
const char *gmm__pool_validate(struct gmm__pool *pool);

#endif

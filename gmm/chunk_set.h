/* Chunks of private pages, and sets of them by how many pages are free.
 *
 * A paged VM has a set of its own; a trust domain has one for each NUMA node, for the chunks that its VMs have in common.
 * A VM takes pages from its own set, except near the end of its reservation, where it would leave most of a chunk unused:
 * there it takes them from the common one, so that the ends of many VMs lie together (as do small VMs as a whole). So
 * private pages of two VMs meet in a common chunk only, pages of two domains in none (INV-6), and shared pages, which
 * have chunks of their own in the pool, never lie among private ones.
 *
 * Within a set the chunk used last comes first, then the fullest, so that others become empty. One wholly unused chunk
 * is kept, so that a VM that goes back and forth at the edge of a chunk does not call the host each time; more are
 * taken out at once (gmm__set_put returns them) and go back.
 *
 *   chunk: free + private = 512, its free list has `free` entries, and it is in the list of its free count
 *   set: free_pages = sum of free, chunks = sum over lists
 *
 * Guarded by: a VM's own set by the VM's lock, a common set by its lock. A chunk stays in the set it was made for.
 * Others may look at a record as a hint, under RCU: chunks are freed after a grace period (INV-5).
 */
#ifndef GMM_CHUNK_SET_H
#define GMM_CHUNK_SET_H

#include "gmm/arena.h"
#include "gmm/chunk_table.h"
#include "gmm/host_ranges.h"

struct gmm__domain;
struct gmm__chunk_set;

/* PARKED: a shared page took its place, and its VM has not said yet that it is not read any more. It is not free, and belongs to
 * nobody's account. */
enum gmm__private_state { GMM__PRIVATE_FREE, GMM__PRIVATE_USED, GMM__PRIVATE_PARKED };

/* Guest page numbers that are none. */
enum { GMM__PFN_MAX = 0xfffffff0u, GMM__NEXT_MASK = 0x7ff };
#define GMM__PFN_UNSHAREABLE 0xfffffff1u
#define GMM__PFN_UNKNOWN 0xfffffff2u

/* FREE: next, zeroed. USED: pfn, vm; zeroed: its bytes are zero as far as the allocator knows; apart: of account SHADOW or
 * FIXED; known: next holds bits of the digest that the engine saw last, so that it can tell whether the page changed. */
struct gmm__private_record {
	_Alignas(8) uint32_t pfn; /* so that every compiler knows it can be written at once */
	uint32_t vm : 16;    /* handle */
	uint32_t next : 11;  /* GMM__CHUNK_PAGES: the last */
	uint32_t zeroed : 1;
	uint32_t state : 2;  /* enum gmm__private_state */
	uint32_t apart : 1;
	uint32_t known : 1;
};
_Static_assert(sizeof(struct gmm__private_record) == 8, "8 bytes a page");

/* Written and read as a whole, so that a hint is never half of one. */
static inline void gmm__record_set(struct gmm__private_record *record, struct gmm__private_record value)
{
	__atomic_store(record, &value, __ATOMIC_RELAXED);
}

static inline struct gmm__private_record gmm__record_get(const struct gmm__private_record *record)
{
	struct gmm__private_record value;

	__atomic_load(record, &value, __ATOMIC_RELAXED);
	return value;
}

struct gmm__private_chunk {
	gmm__chunk_id id;
	struct gmm__chunk_set *set;
	struct gmm__place place;
	struct gmm__private_chunk *next, *previous; /* in its list; next also in a list of chunks that were taken out */
	struct gmm__host_range seeded;              /* where the embedder brought the memory; else empty */
	uint32_t free;
	uint32_t first_free;
	bool large;                                 /* one large page, all used */
	uint8_t look_level;                         /* the engine looks at it every 2^level passes; this and the next are written */
	uint32_t next_look;                         /* with gmm__private_chunk_wake by any thread: its number of that pass */
	uint32_t last_look;                         /* the engine's */
	_Alignas(8) struct gmm__private_record record[GMM__CHUNK_PAGES];
};

/* Full chunks, then 16 free counts a list, then wholly unused chunks. */
enum { GMM__SET_LISTS = 2 + GMM__CHUNK_PAGES / 16, GMM__SET_UNUSED = GMM__SET_LISTS - 1, GMM__SET_UNUSED_KEPT = 1 };

struct gmm__chunk_set {
	struct gmm__lock lock;         /* of a common set */
	struct gmm__domain *domain;
	uint32_t node;
	struct gmm__private_chunk *last; /* used last, or NULL */
	struct gmm__private_chunk *list[GMM__SET_LISTS];
	uint64_t not_empty;            /* a bit for each list */
	uint32_t chunks;
	uint32_t unused;               /* in the last list, seeded ones not counted */
	uint64_t free_pages;
};

/* What chunks are made from: the instance's. */
struct gmm__chunk_source {
	struct gmm__mem *mem;
	struct gmm__arena arena;
	struct gmm__chunk_table *table;
};

/* A chunk with all pages free, not in its set yet. bytes: the embedder's memory, or NULL. NULL when the host refuses. */
struct gmm__private_chunk *gmm__private_chunk_new(struct gmm__chunk_source *source, struct gmm__chunk_set *set,
						  enum gmm__place_kind kind, uint8_t *bytes);

/* Gives a list of chunks (by next) back to the host, with nothing locked; waits for a grace period. */
void gmm__private_chunks_free(struct gmm__chunk_source *source, struct gmm__private_chunk *chunks);

void gmm__set_insert(struct gmm__chunk_set *set, struct gmm__private_chunk *chunk);
void gmm__set_remove(struct gmm__chunk_set *set, struct gmm__private_chunk *chunk);

/* The chunk to take the next page from. NULL: no free page. */
struct gmm__private_chunk *gmm__set_pick(struct gmm__chunk_set *set);

/* Takes the first free page of a chunk that has one. */
gmm__page_id gmm__set_pop(struct gmm__private_chunk *chunk, uint32_t vm, uint32_t pfn);

/* Frees a used or parked page. Returns the chunk when it is wholly unused now and was taken out of the set: to be given back. */
struct gmm__private_chunk *gmm__set_put(struct gmm__private_chunk *chunk, uint32_t index);

/* Marks all pages of an unused chunk that is in no set as one large page. */
void gmm__private_chunk_make_large(struct gmm__private_chunk *chunk, uint32_t vm);
/* Marks all pages of an unused chunk that is in no set as used, at pfn and what follows when it is a guest page number. */
void gmm__private_chunk_fill(struct gmm__private_chunk *chunk, uint32_t vm, uint32_t pfn);
/* The engine is to look at it at the next pass. Any thread; a hint. */
static inline void gmm__private_chunk_wake(struct gmm__private_chunk *chunk)
{
	__atomic_store_n(&chunk->look_level, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&chunk->next_look, 0, __ATOMIC_RELAXED);
}
/* Its pages are like others from now on, at pfn and what follows when it is a guest page number. */
void gmm__private_chunk_break_up(struct gmm__private_chunk *chunk, uint32_t pfn);
/* Undoes making it large when the page was freed as a whole: every page is free again. The chunk must be out of its set. */
void gmm__private_chunk_clear(struct gmm__private_chunk *chunk);

static inline uint8_t *gmm__private_bytes(const struct gmm__private_chunk *chunk, uint32_t index)
{
	return chunk->place.bytes + (size_t)index * GMM__PAGE_BYTES;
}

/* Recounts a set. NULL or the broken rule. */
const char *gmm__set_validate(const struct gmm__chunk_set *set);

#endif

/* Page index: fingerprint → a shared page, or else a private page that had it when last digested, a candidate.
 *
 * The one big table: 8 bytes an entry, and entries for five eighths of the domain's pages to begin with, since zero pages have
 * none and equal pages have one for all; it grows by a quarter, in place, when a neighbourhood is full. A candidate is a hint
 * that may be stale at any time; whoever uses it checks that the page still has this fingerprint and compares bytes. When
 * its content is shared, the shared page takes its entry. Buckets of 8 entries fill one cache line. Stale candidates stay
 * until their place is wanted or they keep searches from ending; a table that cannot grow loses candidates, shared pages
 * last. The catalog also puts a mark in a candidate's place (GMM__ALIKE), which is never stale.
 *
 * Threads: the caller holds the catalog's lock.
 */
#ifndef DEDUP_PAGE_INDEX_H
#define DEDUP_PAGE_INDEX_H

#include "gmm/ids.h"
#include "gmm/mem.h"

/* The lowest bit of a fingerprint is not used (dedup/digest.h): here it tells shared pages. */
enum { GMM__INDEX_SHARED = 1 };

struct gmm__index_entry {
	uint32_t key;         /* the fingerprint, and GMM__INDEX_SHARED; 0: empty */
	gmm__page_id page;    /* in a seeded chunk, or of the pool. NIL: removed, not found any more */
};

enum { GMM__BUCKET = 8 };

/* True if the candidate's page does not have its fingerprint any more. */
typedef bool gmm__index_stale_fn(const void *arg, const struct gmm__index_entry *candidate);

struct gmm__page_index {
	struct gmm__mem *mem;
	gmm__index_stale_fn *stale;
	const void *stale_arg;
	struct gmm__index_entry *entry; /* page aligned; (buckets + the probes past the last one) * GMM__BUCKET in use */
	size_t reserved_bytes;          /* address space at entry */
	uint32_t buckets;
	uint32_t used;                  /* places that are not empty */
};

static inline bool gmm__index_is_shared(const struct gmm__index_entry *entry)
{
	return entry->key & GMM__INDEX_SHARED;
}

/* Makes the table fit for a domain of `pages` pages; the entries stay. 0 or -ENOMEM with the table as it was. */
int gmm__page_index_reserve(struct gmm__page_index *index, uint64_t pages);
void gmm__page_index_destroy(struct gmm__page_index *index);

/* Brings the bucket into the cache ahead of a lookup. */
void gmm__page_index_prefetch(const struct gmm__page_index *index, uint32_t fingerprint);

/* The entry with this fingerprint, that of a shared page if there is one; NULL if none. The caller may change the page of
 * a candidate in place. */
struct gmm__index_entry *gmm__page_index_find(const struct gmm__page_index *index, uint32_t fingerprint);

/* Adds a candidate where there is no entry with this fingerprint. Without room a hint is lost. */
void gmm__page_index_put(struct gmm__page_index *index, uint32_t fingerprint, gmm__page_id page);

/* Adds a shared page, in the place of the candidate with its fingerprint. Several hundred may have the same one. 0, or -ENOMEM:
 * then the page is simply not found by others. */
int gmm__page_index_share(struct gmm__page_index *index, uint32_t fingerprint, gmm__page_id page);

/* Puts `to` (NIL: nothing) in the place of a shared page. False if it was not there. */
bool gmm__page_index_replace(struct gmm__page_index *index, uint32_t fingerprint, gmm__page_id page, gmm__page_id to);

#endif

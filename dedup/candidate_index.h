/* Candidate index: fingerprint → a private page that had it when last digested.
 *
 * The one big table: 8 bytes an entry, and entries for five eighths of the domain's pages to begin with, since zero pages have
 * none and equal pages have one for all; it grows by a quarter, in place, when a neighbourhood is full. An entry is a hint
 * that may be stale at any time; whoever uses it checks that the page still has this fingerprint and compares bytes.
 * Buckets of 8 entries fill one cache line. Stale entries stay until their place is wanted; a table that cannot grow
 * loses the oldest.
 *
 * Threads: the caller holds the catalog's lock.
 */
#ifndef DEDUP_CANDIDATE_INDEX_H
#define DEDUP_CANDIDATE_INDEX_H

#include "gmm/ids.h"
#include "gmm/mem.h"

struct gmm__candidate {
	uint32_t fingerprint; /* 0: empty */
	gmm__page_id page;    /* in a seeded chunk */
};

enum { GMM__BUCKET = 8 };

/* True if the entry's page does not have its fingerprint any more. */
typedef bool gmm__candidate_stale_fn(const void *arg, const struct gmm__candidate *entry);

struct gmm__candidates {
	struct gmm__mem *mem;
	gmm__candidate_stale_fn *stale;
	const void *stale_arg;
	struct gmm__candidate *entry; /* page aligned; (buckets + the probes past the last one) * GMM__BUCKET in use */
	size_t reserved_bytes;        /* address space at entry */
	uint32_t buckets;
};

/* Makes the table fit for a domain of `pages` pages; the entries stay. 0 or -ENOMEM with the table as it was. */
int gmm__candidates_reserve(struct gmm__candidates *candidates, uint64_t pages);
void gmm__candidates_destroy(struct gmm__candidates *candidates);

/* Brings the bucket into the cache ahead of a lookup. */
void gmm__candidates_prefetch(const struct gmm__candidates *candidates, uint32_t fingerprint);

/* The entry with this fingerprint, or NULL. */
struct gmm__candidate *gmm__candidates_find(struct gmm__candidates *candidates, uint32_t fingerprint);

/* Adds an entry. The caller changes one that gmm__candidates_find returned in place. */
void gmm__candidates_put(struct gmm__candidates *candidates, uint32_t fingerprint, gmm__page_id page);

#endif

/* Extents of equal copies for fill pages.
 *
 * A page that repeats one word (0xCC and the like) comes in long runs. One shared copy would cost a mapping for
 * every gfn, so a word that is met in runs gets an extent of GMM__FILL_EXTENT consecutive pool pages with the same
 * bytes: a run of n such gfns then needs n / 64 mappings. Extent pages are ordinary pool pages; a page that lost
 * its last reference leaves the extent shorter.
 *
 * Threads: the caller holds the catalog's lock.
 */
#ifndef DEDUP_FILL_EXTENTS_H
#define DEDUP_FILL_EXTENTS_H

#include "gmm/ids.h"
#include "gmm/mem.h"

enum {
	GMM__FILL_EXTENT = 64,  /* pages of an extent */
	GMM__FILL_RUN = 16,     /* shortest run that is worth one */
	GMM__FILL_WORDS = 64,   /* words that may have one at a time */
};

struct gmm__fill_extent {
	uint64_t word;
	gmm__page_id first;
	uint32_t pages;         /* usable from first on; 0: no extent */
};

struct gmm__fill_extents {
	struct gmm__fill_extent extent[GMM__FILL_WORDS];
};

/* The usable extent of a word, or NULL. */
struct gmm__fill_extent *gmm__fill_find(struct gmm__fill_extents *extents, uint64_t word);

/* Names an extent, in place of the word's old one or of the shortest when all are taken. */
void gmm__fill_set(struct gmm__fill_extents *extents, uint64_t word, gmm__page_id first, uint32_t pages);

/* A pool page with this word is gone. */
void gmm__fill_gone(struct gmm__fill_extents *extents, uint64_t word, gmm__page_id page);

#endif

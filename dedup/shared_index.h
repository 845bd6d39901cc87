/* Shared index: fingerprint → shared page.
 *
 * Readers need no lock: they look up inside an RCU read-side section and then take a reference, which fails if
 * the page went meanwhile. Writers hold the catalog's lock. A table that was outgrown is retired and freed by
 * gmm__shared_reap after a grace period (INV-5).
 *
 * Pairs: writer's release store of an entry or a table — reader's acquire load of the same.
 */
#ifndef DEDUP_SHARED_INDEX_H
#define DEDUP_SHARED_INDEX_H

#include "gmm/ids.h"
#include "gmm/mem.h"

struct gmm__shared_table {
	struct gmm__shared_table *retired; /* next in the list of outgrown tables */
	uint32_t size;                     /* slots */
	_Atomic uint64_t slot[];           /* fingerprint << 32 | page id; 0: empty; page NIL: deleted */
};

struct gmm__shared_index {
	struct gmm__mem *mem;
	_Atomic(struct gmm__shared_table *) table;
	struct gmm__shared_table *retired;
	uint32_t used;    /* slots that are not empty, deleted ones included */
	uint32_t live;    /* entries */
};

void gmm__shared_destroy(struct gmm__shared_index *index);

/* The shared page with this fingerprint, or NIL. Inside an RCU section or with the catalog's lock. */
gmm__page_id gmm__shared_find(const struct gmm__shared_index *index, uint32_t fingerprint);
void gmm__shared_prefetch(const struct gmm__shared_index *index, uint32_t fingerprint);

/* Makes room for so many more entries at once, so that the table need not be outgrown on the way. 0 or -ENOMEM. */
int gmm__shared_reserve(struct gmm__shared_index *index, uint32_t more);

/* 0, or -ENOMEM: then the page is simply not found by others. */
int gmm__shared_put(struct gmm__shared_index *index, uint32_t fingerprint, gmm__page_id page);
/* False if it was not there. */
bool gmm__shared_remove(struct gmm__shared_index *index, uint32_t fingerprint, gmm__page_id page);

/* Takes the retired tables out, for the caller to free with gmm__shared_free after a grace period. */
struct gmm__shared_table *gmm__shared_take_retired(struct gmm__shared_index *index);
void gmm__shared_free(struct gmm__mem *mem, struct gmm__shared_table *tables);

#endif

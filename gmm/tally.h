/* A tally: how often each of many 32-bit ids is held. A paged VM has one for its references to shared pages, one for its
 * private pages in each chunk, one for its mapped chunks and one for its balloon; so whatever a VM holds is found again
 * from the VM's own tables when it ends.
 *
 * A hash table with linear probing, 8 bytes an entry, 57 to 85 percent full, hence 9 to 14 bytes for each id. Room is made before
 * (gmm__tally_reserve), so that adding cannot fail. Guarded by the owner's lock.
 */
#ifndef GMM_TALLY_H
#define GMM_TALLY_H

#include <stdbool.h>
#include <stdint.h>

#include "gmm/mem.h"

struct gmm__tally_entry {
	uint32_t id;
	uint32_t count; /* 0: the entry is empty */
};

struct gmm__tally {
	struct gmm__tally_entry *entry;
	uint32_t size;
	uint32_t ids;   /* entries in use */
	uint64_t total; /* sum of counts */
};

/* Makes room for `more` ids that are not there yet. False: no memory. */
bool gmm__tally_reserve(struct gmm__tally *tally, struct gmm__mem *mem, uint32_t more);
void gmm__tally_destroy(struct gmm__tally *tally, struct gmm__mem *mem);

uint32_t gmm__tally_count(const struct gmm__tally *tally, uint32_t id);
/* A new id needs room. Counts must not pass 2^32 - 1. */
void gmm__tally_add(struct gmm__tally *tally, uint32_t id, uint32_t count);
/* count: at most what is there. Returns what is left. */
uint32_t gmm__tally_remove(struct gmm__tally *tally, uint32_t id, uint32_t count);
/* Gives memory back where most of it is unused. */
void gmm__tally_shrink(struct gmm__tally *tally, struct gmm__mem *mem);

/* Entry i of `size`; to be skipped when its count is 0. */
static inline struct gmm__tally_entry gmm__tally_at(const struct gmm__tally *tally, uint32_t i)
{
	return tally->entry[i];
}

#endif

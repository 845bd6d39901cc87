/* Verify: byte for byte, and only then. Digests nominate; these functions decide (INV-1). */
#ifndef DEDUP_VERIFY_H
#define DEDUP_VERIFY_H

#include "dedup/backend.h"
#include "dedup/plan.h"

/* Which of the frozen pages [first, first + count) are equal to what the run says: zero, the bytes at `shared` (shared
 * pages in a row, to each of which the caller holds a reference), or filled with the word. next: what is compared after
 * these, to be brought into the cache, or NULL. One byte a page: true or false. */
void gmm__verify_frozen(const struct gmm__freeze *freeze, uint32_t first, uint32_t count, const struct gmm__run *run,
			const uint8_t *shared, const uint8_t *next, bool *ret_equal);

/* A look at two pages while their guests run: worth promoting? Decides nothing. */
bool gmm__verify_twins(const uint8_t *bytes, const uint8_t *twin);

#endif

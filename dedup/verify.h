/* Verify: byte for byte, and only then. Digests nominate; these functions decide (INV-1). */
#ifndef DEDUP_VERIFY_H
#define DEDUP_VERIFY_H

#include "dedup/backend.h"
#include "dedup/plan.h"

/* Which frozen pages of freeze->first + at ... are equal to what the run says: zero, the shared pages from `page` on
 * (the caller holds a reference to each), or filled with the word. One byte a page: true or false. */
void gmm__verify_frozen(const struct gmm__freeze *freeze, const struct gmm__pool *pool, const struct gmm__run *run,
			gmm__page_id page, bool *ret_equal);

/* A look at two pages while their guests run: worth promoting? Decides nothing. */
bool gmm__verify_twins(const uint8_t *bytes, const uint8_t *twin);

#endif

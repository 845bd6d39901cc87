/* Verify stage: compares frozen pages with what is to replace them. */
#include "dedup/verify.h"

#include <string.h>

#include "dedup/digest.h"

static bool is_word(const uint8_t *bytes, uint64_t word)
{
	return memcmp(bytes, &word, sizeof word) == 0 && gmm__digest_is_fill(bytes);
}

void gmm__verify_frozen(const struct gmm__freeze *freeze, const struct gmm__pool *pool, const struct gmm__run *run,
			gmm__page_id page, bool *ret_equal)
{
	for (uint32_t i = 0; i < freeze->count; i++) {
		const uint8_t *bytes = freeze->staging + (uint64_t)i * GMM__PAGE_BYTES;
		if (freeze->page[i] != GMM__FROZEN_YES)
			ret_equal[i] = false;
		else if (run->kind == GMM__VERDICT_ZERO)
			ret_equal[i] = is_word(bytes, 0);
		else if (page != GMM__NIL)
			ret_equal[i] = memcmp(bytes, gmm__pool_bytes(pool, page + i), GMM__PAGE_BYTES) == 0;
		else /* these very bytes fill the pool */
			ret_equal[i] = run->kind == GMM__VERDICT_PROMOTE || is_word(bytes, run->word);
	}
}

bool gmm__verify_twins(const uint8_t *bytes, const uint8_t *twin)
{
	return memcmp(bytes, twin, GMM__PAGE_BYTES) == 0;
}

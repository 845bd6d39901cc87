/* Verify stage: compares frozen pages with what is to replace them. */
#include "dedup/verify.h"

#include <string.h>

#include "dedup/digest.h"

enum { STEP = 256, LINE = 64 };

/* Like memcmp(a, b, 4096) == 0, while it brings the pages that are compared next into the cache. */
static bool equal_pages(const uint8_t *a, const uint8_t *b, const uint8_t *next_a, const uint8_t *next_b)
{
	for (uint32_t i = 0; i < GMM__PAGE_BYTES; i += STEP) {
		for (uint32_t line = i; line < i + STEP; line += LINE) {
			__builtin_prefetch(next_a + line);
			__builtin_prefetch(next_b + line);
		}
		if (memcmp(a + i, b + i, STEP) != 0)
			return false;
	}
	return true;
}

/* True if the page repeats the word; brings the next page into the cache. */
static bool is_word(const uint8_t *bytes, uint64_t word)
{
	for (uint32_t line = 0; line < GMM__PAGE_BYTES; line += LINE)
		__builtin_prefetch(bytes + GMM__PAGE_BYTES + line);
	return memcmp(bytes, &word, sizeof word) == 0 && gmm__digest_is_fill(bytes);
}

void gmm__verify_frozen(const struct gmm__freeze *freeze, uint32_t first, uint32_t count, const struct gmm__run *run,
			const uint8_t *shared, const uint8_t *next, bool *ret_equal)
{
	for (uint32_t i = first; i < first + count; i++) {
		const uint8_t *bytes = freeze->staging + (uint64_t)i * GMM__PAGE_BYTES;
		const uint8_t *same = shared ? shared + (uint64_t)(i - first) * GMM__PAGE_BYTES : NULL;
		bool last = i + 1 == first + count;
		/* The watchdog may give pages back meanwhile; nothing that is found out then counts. */
		if (__atomic_load_n(&freeze->page[i], __ATOMIC_RELAXED) != GMM__FROZEN_YES)
			ret_equal[i] = false;
		else if (run->kind == GMM__VERDICT_ZERO)
			ret_equal[i] = is_word(bytes, 0);
		else if (same)
			ret_equal[i] = equal_pages(bytes, same, bytes + GMM__PAGE_BYTES,
						   last && next ? next : same + GMM__PAGE_BYTES);
		else /* these very bytes fill the pool */
			ret_equal[i] = run->kind == GMM__VERDICT_PROMOTE || is_word(bytes, run->word);
	}
}

bool gmm__verify_twins(const uint8_t *bytes, const uint8_t *twin)
{
	/* The pages behind them are likely to be the next twins. */
	return equal_pages(bytes, twin, bytes + GMM__PAGE_BYTES, twin + GMM__PAGE_BYTES);
}

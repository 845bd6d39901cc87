/* Digest stage: looks at zero and fill pages, hashes the rest. */
#include "dedup/digest.h"

#include <string.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h> /* the widest vectors this processor has */
#else
#include <xxhash.h>
#endif

#include "gmm/ids.h"

bool gmm__digest_is_fill(const uint8_t *bytes)
{
	return memcmp(bytes, bytes + 8, GMM__PAGE_BYTES - 8) == 0;
}

static uint32_t fingerprint_of(uint64_t hash)
{
	uint32_t fingerprint = (uint32_t)(hash >> 32);

	return fingerprint ? fingerprint : 1;
}

uint32_t gmm__digest_of_fill(uint64_t word, const struct gmm__secret *secret)
{
	return fingerprint_of(XXH3_64bits_withSecret(&word, sizeof word, secret->bytes, sizeof secret->bytes));
}

struct gmm__digest gmm__digest_page(const uint8_t *bytes, const struct gmm__secret *secret)
{
	struct gmm__digest digest = { .kind = GMM__DIGEST_OTHER };

	if (gmm__digest_is_fill(bytes)) {
		memcpy(&digest.word, bytes, sizeof digest.word);
		digest.kind = digest.word ? GMM__DIGEST_FILL : GMM__DIGEST_ZERO;
		digest.fingerprint = gmm__digest_of_fill(digest.word, secret);
	} else {
		digest.fingerprint = fingerprint_of(XXH3_64bits_withSecret(bytes, GMM__PAGE_BYTES, secret->bytes,
									   sizeof secret->bytes));
	}
	return digest;
}

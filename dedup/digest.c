/* Digest stage: samples, and whole pages where a sample is too coarse. */
#include "dedup/digest.h"

#include <string.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h> /* the widest vectors this processor has */
#else
#include <xxhash.h>
#endif

#include "gmm/ids.h"

enum { LINE = 64, LINES = GMM__PAGE_BYTES / LINE };

/* One line in each quarter of the page, never two alike in place. */
void gmm__secret_complete(struct gmm__secret *secret)
{
	for (int i = 0; i < GMM__SAMPLE_LINES; i++)
		secret->line[i] = (uint16_t)((i * (LINES / GMM__SAMPLE_LINES) +
					      secret->bytes[i] % (LINES / GMM__SAMPLE_LINES)) * LINE);
}

bool gmm__digest_is_fill(const uint8_t *bytes)
{
	return memcmp(bytes, bytes + 8, GMM__PAGE_BYTES - 8) == 0;
}

static uint32_t fingerprint_from(uint64_t hash)
{
	uint32_t fingerprint = (uint32_t)(hash >> 32) & ~1u;

	return fingerprint ? fingerprint : 2;
}

static uint32_t fingerprint_of(const void *bytes, size_t size, const struct gmm__secret *secret)
{
	return fingerprint_from(XXH3_64bits_withSecret(bytes, size, secret->bytes, sizeof secret->bytes));
}

/* XXH3 is several times faster at 128 bytes than it is above 240, so a sample is two hashes under two keys. */
static uint32_t fingerprint_of_sample(const uint8_t *sample, const struct gmm__secret *secret)
{
	enum { HALF = GMM__SAMPLE_LINES * LINE / 2, KEY_BYTES = XXH3_SECRET_SIZE_MIN };
	uint64_t hash = XXH3_64bits_withSecret(sample, HALF, secret->bytes, KEY_BYTES);
	uint64_t other = XXH3_64bits_withSecret(sample + HALF, HALF, secret->bytes + sizeof secret->bytes - KEY_BYTES,
						KEY_BYTES);

	return fingerprint_from(hash + (other << 1 | other >> 63));
}

static struct gmm__digest digest_fill(const uint8_t *bytes, const struct gmm__secret *secret)
{
	struct gmm__digest digest = { .kind = GMM__DIGEST_ZERO };

	memcpy(&digest.word, bytes, sizeof digest.word);
	if (digest.word)
		digest.kind = GMM__DIGEST_FILL;
	digest.fingerprint = fingerprint_of(&digest.word, sizeof digest.word, secret);
	return digest;
}

void gmm__digest_prefetch(const uint8_t *bytes, const struct gmm__secret *secret)
{
	for (int i = 0; i < GMM__SAMPLE_LINES; i++)
		__builtin_prefetch(bytes + secret->line[i]);
}

struct gmm__digest gmm__digest_sample(const uint8_t *bytes, const struct gmm__secret *secret)
{
	uint8_t sample[GMM__SAMPLE_LINES * LINE];

	for (int i = 0; i < GMM__SAMPLE_LINES; i++)
		memcpy(sample + i * LINE, bytes + secret->line[i], LINE);
	if (memcmp(sample, sample + 8, sizeof sample - 8) == 0)
		return digest_fill(sample, secret);
	return (struct gmm__digest){ .kind = GMM__DIGEST_OTHER,
				     .fingerprint = fingerprint_of_sample(sample, secret) };
}

struct gmm__digest gmm__digest_whole(const uint8_t *bytes, const struct gmm__secret *secret)
{
	if (gmm__digest_is_fill(bytes))
		return digest_fill(bytes, secret);
	return (struct gmm__digest){ .kind = GMM__DIGEST_OTHER,
				     .fingerprint = fingerprint_of(bytes, GMM__PAGE_BYTES, secret) };
}

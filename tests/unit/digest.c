/* Digests: zero and fill pages are told apart by looking, equal bytes have equal digests, and secrets matter. */
#include "dedup/digest.h"

#include <string.h>

#include "gmm/ids.h"
#include "tests/unit/support/unit.h"

static _Alignas(64) uint8_t page[GMM__PAGE_BYTES], other[GMM__PAGE_BYTES];

static struct gmm__secret secret_of(uint8_t seed)
{
	struct gmm__secret secret;

	for (int i = 0; i < GMM__SECRET_BYTES; i++)
		secret.bytes[i] = (uint8_t)(i * 37 + seed * 101 + (i * seed >> 2));
	gmm__secret_complete(&secret);
	return secret;
}

static void fill_words(uint8_t *bytes, uint64_t seed)
{
	for (uint64_t i = 0; i < GMM__PAGE_BYTES / 8; i++) {
		uint64_t word = (seed << 20 | i) * 0x9e3779b97f4a7c15;
		memcpy(bytes + i * 8, &word, 8);
	}
}

static void repeat(uint8_t *bytes, uint64_t word)
{
	for (size_t i = 0; i < GMM__PAGE_BYTES; i += 8)
		memcpy(bytes + i, &word, 8);
}

START_TEST(zero_and_fill)
{
	for (uint8_t seed = 0; seed < 20; seed++) {
		struct gmm__secret secret = secret_of(seed);
		repeat(page, 0);
		ck_assert_int_eq(gmm__digest_sample(page, &secret).kind, GMM__DIGEST_ZERO);
		ck_assert_int_eq(gmm__digest_whole(page, &secret).kind, GMM__DIGEST_ZERO);
		repeat(page, 0xcccccccccccccccc);
		struct gmm__digest sample = gmm__digest_sample(page, &secret), whole = gmm__digest_whole(page, &secret);
		ck_assert_int_eq(sample.kind, GMM__DIGEST_FILL);
		ck_assert_uint_eq(sample.word, 0xcccccccccccccccc);
		/* A sample and a whole digest find each other's fill pages. */
		ck_assert_int_eq(whole.kind, GMM__DIGEST_FILL);
		ck_assert_uint_eq(whole.fingerprint, sample.fingerprint);
		ck_assert_uint_eq(whole.word, sample.word);
	}
}
END_TEST

/* One byte that differs, anywhere: no fill page. */
START_TEST(whole_digest_sees_every_byte)
{
	struct gmm__secret secret = secret_of(1);

	fill_words(page, 5);
	uint32_t fingerprint = gmm__digest_whole(page, &secret).fingerprint;
	for (uint32_t i = 0; i < GMM__PAGE_BYTES; i++) {
		page[i] ^= 1;
		ck_assert_uint_ne(gmm__digest_whole(page, &secret).fingerprint, fingerprint);
		page[i] ^= 1;
		repeat(other, 0);
		ck_assert(gmm__digest_is_fill(other));
		other[i] = 1;
		ck_assert(!gmm__digest_is_fill(other));
		ck_assert_int_eq(gmm__digest_whole(other, &secret).kind, GMM__DIGEST_OTHER);
	}
}
END_TEST

START_TEST(equal_bytes_have_equal_digests)
{
	struct gmm__secret secret = secret_of(2);

	for (uint64_t seed = 0; seed < 200; seed++) {
		fill_words(page, seed);
		memcpy(other, page, sizeof other);
		ck_assert_uint_eq(gmm__digest_sample(page, &secret).fingerprint,
				  gmm__digest_sample(other, &secret).fingerprint);
		ck_assert_uint_eq(gmm__digest_whole(page, &secret).fingerprint,
				  gmm__digest_whole(other, &secret).fingerprint);
		ck_assert_uint_ne(gmm__digest_sample(page, &secret).fingerprint, 0);
		ck_assert_int_eq(gmm__digest_sample(page, &secret).kind, GMM__DIGEST_OTHER);
	}
}
END_TEST

START_TEST(secrets_matter)
{
	struct gmm__secret a = secret_of(3), b = secret_of(4);
	uint32_t equal = 0;

	for (uint64_t seed = 0; seed < 100; seed++) {
		fill_words(page, seed);
		equal += gmm__digest_whole(page, &a).fingerprint == gmm__digest_whole(page, &b).fingerprint;
		equal += gmm__digest_sample(page, &a).fingerprint == gmm__digest_sample(page, &b).fingerprint;
	}
	ck_assert_uint_eq(equal, 0);
}
END_TEST

/* The sample reads whole cache lines inside the page, one in each part of it. */
START_TEST(sampled_lines)
{
	for (uint8_t seed = 0; seed < 100; seed++) {
		struct gmm__secret secret = secret_of(seed);
		for (int i = 0; i < GMM__SAMPLE_LINES; i++) {
			ck_assert_uint_eq(secret.line[i] % 64, 0);
			ck_assert_uint_eq(secret.line[i] / (GMM__PAGE_BYTES / GMM__SAMPLE_LINES), i);
		}
	}
}
END_TEST

START_TEST(sample_sees_its_lines)
{
	struct gmm__secret secret = secret_of(9);

	fill_words(page, 5);
	uint32_t fingerprint = gmm__digest_sample(page, &secret).fingerprint, seen = 0;
	for (uint32_t i = 0; i < GMM__PAGE_BYTES; i++) {
		page[i] ^= 0x80;
		seen += gmm__digest_sample(page, &secret).fingerprint != fingerprint;
		page[i] ^= 0x80;
	}
	ck_assert_uint_eq(seen, GMM__SAMPLE_LINES * 64);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		zero_and_fill, whole_digest_sees_every_byte, equal_bytes_have_equal_digests, secrets_matter,
		sampled_lines, sample_sees_its_lines,
	};

	return unit_main("digest", tests, sizeof tests / sizeof *tests);
}

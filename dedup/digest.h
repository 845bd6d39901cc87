/* Digest: what a page's bytes are, as a hint.
 *
 * A sample of 256 bytes, four irregular cache lines chosen by the domain's secret, tells most pages apart at a sixteenth
 * of the memory traffic. A sample that repeats one word says zero or fill page; any other gives a fingerprint, 31 bits of
 * a keyed XXH3. The whole page is digested only when a sample has proved too coarse: the page was taken for equal to
 * another one and was not. Neither decides anything: pages are compared byte for byte before they share.
 */
#ifndef DEDUP_DIGEST_H
#define DEDUP_DIGEST_H

#include <stdbool.h>
#include <stdint.h>

enum { GMM__SECRET_BYTES = 192, GMM__SAMPLE_LINES = 4 };

/* Random, one for each trust domain: nobody can build pages that collide. */
struct gmm__secret {
	uint8_t bytes[GMM__SECRET_BYTES];
	uint16_t line[GMM__SAMPLE_LINES]; /* offsets of the sampled lines, in bytes */
};

/* Derives the sampled lines from the random bytes. */
void gmm__secret_complete(struct gmm__secret *secret);

enum gmm__digest_kind { GMM__DIGEST_ZERO, GMM__DIGEST_FILL, GMM__DIGEST_OTHER };

struct gmm__digest {
	enum gmm__digest_kind kind;
	uint32_t fingerprint; /* even, and never 0 */
	uint64_t word;        /* ZERO, FILL: the word it repeats */
};

/* Samples and whole digests of the same bytes differ, but for zero and fill pages. */
struct gmm__digest gmm__digest_sample(const uint8_t *bytes, const struct gmm__secret *secret);
struct gmm__digest gmm__digest_whole(const uint8_t *bytes, const struct gmm__secret *secret);

/* Brings what a sample reads into the cache. */
void gmm__digest_prefetch(const uint8_t *bytes, const struct gmm__secret *secret);

/* True if the page repeats its first 8-byte word; zero pages do. */
bool gmm__digest_is_fill(const uint8_t *bytes);

#endif

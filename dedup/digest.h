/* Digest: what a page's bytes are.
 *
 * Zero and fill pages are decided by looking; any other page gets a fingerprint, 32 bits of a keyed XXH3. A
 * fingerprint nominates, it never decides: pages are compared byte for byte before they share.
 */
#ifndef DEDUP_DIGEST_H
#define DEDUP_DIGEST_H

#include <stdbool.h>
#include <stdint.h>

enum { GMM__SECRET_BYTES = 192 };

/* Random, one for each trust domain: nobody can build pages that collide. */
struct gmm__secret {
	uint8_t bytes[GMM__SECRET_BYTES];
};

enum gmm__digest_kind { GMM__DIGEST_ZERO, GMM__DIGEST_FILL, GMM__DIGEST_OTHER };

struct gmm__digest {
	enum gmm__digest_kind kind;
	uint32_t fingerprint; /* never 0 */
	uint64_t word;        /* FILL: the word it repeats */
};

struct gmm__digest gmm__digest_page(const uint8_t *bytes, const struct gmm__secret *secret);

/* True if the page repeats its first 8-byte word; zero pages do. */
bool gmm__digest_is_fill(const uint8_t *bytes);

/* The fingerprint of the page that repeats a word. */
uint32_t gmm__digest_of_fill(uint64_t word, const struct gmm__secret *secret);

#endif

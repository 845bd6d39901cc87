/* What is known of each page of a module: up to GMM_MODULE_VARIANTS entries, since relocated code differs from guest to
 * guest. An entry names a pool page (by id and generation, so that an id given out again is not taken for it), or a
 * private page of some guest, which others may turn out to be equal to. Entries are hints: whoever uses one takes a
 * reference or a claim, and compares bytes.
 *
 * Memory: 1 KiB for 32 pages of a module, once one of them is known. A domain's tables together take at most
 * GMM__PAGES_BYTES_MIN and GMM__PAGES_BYTES_MAX for each page of its RAM: beyond that nothing new is remembered, so a guest cannot make us spend
 * more by naming pages that it does not have.
 *
 * Threads: any, without locks; the module must be kept (by a reference or an RCU section).
 */
#ifndef SHAREDMOD_REGISTRY_PAGES_H
#define SHAREDMOD_REGISTRY_PAGES_H

#include <gmm/modules.h>

#include "gmm/instance.h"

enum { GMM__PAGES_BLOCK = 32, GMM__PAGES_BYTES_MIN = 64 * 1024, GMM__PAGES_BYTES_MAX = 8 };

struct gmm__module_block {
	_Atomic uint64_t entry[GMM__PAGES_BLOCK][GMM_MODULE_VARIANTS];
};

struct gmm__module_pages {
	struct gmm__domain *domain;
	uint32_t pages;
	_Atomic(_Atomic(struct gmm__module_block *) *) blocks; /* one for each GMM__PAGES_BLOCK pages; NULL until used */
};

enum gmm__known_kind { GMM__KNOWN_NOTHING, GMM__KNOWN_SHARED, GMM__KNOWN_PRIVATE };

struct gmm__known {
	enum gmm__known_kind kind;
	uint32_t generation;   /* SHARED */
	gmm__page_id page;     /* of the pool, or of a RAM slot's seeded chunk */
};

void gmm__pages_free(struct gmm__mem *mem, struct gmm__module_pages *pages);

struct gmm__known gmm__pages_get(const struct gmm__module_pages *pages, uint32_t page, uint32_t variant);

/* Overwrites an entry. False without memory. NOTHING clears it. */
bool gmm__pages_set(struct gmm__mem *mem, struct gmm__module_pages *pages, uint32_t page, uint32_t variant,
		    struct gmm__known known);

/* Pool pages that serve the module now. */
struct gmm__pages_count {
	uint64_t shared;
	uint64_t variants;
	uint64_t references;
};
struct gmm__pages_count gmm__pages_count(const struct gmm__module_pages *pages);

/* Pool pages have moved (struct gmm__module_hooks). Those that somebody uses where they are now are found there. */
void gmm__pages_follow(struct gmm__module_pages *pages, gmm__page_id (*goal)(const void *moves, gmm__page_id page),
		       const void *moves);

/* True if at least one pool page serves it. */
bool gmm__pages_alive(const struct gmm__module_pages *pages);

#endif

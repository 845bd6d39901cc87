/* Memory of the library's own tables, counted, so that profit can be stated net of it. */
#ifndef GMM_MEM_H
#define GMM_MEM_H

#include <stdatomic.h>
#include <stddef.h>

#include "gmm/sys/sys.h"

struct gmm__mem {
	const struct gmm__sys *sys;
	_Atomic size_t bytes; /* in use now */
	_Atomic size_t peak;  /* most ever in use */
};

/* Zeroed memory, or NULL. Tables of GMM__MEM_MAPPED_BYTES and more are mappings of their own, so that they
 * go back to the host when freed and pages never touched cost nothing. */
enum { GMM__MEM_MAPPED_BYTES = 256 * 1024 };
void *gmm__mem_alloc(struct gmm__mem *mem, size_t size);

/* size is what was asked for. p may be NULL. */
void gmm__mem_free(struct gmm__mem *mem, void *p, size_t size);

/* Address space for a table that grows in place: zeroed memory of which only what is touched costs. The caller counts
 * what it uses with gmm__mem_count (negative: it uses less). NULL when the host refuses. */
void *gmm__mem_reserve(struct gmm__mem *mem, size_t size);
void gmm__mem_unreserve(struct gmm__mem *mem, void *p, size_t size);
void gmm__mem_count(struct gmm__mem *mem, ptrdiff_t size);

/* Pages of this mapping are to come from a NUMA node, if it has any left; for a shared mapping of a file those of the file. A
 * refusal costs nothing but that. */
enum { GMM__NODES_MAX = 64 };
void gmm__mem_prefer_node(const struct gmm__mem *mem, void *start, size_t size, uint32_t node);

#endif

/* Counted memory for the library's own tables. */
#include "gmm/mem.h"

#include <sys/mman.h>

static void count(struct gmm__mem *mem, size_t size)
{
	size_t now = atomic_fetch_add(&mem->bytes, size) + size;
	size_t peak = atomic_load(&mem->peak);

	while (now > peak && !atomic_compare_exchange_weak(&mem->peak, &peak, now))
		;
}

void *gmm__mem_alloc(struct gmm__mem *mem, size_t size)
{
	void *p;

	if (size < GMM__MEM_MAPPED_BYTES) {
		p = mem->sys->alloc(size);
	} else {
		intptr_t rc = mem->sys->map(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		p = gmm__is_errno(rc) ? NULL : (void *)rc;
	}
	if (p)
		count(mem, size);
	return p;
}

void gmm__mem_free(struct gmm__mem *mem, void *p, size_t size)
{
	if (!p)
		return;
	atomic_fetch_sub(&mem->bytes, size);
	if (size < GMM__MEM_MAPPED_BYTES)
		mem->sys->free(p);
	else
		mem->sys->unmap(p, size);
}

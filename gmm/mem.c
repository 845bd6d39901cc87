/* Counted memory for the library's own tables. */
#include "gmm/mem.h"

#include <numaif.h>
#include <sys/mman.h>

void gmm__mem_count(struct gmm__mem *mem, ptrdiff_t size)
{
	size_t now = atomic_fetch_add(&mem->bytes, (size_t)size) + (size_t)size;
	size_t peak = atomic_load(&mem->peak);

	while (now > peak && !atomic_compare_exchange_weak(&mem->peak, &peak, now))
		;
}

static void *map_zeroed(struct gmm__mem *mem, size_t size, int flags)
{
	intptr_t rc = mem->sys->map(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	return gmm__is_errno(rc) ? NULL : (void *)rc;
}

void *gmm__mem_alloc(struct gmm__mem *mem, size_t size)
{
	void *p;

	if (size < GMM__MEM_MAPPED_BYTES)
		p = mem->sys->alloc(size);
	else
		p = map_zeroed(mem, size, 0);
	if (p)
		gmm__mem_count(mem, (ptrdiff_t)size);
	return p;
}

void *gmm__mem_reserve(struct gmm__mem *mem, size_t size)
{
	return map_zeroed(mem, size, MAP_NORESERVE);
}

void gmm__mem_unreserve(struct gmm__mem *mem, void *p, size_t size)
{
	if (p)
		mem->sys->unmap(p, size);
}

void gmm__mem_free(struct gmm__mem *mem, void *p, size_t size)
{
	if (!p)
		return;
	gmm__mem_count(mem, -(ptrdiff_t)size);
	if (size < GMM__MEM_MAPPED_BYTES)
		mem->sys->free(p);
	else
		mem->sys->unmap(p, size);
}

void gmm__mem_prefer_node(const struct gmm__mem *mem, void *start, size_t size, uint32_t node)
{
	const unsigned long mask[] = { 1ul << node };

	_Static_assert(GMM__NODES_MAX == 8 * sizeof mask, "a bit for each node");
	mem->sys->policy_set(start, size, MPOL_PREFERRED, mask, GMM__NODES_MAX + 1);
}

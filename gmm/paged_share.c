/* Sharing pages of paged VMs: a private page becomes a reference to a shared one. The VMM has stopped writes to the private
 * page for the call, so its bytes can be copied and compared as they are (INV-1). */
#include <string.h>

#include "gmm/paged.h"

/* Finds a private page that may be shared, and makes room for a reference. */
static int find_sharable(struct gmm__paged *paged, gmm__page_id page, struct gmm__private_chunk **ret_chunk)
{
	struct gmm__private_chunk *chunk;
	int status = gmm__paged_find(paged, page, &chunk);

	if (status != GMM_OK)
		return status;
	if (chunk->large || chunk->record[gmm__page_index(page)].pfn == GMM__PFN_UNSHAREABLE)
		return GMM_ERR_PAGE_UNSHAREABLE;
	if (!gmm__tally_reserve(&paged->references, &paged->vm->gmm->mem, 1) ||
	    !gmm__tally_reserve(&paged->shared_chunks, &paged->vm->gmm->mem, 1))
		return GMM_ERR_NO_MEMORY;
	*ret_chunk = chunk;
	return GMM_OK;
}

/* The private page gives way to the shared one, of which a reference was taken. `used` counts both alike. */
static void replace(struct gmm__paged *paged, struct gmm__private_chunk *chunk, gmm__page_id page, gmm__page_id shared)
{
	gmm__tally_add(&paged->references, shared, 1);
	gmm__tally_add(&paged->shared_chunks, gmm__page_chunk(shared), 1);
	gmm__paged_put(paged, chunk, gmm__page_index(page));
	gmm__paged_uncharge(paged, 1);
}

static int promote(struct gmm__paged *paged, gmm__page_id page, gmm__page_id *ret_shared)
{
	struct gmm__pool *pool = &paged->vm->domain->pool;
	struct gmm__private_chunk *chunk = NULL;
	gmm__page_id shared;

	int status = find_sharable(paged, page, &chunk);
	if (status != GMM_OK)
		return status;
	if (gmm__pool_reserve(pool, 1, &shared) == 0)
		return GMM_ERR_NO_MEMORY;
	struct iovec bytes = { gmm__private_bytes(chunk, gmm__page_index(page)), GMM__PAGE_BYTES };
	if (gmm__pool_fill(pool, shared, &bytes, 1) != 0) {
		gmm__pool_drop(pool, shared, 1, GMM__DROP_UNFILLED);
		return GMM_ERR_NO_MEMORY;
	}
	replace(paged, chunk, page, shared);
	paged->counters.promoted++;
	*ret_shared = shared;
	return GMM_OK;
}

int gmm__paged_share(struct gmm_vm *vm, gmm__page_id page, gmm__page_id *ret_shared)
{
	int status = gmm__paged_enter(vm);

	return status == GMM_OK ? gmm__paged_leave(vm, promote(vm->paged, page, ret_shared)) : status;
}

static int join(struct gmm__paged *paged, gmm__page_id page, gmm__page_id shared, bool *ret_joined)
{
	struct gmm__pool *pool = &paged->vm->domain->pool;
	struct gmm__private_chunk *chunk = NULL;

	int status = find_sharable(paged, page, &chunk);
	if (status == GMM_OK)
		status = gmm__paged_find_shared(paged, shared);
	if (status == GMM_OK && gmm__pool_ref(pool, shared, 1) == 0)
		status = GMM_ERR_PAGE_NOT_FOUND;
	if (status != GMM_OK)
		return status;
	bool equal = memcmp(gmm__private_bytes(chunk, gmm__page_index(page)), gmm__pool_bytes(pool, shared),
			    GMM__PAGE_BYTES) == 0;
	if (equal) {
		replace(paged, chunk, page, shared);
		paged->counters.joined++;
	} else {
		gmm__pool_drop(pool, shared, 1, GMM__DROP_REFERENCE);
	}
	*ret_joined = equal;
	return GMM_OK;
}

int gmm__paged_join(struct gmm_vm *vm, gmm__page_id page, gmm__page_id shared, bool *ret_joined)
{
	int status = gmm__paged_enter(vm);

	return status == GMM_OK ? gmm__paged_leave(vm, join(vm->paged, page, shared, ret_joined)) : status;
}

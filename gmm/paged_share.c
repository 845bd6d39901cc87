/* Sharing pages of paged VMs: a private page becomes a reference to a shared one. The VMM has stopped writes to the private
 * page for the call, so its bytes can be copied and compared as they are (INV-1). */
#include <string.h>

#include "gmm/paged.h"

int gmm__paged_find_sharable(struct gmm__paged *paged, gmm__page_id page, struct gmm__private_chunk **ret_chunk)
{
	struct gmm__private_chunk *chunk;
	int status = gmm__paged_find(paged, page, &chunk);

	if (status != GMM_OK)
		return status;
	const struct gmm__private_record *r = &chunk->record[gmm__page_index(page)];
	if (r->apart || (r->pfn == GMM__PFN_UNSHAREABLE && !chunk->large) || paged->vm->domain->pool.mirror)
		return GMM_ERR_PAGE_UNSHAREABLE;
	if (!gmm__tally_reserve(&paged->references, &paged->vm->gmm->mem, 1) ||
	    !gmm__tally_reserve(&paged->shared_chunks, &paged->vm->gmm->mem, 1))
		return GMM_ERR_NO_MEMORY;
	if (chunk->large)
		gmm__private_chunk_break_up(chunk, GMM__PFN_UNKNOWN);
	*ret_chunk = chunk;
	return GMM_OK;
}

void gmm__paged_refer(struct gmm__paged *paged, gmm__page_id shared, uint32_t n)
{
	gmm__tally_add(&paged->references, shared, n);
	gmm__tally_add(&paged->shared_chunks, gmm__page_chunk(shared), n);
	gmm__requests_overtake(paged, shared);
}

/* The private page gives way to the shared one, of which a reference was taken. `used` counts both alike. */
static void replace(struct gmm__paged *paged, struct gmm__private_chunk *chunk, gmm__page_id page, gmm__page_id shared,
		    bool park)
{
	gmm__paged_refer(paged, shared, 1);
	if (park)
		gmm__paged_park(paged, chunk, gmm__page_index(page));
	else
		gmm__paged_put(paged, chunk, gmm__page_index(page));
	gmm__paged_uncharge(paged, 1);
}

void gmm__paged_hollow(struct gmm__paged *paged, struct gmm__private_chunk *chunk, gmm__page_id page)
{
	gmm__paged_park(paged, chunk, gmm__page_index(page));
	gmm__paged_uncharge(paged, 1);
	paged->used[GMM_ACCOUNT_BASE]--;
	paged->counters.zeroed++;
}

int gmm__paged_promote(struct gmm__paged *paged, struct gmm__private_chunk *chunk, gmm__page_id page, bool park,
		       gmm__page_id *ret_shared)
{
	struct gmm__pool *pool = &paged->vm->domain->pool;
	gmm__page_id shared;

	if (gmm__pool_reserve(pool, 1, &shared) == 0)
		return GMM_ERR_NO_MEMORY;
	struct iovec bytes = { gmm__private_bytes(chunk, gmm__page_index(page)), GMM__PAGE_BYTES };
	if (gmm__pool_fill(pool, shared, &bytes, 1) != 0) {
		gmm__pool_drop(pool, shared, 1, GMM__DROP_UNFILLED);
		return GMM_ERR_NO_MEMORY;
	}
	replace(paged, chunk, page, shared, park);
	paged->counters.promoted++;
	*ret_shared = shared;
	return GMM_OK;
}

int gmm__paged_join_to(struct gmm__paged *paged, struct gmm__private_chunk *chunk, gmm__page_id page,
		       gmm__page_id shared, bool park, bool *ret_joined)
{
	struct gmm__pool *pool = &paged->vm->domain->pool;
	int status = gmm__paged_find_shared(paged, shared);

	if (status == GMM_OK && gmm__pool_ref(pool, shared, 1) == 0)
		status = GMM_ERR_PAGE_NOT_FOUND;
	if (status != GMM_OK)
		return status;
	bool equal = memcmp(gmm__private_bytes(chunk, gmm__page_index(page)), gmm__pool_bytes(pool, shared),
			    GMM__PAGE_BYTES) == 0;
	if (equal) {
		replace(paged, chunk, page, shared, park);
		paged->counters.joined++;
	} else {
		gmm__pool_drop(pool, shared, 1, GMM__DROP_REFERENCE);
	}
	*ret_joined = equal;
	return GMM_OK;
}

static bool same_bytes(const struct gmm__pool *pool, gmm__page_id a, gmm__page_id b)
{
	return memcmp(gmm__pool_bytes(pool, a), gmm__pool_bytes(pool, b), GMM__PAGE_BYTES) == 0;
}

bool gmm__paged_move(struct gmm__paged *paged, gmm__page_id page, gmm__page_id to)
{
	struct gmm__pool *pool = &paged->vm->domain->pool;
	uint32_t n = gmm__tally_count(&paged->references, page);

	if (n == 0 || page == to || paged->used[GMM_ACCOUNT_BASE] + paged->ballooned.total >= paged->quota[GMM_ACCOUNT_BASE] ||
	    !gmm__tally_reserve(&paged->references, &paged->vm->gmm->mem, 1) ||
	    !gmm__tally_reserve(&paged->shared_chunks, &paged->vm->gmm->mem, 1) || gmm__pool_ref(pool, to, 1) == 0)
		return false;
	if (!same_bytes(pool, page, to) || !gmm__pool_transfer(pool, page, to, n - 1)) {
		gmm__pool_drop(pool, to, 1, GMM__DROP_REFERENCE);
		return false;
	}
	if (n > 1) {
		gmm__tally_remove(&paged->references, page, n - 1);
		gmm__tally_remove(&paged->shared_chunks, gmm__page_chunk(page), n - 1);
	}
	gmm__paged_refer(paged, to, n);
	paged->used[GMM_ACCOUNT_BASE]++;
	paged->counters.moved += n;
	return true;
}

int gmm__paged_join(struct gmm_vm *vm, gmm__page_id page, gmm__page_id shared, bool *ret_joined)
{
	struct gmm__private_chunk *chunk = NULL;
	int status = gmm__paged_enter(vm);

	if (status != GMM_OK)
		return status;
	status = gmm__paged_find_sharable(vm->paged, page, &chunk);
	if (status == GMM_OK)
		status = gmm__paged_join_to(vm->paged, chunk, page, shared, false, ret_joined);
	return gmm__paged_leave(vm, status);
}

/* Paged VMs and the indexes of their domain: the calls by which a VMM shares pages itself. */
#include "gmm/paged.h"

#include <string.h>

#include "dedup/mapped.h"
#include "dedup/paged_lookup.h"

static int share(struct gmm_vm *vm, gmm__page_id page, gmm__page_id *ret_shared)
{
	struct gmm__catalog *catalog = vm->domain->catalog;
	struct gmm__private_chunk *chunk = NULL;

	int status = gmm__paged_find_sharable(vm->paged, page, &chunk);
	if (status == GMM_OK)
		status = gmm__paged_promote(vm->paged, chunk, page, false, ret_shared);
	if (status != GMM_OK)
		return status;
	const uint8_t *bytes = gmm__pool_bytes(catalog->pool, *ret_shared);
	gmm__catalog_publish(catalog, gmm__digest_sample(bytes, &catalog->secret).fingerprint, *ret_shared);
	return GMM_OK;
}

int gmm_vm_share_page(struct gmm_vm *vm, gmm_page_id page, gmm_page_id *ret_shared)
{
	if (!ret_shared)
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__paged_enter(vm);
	if (status != GMM_OK)
		return status;
	return gmm__paged_leave(vm, share(vm, page, ret_shared));
}

int gmm_vm_join_page(struct gmm_vm *vm, gmm_page_id page, gmm_page_id shared, bool *ret_joined)
{
	return ret_joined ? gmm__paged_join(vm, page, shared, ret_joined) : GMM_ERR_INVALID_PARAMETER;
}

int gmm_vm_find_duplicate(struct gmm_vm *vm, gmm_page_id page, bool *ret_found)
{
	_Alignas(8) uint8_t copy[GMM__PAGE_BYTES]; /* other VMs are looked at, which are locked before this one */
	struct gmm__private_chunk *chunk = NULL;

	if (!ret_found)
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__paged_enter(vm);
	if (status != GMM_OK)
		return status;
	status = gmm__paged_find(vm->paged, page, &chunk);
	if (status == GMM_OK)
		memcpy(copy, gmm__private_bytes(chunk, gmm__page_index(page)), sizeof copy);
	uint64_t pages = vm->paged->chunk_pages.total;
	status = gmm__paged_leave(vm, status);
	if (status != GMM_OK)
		return status;
	gmm__paged_lookup_prepare(vm, pages);
	*ret_found = gmm__paged_lookup(vm, gmm__backend_mapped(), page, copy).found;
	return GMM_OK;
}

/* Paged VMs and the indexes of their domain: the calls by which a VMM shares pages itself. */
#include "gmm/paged.h"

#include <string.h>

#include "dedup/mapped.h"
#include "dedup/paged_lookup.h"

int gmm_vm_share_page(struct gmm_vm *vm, gmm_page_id page, gmm_page_id *ret_shared)
{
	gmm_page_id shared;

	if (!ret_shared)
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__paged_share(vm, page, &shared);
	if (status != GMM_OK)
		return status;
	/* Another thread may free it at once; the reference keeps its bytes until it is published. */
	struct gmm__catalog *catalog = vm->domain->catalog;
	if (gmm__pool_ref(catalog->pool, shared, 1) == 1) {
		const uint8_t *bytes = gmm__pool_bytes(catalog->pool, shared);
		gmm__catalog_publish(catalog, gmm__digest_sample(bytes, &catalog->secret).fingerprint, shared);
		gmm__pool_drop(catalog->pool, shared, 1, GMM__DROP_REFERENCE);
	}
	gmm__catalog_reap(catalog);
	*ret_shared = shared;
	return GMM_OK;
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

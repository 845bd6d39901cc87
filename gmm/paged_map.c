/* Chunks of paged VMs: mapping, and chunks that the VMM brings.
 *
 * The memory of chunks lies in this process already, so a mapping is a right and an address. Both are kept as if it were
 * not so: only a chunk in which the VM has pages, or references to shared pages, can be mapped, and the mapping ends with
 * the last of them. A few look-aside entries answer for the chunks mapped last without a look into any table.
 */
#include "gmm/paged.h"

static bool look_aside(const struct gmm__paged *paged, gmm__chunk_id chunk, uint8_t **ret_bytes)
{
	uint32_t i = chunk % GMM__LOOK_ASIDE;

	*ret_bytes = paged->look_aside[i].bytes;
	return paged->look_aside[i].chunk == chunk;
}

/* The address of a chunk this VM may map; NULL for others. */
static uint8_t *bytes_of(const struct gmm__paged *paged, gmm__chunk_id id)
{
	const struct gmm__chunk_table *table = paged->vm->gmm->source.table;

	/* A chunk in which this VM has pages or references stays while the VM is locked. */
	if (gmm__tally_count(&paged->chunk_pages, id))
		return gmm__chunk_table_private(table, id)->place.bytes;
	if (gmm__tally_count(&paged->shared_chunks, id))
		return (uint8_t *)gmm__pool_bytes(&paged->vm->domain->pool, gmm__page_make(id, 0));
	return NULL;
}

void gmm__paged_forget_mapping(struct gmm__paged *paged, gmm__chunk_id chunk)
{
	if (!gmm__tally_count(&paged->mapped, chunk))
		return;
	gmm__tally_remove(&paged->mapped, chunk, 1);
	if (paged->look_aside[chunk % GMM__LOOK_ASIDE].chunk == chunk)
		paged->look_aside[chunk % GMM__LOOK_ASIDE].chunk = GMM__NIL;
}

static int map(struct gmm__paged *paged, gmm__chunk_id id, bool one_goes, uint8_t **ret_bytes)
{
	if (look_aside(paged, id, ret_bytes))
		return GMM_OK;
	uint8_t *bytes = id <= GMM__CHUNK_ID_MAX ? bytes_of(paged, id) : NULL;
	if (!bytes)
		return GMM_ERR_CHUNK_NOT_FOUND;
	if (!gmm__tally_count(&paged->mapped, id)) {
		if (paged->mapped.ids - one_goes >= paged->vm->gmm->admission.chunk_mappings)
			return GMM_ERR_TOO_MANY_CHUNK_MAPPINGS;
		if (!gmm__tally_reserve(&paged->mapped, &paged->vm->gmm->mem, 1))
			return GMM_ERR_NO_MEMORY;
		gmm__tally_add(&paged->mapped, id, 1);
	}
	paged->look_aside[id % GMM__LOOK_ASIDE].chunk = id;
	paged->look_aside[id % GMM__LOOK_ASIDE].bytes = bytes;
	*ret_bytes = bytes;
	return GMM_OK;
}

static int map_chunk(struct gmm__paged *paged, gmm__chunk_id id, gmm__chunk_id unmap, void **ret_addr)
{
	uint8_t *bytes = NULL;
	int status = GMM_OK;

	if (unmap != GMM__NIL && !gmm__tally_count(&paged->mapped, unmap))
		return GMM_ERR_CHUNK_NOT_MAPPED;
	if (id != GMM__NIL)
		status = map(paged, id, unmap != GMM__NIL, &bytes);
	if (status != GMM_OK)
		return status;
	if (unmap != GMM__NIL)
		gmm__paged_forget_mapping(paged, unmap);
	if (id != GMM__NIL)
		*ret_addr = bytes;
	return GMM_OK;
}

int gmm_vm_map_chunk(struct gmm_vm *vm, gmm_chunk_id map_id, gmm_chunk_id unmap_id, void **ret_addr)
{
	if (map_id == unmap_id || (map_id != GMM__NIL && !ret_addr))
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__paged_enter(vm);
	return status == GMM_OK ? gmm__paged_leave(vm, map_chunk(vm->paged, map_id, unmap_id, ret_addr)) : status;
}

/* ---- seeded chunks ------------------------------------------------------------------------------------------ */

/* A chunk of the embedder's memory, in no set yet. */
static int new_seeded(struct gmm__paged *paged, uint8_t *addr, struct gmm__private_chunk **ret_chunk)
{
	struct gmm *gmm = paged->vm->gmm;

	if (gmm__host_ranges_overlap(&gmm->host_ranges, (uintptr_t)addr, GMM__CHUNK_BYTES))
		return GMM_ERR_OVERLAP;
	struct gmm__private_chunk *chunk = gmm__private_chunk_new(&gmm->source, &paged->set, GMM__PLACE_SMALL, addr);
	if (!chunk)
		return GMM_ERR_NO_MEMORY;
	chunk->seeded = (struct gmm__host_range){ (uintptr_t)addr, (uintptr_t)addr + GMM__CHUNK_BYTES };
	if (!gmm__host_ranges_add(&gmm->host_ranges, &chunk->seeded)) {
		gmm__paged_retire(paged, chunk);
		return GMM_ERR_NO_MEMORY;
	}
	*ret_chunk = chunk;
	return GMM_OK;
}

static int seed_chunk(struct gmm__paged *paged, uint8_t *addr, gmm_chunk_id *ret_chunk)
{
	struct gmm__private_chunk *chunk;
	int status = new_seeded(paged, addr, &chunk);

	if (status != GMM_OK)
		return status;
	gmm__set_insert(&paged->set, chunk);
	*ret_chunk = chunk->id;
	return GMM_OK;
}

static int adopt_chunk(struct gmm__paged *paged, uint8_t *addr, uint32_t pfn, gmm_chunk_id *ret_chunk)
{
	struct gmm__private_chunk *chunk;
	int status = gmm__paged_admit(paged, GMM_ACCOUNT_BASE, GMM__CHUNK_PAGES, 0);

	if (status != GMM_OK)
		return status;
	status = gmm__tally_reserve(&paged->chunk_pages, &paged->vm->gmm->mem, 1) ? new_seeded(paged, addr, &chunk) :
										     GMM_ERR_NO_MEMORY;
	if (status != GMM_OK) {
		gmm__paged_uncharge(paged, GMM__CHUNK_PAGES);
		return status;
	}
	gmm__private_chunk_fill(chunk, paged->handle, pfn);
	gmm__set_insert(&paged->set, chunk);
	gmm__tally_add(&paged->chunk_pages, chunk->id, GMM__CHUNK_PAGES);
	paged->used[GMM_ACCOUNT_BASE] += GMM__CHUNK_PAGES;
	paged->counters.allocated += GMM__CHUNK_PAGES;
	*ret_chunk = chunk->id;
	return GMM_OK;
}

static int check_seed(const struct gmm_vm *vm, const void *addr, const gmm_chunk_id *ret_chunk)
{
	if (!vm || !addr || !ret_chunk || (uintptr_t)addr > UINTPTR_MAX - GMM__CHUNK_BYTES)
		return GMM_ERR_INVALID_PARAMETER;
	return (uintptr_t)addr % GMM__CHUNK_BYTES ? GMM_ERR_MISALIGNED : GMM_OK;
}

int gmm_vm_seed_chunk(struct gmm_vm *vm, void *addr, gmm_chunk_id *ret_chunk)
{
	int status = check_seed(vm, addr, ret_chunk);

	if (status != GMM_OK)
		return status;
	gmm__lock_take(&vm->gmm->ram_lock);
	status = gmm__paged_enter(vm);
	if (status == GMM_OK)
		status = gmm__paged_leave(vm, seed_chunk(vm->paged, addr, ret_chunk));
	gmm__lock_give(&vm->gmm->ram_lock);
	return status;
}

int gmm_vm_adopt_chunk(struct gmm_vm *vm, void *addr, uint64_t guest_addr, gmm_chunk_id *ret_chunk)
{
	int status = check_seed(vm, addr, ret_chunk);
	uint32_t pfn, last;

	if (status != GMM_OK)
		return status;
	if (!gmm__paged_pfn(guest_addr, &pfn) ||
	    (pfn <= GMM__PFN_MAX && !gmm__paged_pfn(guest_addr + GMM__CHUNK_BYTES - GMM__PAGE_BYTES, &last)))
		return GMM_ERR_INVALID_PARAMETER;
	gmm__lock_take(&vm->gmm->ram_lock);
	status = gmm__paged_enter(vm);
	if (status == GMM_OK)
		status = gmm__paged_leave(vm, adopt_chunk(vm->paged, addr, pfn, ret_chunk));
	gmm__lock_give(&vm->gmm->ram_lock);
	return status;
}

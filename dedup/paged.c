/* Paged VMs and the indexes of their domain: what becomes shared is published, and equal pages are looked up.
 *
 * Private pages of paged VMs have no fingerprint in a table of their own. A hint names the page only, and the byte compare
 * decides; nothing else follows from it.
 */
#include "gmm/paged.h"

#include <string.h>
#include <urcu/urcu-bp.h>

#include "dedup/catalog.h"

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

/* ---- duplicates ----------------------------------------------------------------------------------------------- */

static bool equals_shared(struct gmm__catalog *catalog, gmm__page_id shared, const uint8_t *bytes)
{
	if (gmm__pool_ref(catalog->pool, shared, 1) == 0)
		return false;
	bool equal = memcmp(gmm__pool_bytes(catalog->pool, shared), bytes, GMM__PAGE_BYTES) == 0;
	gmm__pool_drop(catalog->pool, shared, 1, GMM__DROP_REFERENCE);
	return equal;
}

/* A private page of a paged VM of the domain. Its memory stays mapped whatever becomes of it; the chunk is read under
 * RCU. */
static bool equals_private(struct gmm_vm *vm, gmm__page_id page, const uint8_t *bytes)
{
	bool equal = false;

	urcu_bp_read_lock();
	const struct gmm__private_chunk *chunk =
		gmm__chunk_table_private(vm->gmm->source.table, gmm__page_chunk(page));
	if (chunk && chunk->set->domain == vm->domain &&
	    gmm__record_get(&chunk->record[gmm__page_index(page)]).state == GMM__PRIVATE_USED)
		equal = memcmp(gmm__private_bytes(chunk, gmm__page_index(page)), bytes, GMM__PAGE_BYTES) == 0;
	urcu_bp_read_unlock();
	return equal;
}

/* Leaves a hint to this page, in the place of one to a page that is no help. Returns what was there. */
static gmm__page_id swap_hint(struct gmm__catalog *catalog, uint32_t fingerprint, gmm__page_id page, bool keep)
{
	struct gmm__candidate *hint = gmm__candidates_find(&catalog->candidates, fingerprint);
	gmm__page_id before = hint ? hint->page : GMM__NIL;

	if (!hint)
		gmm__candidates_put(&catalog->candidates, fingerprint, page);
	else if (!keep)
		hint->page = page;
	return before;
}

/* With the VM's lock. */
static bool has_duplicate(struct gmm_vm *vm, gmm__page_id page, const uint8_t *bytes)
{
	struct gmm__catalog *catalog = vm->domain->catalog;
	uint32_t fingerprint = gmm__digest_sample(bytes, &catalog->secret).fingerprint;
	gmm__page_id hint = GMM__NIL;

	urcu_bp_read_lock();
	gmm__page_id shared = gmm__shared_find(&catalog->shared, fingerprint);
	gmm__lock_take(&catalog->lock);
	if (gmm__candidates_reserve(&catalog->candidates, vm->domain->pages + vm->paged->chunk_pages.total) == 0)
		hint = swap_hint(catalog, fingerprint, page, true);
	gmm__lock_give(&catalog->lock);
	urcu_bp_read_unlock();
	if (shared != GMM__NIL && equals_shared(catalog, shared, bytes))
		return true;
	if (hint != GMM__NIL && hint != page && equals_private(vm, hint, bytes))
		return true;
	gmm__lock_take(&catalog->lock);
	if (hint != GMM__NIL && hint != page)
		swap_hint(catalog, fingerprint, page, gmm__chunk_table_slot(vm->gmm->source.table, gmm__page_chunk(hint)));
	gmm__lock_give(&catalog->lock);
	return false;
}

int gmm_vm_find_duplicate(struct gmm_vm *vm, gmm_page_id page, bool *ret_found)
{
	struct gmm__private_chunk *chunk = NULL;

	if (!ret_found)
		return GMM_ERR_INVALID_PARAMETER;
	int status = gmm__paged_enter(vm);
	if (status != GMM_OK)
		return status;
	status = gmm__paged_find(vm->paged, page, &chunk);
	if (status == GMM_OK)
		*ret_found = has_duplicate(vm, page, gmm__private_bytes(chunk, gmm__page_index(page)));
	return gmm__paged_leave(vm, status);
}
